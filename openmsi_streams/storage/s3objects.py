"""Objects of one bucket: written under a condition, asked for, and proven by what the server says about them."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any, Literal
from urllib.parse import quote

from boto3.s3.transfer import TransferConfig

from openmsi_streams.chunks.messages import Delivery
from openmsi_streams.config.settings import S3Settings
from openmsi_streams.errors import StoreError
from openmsi_streams.storage import checksums as cs
from openmsi_streams.storage import reading
from openmsi_streams.storage.base import StoreUnavailable, Verified
from openmsi_streams.storage.keys import KeyTemplate
from openmsi_streams.storage.parts import MAX_PART
from openmsi_streams.storage.s3client import Absent, Calls, Conflict, Rejected, Unsupported, make_client

VERSIONS_PREFIX = ".versions/"
_VERSION_DIGITS = 16
# One call copies up to 5 GiB; parts are copied only beyond that, which small servers cannot do.
_ONE_COPY = TransferConfig(multipart_threshold=MAX_PART)


class S3Objects:
    """The objects of one bucket, and what is known about their server. Thread-safe."""

    kind = "s3"

    def __init__(self, name: str, settings: S3Settings, versions: Literal["replace", "keep"] = "replace") -> None:
        """Make a client; the server is not contacted.

        Raises:
            StoreError: the settings cannot work, with the cure.
        """
        if not settings.bucket:
            raise StoreError(f"The S3 store {name!r} has no bucket. Set s3.{name}.bucket.")
        if settings.checksum == "crc64nvme":
            cs.hasher("crc64nvme")
        self.name = name
        self.settings = settings
        self.versions = versions
        self.keys = KeyTemplate(settings.key, settings.topics[0] if len(settings.topics) == 1 else "")
        self.calls = Calls(name, settings)
        self.client = make_client(name, settings)
        self.throttle = cs.Throttle(settings.bandwidth)
        self.client.meta.events.register("before-send.s3", cs.mark_sending)
        self.echoes: bool | None = None
        """Whether the server states SHA-256 checksums of whole objects; None until the first put shows it."""
        self.echoes_parts: bool | None = None
        """Whether it states them of parts; None until the first upload shows it."""
        self.conditional = True
        """Whether the server takes conditional writes, as far as is known."""
        self.sent = {"puts": 0, "parts": 0, "bytes": 0, "skipped": 0}
        """What was sent since the start, for metrics and tests."""
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"S3Store({self.name!r}, bucket={self.settings.bucket!r})"

    def count(self, *, part: int = 0, put: int = 0, skipped: int = 0) -> None:
        """Count bytes that were sent, or an object that needed none."""
        with self._lock:
            self.sent["parts"] += part > 0
            self.sent["puts"] += put > 0
            self.sent["bytes"] += part + max(put, 0)
            self.sent["skipped"] += skipped

    def url(self, key: str) -> str:
        """Return an object's URL."""
        return f"s3://{self.settings.bucket}/{key}"

    def metadata(self, file_id: str, topic: str, sha512: str, mtime: float | None, producer: str) -> dict[str, str]:
        """Return an object's metadata. S3 carries ASCII only, so other text is percent-encoded."""
        values = {"sha512": sha512, "topic": quote(topic, safe="/ "), "file-id": file_id}
        if mtime is not None and mtime > 0:
            values["mtime"] = repr(float(mtime))
        if producer:
            values["producer"] = quote(producer[:200], safe="/ :@")
        return values

    # -- writing -----------------------------------------------------------------------------------------------------

    def under_condition(
        self, key: str, file: Verified, only_if: dict[str, str], send: Callable[[dict[str, str]], object]
    ) -> Delivery | None:
        """Send under a condition of `look`, so that what another worker wrote meanwhile is not replaced.

        Returns:
            The delivery if the object turns out to be there (a lost answer), else None after ``send`` has worked.

        Raises:
            Conflict: another version was written; whoever calls decides anew which is the newer one.
        """
        try:
            send(only_if)
            return None
        except Unsupported:
            if not only_if:
                raise
        except Conflict:
            there, now = self.look(key, file)
            if there is not None:
                return there
            if not only_if or now != only_if:
                raise
        # The server does not know conditions, or refuses one that holds: never ask it again.
        self.conditional = False
        send({})
        return None

    def send_whole(
        self, key: str, data: bytes, metadata: dict[str, str], content_type: str, only_if: dict[str, str]
    ) -> cs.Kind:
        """Put an object and compare the answer; returns the kind of checksum that the server keeps."""
        wanted = self.settings.checksum
        kind: cs.Kind = ("md5" if self.echoes is False else "sha256") if wanted == "auto" else wanted
        more: dict[str, Any] = {cs.FIELD[kind]: cs.encoded(cs.digest_of(kind, data))}
        if wanted == "auto" and self.echoes is None:
            # Both, until we know which of them the server compares.
            more["ContentMD5"] = cs.encoded(cs.digest_of("md5", data))
        self.throttle.take(len(data))
        answer: Any = self.calls.run(
            f"take {key!r}",
            lambda: self.client.put_object(
                Bucket=self.settings.bucket,
                Key=key,
                Body=data,
                Metadata=metadata,
                ContentType=content_type,
                **only_if,
                **more,
            ),
        )
        self.count(put=max(1, len(data)))
        if wanted == "auto" and self.echoes is None:
            self.echoes = bool(answer.get(cs.FIELD["sha256"]))
        if wanted == "auto" and not answer.get(cs.FIELD["sha256"]):
            kind = "md5"
        if cs.data_agrees(kind, data, answer) is False:
            with contextlib.suppress(StoreError):
                self.delete(key)
            raise Rejected(
                f"The {self.calls.where} says another checksum of {key!r} than what was sent. Check its disk and the "
                "network between; the file is put again.",
                2.0,
            )
        return kind

    def delete(self, key: str) -> None:
        """Delete an object; nothing happens if it is not there."""
        self.calls.run(f"delete {key!r}", lambda: self.client.delete_object(Bucket=self.settings.bucket, Key=key))

    def version_key(self, key: str, sha512: str) -> str:
        """Return the key under which an older version is kept."""
        return f"{VERSIONS_PREFIX}{key}/{sha512[:_VERSION_DIGITS]}"

    def keep_older(self, key: str, file: Verified) -> None:
        """With ``versions = "keep"``, copy what has the key to its place under `.versions/`, inside the server."""
        if self.versions != "keep":
            return
        older = self.sha512_in(key)
        if not older or older == file.sha512:
            return
        bucket = self.settings.bucket
        self.calls.run(
            f"copy the older version of {key!r}",
            lambda: self.client.copy(
                {"Bucket": bucket, "Key": key}, bucket, self.version_key(key, older), Config=_ONE_COPY
            ),
        )

    # -- proof -------------------------------------------------------------------------------------------------------

    def head(self, key: str) -> Any:
        """Return what the server says about an object. Raises Absent, StoreUnavailable."""
        more: dict[str, Any] = {"ChecksumMode": "ENABLED"} if self.settings.checksum != "md5" else {}
        return self.calls.run(
            f"tell about {key!r}", lambda: self.client.head_object(Bucket=self.settings.bucket, Key=key, **more)
        )

    def already_there(self, key: str, file: Verified, data: bytes | None = None) -> Delivery | None:
        """Return the delivery of an object that has this content already, or None; see `look`."""
        return self.look(key, file, data)[0]

    def look(self, key: str, file: Verified, data: bytes | None = None) -> tuple[Delivery | None, dict[str, str]]:
        """Return the delivery of an object that has this content already, and the condition of a write if it has not.

        An object of one put is compared by its checksum too, with ``data`` or the local file: the server may have
        stored other bytes than were sent, and the worker may have been killed before it could remove them. An object
        of parts is completed only after each part has agreed.
        """
        try:
            head = self.head(key)
        except Absent:
            return None, {"IfNoneMatch": "*"} if self.conditional else {}
        only_if = {"IfMatch": str(head["ETag"])} if self.conditional and head.get("ETag") else {}
        if int(head["ContentLength"]) != file.size or head.get("Metadata", {}).get("sha512") != file.sha512:
            return None, only_if
        if file.size <= self.settings.part_bytes:
            with contextlib.suppress(FileNotFoundError, IsADirectoryError):
                content = data if data is not None else file.path.read_bytes()
                if any(cs.agrees(kind, cs.digest_of(kind, content), head) is False for kind in cs.CHEAP):
                    return None, only_if
        self.count(skipped=1)
        return self.delivery(key, file), {}

    def proven(self, key: str, file: Verified, compare: Callable[[Any], bool | None], how: str) -> Delivery:
        """Ask for the finished object and return the delivery if size, sha512 and checksum agree.

        Raises:
            Rejected: they do not; the object is removed, so that nobody takes it for the file.
        """
        try:
            head = self.head(key)
        except Absent:
            raise StoreUnavailable(
                f"The {self.calls.where} confirmed {key!r} and does not have it. Check the server; it is sent again.",
                5.0,
            ) from None
        said = head.get("Metadata", {}).get("sha512")
        size = int(head["ContentLength"])
        right = size == file.size and said == file.sha512
        if right:
            agreed = compare(head)
            # A server whose ETag is no MD5 and that states no checksum has shown nothing yet: read the object.
            right = self.read_back(key) == file.sha512 if agreed is None else agreed
        if right:
            return self.delivery(key, file)
        if said == file.sha512:
            with contextlib.suppress(StoreError):
                self.delete(key)
        raise Rejected(
            f"The {self.calls.where} holds {key!r} with another size or checksum after the {how} ({size} bytes of "
            f"{file.size}). Check its disk and the network between; the file is sent again.",
            5.0,
        )

    def read_back(self, key: str) -> str:
        """Return the sha512 of an object's bytes, in hex. Raises Absent, StoreUnavailable."""
        return reading.sha512_of(self, key)

    def sha512_in(self, key: str) -> str:
        """Return the sha512 in an object's metadata, empty without one."""
        try:
            return str(self.head(key).get("Metadata", {}).get("sha512", ""))
        except Absent:
            return ""

    def delivery(self, key: str, file: Verified, note: str = "") -> Delivery:
        """Return what the row keeps of an object that holds a file."""
        return Delivery(
            kind=self.kind,
            store=self.name,
            url=self.url(key),
            sha512=file.sha512,
            bytes=file.size,
            time=time.time(),
            note=note,
        )
