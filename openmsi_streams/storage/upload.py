"""Multipart uploads that go on while the file is still arriving, and after a kill."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openmsi_streams.chunks import ranges as rg
from openmsi_streams.chunks.messages import Delivery
from openmsi_streams.errors import StoreError
from openmsi_streams.storage import checksums as cs
from openmsi_streams.storage.base import NoUpload, SourceGone, StoreUnavailable, Verified
from openmsi_streams.storage.parts import MAX_PARTS, plan_for
from openmsi_streams.storage.s3client import Rejected
from openmsi_streams.storage.sweep import abort, list_parts
from openmsi_streams.storage.upload_state import Known, Sent, UploadState, digest_in, kind_of

if TYPE_CHECKING:
    from openmsi_streams.storage.s3 import S3Store

log = logging.getLogger(__name__)

# Parts up to this size are sent from memory, which is quicker than piecewise reading; larger ones from the file.
IN_MEMORY = 16 << 20
# Parts that one call sends of a growing file: then the row learns of them, and other files have their turn.
PARTS_PER_CALL = 32


class Uploads:
    """The streamed uploads of one S3 store. Thread-safe; one upload is used by one thread at a time."""

    def __init__(self, store: S3Store) -> None:
        """Take the store whose client, settings and keys are used."""
        self._store = store
        self._known: dict[str, Known] = {}
        """upload id -> what the server has of it."""
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None

    # -- begin, advance, complete, abort -----------------------------------------------------------------------------

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
        key: str = "",
    ) -> UploadState:
        """Start a multipart upload, to ``key`` if given. Raises StoreUnavailable, StoreError."""
        store = self._store
        key = key or store.keys.key(topic, relative)
        wanted = store.settings.checksum
        kind: cs.Kind = "md5" if wanted == "md5" else "crc64nvme" if wanted == "crc64nvme" else "sha256"
        more: dict[str, Any] = {}
        if kind != "md5" and not (wanted == "auto" and store.echoes_parts is False):
            more["ChecksumAlgorithm"] = cs.ALGORITHM[kind]
            if kind == "crc64nvme":
                more["ChecksumType"] = "FULL_OBJECT"
        metadata = store.metadata(file_id, topic, sha512, mtime, producer)
        answer = store.calls.run(
            f"start an upload of {key!r}",
            lambda: store.client.create_multipart_upload(
                Bucket=store.settings.bucket, Key=key, Metadata=metadata, **more
            ),
        )
        if wanted == "auto":
            store.echoes_parts = bool(answer.get("ChecksumAlgorithm"))
        if wanted == "auto" and not store.echoes_parts:
            # The server keeps no checksums of its own: the MD5 in each part's ETag is compared.
            kind = "md5"
        plan = plan_for(store.settings.part_bytes, size_hint, store.settings.equal_parts)
        with self._lock:
            self._known[answer["UploadId"]] = Known(resumed=False)
        return UploadState(
            upload_id=answer["UploadId"],
            key=key,
            file_id=file_id,
            sha512=sha512,
            base=plan.base,
            step=plan.step,
            kind=kind,
        )

    def advance(
        self, state: UploadState, path: Path, arrived: Callable[[], rg.Ranges], size: int | None
    ) -> UploadState:
        """Send the parts whose bytes are whole and which the server lacks, also those that become whole meanwhile.

        Args:
            state: of `begin`, or of a row that another process wrote.
            path: the partial file.
            arrived: returns the bytes of the file that are there now. What is contiguous from the start is taken as
                final (a partial file hashes it as it is written and never writes it again); other parts are compared
                at the end.
            size: of the whole file, if known; the last part is sent only then.

        Returns:
            ``state``, with what was sent: `PARTS_PER_CALL` parts at most.

        Raises:
            NoUpload: the server does not know the upload; `begin` again.
            StoreUnavailable, SourceGone: what was sent so far is in ``state`` too.
        """
        known = self._resume(state)
        known.hold(path)

        def wanted() -> tuple[list[int], int]:
            ranges = arrived()
            final = ranges[1] if ranges and ranges[0] == 0 and not known.resumed else 0
            return state.plan.whole(ranges, size), final

        self._send(state, path, wanted, size, known, PARTS_PER_CALL)
        return state

    def complete(self, state: UploadState, file: Verified, *, recheck: bool = False, fresh: bool = False) -> Delivery:
        """Send what is left, complete the upload and prove the object.

        Parts that this process did not send itself are compared with the verified file by their checksum, and sent
        again where they differ.

        Args:
            state: the upload.
            file: the verified local file.
            recheck: compare every part, also our own; needed when the partial file was rewritten in between.
            fresh: the upload was begun just now; another one is not begun if the server does not know it.

        Raises:
            StoreUnavailable, SourceGone, StoreError: as `Store.put`.
        """
        store = self._store
        known: Known | None
        try:
            known = self._resume(state)
        except NoUpload:
            known = None
        if known is None:
            # Completed before a crash, or aborted by a sweep.
            self.forget(state.upload_id)
            return self._put_instead(state, file)
        there, only_if = store.look(state.key, file)
        if there is not None:
            self.abort(state)
            return there
        if not known.parts and file.size <= store.settings.part_bytes:
            self.abort(state)
            return self._put_instead(state, file)
        count = state.plan.count(file.size)
        if count > MAX_PARTS:
            raise StoreError(
                f"{file.relative} has {file.size} bytes, more than 10,000 parts of this upload hold. Raise "
                f"s3.{store.name}.part_bytes."
            )
        self._drop_wrong(state, file, known, count, recheck or not known.same_file(file.path))
        try:
            self._send(state, file.path, lambda: (range(1, count + 1), file.size), file.size, known, count)
        except NoUpload:
            self.forget(state.upload_id)
            if fresh:
                raise StoreUnavailable(
                    f"The {store.calls.where} does not know the upload of {state.key!r} that it began just now. Check "
                    "the server; the file is sent again.",
                    5.0,
                ) from None
            return self._put_instead(state, file)
        store.keep_older(state.key, file)
        parts = known.parts
        try:
            there = store.under_condition(
                state.key, file, only_if, lambda condition: self._finish(state, parts, count, condition)
            )
            if there is not None:
                self.abort(state)
                return there
        except NoUpload:
            # Lost by the server, or completed by a call whose answer was lost: the object itself will tell.
            known.doubted = True
        except Rejected:
            # The server lost or mixed up parts: ask it once more next time, instead of trusting our memory.
            known.doubted = True
            raise StoreUnavailable(
                f"The {store.calls.where} did not accept the parts of {state.key!r}; they are compared and sent again.",
                1.0,
            ) from None
        kind = kind_of(state)
        digests = [known.parts[number].digest for number in range(1, count + 1)]

        def compare(head: Any) -> bool | None:
            if kind == "crc64nvme":
                # Of the whole object; at some 10 GB/s the file is read again sooner than the object would be.
                return cs.agrees(kind, cs.digest_of_range(kind, file.path, 0, file.size), head)
            return cs.composite_agrees(kind, digests, head)

        delivery = store.proven(state.key, file, compare, "multipart upload")
        self.forget(state.upload_id)
        return delivery

    def _put_instead(self, state: UploadState, file: Verified) -> Delivery:
        # An older version that is kept goes to another key than the path's own.
        return self._store.put(file, superseded=state.key != self._store.keys.key(file.topic, file.relative))

    def abort(self, state: UploadState) -> None:
        """Give an upload up; nothing happens if it is gone. Raises StoreUnavailable."""
        self.forget(state.upload_id)
        abort(self._store, state.key, state.upload_id)

    def forget(self, upload_id: str) -> None:
        """Drop what is remembered about an upload; the server is asked when it is used again."""
        with self._lock:
            known = self._known.pop(upload_id, None)
        if known is not None:
            known.release()

    # -- parts -------------------------------------------------------------------------------------------------------

    def _resume(self, state: UploadState) -> Known:
        """Return what the server has of an upload; asks it if this process does not know."""
        store = self._store
        with self._lock:
            known = self._known.get(state.upload_id)
        if known is None:
            known = Known(resumed=True)
        elif not known.doubted:
            return known
        kind = kind_of(state)
        there: dict[int, Sent] = {}
        for part in list_parts(store, state.key, state.upload_id):
            number, etag = int(part["PartNumber"]), str(part["ETag"])
            ours = known.parts.get(number)
            if ours is not None and ours.etag == etag:
                there[number] = ours
                continue
            digest = state.parts.get(number)
            start, end = state.plan.span(number)
            if int(part["Size"]) > end - start:
                continue
            if digest is None or cs.agrees(kind, digest, part) is False:
                # Sent by a process that died before it could tell: what the server says of it is all there is.
                digest = digest_in(kind, part)
            if digest is not None:
                there[number] = Sent(etag, digest, sure=False)
        known.parts, known.doubted = there, False
        with self._lock:
            self._known[state.upload_id] = known
        return known

    def _drop_wrong(self, state: UploadState, file: Verified, known: Known, count: int, recheck: bool) -> None:
        """Forget the parts that are not the verified file's bytes."""
        parts = known.parts
        # A part beyond the end is left out when the upload is completed.
        for number in [n for n in parts if n > count]:
            del parts[number]
        doubtful = [number for number in sorted(parts) if recheck or not parts[number].sure]
        kind = kind_of(state)

        def is_right(number: int) -> bool:
            start, end = state.plan.span(number, file.size)
            return cs.digest_of_range(kind, file.path, start, end) == parts[number].digest

        for number, right in zip(doubtful, self._threads().map(is_right, doubtful), strict=True):
            if not right:
                del parts[number]

    def _send(
        self,
        state: UploadState,
        path: Path,
        wanted: Callable[[], tuple[Iterable[int], int]],
        size: int | None,
        known: Known,
        most: int,
    ) -> None:
        """Send the parts that the server lacks, several side by side; one that ends makes room for the next at once.

        Args:
            state: the upload.
            path: the partial file.
            wanted: returns the parts that can be sent now, and the offset before which bytes are surely the file's.
                Asked again when these are on their way, until it names no new ones.
            size: of the whole file, if known.
            known: what the server has; gets what is sent.
            most: parts after which no new ones are begun.
        """
        parallel = self._store.settings.parallel
        under_way: dict[Future[Sent], int] = {}
        waiting: list[int] = []
        final = begun = 0
        error: BaseException | None = None
        try:
            while True:
                if error is None and not waiting:
                    numbers, final = wanted()
                    busy = set(under_way.values())
                    waiting = [number for number in numbers if number not in known.parts and number not in busy]
                while error is None and waiting and begun < most and len(under_way) < parallel:
                    number = waiting.pop(0)
                    under_way[self._threads().submit(self._part, state, path, number, size, final)] = number
                    begun += 1
                if not under_way:
                    break
                for future in wait(under_way, return_when=FIRST_COMPLETED).done:
                    number = under_way.pop(future)
                    if (failure := future.exception()) is not None:
                        error = error or failure
                    else:
                        known.parts[number] = future.result()
            if error is not None:
                raise error
        except (NoUpload, StoreUnavailable):
            # Not every server says plainly that it has lost an upload.
            known.doubted = True
            raise
        finally:
            state.parts = {number: known.parts[number].digest for number in sorted(known.parts)}

    def _part(self, state: UploadState, path: Path, number: int, size: int | None, final: int) -> Sent:
        """Send one part and compare the server's answer; its bytes are surely the file's if they end by ``final``."""
        store = self._store
        start, end = state.plan.span(number, size)
        kind = kind_of(state)
        what = f"take part {number} of {state.key!r}"
        try:
            with contextlib.ExitStack() as stack:
                body: Any
                if end - start <= IN_MEMORY and not store.throttle.rate:
                    with path.open("rb") as stream:
                        stream.seek(start)
                        body = stream.read(end - start)
                    if len(body) != end - start:
                        raise SourceGone(f"The partial file {path} ends before byte {end}; it is read again.")
                    digest = cs.digest_of(kind, body)
                else:
                    digest = cs.digest_of_range(kind, path, start, end)
                    body = stack.enter_context(cs.Window(path, start, end, store.throttle))
                answer: Any = store.calls.run(
                    what,
                    lambda: store.client.upload_part(
                        Bucket=store.settings.bucket,
                        Key=state.key,
                        UploadId=state.upload_id,
                        PartNumber=number,
                        Body=body,
                        **{cs.FIELD[kind]: cs.encoded(digest)},
                    ),
                )
        except FileNotFoundError:
            raise SourceGone(f"The partial file {path} is gone; it is read again from the log.") from None
        if cs.agrees(kind, digest, answer) is False:
            raise Rejected(
                f"The {store.calls.where} did not {what}: it says another checksum than what was sent. Check its disk "
                "and the network between; the part is sent again.",
                2.0,
            )
        store.count(part=end - start)
        return Sent(str(answer["ETag"]), digest, sure=end <= final)

    def _finish(self, state: UploadState, known: dict[int, Sent], count: int, only_if: dict[str, str]) -> None:
        store = self._store
        kind = kind_of(state)
        parts: list[Any] = []
        for number in range(1, count + 1):
            part: dict[str, Any] = {"PartNumber": number, "ETag": known[number].etag}
            if kind != "md5":
                part[cs.FIELD[kind]] = cs.encoded(known[number].digest)
            parts.append(part)
        more: dict[str, Any] = {"ChecksumType": "FULL_OBJECT"} if kind == "crc64nvme" else {}
        started = time.monotonic()
        store.calls.run(
            f"complete the upload of {state.key!r}",
            lambda: store.client.complete_multipart_upload(
                Bucket=store.settings.bucket,
                Key=state.key,
                UploadId=state.upload_id,
                MultipartUpload={"Parts": parts},
                **only_if,
                **more,
            ),
        )
        log.info("%s completed %s: %d parts in %.2f s", store.name, state.key, count, time.monotonic() - started)

    def _threads(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self._store.settings.parallel, f"s3-{self._store.name}")
            return self._pool

    def forget_all_but(self, known_upload_ids: Collection[str]) -> None:
        """Drop what no row names: of a partition that has gone to another worker, or of a file that was given up."""
        with self._lock:
            left = [upload_id for upload_id in self._known if upload_id not in known_upload_ids]
        for upload_id in left:
            self.forget(upload_id)

    def close(self) -> None:
        """End the threads and let go of files."""
        self.forget_all_but(())
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
