"""The S3 store: small files in one put, large ones in parts, each proven by what the server says about the object."""

from __future__ import annotations

import contextlib
import hashlib
import secrets
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Literal
from urllib.parse import quote, unquote

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
    Verified,
    beside,
)
from openmsi_streams.storage.s3client import Absent, Rejected
from openmsi_streams.storage.s3objects import VERSIONS_PREFIX, S3Objects
from openmsi_streams.storage.sweep import sweep
from openmsi_streams.storage.upload import Uploads
from openmsi_streams.storage.upload_state import UploadState, decode_state

# Tries of one small put whose bytes or neighbours changed; what stays wrong after that is not a passing fault.
_PUT_TRIES = 3


class S3Store(S3Objects):
    """Files as objects in one bucket. Thread-safe."""

    def __init__(self, name: str, settings: S3Settings, versions: Literal["replace", "keep"] = "replace") -> None:
        """Make a client; the server is not contacted. Raises StoreError: the settings cannot work, with the cure."""
        super().__init__(name, settings, versions)
        self.uploads = Uploads(self)
        self.begin, self.advance = self.uploads.begin, self.uploads.advance
        self.complete, self.abort = self.uploads.complete, self.uploads.abort

    def wants(self, topic: str) -> bool:
        """Say whether files of this topic are delivered here."""
        return not self.settings.topics or topic in self.settings.topics

    # -- delivery ----------------------------------------------------------------------------------------------------

    def put(self, file: Verified, *, superseded: bool = False) -> Delivery:
        """Deliver a file; see `Store.put`. Content that is there already is not sent again."""
        key = self.keys.key(file.topic, file.relative)
        if superseded:
            if self.versions == "replace":
                return self.delivery(key, file, SUPERSEDED)
            key = self.version_key(key, file.sha512)
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
            kinds.append(self.send_whole(key, data, metadata, "application/octet-stream", condition))

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
        kind = self.send_whole(key, data, metadata, content_type, {})
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

    # -- reading -----------------------------------------------------------------------------------------------------

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
            older = self.version_key(key, file.sha512)
            return older if self.sha512_in(older) == file.sha512 else key
        return key

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
        self.delete(self.keys.key(topic, relative))

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
