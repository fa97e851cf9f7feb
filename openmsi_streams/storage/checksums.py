"""Checksums of byte ranges of a local file, as S3 servers compare them."""

from __future__ import annotations

import base64
import hashlib
import re
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any, Literal

from openmsi_streams.errors import StoreError
from openmsi_streams.storage.base import READ_BYTES, SourceGone

Kind = Literal["md5", "sha256", "crc64nvme"]
_MD5 = re.compile(r"^[0-9a-f]{32}$")

# What boto3 calls each kind, in requests and answers.
ALGORITHM: dict[Kind, str] = {"sha256": "SHA256", "crc64nvme": "CRC64NVME"}
FIELD: dict[Kind, str] = {"md5": "ContentMD5", "sha256": "ChecksumSHA256", "crc64nvme": "ChecksumCRC64NVME"}
# Those that need no package: enough to compare with what any server states.
CHEAP: tuple[Kind, ...] = ("md5", "sha256")
DIGEST_BYTES: dict[Kind, int] = {"md5": 16, "sha256": 32, "crc64nvme": 8}


class _Crc64:
    """CRC-64/NVME in hashlib's manner, computed by awscrt."""

    def __init__(self) -> None:
        self._crc = _crc64()
        self._value = 0

    def update(self, data: bytes) -> None:
        self._value = self._crc(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(8, "big")


def _crc64() -> Any:
    try:
        from awscrt.checksums import crc64nvme
    except ImportError:
        raise StoreError(
            'checksum = "crc64nvme" needs the package awscrt. Install it (pip install awscrt), or set "auto".'
        ) from None
    return crc64nvme


def hasher(kind: Kind) -> Any:
    """Return an object with ``update`` and ``digest``. Raises StoreError if the kind is not possible here."""
    if kind == "md5":
        return hashlib.md5(usedforsecurity=False)
    return hashlib.sha256() if kind == "sha256" else _Crc64()


def digest_of(kind: Kind, data: bytes) -> bytes:
    """Return the checksum of bytes."""
    h = hasher(kind)
    h.update(data)
    return bytes(h.digest())


def digest_of_range(kind: Kind, path: Path, start: int, end: int) -> bytes:
    """Return the checksum of ``[start, end)`` of a file.

    Raises:
        SourceGone: the file is shorter or not there.
    """
    h = hasher(kind)
    try:
        with path.open("rb") as stream:
            stream.seek(start)
            left = end - start
            while left:
                block = stream.read(min(READ_BYTES, left))
                if not block:
                    raise SourceGone(f"The partial file {path} ends before byte {end}; it is read again from the log.")
                h.update(block)
                left -= len(block)
    except FileNotFoundError:
        raise SourceGone(f"The partial file {path} is gone; it is read again from the log.") from None
    return bytes(h.digest())


def encoded(digest: bytes) -> str:
    """Return a checksum as S3 headers carry it."""
    return base64.b64encode(digest).decode("ascii")


def agrees(kind: Kind, digest: bytes, answer: Any) -> bool | None:
    """Compare a checksum of one put or part with a server's answer (of put, upload_part, list_parts, head).

    Returns:
        True or False, or None if the answer holds nothing to compare with.
    """
    said = answer.get(FIELD[kind]) if kind != "md5" else None
    if said:
        return bool(said == encoded(digest))
    etag = str(answer.get("ETag", "")).strip('"').lower()
    if kind == "md5" and _MD5.match(etag):
        return etag == digest.hex()
    return None


def data_agrees(kind: Kind, data: bytes, answer: Any) -> bool | None:
    """Compare bytes of one put with a server's answer, by ``kind`` or, where the server does not state it, by MD5."""
    agreed = agrees(kind, digest_of(kind, data), answer)
    if agreed is None and kind != "md5":
        agreed = agrees("md5", digest_of("md5", data), answer)
    return agreed


def composite_agrees(kind: Kind, digests: Iterable[bytes], answer: Any) -> bool | None:
    """Compare the checksums of all parts with the answer about a completed multipart object; see `agrees`."""
    parts = list(digests)
    joined = b"".join(parts)
    if kind == "md5":
        etag = str(answer.get("ETag", "")).strip('"').lower()
        if not re.match(r"^[0-9a-f]{32}-\d+$", etag):
            return None
        return etag == f"{hashlib.md5(joined, usedforsecurity=False).hexdigest()}-{len(parts)}"
    said = answer.get(FIELD[kind])
    if not said or kind == "crc64nvme":
        # CRC-64 of a multipart object is of the whole object; the server has computed it from the parts that agree.
        return None
    value, _, number = str(said).partition("-")
    if value == encoded(hashlib.sha256(joined).digest()):
        return number in ("", str(len(parts)))
    # Without the number of parts it is of the whole object, whose sha256 nobody has computed here.
    return False if number else None


class Throttle:
    """Lets bytes through at a steady rate, for all threads of a store together."""

    def __init__(self, bytes_per_second: int) -> None:
        """Take the rate; 0: no limit."""
        self.rate = bytes_per_second
        self._lock = threading.Lock()
        self._free_at = 0.0

    def take(self, count: int) -> None:
        """Return when ``count`` bytes may go."""
        if self.rate <= 0:
            return
        with self._lock:
            now = time.monotonic()
            self._free_at = max(self._free_at, now) + count / self.rate
            wait = self._free_at - now
        time.sleep(wait)


class Window:
    """A range of a file as a body for boto3: read at its own place, never in memory as a whole."""

    def __init__(self, path: Path, start: int, end: int, throttle: Throttle | None = None) -> None:
        """Open the file. Raises FileNotFoundError."""
        self._stream: IO[bytes] = path.open("rb")
        self._start, self._end = start, end
        self._place = 0
        self._throttle = throttle
        self.sending = False
        """Set when boto3 has signed the request: what is read from then on goes over the network."""

    def __len__(self) -> int:
        return self._end - self._start

    def read(self, count: int = -1) -> bytes:
        """Return up to ``count`` bytes."""
        left = len(self) - self._place
        count = left if count is None or count < 0 else min(count, left)
        if self._throttle is not None and self.sending:
            self._throttle.take(count)
        self._stream.seek(self._start + self._place)
        data = self._stream.read(count)
        self._place += len(data)
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move within the range."""
        base = (0, self._place, len(self))[whence]
        self._place = max(0, min(len(self), base + offset))
        return self._place

    def tell(self) -> int:
        """Return the place within the range."""
        return self._place

    def seekable(self) -> bool:
        """boto3 may rewind to sign and to retry."""
        return True

    def readable(self) -> bool:
        """It can be read."""
        return True

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def __enter__(self) -> Window:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def mark_sending(request: Any, **_: Any) -> None:
    """Tell a `Window` that its bytes go out now; registered for botocore's ``before-send``."""
    body = getattr(request, "body", None)
    if isinstance(body, Window):
        body.sending = True
