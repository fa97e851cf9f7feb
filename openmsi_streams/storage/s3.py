"""The S3 store: small files in one put, large ones in parts, each proven by what the server says about the object."""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import threading
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote, unquote

from boto3.s3.transfer import TransferConfig

from openmsi_streams.chunks import ranges as rg
from openmsi_streams.chunks.messages import Delivery
from openmsi_streams.config.settings import S3Settings
from openmsi_streams.errors import StoreError
from openmsi_streams.storage import checksums as cs
from openmsi_streams.storage import reading
from openmsi_streams.storage.base import (
    SUPERSEDED,
    NoUpload,
    SourceGone,
    Stored,
    StoreUnavailable,
    Verified,
    beside,
)
from openmsi_streams.storage.keys import KeyTemplate
from openmsi_streams.storage.parts import MAX_PART
from openmsi_streams.storage.s3client import Absent, Calls, Conflict, Rejected, Unsupported, make_client
from openmsi_streams.storage.sweep import sweep
from openmsi_streams.storage.upload import Uploads
from openmsi_streams.storage.upload_state import UploadState, decode_state

VERSIONS_PREFIX = ".versions/"
_VERSION_DIGITS = 16
# One call copies up to 5 GiB; parts are copied only beyond that, which small servers cannot do.
_ONE_COPY = TransferConfig(multipart_threshold=MAX_PART)
# Tries of one small put whose bytes or neighbours changed; what stays wrong after that is not a passing fault.
_PUT_TRIES = 3


class S3Store:
    """Objects in one bucket. Thread-safe."""

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
        self.uploads = Uploads(self)
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"S3Store({self.name!r}, bucket={self.settings.bucket!r})"

    def wants(self, topic: str) -> bool:
        """Say whether files of this topic are delivered here."""
        return not self.settings.topics or topic in self.settings.topics

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

    # -- delivery ----------------------------------------------------------------------------------------------------

    def put(self, file: Verified, *, superseded: bool = False) -> Delivery:
        """Deliver a file; see `Store.put`. Content that is there already is not sent again."""
        key = self.keys.key(file.topic, file.relative)
        if superseded:
            if self.versions == "replace":
                return self._delivery(key, file, SUPERSEDED)
            key = self._version_key(key, file.sha512)
        there, only_if = self.look(key, file)
        if there is None and not superseded:
            self.keep_older(key, file)
        if there is None and file.size > self.settings.part_bytes:
            there = self._put_parts(key, file)
        if there is None:
            there = self._put_whole(key, file, only_if)
        return there if not superseded else _noted(there)

    def _put_parts(self, key: str, file: Verified) -> Delivery:
        state = self.uploads.begin(
            file.file_id, file.topic, file.relative, file.sha512, file.size, mtime=file.mtime, producer=file.producer,
            key=key,
        )  # fmt: skip
        try:
            return self.uploads.complete(state, file, fresh=True)
        except BaseException:
            with contextlib.suppress(StoreError):
                self.uploads.abort(state)
            raise

    def _put_whole(self, key: str, file: Verified, only_if: dict[str, str]) -> Delivery:
        try:
            data = file.path.read_bytes()
        except FileNotFoundError:
            raise SourceGone(f"The partial file {file.path} is gone; it is read again from the log.") from None
        # The whole file is in memory: its sha512 costs little and closes the gap between verification and here.
        if len(data) != file.size or hashlib.sha512(data).hexdigest() != file.sha512:
            raise SourceGone(f"The partial file {file.path} has other bytes than were verified; it is read again.")
        metadata = self.metadata(file.file_id, file.topic, file.sha512, file.mtime, file.producer)
        kinds: list[cs.Kind] = []

        def send(condition: dict[str, str]) -> None:
            kinds.append(self._send_whole(key, data, metadata, "application/octet-stream", condition))

        for attempt in range(1, _PUT_TRIES + 1):
            try:
                there = self.under_condition(key, file, only_if, send)
                if there is not None:
                    return there
                kind = kinds[-1]
                return self.proven(key, file, lambda head: cs.data_agrees(kind, data, head), "put")  # noqa: B023
            except Rejected:
                there, only_if = self.look(key, file)
                if there is not None:
                    return there
                if attempt == _PUT_TRIES:
                    raise
        raise AssertionError("unreachable")

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

    def _send_whole(
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
                self._delete(key)
            raise Rejected(
                f"The {self.calls.where} says another checksum of {key!r} than what was sent. Check its disk and the "
                "network between; the file is put again.",
                2.0,
            )
        return kind

    def put_beside(self, file: Verified, name: str, data: bytes, content_type: str) -> Delivery:
        """Put a derived file into the folder of ``file``; see `Store.put_beside`."""
        key = self.keys.key(file.topic, beside(file.relative, name))
        sha512 = hashlib.sha512(data).hexdigest()
        metadata = {"sha512": sha512, "topic": quote(file.topic, safe="/ "), "derived-from": file.file_id}
        derived = Verified(
            path=Path(), file_id=file.file_id, topic=file.topic, relative=beside(file.relative, name), sha512=sha512,
            size=len(data),
        )  # fmt: skip
        there = self.already_there(key, derived, data)
        if there is not None:
            return there
        kind = self._send_whole(key, data, metadata, content_type, {})
        return self.proven(key, derived, lambda head: cs.data_agrees(kind, data, head), "put")

    def read_beside(self, topic: str, relative: str, name: str) -> bytes | None:
        """Return a derived file from the folder of ``relative``; None if it is not there or cannot be read now."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            answer = self.client.get_object(
                Bucket=self.settings.bucket, Key=self.keys.key(topic, beside(relative, name))
            )
            found: bytes = answer["Body"].read()
            return found
        except (BotoCoreError, ClientError):
            return None

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
        return self._delivery(key, file), {}

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
            return self._delivery(key, file)
        if said == file.sha512:
            with contextlib.suppress(StoreError):
                self._delete(key)
        raise Rejected(
            f"The {self.calls.where} holds {key!r} with another size or checksum after the {how} ({size} bytes of "
            f"{file.size}). Check its disk and the network between; the file is sent again.",
            5.0,
        )

    def read_back(self, key: str) -> str:
        """Return the sha512 of an object's bytes, in hex. Raises Absent, StoreUnavailable."""
        return reading.sha512_of(self, key)

    def fetch(self, file: Verified, target: Path) -> int:
        """Write a stored file to ``target``, verified; ``file.path`` is not used. Returns its bytes.

        Raises:
            IntegrityError: the object has other bytes than ``file.sha512``; nothing is at ``target`` then.
            Absent: there is no such object. StoreUnavailable: as the server says.
        """
        return reading.fetch_object(self, self.key_of(file), target, file.sha512, file.mtime)

    def key_of(self, file: Verified) -> str:
        """Return the key that holds this version: the path's own, or with ``versions = "keep"`` an older one's."""
        key = self.keys.key(file.topic, file.relative)
        if self.versions == "keep" and self.sha512_in(key) != file.sha512:
            older = self._version_key(key, file.sha512)
            return older if self.sha512_in(older) == file.sha512 else key
        return key

    def sha512_in(self, key: str) -> str:
        """Return the sha512 in an object's metadata, empty without one."""
        try:
            return str(self.head(key).get("Metadata", {}).get("sha512", ""))
        except Absent:
            return ""

    def _delivery(self, key: str, file: Verified, note: str = "") -> Delivery:
        return Delivery(
            kind=self.kind,
            store=self.name,
            url=self.url(key),
            sha512=file.sha512,
            bytes=file.size,
            time=time.time(),
            note=note,
        )

    # -- versions ----------------------------------------------------------------------------------------------------

    def _version_key(self, key: str, sha512: str) -> str:
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
                {"Bucket": bucket, "Key": key}, bucket, self._version_key(key, older), Config=_ONE_COPY
            ),
        )

    # -- streamed uploads; see `upload.Uploads` ----------------------------------------------------------------------

    @property
    def stream_step(self) -> int:
        """Bytes of a file after which it is worth to send parts; smaller files are one put."""
        return self.settings.part_bytes

    def load_state(self, data: bytes) -> UploadState:
        """Return the state of an upload from a row's bytes."""
        return decode_state(data)

    def dump_state(self, state: UploadState) -> bytes:
        """Return the bytes of a state, for a row."""
        return state.encode()

    def begin(
        self,
        file_id: str,
        topic: str,
        relative: str,
        sha512: str,
        size_hint: int | None = None,
        *,
        mtime: float | None = None,
        producer: str = "",
    ) -> UploadState:
        """Start an upload that streams; see `Uploads.begin`."""
        return self.uploads.begin(file_id, topic, relative, sha512, size_hint, mtime=mtime, producer=producer)

    def advance(
        self, state: UploadState, path: Path, arrived: Callable[[], rg.Ranges], size: int | None
    ) -> UploadState:
        """Send the parts that are whole, while the file grows; see `Uploads.advance`."""
        return self.uploads.advance(state, path, arrived, size)

    def complete(self, state: UploadState, file: Verified, *, recheck: bool = False) -> Delivery:
        """Finish an upload and prove the object; see `Uploads.complete`."""
        return self.uploads.complete(state, file, recheck=recheck)

    def abort(self, state: UploadState) -> None:
        """Give an upload up; see `Uploads.abort`."""
        self.uploads.abort(state)

    def sweep(self, known_upload_ids: Collection[str], topics: Collection[str] | None = None) -> int:
        """Abort orphaned uploads; see `sweep.sweep`."""
        self.uploads.forget_all_but(known_upload_ids)
        return sweep(self, known_upload_ids, topics)

    # -- capabilities ------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Start and abort an upload: the bucket is there and can be written to, and nothing is left behind.

        Raises:
            StoreError: with the cure.
        """
        key = self.keys.key(self.keys.only_topic or "openmsi-streams-check", f"check-{secrets.token_hex(6)}")
        bucket = self.settings.bucket
        answer = self.calls.run(
            "start a trial upload", lambda: self.client.create_multipart_upload(Bucket=bucket, Key=key)
        )
        with contextlib.suppress(NoUpload):
            self.calls.run(
                "abort a trial upload",
                lambda: self.client.abort_multipart_upload(Bucket=bucket, Key=key, UploadId=answer["UploadId"]),
            )

    def exists(self, topic: str, relative: str) -> bool:
        """Say whether there is an object for this path."""
        try:
            self.head(self.keys.key(topic, relative))
        except Absent:
            return False
        return True

    def verify(self, topic: str, relative: str, sha512: str, size: int, *, deep: bool = False) -> str:
        """Return what is wrong with an object, empty if nothing; see `Verifies`."""
        key = self.keys.key(topic, relative)
        try:
            head = self.head(key)
            if int(head["ContentLength"]) != size:
                return f"has {head['ContentLength']} bytes instead of {size}"
            if head.get("Metadata", {}).get("sha512", sha512) != sha512:
                return "is another version (sha512 in its metadata)"
            if deep and self.read_back(key) != sha512:
                return "has other bytes (sha512)"
        except Absent:
            return "missing"
        return ""

    def remove(self, topic: str, relative: str) -> None:
        """Delete an object; nothing happens if it is not there."""
        self._delete(self.keys.key(topic, relative))

    def _delete(self, key: str) -> None:
        self.calls.run(f"delete {key!r}", lambda: self.client.delete_object(Bucket=self.settings.bucket, Key=key))

    def list(self, topic: str) -> Iterator[Stored]:
        """Yield every object of a topic; their sha512 is not asked for, see `describe`."""
        pages = self.client.get_paginator("list_objects_v2")
        found = iter(pages.paginate(Bucket=self.settings.bucket, Prefix=self.keys.prefix(topic)))
        while (page := self.calls.run("list its objects", lambda: next(found, None))) is not None:
            for entry in page.get("Contents", []):
                key = entry["Key"]
                place = self.keys.place(key)
                if key.startswith(VERSIONS_PREFIX) or place is None or place[0] != topic:
                    continue
                yield Stored(topic=topic, path=place[1], size=int(entry["Size"]), url=self.url(key))

    def describe(self, topic: str, relative: str) -> Stored | None:
        """Return what an object's metadata say, or None if it is not there."""
        key = self.keys.key(topic, relative)
        try:
            head = self.head(key)
        except Absent:
            return None
        metadata = head.get("Metadata", {})
        mtime = None
        with contextlib.suppress(KeyError, ValueError):
            mtime = float(metadata["mtime"])
        return Stored(
            topic=unquote(metadata.get("topic", topic)),
            path=relative,
            size=int(head["ContentLength"]),
            url=self.url(key),
            sha512=metadata.get("sha512", ""),
            mtime=mtime,
            derived="derived-from" in metadata,
        )

    def close(self) -> None:
        """End threads and connections."""
        self.uploads.close()
        self.client.close()


def _noted(delivery: Delivery) -> Delivery:
    import msgspec

    return msgspec.structs.replace(delivery, note=SUPERSEDED)
