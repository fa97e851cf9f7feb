"""What a worker says of itself: readiness, health, commit age, heartbeats."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import msgspec

from openmsi_streams.chunks.topics import beside
from openmsi_streams.storage.base import Store
from openmsi_streams.tables.rows import Row
from openmsi_streams.worker import metrics
from openmsi_streams.worker.deliver import Deliverer
from openmsi_streams.worker.engine import Engine
from openmsi_streams.worker.recover import Recovery

log = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 10.0
# Stores are asked this often whether they can be reached; a view shows the answer in between.
STORE_CHECK_SECONDS = 60.0
# How often the loop is timed; a stall shows when a turn comes late. A stall is seen short by up to this much.
PULSE_SECONDS = 0.01
# The metrics show the worst of the last one to two of these.
PULSE_WINDOW_SECONDS = 30.0


class Watch:
    """Fulfils `web.source.Source` for the views, and speaks for the worker on `<topic>.heartbeats`."""

    def __init__(self, app: Any, engine: Engine, deliverer: Deliverer, recovery: Recovery, stores: list[Store]) -> None:
        """Take the parts it watches."""
        self.app = app
        self.engine = engine
        self.deliverer = deliverer
        self.recovery = recovery
        self.stores = stores
        self.started = time.time()
        self.ready_at = 0.0
        self.worker_id = f"{engine.settings.worker.id}@{socket.gethostname()}:{os.getpid()}"
        self._commits: dict[tuple[str, int], tuple[int, float]] = {}
        self._checked: dict[str, str] = {}

    # -- Source ------------------------------------------------------------------------------------------------------

    def topics(self) -> list[str]:
        """Return the chunk topics."""
        return self.engine.topics()

    def items(self, topic: str | None = None) -> Iterator[tuple[str, Row]]:
        """Yield (file_id, row) of this worker's rows."""
        return self.engine.items(topic)

    def row(self, file_id: str) -> Row | None:
        """Return a row as it is now."""
        return self.engine.row(file_id)

    async def replay(self, file_id: str) -> bool:
        """Put a quarantined file version back through."""
        return await self.engine.replay(file_id)

    def live_ids(self) -> list[str]:
        """Return the ids of files in flight."""
        return self.engine.live_ids()

    def changes(self) -> int:
        """Return a number that moves with every change."""
        return self.engine.changes()

    def partitions(self) -> dict[str, list[int]]:
        """Return the assigned partitions by topic."""
        found: dict[str, list[int]] = {topic: [] for topic in self.engine.tables}
        for topic, partition in sorted(self.engine.lanes):
            found[topic].append(partition)
        return found

    def health(self) -> dict[str, Any]:
        """Return what readiness is judged by."""
        stores = {
            store.name: self.deliverer.problems.get(store.name, self._checked.get(store.name, ""))
            for store in self.stores
        }
        now = time.time()
        return {
            "assigned": bool(self.engine.lanes),
            "recovered": self.engine.recovered,
            "stores": stores,
            "paused": self.engine.paused,
            "commit_age": {f"{t}-{p}": now - since for (t, p), (_, since) in self._commits.items() if since},
            "problems": [problem for name, problem in self.deliverer.problems.items() if name == "disk"],
        }

    # -- readiness ---------------------------------------------------------------------------------------------------

    def adopted(self) -> None:
        """Note that partitions were taken over."""
        if not self.ready_at:
            # Libraries, tables and views are some 300,000 objects that stay; each full collection would walk them all
            # and hold the loop for 50 ms.
            gc.collect()
            gc.freeze()
            self.ready_at = time.time()
            print(f"worker ready after {self.ready_at - self.started:.1f} s: {self.partitions()}", flush=True)

    # -- loops -------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Beat, check stores, time the loop, until cancelled."""
        await asyncio.gather(self._beat(), self._check_stores(), self._pulse())

    async def _beat(self) -> None:
        while True:
            for topic in self.engine.tables:
                with contextlib.suppress(Exception):
                    await self.engine.publisher.send(
                        beside(topic, "heartbeats"), f"{self.worker_id}_heartbeat".encode(), self._heartbeat(topic)
                    )
            self._note_commits()
            await asyncio.sleep(HEARTBEAT_SECONDS)

    async def leave(self) -> None:
        """Say that this worker ends, so that others do not miss it."""
        for topic in self.engine.tables:
            with contextlib.suppress(Exception):
                await self.engine.publisher.send(
                    beside(topic, "heartbeats"),
                    f"{self.worker_id}_heartbeat".encode(),
                    self._heartbeat(topic, state="leaving"),
                )

    def _heartbeat(self, topic: str, state: str = "running") -> bytes:
        counts = self.engine.counts
        now = time.time()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1e6):06d}+00:00"
        web = self.engine.settings.web
        return msgspec.json.encode(
            {
                "timestamp": stamp,
                "n_messages_read": counts["chunks"] + counts["duplicates"],
                "n_messages_processed": counts["chunks"],
                "n_bytes_processed": counts["bytes"],
                "role": "worker",
                "state": state,
                "id": self.worker_id,
                "url": web.public_url or f"http://{web.host}:{web.port}",
                "partitions": self.partitions()[topic],
            }
        )

    def _note_commits(self) -> None:
        """Remember when each partition's committed offset last moved while there was something to commit."""
        now = time.time()
        for (topic, partition), lane in self.engine.lanes.items():
            done = lane.ledger().log
            known = self._commits.get((topic, partition))
            waits = lane.log.position >= 0 and done < lane.log.position
            if known is None or known[0] != done or not waits:
                self._commits[(topic, partition)] = (done, now if waits else 0.0)
            age = now - self._commits[(topic, partition)][1] if waits else 0.0
            metrics.COMMIT_AGE.labels(topic, str(partition)).set(age)

    async def _check_stores(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            for store in self.stores:
                try:
                    await loop.run_in_executor(None, store.check)
                    self._checked[store.name] = ""
                except Exception as error:
                    self._checked[store.name] = str(error)
                    log.warning("store %s: %s", store.name, error)
            await asyncio.sleep(STORE_CHECK_SECONDS)

    async def _pulse(self) -> None:
        stalls, holds = Worst(), Worst()
        with QueueClock() as queue:
            while True:
                before, waited, worked = time.monotonic(), queue.seconds(), time.process_time()
                await asyncio.sleep(PULSE_SECONDS)
                now = time.monotonic()
                late = now - before - PULSE_SECONDS
                if not self.ready_at:
                    continue
                metrics.LOOP_STALL.set(stalls.note(late, now))
                # The interpreter's lock may be with a thread that waits for a processor itself: where this process has
                # computed for less than the loop was late, the rest is not its own either.
                own = min(late - (queue.seconds() - waited), time.process_time() - worked)
                metrics.LOOP_HOLD.set(holds.note(max(0.0, own), now))


class Worst:
    """The largest of the values of the last minute, about."""

    def __init__(self) -> None:
        self._since = 0.0
        self._now = self._before = 0.0

    def note(self, value: float, now: float) -> float:
        """Take a value at a time in seconds; return the largest of this window and the one before."""
        if now - self._since > PULSE_WINDOW_SECONDS:
            self._now, self._before, self._since = 0.0, self._now, now
        self._now = max(self._now, value)
        return max(self._now, self._before)


class QueueClock:
    """How long the calling thread has been ready to run while no processor was free for it; Linux tells.

    Close it in the thread that made it, or let the ``with`` block do that.
    """

    def __init__(self) -> None:
        self._file: int | None = None
        with contextlib.suppress(OSError):
            self._file = os.open(f"/proc/self/task/{threading.get_native_id()}/schedstat", os.O_RDONLY)

    def seconds(self) -> float:
        """Return the time since the thread's start; 0 where the system does not tell."""
        if self._file is None:
            return 0.0
        return int(os.pread(self._file, 100, 0).split()[1]) / 1e9

    def __enter__(self) -> QueueClock:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None
