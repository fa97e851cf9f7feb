"""What time does to rows: stalls, requests, retries, expiry, pruning. Decided by pure functions, done by one loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
from enum import Enum, auto
from pathlib import Path

from openmsi_streams.assembly.aside import aside
from openmsi_streams.chunks.reasons import Reason
from openmsi_streams.chunks.topics import beside
from openmsi_streams.config.memory import give_back
from openmsi_streams.config.settings import WorkerSettings
from openmsi_streams.errors import BrokerError, StoreError
from openmsi_streams.tables import rows as rw
from openmsi_streams.tables.rows import Row, State
from openmsi_streams.worker import metrics, quarantine
from openmsi_streams.worker.deliver import Deliverer
from openmsi_streams.worker.engine import Engine, replaced
from openmsi_streams.worker.live import Live
from openmsi_streams.worker.recover import ROWS_A_TURN, Recovery

log = logging.getLogger(__name__)

# Requests are repeated at growing intervals: a producer that is off for the night is not asked a thousand times.
LONGEST_WAIT = 3600.0
# After a refill from the log found nothing, the producer is asked this soon.
AFTER_REFILL = 5.0
# Pruning looks at every row of the table; rows are kept for weeks, so minutes do not matter.
PRUNE_SECONDS = 300.0
# Memory that large messages have left is given back this often.
TRIM_SECONDS = 60.0


class Due(Enum):
    """What a row needs now."""

    NOTHING = auto()
    STALL = auto()
    """No new byte for too long: look in the log."""
    REQUEST = auto()
    """The log does not have it: ask the producer."""
    EXPIRE = auto()
    DELIVER = auto()
    """A store's next try is due."""


def due(row: Row, now: float, settings: WorkerSettings) -> Due:
    """Say what an open row needs at this time."""
    silent = now - row.updated
    if row.state is State.RECEIVING:
        return Due.STALL if silent > settings.stall_after else Due.NOTHING
    if row.state is State.STALLED:
        if silent > settings.expire_after:
            return Due.EXPIRE
        return Due.REQUEST if now >= row.retry_at else Due.NOTHING
    if row.state is State.DELIVERING and row.retry_at and now >= row.retry_at:
        return Due.DELIVER
    return Due.NOTHING


def next_request(attempts: int, settings: WorkerSettings) -> float:
    """Return the seconds until the next request, after ``attempts`` of them."""
    return float(min(LONGEST_WAIT, settings.stall_after * 2.0 ** min(attempts, 12)))


def prunable(row: Row, now: float, settings: WorkerSettings) -> bool:
    """Say whether a settled row may leave the table."""
    return row.state in (State.DELIVERED, State.QUARANTINED) and now - row.updated > settings.keep_rows_for


class Sweeper:
    """The loop that acts on what is due, watches free space and writes rows and ledgers in time."""

    def __init__(self, engine: Engine, deliverer: Deliverer, recovery: Recovery) -> None:
        """Take what it drives."""
        self.engine = engine
        self.deliverer = deliverer
        self.recovery = recovery
        self._pruned_at = engine.clock()
        self._swept_at = 0.0
        self._trimmed_at = engine.clock()

    async def run(self) -> None:
        """Sweep until cancelled."""
        interval = self.engine.settings.worker.sweep_seconds
        while True:
            await asyncio.sleep(interval)
            await self.sweep()

    async def sweep(self) -> None:
        """Do once what is due."""
        engine = self.engine
        now = engine.clock()
        self._watch_disk()
        for live in list(engine.live.values()):
            if engine.live.get(live.file_id) is live:
                await self._act(live, now)
        engine.write_ledgers()
        for topic, table in engine.tables.items():
            persist = getattr(table, "persist_offsets", None)
            if persist is not None:
                persist({p for t, p in engine.lanes if t == topic})
        if now - self._pruned_at > min(PRUNE_SECONDS, engine.settings.worker.keep_rows_for):
            self._pruned_at = now
            await self._prune(now)
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(None, self._clean_partials, now)
            await loop.run_in_executor(None, self._sweep_stores)
        if now - self._trimmed_at > TRIM_SECONDS:
            self._trimmed_at = now
            await asyncio.get_running_loop().run_in_executor(None, give_back)
        metrics.MEMORY_USED.set(engine.writer.pending)
        self._swept_at = now

    async def _act(self, live: Live, now: float) -> None:
        engine = self.engine
        row = live.row
        if live.dirty and engine._is_due(live, now):
            engine.flush(live)
        need = due(row, now, engine.settings.worker)
        if need is Due.DELIVER:
            self.deliverer.retry(live)
            return
        if live.busy or need is Due.NOTHING:
            return
        if need is Due.STALL:
            engine.change(
                live, row.to(State.STALLED, now, reason="waiting", message="", retry_at=now + AFTER_REFILL, attempts=0)
            )
            engine.flush(live)
            self.recovery.refill(live, False)
        elif need is Due.REQUEST:
            attempts = row.attempts + 1
            retry = now + next_request(attempts, engine.settings.worker)
            message = f"Asked for missing ranges {attempts} times; the producer may be off."
            engine.change(live, replaced(row, attempts=attempts, retry_at=retry, message=message))
            engine.flush(live)
            await engine.request(live)
        elif need is Due.EXPIRE:
            await self._expire(live)

    async def _expire(self, live: Live) -> None:
        row = live.row
        days = self.engine.settings.worker.expire_after / 86400
        size = str(row.size) if row.size >= 0 else "unknown"
        what = f"{row.path!r} had {row.received} of {size} bytes for {days:g} days."
        reason = Reason.EXPIRED
        try:
            if await aside(self.recovery.is_cut_off, row):
                reason, what = Reason.LOG_GAP, f"{what} The log begins behind its first chunk."
        except BrokerError as error:
            log.warning("%s", error)
        await self.engine.quarantine_file(live, reason, what)

    def _watch_disk(self) -> None:
        engine = self.engine
        place = _existing(engine.partial_root)
        free = shutil.disk_usage(place).free
        metrics.FREE_BYTES.set(free)
        floor = engine.settings.disk.free_floor
        if free < floor and not engine.paused:
            engine.paused = (
                f"The disk of {place} has {free / 1e9:.2f} GB free, less than disk.free_floor ({floor / 1e9:.2f} GB). "
                "Intake waits until there is room."
            )
            log.error("%s", engine.paused)
        elif engine.paused and free >= floor:
            log.warning("the disk has room again; intake goes on")
            engine.paused = ""
        metrics.INTAKE_PAUSED.set(1 if engine.paused else 0)

    async def _prune(self, now: float) -> None:
        engine = self.engine
        for (topic, partition), lane in list(engine.lanes.items()):
            # By name, not along the table: no iterator stays open while the loop has other turns.
            for count, file_id in enumerate(list(lane.known)):
                if count % ROWS_A_TURN == 0:
                    await asyncio.sleep(0)
                if engine.lanes.get((topic, partition)) is not lane:
                    break
                key = file_id.encode("ascii")
                value = engine.tables[topic].get(partition, key) if file_id not in engine.live else None
                if value is None:
                    continue
                row = rw.decode(value)
                if not prunable(row, now, engine.settings.worker):
                    continue
                await engine.publisher.send(beside(topic, "history"), key, quarantine.receipt_of(file_id, row, now))
                if engine.lanes.get((topic, partition)) is not lane:
                    break
                engine.forget(lane, file_id, row)

    def _sweep_stores(self) -> None:
        """Abort uploads of ours that nobody goes on with."""
        for store in self.deliverer.stores:
            sweep = getattr(store, "sweep", None)
            if sweep is not None:
                states = [live.row.uploads.get(store.name) for live in list(self.engine.live.values())]
                known = {store.load_state(state).upload_id for state in states if state}  # type: ignore[attr-defined]
                try:
                    ended = sweep(known, list(self.engine.tables))
                except StoreError as error:
                    log.warning("store %s: orphaned uploads were not looked for: %s", store.name, error)
                    continue
                if ended:
                    log.warning("store %s: %d orphaned uploads aborted", store.name, ended)

    def _clean_partials(self, now: float) -> None:
        """Remove partial files that no file in flight uses and nobody touched for as long as a file may wait."""
        engine = self.engine
        with contextlib.suppress(FileNotFoundError):
            for entry in os.scandir(engine.partial_root):
                if entry.name not in engine.live and now - entry.stat().st_mtime > engine.settings.worker.expire_after:
                    os.unlink(entry.path)


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path
