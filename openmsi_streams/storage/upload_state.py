"""What is known about a multipart upload: in the row, and in the process that sends its parts."""

from __future__ import annotations

import base64
import contextlib
import datetime
import os
from pathlib import Path
from typing import Any

import msgspec

from openmsi_streams.storage import checksums as cs
from openmsi_streams.storage.parts import Plan


class UploadState(msgspec.Struct, array_like=True, kw_only=True):
    """A streamed upload as it is kept in the row: about 25 bytes a part.

    New fields go to the end, with a default.
    """

    upload_id: str
    key: str
    file_id: str
    sha512: str
    base: int
    """Bytes of the first part."""
    step: int
    """Growth of the part size; see `parts.Plan`."""
    kind: str = "md5"
    parts: dict[int, bytes] = {}
    """Part number -> checksum (of ``kind``) of the bytes that were sent."""

    @property
    def plan(self) -> Plan:
        """Where the parts begin."""
        return Plan(self.base, self.step)

    def encode(self) -> bytes:
        """Return the state's bytes in a row."""
        return _encoder.encode(self)


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(UploadState)


def decode_state(data: bytes) -> UploadState:
    """Return the state of a row. Raises msgspec.DecodeError."""
    return _decoder.decode(data)


class Sent(msgspec.Struct):
    """A part that the server has."""

    etag: str
    digest: bytes
    sure: bool
    """Whether its bytes are surely those of the file: sent by this process, from bytes that do not change any more."""


class Known:
    """What is known about one upload: the server's parts, and the local file that they came from."""

    __slots__ = ("doubted", "fd", "parts", "resumed")

    def __init__(self, resumed: bool) -> None:
        self.parts: dict[int, Sent] = {}
        self.doubted = resumed
        """The server is asked what it has before the upload goes on: after a failure, and at the start."""
        self.resumed = resumed
        """Begun by another process: what the partial file held before cannot be taken for final."""
        self.fd = -1
        """The partial file held open, so that its inode is not used again and a replaced file is noticed."""

    def same_file(self, path: Path) -> bool:
        """Say whether the parts came from the file that is at ``path`` now."""
        if self.fd < 0:
            return False
        try:
            return os.path.samestat(os.fstat(self.fd), os.stat(path))
        except OSError:
            return False

    def hold(self, path: Path) -> None:
        """Take note of the file that parts are sent from. Windows does not delete a file that is open: not there."""
        if os.name != "posix" or self.same_file(path):
            return
        self.release()
        for part in self.parts.values():
            part.sure = False
        with contextlib.suppress(OSError):
            self.fd = os.open(path, os.O_RDONLY)

    def release(self) -> None:
        """Let go of the file."""
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            os.close(fd)


def kind_of(state: UploadState) -> cs.Kind:
    return "sha256" if state.kind == "sha256" else "crc64nvme" if state.kind == "crc64nvme" else "md5"


def digest_in(kind: cs.Kind, part: Any) -> bytes | None:
    """Return the checksum that a server states for a part, or None."""
    if kind == "md5":
        etag = str(part.get("ETag", "")).strip('"')
        with contextlib.suppress(ValueError):
            raw = bytes.fromhex(etag)
            return raw if len(raw) == cs.DIGEST_BYTES["md5"] else None
        return None
    said = part.get(cs.FIELD[kind])
    return base64.b64decode(said) if said else None


def seconds_of(moment: Any) -> float:
    return moment.timestamp() if isinstance(moment, datetime.datetime) else 0.0
