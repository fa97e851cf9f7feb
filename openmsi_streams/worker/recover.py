"""Taking partitions over, and reading from the log whatever the stream, the table or the disk lacks."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from openmsi_streams.assembly.aside import aside
from openmsi_streams.assembly.log import PATIENCE
from openmsi_streams.assembly.message import Message
from openmsi_streams.assembly.partial import PartialFile
from openmsi_streams.chunks.topics import beside
from openmsi_streams.config.settings import MIB
from openmsi_streams.errors import BrokerError
from openmsi_streams.tables.rows import Row, State
from openmsi_streams.worker import lane as ledgers
from openmsi_streams.worker import metrics
from openmsi_streams.worker.engine import Engine, is_open, replaced
from openmsi_streams.worker.lane import Lane
from openmsi_streams.worker.live import Live
from openmsi_streams.worker.ports import Log

log = logging.getLogger(__name__)
T = TypeVar("T")

# Messages handed from the reading thread to the loop at once.
BATCH_BYTES = 8 * MIB
# A slow line's are handed over after so long, however few they are.
BATCH_SECONDS = 5.0
# A read from which nothing comes for so long hangs (see `aside`): it is left to itself and begun anew. The reader gives
# up a silent broker itself before.
HANGING_SECONDS = BATCH_SECONDS + 2 * PATIENCE
# How long records on their way to a changelog may take before a table is read anew instead.
ALONE_SECONDS = 5.0
ALONE_LOOK_SECONDS = 0.01
# Rows taken in before the loop gets a turn: about 2 ms.
ROWS_A_TURN = 500
# The wait before a refill that failed (broker gone) is tried again.
RETRY_SECONDS = 5.0


@dataclass(slots=True)
class Job:
    """A part of the log to read again. ``only``: file ids whose chunks are wanted; None: all messages."""

    lane: Lane
    home: bool
    start: int
    end: int
    only: set[str] | None
    act: Callable[[Message], Awaitable[None]] | None = None
    """What is done with each message instead of taking it."""
    done: Callable[[bool], None] | None = None
    """Called at the end: whether all was read."""

    @property
    def topic(self) -> str:
        """The topic that is read."""
        return beside(self.lane.topic, "home") if self.home else self.lane.topic


async def _answered(ask: Callable[..., T], *args: Any) -> T:
    """Return what the broker says, asked until it does: a worker that takes partitions over must outlive an outage."""
    while True:
        try:
            return await aside(ask, *args, seconds=HANGING_SECONDS)
        except BrokerError as error:
            log.warning("%s Asked again in %.0f s.", error, RETRY_SECONDS)
        except TimeoutError:
            log.warning("The broker did not answer within %.0f s. Asked again.", HANGING_SECONDS)
        await asyncio.sleep(RETRY_SECONDS)


class Recovery:
    """Adopts partitions after a rebalance and runs refills, one after the other."""

    def __init__(self, engine: Engine, log_reader: Log, group: str) -> None:
        """Take the engine, the log and the consumer group whose committed offsets say where the stream goes on."""
        self.engine = engine
        self.reader = log_reader
        self.group = group
        self._jobs: asyncio.Queue[Job] = asyncio.Queue()
        self._runner: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()
        self.reading = False
        """Whether a refill is under way."""
        engine.missed = self.missed
        engine.refill = self.refill

    # -- partitions --------------------------------------------------------------------------------------------------

    async def adopt(self, assigned: Iterable[tuple[str, int]]) -> None:
        """Take over exactly these (topic, partition)s: learn their rows and read again what is lacking.

        A partition that stays is taken over anew as well: while this process slept, another may have had it. Its rows
        are read only if another wrote some.
        """
        # One after the other: a rebalance may follow while the rows of the one before are still read.
        async with self._turn:
            await self._adopt_all(set(assigned))

    async def _adopt_all(self, wanted: set[tuple[str, int]]) -> None:
        engine = self.engine
        for topic, partition in set(engine.lanes) - wanted:
            engine.drop(topic, partition)
        places = [(name, p) for topic, p in sorted(wanted) for name in (topic, beside(topic, "home"))]
        committed: dict[tuple[str, int], int] = {}
        lows: dict[tuple[str, int], int] = {}
        if places:
            committed = await _answered(self.reader.committed, self.group, places)
            lows = await _answered(self._lows, [place for place in places if place not in committed])
        kept = await self._kept(wanted)
        if engine.index is not None:
            engine.index.begin()
        try:
            for topic, partition in sorted(wanted):
                await self._adopt(topic, partition, committed, lows, (topic, partition) in kept)
        finally:
            if engine.index is not None:
                engine.index.complete()
        if self._runner is None or self._runner.done():
            self._runner = asyncio.get_running_loop().create_task(self._run())
        engine.recovered = True

    def _lows(self, places: list[tuple[str, int]]) -> dict[tuple[str, int], int]:
        """Return where the log of each (topic, partition) begins: there the stream begins if nothing is committed."""
        return {place: low for place, (low, _) in self.reader.bounds(places).items()} if places else {}

    async def _kept(self, wanted: set[tuple[str, int]]) -> set[tuple[str, int]]:
        """Return the (topic, partition)s that are held and whose rows nobody else changed since they were learned."""
        engine = self.engine
        reached = {}
        for topic, partition in wanted & set(engine.lanes):
            table = engine.tables[topic]
            known = table.alone.reached(partition)
            if known >= 0:
                reached[table.changelog, partition] = (topic, known)
        if not reached:
            return set()
        bounds = await _answered(self.reader.bounds, list(reached))
        kept = set()
        until = time.monotonic() + ALONE_SECONDS
        for (changelog, partition), (topic, known) in reached.items():
            end = bounds[changelog, partition][1]
            # A changelog that ends before what this worker knows of it was made anew.
            answer = engine.tables[topic].alone.told(partition, end) if end >= known else False
            while answer is None and time.monotonic() < until:
                await asyncio.sleep(ALONE_LOOK_SECONDS)
                answer = engine.tables[topic].alone.told(partition, end)
            if answer:
                kept.add((topic, partition))
        log.info("%d of %d partitions are as they were; the rows of the others are read", len(kept), len(wanted))
        return kept

    async def _adopt(
        self,
        topic: str,
        partition: int,
        committed: dict[tuple[str, int], int],
        lows: dict[tuple[str, int], int],
        kept: bool,
    ) -> None:
        engine = self.engine
        table = engine.tables[topic]
        ledger = ledgers.decode(table.get(partition, ledgers.LEDGER_KEY))
        lane = Lane(topic, partition, ledger)
        old = engine.lanes.get((topic, partition))
        engine.lanes[(topic, partition)] = lane
        needy: set[str] = set()
        starts = {False: -1, True: -1}
        if kept and old is not None:
            lane.known = old.known
        else:
            known = old.known if old is not None else set()
            try:
                needy, starts = await self._learn(lane, known)
            except BaseException:
                # Whoever learns it next drops what is gone of these.
                lane.known |= known
                raise
        for home, done in ((False, ledger.log), (True, ledger.home)):
            name = beside(topic, "home") if home else topic
            goes_on = committed.get((name, partition), -1)
            # The stream goes on at the committed offset; from there it is watched for gaps.
            lane.track(home).position = goes_on if goes_on >= 0 else lows.get((name, partition), -1)
            if goes_on < 0:
                continue
            # Without a ledger nothing of this partition was ever processed: all that is committed is read.
            after = done if done >= 0 else 0
            if after < goes_on:
                self._add(Job(lane, home, after, goes_on, None))
            if needy and 0 <= starts[home] < min(after, goes_on):
                self._add(Job(lane, home, starts[home], min(after, goes_on), set(needy)))
        for live in list(engine.live.values()):
            if live.row.topic == topic and live.row.partition == partition and not live.busy and live.row.is_whole:
                engine.finish(live, None)

    async def _learn(self, lane: Lane, known: set[str]) -> tuple[set[str], dict[bool, int]]:
        """Learn a partition's rows from its table; ``known`` are those it had when it was last held.

        Returns:
            The file ids whose chunks must be read from the log, and their first offsets in the chunk topic (False) and
            in `<topic>.home` (True); -1 for none.
        """
        engine = self.engine
        topic, partition = lane.topic, lane.partition
        table = engine.tables[topic]
        table.alone.begin(partition, table.read_to(partition))
        engine.delivered.begin(topic, partition)
        needy: set[str] = set()
        starts = {False: -1, True: -1}
        for count, (file_id, row) in enumerate(engine.stored(topic, partition)):
            if count % ROWS_A_TURN == 0:
                await asyncio.sleep(0)
            lane.known.add(file_id)
            if is_open(row):
                if self._resume(file_id, row):
                    needy.add(file_id)
                    for home, span in ((False, row.log), (True, row.home)):
                        if span is not None:
                            starts[home] = span.first if starts[home] < 0 else min(starts[home], span.first)
            else:
                live = engine.live.pop(file_id, None)
                if live is not None:
                    engine.writer.call(live.lane, live.partial, live.partial.remove, lambda _: None)
                engine.delivered.add(file_id, row)
            if engine.index is not None:
                engine.index.add(file_id, engine.live[file_id].row if file_id in engine.live else row)
        engine.delivered.complete(topic, partition)
        if engine.index is not None:
            for file_id in known - lane.known:
                engine.index.forget(file_id)
        table.alone.complete(partition)
        return needy, starts

    def _resume(self, file_id: str, row: Row) -> bool:
        """Hold an open row of the table again; say whether its chunks must be read from the log."""
        engine = self.engine
        live = engine.live.get(file_id)
        if live is not None:
            return False
        live = engine.open(file_id, row, trusted=False)
        lacking = not live.partial.path.exists()
        if row.state is not State.RECEIVING and row.state is not State.STALLED:
            row = row.to(State.RECEIVING, engine.clock())
        if lacking:
            live.partial = PartialFile(live.partial.path)
            live.trusted = True
            row = replaced(row, ranges=())
        engine.change(live, row)
        live.flushed_received = row.received
        return lacking

    # -- refills -----------------------------------------------------------------------------------------------------

    def missed(self, lane: Lane, home: bool, start: int, end: int) -> None:
        """Read offsets that the stream left out. A hole that the log itself has costs one short look."""
        log.warning("%s[%d]: offsets %d to %d were left out; read again", lane.topic, lane.partition, start, end - 1)
        self._add(Job(lane, home, start, end, None))

    def refill(self, live: Live, whole: bool) -> None:
        """Read a file version's chunks again, all of them from the first known offset on."""
        row = live.row
        lane = self.engine.lanes.get((row.topic, row.partition))
        if lane is None:
            return
        for home, span in ((False, row.log), (True, row.home)):
            if span is not None:
                # To where the stream is: chunks behind the last one counted may have been committed past.
                end = max(span.last + 1, lane.track(home).position)
                self._add(Job(lane, home, span.first, end, {live.file_id}))

    def is_cut_off(self, row: Row) -> bool:
        """Say whether the log begins behind a row's first chunk: retention took what was never read. Blocks.

        Raises:
            BrokerError: if the broker does not say.
        """
        places = ((row.topic, row.log), (beside(row.topic, "home"), row.home))
        return any(
            span is not None and self.reader.watermarks(name, row.partition)[0] > span.first for name, span in places
        )

    def read_for(
        self,
        lane: Lane,
        home: bool,
        start: int,
        end: int,
        act: Callable[[Message], Awaitable[None]],
        done: Callable[[bool], None],
    ) -> None:
        """Read offsets again and do something of the caller's with each message."""
        self._add(Job(lane, home, start, end, set(), act, done))

    def _add(self, job: Job) -> None:
        if job.only is None:
            job.lane.gaps.append((job.home, job.start))
        self._jobs.put_nowait(job)

    @property
    def waiting(self) -> int:
        """Refills that wait."""
        return self._jobs.qsize()

    async def _run(self) -> None:
        while True:
            job = await self._jobs.get()
            self.reading = True
            completed = False
            try:
                while self.engine.lanes.get((job.lane.topic, job.lane.partition)) is job.lane:
                    try:
                        completed = await self._read(job)
                        break
                    except BrokerError as error:
                        metrics.REFILLS.labels(job.lane.topic, "failed").inc()
                        log.warning("%s Tried again in %.0f s.", error, RETRY_SECONDS)
                        await asyncio.sleep(RETRY_SECONDS)
            except asyncio.CancelledError:
                raise
            except Exception as error:
                log.exception("a refill failed")
                if self.engine.on_fault is not None:
                    self.engine.on_fault(error)
                raise
            finally:
                self.reading = False
                if job.done is not None:
                    job.done(completed)
                if job.only is None and (job.home, job.start) in job.lane.gaps:
                    job.lane.gaps.remove((job.home, job.start))

    async def _read(self, job: Job) -> bool:
        """Read a job's messages; False if its partition left meanwhile."""
        engine = self.engine
        before = engine.counts["refilled_bytes"]
        messages = self.reader.read(job.topic, job.lane.partition, job.start, job.end)
        first = -1

        def batch() -> list[Message]:
            found: list[Message] = []
            size = 0
            until = time.monotonic() + BATCH_SECONDS
            for message in messages:
                found.append(message)
                size += len(message.value or b"")
                if size >= BATCH_BYTES or time.monotonic() > until:
                    break
            return found

        while True:
            try:
                found = await aside(batch, seconds=HANGING_SECONDS)
            except TimeoutError:
                raise BrokerError(
                    f"Reading {job.topic}[{job.lane.partition}] again hangs since {HANGING_SECONDS:.0f} s, as it does "
                    "when this machine's clock was set back."
                ) from None
            if not found:
                break
            if first < 0:
                first = found[0].offset
            for message in found:
                if engine.lanes.get((job.lane.topic, job.lane.partition)) is not job.lane:
                    return False
                await engine.wait_for_room()
                if job.act is not None:
                    await job.act(message)
                else:
                    await engine.take(job.lane, message, home=job.home, only=job.only, refill=True)
        read = engine.counts["refilled_bytes"] - before
        short = first < 0 or first > job.start
        metrics.REFILLS.labels(job.lane.topic, "partial" if short else "whole").inc()
        log.info("refill of %s[%d] %d-%d: %d bytes", job.topic, job.lane.partition, job.start, job.end - 1, read)
        return True

    async def stop(self) -> None:
        """End the runner."""
        if self._runner is not None:
            self._runner.cancel()
            await asyncio.gather(self._runner, return_exceptions=True)
