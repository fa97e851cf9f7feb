"""From the last byte to the receipt: verification, stores, records, receipt; and uploads that stream meanwhile."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from openmsi_streams.assembly.partial import PartialFile, Vanished
from openmsi_streams.chunks.messages import Delivery, to_json
from openmsi_streams.chunks.reasons import Reason
from openmsi_streams.chunks.topics import beside
from openmsi_streams.config.settings import MIB
from openmsi_streams.errors import StoreError
from openmsi_streams.storage.base import NoUpload, SourceGone, Store, Verified
from openmsi_streams.tables.rows import Row, State
from openmsi_streams.worker import metrics, quarantine
from openmsi_streams.worker.bridge import Bridge
from openmsi_streams.worker.engine import Engine, replaced
from openmsi_streams.worker.live import Live

log = logging.getLogger(__name__)

# Small files are delivered together, so that their fsyncs overlap and their folder is synced once.
BATCH_FILES = 64
BATCH_BYTES = 16 * MIB
# The first wait after a store failed; it doubles up to the longest, so that a lab sees its files soon after the mend.
FIRST_RETRY = 1.0
LONGEST_RETRY = 60.0

Record = tuple[str, bytes, bytes]
"""A message to send with a delivery: topic, key, value."""


class WrongHash(StoreError):
    """A small file's bytes do not have the announced hash."""

    def __init__(self, digest: bytes) -> None:
        super().__init__(f"The bytes have the SHA-512 {digest.hex()}.")
        self.digest = digest


@dataclass(slots=True)
class Job:
    """A verified file version on its way into the stores."""

    live: Live
    row: Row
    file: Verified
    superseded: bool


@dataclass(slots=True)
class Outcome:
    """What the stores said."""

    deliveries: tuple[Delivery, ...]
    error: BaseException | None = None
    verified_at: float | None = None
    """When the hash of a small file was found, seconds since the epoch."""
    emitted: Emitted = field(default_factory=lambda: Emitted())


@dataclass(frozen=True, slots=True)
class Emitted:
    """The records of a delivered file: messages to send, flags for its row, a summary for the views."""

    records: tuple[Record, ...] = ()
    flags: tuple[str, ...] = ()
    summary: bytes = b""


Emitter = Callable[[Job, tuple[Delivery, ...]], Emitted]
"""Makes the records of a delivered file; runs in a thread."""


class Deliverer:
    """Verifies whole files and delivers them into every store that wants them."""

    def __init__(
        self,
        engine: Engine,
        stores: list[Store],
        emit: Emitter | None = None,
        follow: Callable[[str, str], bool] = lambda topic, path: False,
    ) -> None:
        """Take the engine, its stores, what makes records, and which paths something follows up (PDV, processors)."""
        self.engine = engine
        self.stores = stores
        self.emit = emit
        self.follow = follow
        self.announce: Callable[[Row], list[Any]] = lambda row: []
        """Called with a delivered row; returns what is to be awaited before its receipt."""
        self.promise: Callable[[str, int, str, bytes], None] = lambda *_: None
        """Called with topic, partition, file id and version of what is to be followed up."""
        self.note_record: Callable[[str, int, str, bytes], None] = lambda *_: None
        """Called with topic, partition, file id and the summary of its record."""
        self.problems: dict[str, str] = {}
        """Store name -> its last failure; empty when all is well."""
        self._bridge: Bridge | None = None
        self._queue: list[Live] = []
        self._paths: set[tuple[str, str]] = set()
        self._running: set[asyncio.Task[None]] = set()
        self._slots = asyncio.Semaphore(engine.settings.worker.threads)
        self._uploads = asyncio.Semaphore(2)
        self._tasks: set[asyncio.Task[None]] = set()
        engine.finish = self.finish
        engine.given_up = self.abort_uploads
        engine.progress = self.progress

    # -- verification ------------------------------------------------------------------------------------------------

    def finish(self, live: Live, data: memoryview | None = None) -> None:
        """Verify a file version whose every byte is there; goes on by itself to delivery.

        ``data``: all its bytes, if they are not written yet.
        """
        engine = self.engine
        live.busy = True
        live.whole_at = now = engine.clock()
        if live.row.state is State.STALLED:
            engine.change(live, live.row.to(State.RECEIVING, now, reason="", message=""))
        engine.change(live, live.row.to(State.VERIFYING, now))
        metrics.REASSEMBLY_SECONDS.labels(live.row.topic).observe(max(0.0, now - live.row.since))
        if self._bridge is None:
            self._bridge = Bridge(asyncio.get_running_loop())
        if data is not None and self._disk_alone(live.row.topic) and engine.may_wait(len(data)):
            # Hashed and written by who delivers it: one hand-over and one opening of the file instead of two each.
            # What may wait long goes to its partial file at once: files for slower stores, and all while those have
            # taken the threads.
            live.content = data
            engine.writer.borrow(len(data))
            engine.backlog.add(len(data))
            self.enqueue(live)
            return
        bridge = self._bridge
        size, file = live.row.size, live.partial

        def work() -> bytes:
            if file.error is not None:
                raise file.error
            if data is not None:
                file.write(0, data)
            return file.finish(size)

        def done(result: object) -> None:
            bridge.call(partial(self._verified, live, file, result))

        engine.writer.call(live.lane, file, work, done, 0 if data is None else len(data))

    def _disk_alone(self, topic: str) -> bool:
        return [store.kind for store in self.stores if store.wants(topic)] == ["disk"]

    def _verified(self, live: Live, file: PartialFile, result: object) -> None:
        engine = self.engine
        if engine.live.get(live.file_id) is not live or live.partial is not file:
            return
        now = engine.clock()
        row = live.row
        if result == row.sha512:
            metrics.VERIFY_SECONDS.labels(row.topic).observe(max(0.0, now - row.updated))
            engine.change(live, row.to(State.DELIVERING, now))
            self.enqueue(live)
        elif isinstance(result, bytes):
            if live.refills == 0:
                log.warning("%s has the hash %s: read again from the log", row.path, result.hex()[:16])
                live.refills = 1
                # A partial file that this process did not write may simply be stale: the chunks are not suspects yet.
                live.checked = live.trusted
                if not live.trusted:
                    live.refills = 0
                self.again(live)
            else:
                what = (
                    f"{row.path!r} has the SHA-512 {result.hex()} after it was read again; "
                    f"its sender announced {row.sha512.hex()}."
                )
                self._spawn(engine.quarantine_file(live, Reason.FILE_HASH_MISMATCH, what))
        else:
            log.warning("%s cannot be verified: %s", row.path, result)
            if isinstance(result, Vanished):
                self.again(live)
            else:
                # The disk is full or failing: the log has the bytes, and a disk gets better no sooner for being asked.
                wait = min(LONGEST_RETRY, FIRST_RETRY * 2.0**live.failures)
                live.failures += 1
                self.problems["disk"] = f"Partial files cannot be written: {result}. Mend the disk; files wait."
                asyncio.get_running_loop().call_later(wait, self._again_if_held, live)

    def _again_if_held(self, live: Live) -> None:
        if self.engine.live.get(live.file_id) is live:
            self.problems.pop("disk", None)
            self.again(live)

    def again(self, live: Live) -> None:
        """Begin a file version's bytes anew, from the log."""
        engine = self.engine
        old = live.partial
        engine.writer.call(live.lane, old, old.remove, lambda _: None)
        live.partial = PartialFile(old.path)
        live.trusted = True
        live.again = True
        live.busy = False
        row = replaced(live.row, ranges=(), deliveries=())
        if row.state is not State.RECEIVING:
            row = row.to(State.RECEIVING, engine.clock())
        engine.change(live, row)
        engine.flush(live)
        engine.refill(live, True)

    # -- delivery ----------------------------------------------------------------------------------------------------

    def enqueue(self, live: Live) -> None:
        """Put a verified file version in line for the stores, once no parts of it are under way any more."""
        if live.uploading:
            return
        self._queue.append(live)
        self._pump()

    def _pump(self) -> None:
        while self._queue and not self._slots.locked():
            batch: list[Live] = []
            size = 0
            rest: list[Live] = []
            for at, live in enumerate(self._queue):
                if len(batch) >= BATCH_FILES or (batch and size + live.row.size > BATCH_BYTES):
                    rest += self._queue[at:]
                    break
                place = (live.row.topic, live.row.path)
                # Two versions of one path are delivered one after the other, so that the newer one is seen to be it.
                if place in self._paths:
                    rest.append(live)
                    continue
                batch.append(live)
                size += live.row.size
                self._paths.add(place)
            self._queue = rest
            if not batch:
                return
            task = asyncio.get_running_loop().create_task(self._run(batch))
            self._running.add(task)
            task.add_done_callback(self._running.discard)
            # The task takes its slot at its first step; count it now, or this loop would start too many.
            if len(self._running) >= self.engine.settings.worker.threads:
                return

    async def _run(self, batch: list[Live]) -> None:
        async with self._slots:
            engine = self.engine
            loop = asyncio.get_running_loop()
            try:
                jobs = [self._job(live) for live in batch]
                try:
                    outcomes = await loop.run_in_executor(engine.pool, self._deliver, jobs)
                finally:
                    # They are in the store, or come again from the log.
                    for job in jobs:
                        if job.file.content is not None:
                            job.live.content = None
                            engine.writer.give_back(len(job.file.content))
                            engine.backlog.remove(len(job.file.content))
                await asyncio.gather(*(self._settle(job, out) for job, out in zip(jobs, outcomes, strict=True)))
            except asyncio.CancelledError:
                raise
            except Exception as error:
                log.exception("delivery failed")
                if engine.on_fault is not None:
                    engine.on_fault(error)
                raise
            finally:
                self._paths.difference_update((live.row.topic, live.row.path) for live in batch)
        self._pump()

    def _job(self, live: Live) -> Job:
        row = live.row
        superseded = self.engine.delivered.newer(live.file_id, row)
        file = Verified(
            path=live.partial.path,
            file_id=live.file_id,
            topic=row.topic,
            relative=row.path,
            sha512=row.sha512.hex(),
            size=row.size,
            mtime=row.mtime,
            timestamp=row.timestamp,
            producer=row.headers.get("producer", ""),
            content=live.content,
        )
        return Job(live, row, file, superseded)

    def _deliver(self, jobs: list[Job]) -> list[Outcome]:
        """Put files into the stores; runs in a thread. The disk store is last: it takes the partial file away."""
        outcomes = [Outcome(job.row.deliveries) for job in jobs]
        for job, out in zip(jobs, outcomes, strict=True):
            if job.file.content is not None:
                digest = hashlib.sha512(job.file.content).digest()
                out.verified_at = self.engine.clock()
                if digest != job.row.sha512:
                    out.error = WrongHash(digest)
        for store in (s for s in self.stores if s.kind != "disk"):
            for job, out in zip(jobs, outcomes, strict=True):
                if out.error is None and store.wants(job.row.topic) and not _has(out.deliveries, store):
                    self._try(store, job, out)
        for store in (s for s in self.stores if s.kind == "disk"):
            waiting = [
                (job, out)
                for job, out in zip(jobs, outcomes, strict=True)
                if out.error is None and store.wants(job.row.topic) and not _has(out.deliveries, store)
            ]
            if waiting:
                old = [job.superseded for job, _ in waiting]
                started = self.engine.clock()
                results = store.put_many([job.file for job, _ in waiting], superseded=old)  # type: ignore[attr-defined]
                seconds = self.engine.clock() - started
                for (job, out), result in zip(waiting, results, strict=True):
                    self._note(store, out, result, job.row.topic, seconds)
        if self.emit is not None:
            for job, out in zip(jobs, outcomes, strict=True):
                if out.error is None and not job.superseded:
                    try:
                        out.emitted = self.emit(job, out.deliveries)
                    except StoreError as error:
                        out.error = error
                    except Exception:
                        # The file is never held up by its record.
                        log.exception("no record could be made of %s", job.row.path)
                        out.emitted = Emitted(flags=("record_failed",))
        return outcomes

    def _put(self, store: Store, job: Job) -> Delivery:
        state = job.row.uploads.get(store.name)
        if state is not None and not job.superseded and hasattr(store, "complete"):
            # Parts that were sent before the bytes were read again may be other bytes.
            loaded = store.load_state(state)  # type: ignore[attr-defined]
            delivery: Delivery = store.complete(loaded, job.file, recheck=job.live.again)
            return delivery
        return store.put(job.file, superseded=job.superseded)

    def _try(self, store: Store, job: Job, out: Outcome) -> None:
        started = self.engine.clock()
        try:
            result: Delivery | BaseException = self._put(store, job)
        except (StoreError, OSError) as error:
            result = error
        self._note(store, out, result, job.row.topic, self.engine.clock() - started)

    def _note(self, store: Store, out: Outcome, result: Delivery | BaseException, topic: str, seconds: float) -> None:
        if isinstance(result, BaseException):
            out.error = result
            self.problems[store.name] = str(result)
            metrics.STORE_FAILURES.labels(store.name).inc()
        else:
            metrics.DELIVERY_SECONDS.labels(topic, store.name).observe(seconds)
            out.deliveries = (*out.deliveries, result)
            self.problems.pop(store.name, None)

    async def _settle(self, job: Job, out: Outcome) -> None:
        engine, live = self.engine, job.live
        if engine.live.get(live.file_id) is not live:
            return
        if isinstance(out.error, WrongHash):
            self._verified(live, live.partial, out.error.digest)
            return
        now = engine.clock()
        if out.verified_at is not None:
            metrics.VERIFY_SECONDS.labels(live.row.topic).observe(max(0.0, out.verified_at - live.row.updated))
            engine.change(live, live.row.to(State.DELIVERING, out.verified_at))
        row = live.row
        if out.error is not None:
            await self._failed(live, replaced(row, deliveries=out.deliveries), out.error)
            return
        if job.superseded:
            await self.abort_uploads(row)
        if job.superseded and row.mtime != job.row.mtime:
            # While it was put aside as an older version, it came again as a newer one.
            self.again(live)
            return
        with engine.delivered.settling(row) as copy_of:
            await self._delivered(job, out, copy_of, now)

    async def _delivered(self, job: Job, out: Outcome, copy_of: str, now: float) -> None:
        """Send what follows a delivery, the receipt last, and settle the row."""
        engine, live = self.engine, job.live
        row = live.row
        flags = (*row.flags, *out.emitted.flags)
        if not engine.is_expected(row.path):
            flags = (*flags, str(Reason.UNEXPECTED_PATH))
        done = row.to(
            State.DELIVERED, now, deliveries=out.deliveries, flags=flags, copy_of=copy_of,
            uploads={}, reason="", message="", attempts=0, retry_at=0.0,
        )  # fmt: skip
        key = live.file_id.encode("ascii")
        sends = [engine.publisher.send(topic, k, v) for topic, k, v in out.emitted.records]
        if self.follow(row.topic, row.path) and not job.superseded:
            version = to_json(engine.version(live.file_id, done))
            self.promise(row.topic, row.partition, live.file_id, version)
            sends.append(engine.publisher.send(beside(row.topic, "delivered"), key, version, partition=row.partition))
        sends += self.announce(done)
        if sends:
            await asyncio.gather(*sends)
        receipt = quarantine.receipt_of(live.file_id, done, now)
        await engine.publisher.send(beside(row.topic, "receipts"), key, receipt, partition=row.partition)
        if engine.live.get(live.file_id) is not live:
            return
        # The disk store has taken the partial file away.
        if not any(store.kind == "disk" and store.wants(row.topic) for store in self.stores):
            engine.writer.call(live.lane, live.partial, live.partial.remove, lambda _: None)
        if out.emitted.summary:
            self.note_record(row.topic, row.partition, live.file_id, out.emitted.summary)
        engine.settle(live, done)
        engine.counts["delivered"] += 1
        engine.counts["bytes"] += row.size
        metrics.RECORDS.labels(row.topic).inc(len(out.emitted.records))
        metrics.DELIVERED.labels(row.topic).inc()
        metrics.DELIVERED_BYTES.labels(row.topic).inc(row.size)
        metrics.FILE_SECONDS.labels(row.topic).observe(max(0.0, now - row.since))
        took = engine.clock() - live.whole_at
        log.info("delivered %s (%d bytes, %.2f s after its last chunk, %s)", row.path, row.size, took, live.file_id)

    async def _failed(self, live: Live, row: Row, error: BaseException) -> None:
        engine = self.engine
        if isinstance(error, FileNotFoundError | SourceGone):
            engine.change(live, row)
            self.again(live)
            return
        attempts = row.attempts + 1
        asked = float(getattr(error, "retry_after", 0.0) or 0.0)
        wait = max(asked, min(LONGEST_RETRY, FIRST_RETRY * 2.0 ** min(attempts - 1, 10)))
        log.warning("%s is not delivered yet (attempt %d, next in %.0f s): %s", row.path, attempts, wait, error)
        engine.change(
            live,
            replaced(
                row, attempts=attempts, retry_at=engine.clock() + wait, reason=str(Reason.STORE_REFUSED),
                message=str(error),
            ),
        )  # fmt: skip
        engine.flush(live)

    async def abort_uploads(self, row: Row) -> None:
        """End the streamed uploads of a file version that will not be completed."""
        for store in self.stores:
            state = row.uploads.get(store.name)
            if state is not None and hasattr(store, "abort"):
                try:
                    abort = partial(store.abort, store.load_state(state))  # type: ignore[attr-defined]
                    await asyncio.get_running_loop().run_in_executor(self.engine.pool, abort)
                except (StoreError, OSError) as error:
                    log.warning("an upload of %s to %s is left for the sweep: %s", row.path, store.name, error)

    def retry(self, live: Live) -> None:
        """Deliver again what failed; called by the sweep when its time has come."""
        self.engine.change(live, replaced(live.row, retry_at=0.0))
        self.enqueue(live)

    # -- uploads while the file arrives ------------------------------------------------------------------------------

    def progress(self, live: Live) -> None:
        """Send what is whole of a growing file to the stores that take parts."""
        for store in self.stores:
            step = getattr(store, "stream_step", 0)
            if not step or store.name in live.uploading or not store.wants(live.row.topic):
                continue
            if live.row.received // step > live.mark:
                live.mark = live.row.received // step
                live.uploading.add(store.name)
                self._spawn(self._advance(store, live))

    async def _advance(self, store: Any, live: Live) -> None:
        engine = self.engine
        loop = asyncio.get_running_loop()
        try:
            async with self._uploads:
                if engine.live.get(live.file_id) is not live or live.busy:
                    return
                row = live.row
                stored = row.uploads.get(store.name)
                if stored is None:
                    size = row.size if row.size >= 0 else None
                    begin = partial(
                        store.begin, live.file_id, row.topic, row.path, row.sha512.hex(), size,
                        mtime=row.mtime, producer=row.headers.get("producer", ""),
                    )  # fmt: skip
                    state = await loop.run_in_executor(engine.pool, begin)
                    self._remember(store, live, state)
                    # The upload's id must be in the table before parts are sent, or nobody would go on with it.
                    engine.flush(live)
                else:
                    state = store.load_state(stored)
                known = live.row.size if live.row.size >= 0 else None
                file = live.partial
                state = await loop.run_in_executor(
                    engine.pool, store.advance, state, file.path, lambda: file.written, known
                )
                self._remember(store, live, state)
        except NoUpload as error:
            # Aborted behind our back: the next parts begin another one.
            log.warning("the upload of %s to %s begins again: %s", live.row.path, store.name, error)
            self._remember(store, live, None)
        except (StoreError, OSError) as error:
            # Not the file's fate yet: delivery tries again, and says so if it fails.
            self.problems[store.name] = str(error)
            log.warning("parts of %s were not sent to %s: %s", live.row.path, store.name, error)
        finally:
            live.uploading.discard(store.name)
            if live.busy and not live.uploading and live.row.state is State.DELIVERING:
                self.enqueue(live)

    def _remember(self, store: Any, live: Live, state: Any) -> None:
        if self.engine.live.get(live.file_id) is live:
            uploads = {name: kept for name, kept in live.row.uploads.items() if name != store.name}
            if state is not None:
                uploads[store.name] = store.dump_state(state)
            self.engine.change(live, replaced(live.row, uploads=uploads))

    async def stop(self) -> None:
        """Cancel what is under way; it is taken up again by whoever gets the partitions."""
        tasks = [*self._running, *self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None and self.engine.on_fault is not None:
            self.engine.on_fault(task.exception())  # type: ignore[arg-type]


def _has(deliveries: tuple[Delivery, ...], store: Store) -> bool:
    return any(delivery.store == store.name for delivery in deliveries)
