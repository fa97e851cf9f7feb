"""The way of a chunk: from a message to bytes on the disk and a row in the table."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import msgspec

from openmsi_streams.assembly.message import Message
from openmsi_streams.assembly.partial import PartialFile
from openmsi_streams.assembly.writer import Writer
from openmsi_streams.chunks import codec
from openmsi_streams.chunks.keys import file_id as file_id_of
from openmsi_streams.chunks.keys import home_partition
from openmsi_streams.chunks.messages import FileVersion, Request, to_json
from openmsi_streams.chunks.paths import PARTIAL_FOLDER
from openmsi_streams.chunks.reasons import CURES, Reason, Unusable
from openmsi_streams.chunks.topics import beside
from openmsi_streams.config.settings import MIB, Settings
from openmsi_streams.tables import place as pl
from openmsi_streams.tables import rows as rw
from openmsi_streams.tables.rows import OPEN, Row, State
from openmsi_streams.worker import lane as ledgers
from openmsi_streams.worker import metrics, quarantine
from openmsi_streams.worker.backlog import Backlog
from openmsi_streams.worker.delivered import Delivered
from openmsi_streams.worker.lane import Lane
from openmsi_streams.worker.live import Live
from openmsi_streams.worker.ports import Index, Publisher, Rows

log = logging.getLogger(__name__)

# A row is written again after this much progress: at 300 bytes a row, 0.01 % of the data goes to the changelog.
FLUSH_BYTES = 4 * MIB
# ... or after this long, if it changed; what is not in the table is read again from the log after a crash.
FLUSH_SECONDS = 5.0
# ... but never more than this part of the data, whatever the size of chunks and rows.
FLUSH_SHARE = 256
REPLAY_HEADER = "openmsi-replay"
CONTROL_HEADER = "openmsi-control"
# Identities of recently seen (path, hash): a file of many chunks is looked up once, for as many files as come in turns.
MAX_IDENTITIES = 1000


class Gate(Protocol):
    """Opens messages of encrypted topics."""

    def covers(self, topic: str) -> bool:
        """Say whether every message of this chunk topic must be encrypted."""

    async def open(self, engine: Engine, lane: Lane, message: Message) -> Message | None:
        """Return the message in the clear; None if it waits for its key. Raises Unusable."""


class Engine:
    """Takes messages of the chunk topics and keeps rows, partial files and deliveries.

    Runs on one event loop; everything that waits for a disk, a hash or a network runs in threads.
    """

    def __init__(
        self,
        settings: Settings,
        tables: dict[str, Rows],
        partitions: dict[str, int],
        publisher: Publisher,
        index: Index | None = None,
        on_fault: Callable[[BaseException], None] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Take the settings, one table and the number of partitions for each chunk topic, and the producer."""
        self.settings = settings
        self.tables = tables
        self.partitions = partitions
        self.publisher = publisher
        self.index = index
        self.clock = clock
        self.on_fault = on_fault
        self.lanes: dict[tuple[str, int], Lane] = {}
        self.live: dict[str, Live] = {}
        self.delivered = Delivered(self._held_row)
        self.expected = [re.compile(pattern) for pattern in settings.worker.expected_paths]
        self.recovered = False
        self.paused = ""
        """Why no chunks are taken just now."""
        self.moves = 0
        self.counts = {"chunks": 0, "duplicates": 0, "refilled_bytes": 0, "forwarded": 0, "delivered": 0, "bytes": 0}
        self.partial_root = self._partial_root()
        self.pool = ThreadPoolExecutor(settings.worker.threads, thread_name_prefix="store")
        self._identities: dict[tuple[str, str, bytes], str] = {}
        self._budget = settings.worker.memory_budget // 4
        # Half of what may wait (`may_wait`): what comes while the stores take nothing has the other half.
        self.backlog = Backlog(self._budget // 8)
        self._room: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self.writer: Writer = Writer(min(4, settings.worker.threads), self._drained)
        self.gate: Gate | None = None
        """Opens messages of encrypted topics; None: nothing is encrypted."""
        self.finish: Callable[[Live, memoryview | None], None] = lambda live, data: None
        """Set by `deliver.Deliverer`: called when every byte of a file is there; with all of them if they came at once
        and are not written yet."""
        self.progress: Callable[[Live], None] = lambda live: None
        """Set by `deliver.Deliverer`: called when a file has grown, for uploads that stream."""
        self.given_up: Callable[[Row], Awaitable[None]] | None = None
        """Set by `deliver.Deliverer`: called with the row of a file version that goes to quarantine."""
        self.sidecar: Callable[[str, int, str], Awaitable[None]] = _nothing
        """Set by the app: called with topic, partition and path of a sidecar that was delivered."""
        self.missed: Callable[[Lane, bool, int, int], None] = lambda lane, home, start, end: None
        """Set by `recover.Recovery`: called with offsets that the stream left out."""
        self.refill: Callable[[Live, bool], None] = lambda live, whole: None
        """Set by `recover.Recovery`: called when a file's bytes must be read again."""
        metrics.MEMORY_BUDGET.set(settings.worker.memory_budget)

    # -- what views and health ask -----------------------------------------------------------------------------------

    def topics(self) -> list[str]:
        """Return the chunk topics."""
        return list(self.tables)

    def row(self, file_id: str) -> Row | None:
        """Return a row as it is now, wherever it is on this worker."""
        place = self.index.where(file_id) if self.index is not None else None
        for topic, partition in [place] if place in self.lanes else list(self.lanes):
            row = self.row_at(topic, partition, file_id)
            if row is not None:
                return row
        return None

    def row_at(self, topic: str, partition: int, file_id: str) -> Row | None:
        """Return a row of this partition as it is now."""
        live = self.live.get(file_id)
        if live is not None:
            return live.row
        value = self.tables[topic].get(partition, file_id.encode("ascii", "replace"))
        return rw.decode(value) if value is not None else None

    def _held_row(self, topic: str, partition: int, file_id: str) -> Row | None:
        # The table of a partition that has left would be opened again.
        return self.row_at(topic, partition, file_id) if (topic, partition) in self.lanes else None

    def items(self, topic: str | None = None) -> Iterator[tuple[str, Row]]:
        """Yield every file id and row of this worker's partitions, as they are now."""
        for (name, partition), _ in list(self.lanes.items()):
            if topic in (None, name):
                for file_id, row in self.stored(name, partition):
                    live = self.live.get(file_id)
                    yield file_id, live.row if live is not None else row

    def stored(self, topic: str, partition: int) -> Iterator[tuple[str, Row]]:
        """Yield every file id and row of a partition's table."""
        for key, value in self.tables[topic].items(partition):
            if key[:1] != b"\0":
                yield key.decode("ascii"), rw.decode(value)

    def live_ids(self) -> list[str]:
        """Return the ids of files in flight."""
        return list(self.live)

    def changes(self) -> int:
        """Return a number that moves with every change."""
        return self.moves

    # -- messages ----------------------------------------------------------------------------------------------------

    async def handle(self, message: Message, *, home: bool = False) -> None:
        """Process one message of the stream of a chunk topic, or of `<topic>.home`; return when it may be passed.

        A fault that is neither the message's nor a passing one stops the worker, so that no offset is passed over it.
        """
        topic = message.topic.removesuffix(".home") if home else message.topic
        lane = self.lanes.get((topic, message.partition))
        if lane is None:
            # The partition has left while the message was on its way; its new owner reads it.
            return
        track = lane.track(home)
        left_out = track.left_out(message.offset)
        if left_out is not None:
            self.missed(lane, home, *left_out)
        try:
            await self.backlog.room()
            await self.wait_for_room()
            await self.take(lane, message, home=home)
            track.see(message.offset)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            log.exception("The message %s could not be processed", message.where)
            if self.on_fault is not None:
                self.on_fault(error)
            raise

    async def wait_for_room(self) -> None:
        """Wait while the disk is full or more bytes are pending than the budget allows."""
        while True:
            if self._room is None:
                self._loop = asyncio.get_running_loop()
                self._room = asyncio.Event()
            if self.paused:
                await asyncio.sleep(0.2)
                continue
            if self.writer.pending <= self._budget:
                return
            self._room.clear()
            if self.writer.notify_below(self._budget // 2):
                await self._room.wait()

    def may_wait(self, size: int) -> bool:
        """Say whether so many bytes may wait in memory for a store.

        They may take a quarter of what may be pending: intake that was stopped goes on below half of it, and must not
        wait for a store.
        """
        return self.writer.pending + size <= self._budget // 4

    def _drained(self) -> None:
        if self._loop is not None and self._room is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._room.set)

    async def take(
        self, lane: Lane, message: Message, *, home: bool, only: set[str] | None = None, refill: bool = False
    ) -> None:
        """Decode a message and do what is to be done with it. ``only``: pass over chunks of other file versions."""
        if home and CONTROL_HEADER in message.headers:
            await self.control(lane, message)
            return
        limits = self.settings.chunks
        sealed = message
        try:
            if self.gate is not None and self.gate.covers(lane.topic):
                opened = await self.gate.open(self, lane, message)
                if opened is None:
                    return
                message = opened
            if message.key is not None and len(message.key) > codec.MAX_KEY_BYTES:
                raise Unusable(Reason.KEY_TOO_LARGE, f"The message's key has {len(message.key)} bytes.")
            chunk, path = codec.decode(
                message.value, largest_chunk=limits.largest_chunk, max_file_bytes=limits.max_file_bytes
            )
            if self.settings.worker.strict_paths and not self.is_expected(path):
                raise Unusable(Reason.UNEXPECTED_PATH, f"No rule expects the path {path!r}.")
        except Unusable as error:
            if only is None:
                await self.quarantine_message(lane.topic, sealed, error.reason, str(error))
            return
        if not home and home_partition(path, self.partitions[lane.topic]) != lane.partition:
            if only is None:
                await self._forward(lane, sealed, path)
            return
        file_id = self._identity(lane.topic, path, chunk.file_hash)
        if only is not None and file_id not in only:
            return
        await self._place(lane, sealed, chunk, path, file_id, home=home, refill=refill)

    async def _place(
        self, lane: Lane, message: Message, chunk: codec.Chunk, path: str, file_id: str, *, home: bool, refill: bool
    ) -> None:
        live = self.live.get(file_id)
        row = self.row_at(lane.topic, lane.partition, file_id)
        if live is not None and live.busy and live.row.state is not State.QUARANTINED:
            self._repeated(lane)
            if chunk.mtime is not None and live.row.mtime is not None and chunk.mtime > live.row.mtime:
                self.change(live, replaced(live.row, mtime=chunk.mtime))
            if live.dirty:
                # What holds the ledger may have gone with a lane that was taken over anew.
                lane.track(home).hold(file_id, message.offset)
            return
        if live is not None and live.checked and not codec.is_intact(chunk):
            what = f"Chunk {chunk.index} of {chunk.total} of {path!r} has other bytes than its hash says."
            await self.quarantine_message(lane.topic, message, Reason.BAD_HASH, what)
            return
        now = self.clock()
        replay = REPLAY_HEADER in message.headers
        headers = {n: v.decode("utf-8", "replace") for n, v in message.headers.items() if not n.startswith("openmsi-")}
        seen = pl.Seen(lane.partition, message.offset, message.timestamp, now, home, replay, headers)
        step = pl.place(row, chunk, path, lane.topic, seen)
        if isinstance(step, pl.Renew):
            assert row is not None
            step = self._renew(file_id, row, step, chunk, seen)
        if isinstance(step, pl.Write):
            self.counts["chunks"] += 1
            metrics.CHUNKS.labels(lane.topic).inc()
            metrics.CHUNK_BYTES.labels(lane.topic).inc(len(chunk.data))
            if refill:
                self.counts["refilled_bytes"] += len(chunk.data)
                metrics.REFILLED_BYTES.labels(lane.topic).inc(len(chunk.data))
            if live is None:
                live = self.open(file_id, step.row, trusted=step.is_new)
            # A small file that is whole at once is written and verified in one go, and gets one row, when it is
            # settled: until then the ledger waits for it.
            at_once = step.is_new and step.row.is_whole
            if not at_once:
                self.writer.write(live.lane, live.partial, chunk.offset, chunk.data)
            self.change(live, step.row)
            lane.track(home).hold(file_id, message.offset)
            if not at_once and (step.is_new or self._is_due(live, now)):
                self.flush(live)
            if step.row.is_whole:
                self.finish(live, chunk.data if at_once else None)
            else:
                self.progress(live)
        elif isinstance(step, pl.Repeat | pl.Postpone):
            self._repeated(lane)
            if live is not None:
                self.change(live, step.row)
                lane.track(home).hold(file_id, message.offset)
        elif isinstance(step, pl.Settled):
            self._repeated(lane)
            if chunk.index == chunk.total and not refill:
                # Whoever sends a settled file again has lost the receipt, or never had it.
                await self.publisher.send(
                    beside(lane.topic, "receipts"),
                    file_id.encode("ascii"),
                    quarantine.receipt_of(file_id, step.row, now),
                    partition=lane.partition,
                )
        elif isinstance(step, pl.Reject):
            await self.quarantine_message(lane.topic, message, step.reason, f"{path!r}: {step.what}")

    def _renew(self, file_id: str, row: Row, step: pl.Renew, chunk: codec.Chunk, seen: pl.Seen) -> pl.Step:
        """Start a delivered content anew if another version has its name now; else only its mtime is newer."""
        if self.delivered.holder(row) not in (None, file_id):
            return pl.place(step.row, chunk, row.path, row.topic, seen)
        touched = replaced(row, mtime=chunk.mtime)
        self.write(file_id, touched)
        return pl.Settled(touched)

    def _repeated(self, lane: Lane) -> None:
        self.counts["duplicates"] += 1
        metrics.DUPLICATES.labels(lane.topic).inc()

    async def _forward(self, lane: Lane, message: Message, path: str) -> None:
        """Send a chunk unchanged to its home partition, where the row of its file is."""
        self.counts["forwarded"] += 1
        metrics.FORWARDED.labels(lane.topic).inc()
        await self.publisher.send(
            beside(lane.topic, "home"),
            message.key,
            message.value,
            partition=home_partition(path, self.partitions[lane.topic]),
            headers=message.headers,
            timestamp=message.timestamp,
        )

    def _identity(self, topic: str, path: str, digest: bytes) -> str:
        key = (topic, path, digest)
        found = self._identities.get(key)
        if found is None:
            if len(self._identities) > MAX_IDENTITIES:
                self._identities.clear()
            found = self._identities[key] = file_id_of(topic, path, digest.hex())
        return found

    def is_expected(self, path: str) -> bool:
        """Say whether a rule expects this path; without rules every path is expected."""
        return not self.expected or any(pattern.search(path) for pattern in self.expected)

    # -- rows --------------------------------------------------------------------------------------------------------

    def open(self, file_id: str, row: Row, *, trusted: bool) -> Live:
        """Start to hold a file version in flight."""
        partial = PartialFile(self.partial_root / file_id, () if trusted else row.ranges)
        live = self.live[file_id] = Live(file_id, row, partial, trusted=trusted)
        live.flushed_received = row.received
        live.flushed_at = self.clock()
        return live

    def change(self, live: Live, row: Row) -> None:
        """Take a new row; it is in the views at once, in the table with the next flush."""
        live.row = row
        live.dirty = True
        self.moves += 1

    def _is_due(self, live: Live, now: float) -> bool:
        grown = live.row.received - live.flushed_received
        uploads = sum(len(state) for state in live.row.uploads.values())
        if grown < FLUSH_SHARE * (200 + 10 * len(live.row.ranges) + uploads):
            return now - live.flushed_at > 10 * FLUSH_SECONDS
        return grown >= FLUSH_BYTES or now - live.flushed_at > FLUSH_SECONDS

    def flush(self, live: Live) -> None:
        """Write the row to the table."""
        live.dirty = False
        live.flushed_at = self.clock()
        live.flushed_received = live.row.received
        self.write(live.file_id, live.row)

    def write(self, file_id: str, row: Row) -> None:
        """Write a row to the table and release what the ledger waits for."""
        lane = self.lanes.get((row.topic, row.partition))
        if lane is None:
            return
        value = rw.encode(row)
        self.tables[row.topic].put(row.partition, file_id.encode("ascii"), value)
        metrics.ROW_WRITES.inc()
        metrics.ROW_BYTES.inc(len(value))
        lane.log.release(file_id)
        lane.home.release(file_id)
        self.moves += 1
        lane.known.add(file_id)
        self.delivered.learn(file_id, row)
        if self.index is not None:
            self.index.note(file_id, row)

    def write_ledgers(self) -> None:
        """Write each partition's ledger that has moved."""
        for lane in self.lanes.values():
            ledger = lane.ledger()
            if ledger != lane.written:
                self.tables[lane.topic].put(lane.partition, ledgers.LEDGER_KEY, ledgers.encode(ledger))
                lane.written = ledger

    def flush_all(self) -> None:
        """Write every row that has changed, and the ledgers."""
        for live in self.live.values():
            if live.dirty:
                self.flush(live)
        self.write_ledgers()

    def settle(self, live: Live, row: Row) -> None:
        """Write the row of a file version that is delivered or quarantined, and stop holding it."""
        live.row = row
        self.write(live.file_id, row)
        self.live.pop(live.file_id, None)

    def forget(self, lane: Lane, file_id: str, row: Row) -> None:
        """Take a row out of the table and of all that remembers it."""
        self.tables[lane.topic].delete(lane.partition, file_id.encode("ascii"))
        lane.known.discard(file_id)
        self.delivered.forget(file_id, row)
        if self.index is not None:
            self.index.forget(file_id)

    # -- quarantine, replay, requests --------------------------------------------------------------------------------

    async def quarantine_message(self, topic: str, message: Message, reason: Reason, what: str) -> None:
        """Put a message into quarantine; raises when the broker does not take it, so that the worker stops."""
        log.warning("quarantined message %s: %s: %s", message.where, reason, what)
        metrics.QUARANTINED.labels(topic, str(reason)).inc()
        what = self.in_clear(topic, reason, what)
        await self.publisher.send(
            beside(topic, "quarantine"),
            quarantine.message_key(message),
            message.value,
            headers=quarantine.message_headers(message, reason, what),
        )

    def in_clear(self, topic: str, reason: Reason, what: str) -> str:
        """Return what headers may say, which a broker can read: on an encrypted topic nothing of the file."""
        return CURES[reason] if self.is_sealed(topic) else what

    def is_sealed(self, topic: str) -> bool:
        """Say whether this chunk topic is encrypted."""
        return self.gate is not None and self.gate.covers(topic)

    async def quarantine_file(self, live: Live, reason: Reason, what: str) -> None:
        """Give a file version up: note, receipt, partial file removed, row settled."""
        log.warning("quarantined file %s (%s): %s: %s", live.row.path, live.file_id, reason, what)
        metrics.QUARANTINED.labels(live.row.topic, str(reason)).inc()
        now = self.clock()
        row = live.row.to(State.QUARANTINED, now, reason=str(reason), message=what)
        live.busy = True
        receipt = quarantine.receipt_of(live.file_id, row, now)
        key = live.file_id.encode("ascii")
        headers = quarantine.file_headers(live.file_id, row, reason, self.in_clear(row.topic, reason, what))
        if self.is_sealed(row.topic):
            del headers["path"]
        await self.publisher.send(beside(row.topic, "quarantine"), key, receipt, headers=headers)
        await self.publisher.send(beside(row.topic, "receipts"), key, receipt, partition=row.partition)
        self.writer.call(live.lane, live.partial, live.partial.remove, lambda _: None)
        if self.given_up is not None and row.uploads:
            await self.given_up(row)
            row = replaced(row, uploads={})
        if self.live.get(live.file_id) is live:
            self.settle(live, row)

    async def replay(self, file_id: str) -> bool:
        """Start a quarantined file version again from the log; False if it is not here or not quarantined."""
        row = self.row(file_id)
        if row is None or row.state is not State.QUARANTINED or (row.topic, row.partition) not in self.lanes:
            return False
        metrics.REPLAYED.labels(row.topic).inc()
        live = self.live.get(file_id) or self.open(file_id, row, trusted=True)
        live.busy = False
        self.change(live, pl.reopened(row, self.clock()))
        self.flush(live)
        self.refill(live, True)
        return True

    async def control(self, lane: Lane, message: Message) -> None:
        """Do what a control message asks for: ``replay`` of a file id, or news of a ``sidecar``'s path."""
        what, key = message.headers[CONTROL_HEADER], (message.key or b"").decode("utf-8", "replace")
        if what == b"replay":
            await self.replay(key)
        elif what == b"sidecar":
            await self.sidecar(lane.topic, lane.partition, key)

    async def request(self, live: Live) -> None:
        """Ask producers for what is missing."""
        row = live.row
        missing = _missing_pairs(row)
        metrics.REQUESTS.labels(row.topic).inc()
        asked = Request(
            file_id=live.file_id,
            topic=row.topic,
            path=row.path,
            sha512=row.sha512.hex(),
            missing=missing,
            attempt=row.attempts,
            time=self.clock(),
        )
        key = live.file_id.encode("ascii")
        await self.publisher.send(beside(row.topic, "requests"), key, to_json(asked), partition=row.partition)

    def version(self, file_id: str, row: Row) -> FileVersion:
        """Return the message about a delivered file version."""
        return FileVersion(
            file_id=file_id,
            topic=row.topic,
            path=row.path,
            sha512=row.sha512.hex(),
            bytes=row.size,
            mtime=row.mtime,
            deliveries=row.deliveries,
            headers=row.headers,
        )

    # -- partitions --------------------------------------------------------------------------------------------------

    def drop(self, topic: str, partition: int) -> None:
        """Stop holding what belongs to a partition that has left. Partial files stay: the partition may come back."""
        lane = self.lanes.pop((topic, partition), None)
        self.delivered.drop(topic, partition)
        if lane is not None and self.index is not None:
            for file_id in lane.known:
                self.index.forget(file_id)
        for file_id, live in list(self.live.items()):
            if live.row.topic == topic and live.row.partition == partition:
                del self.live[file_id]
                self.writer.call(live.lane, live.partial, live.partial.close, lambda _: None)

    def close(self) -> None:
        """Write what is pending and end the threads."""
        self.writer.close()
        self.pool.shutdown(wait=False, cancel_futures=True)

    def _partial_root(self) -> Path:
        """Partial files lie on the file system of their final place, apart for each worker that shares it."""
        base = Path(self.settings.disk.root or self.settings.worker.data).absolute()
        mine = hashlib.sha256(str(Path(self.settings.worker.data).absolute()).encode()).hexdigest()[:8]
        return base / PARTIAL_FOLDER / mine


async def _nothing(topic: str, partition: int, path: str) -> None:
    """Stand in for what nobody has set."""


def _missing_pairs(row: Row) -> tuple[tuple[int, int], ...]:
    from openmsi_streams.chunks import ranges as rg

    if row.size >= 0:
        return tuple(rg.pairs(rg.missing(row.ranges, row.size)))
    reached = row.ranges[-1] if row.ranges else 0
    return (*rg.pairs(rg.missing(row.ranges, reached)), (reached, -1))


def is_open(row: Row) -> bool:
    """Say whether a row is neither delivered nor quarantined."""
    return row.state in OPEN


def replaced(row: Row, **changes: Any) -> Row:
    """Return the row with other fields."""
    return msgspec.structs.replace(row, **changes)
