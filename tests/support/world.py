"""A worker's world in one process: a log, tables and a disk, where a crash is the loss of everything in memory."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from openmsi_streams.assembly.message import Message
from openmsi_streams.assembly.partial import PartialFile
from openmsi_streams.chunks.codec import Chunk, count, encode, split
from openmsi_streams.chunks.keys import chunk_key, home_partition
from openmsi_streams.chunks.messages import Receipt, Request, receipt_from, request_from
from openmsi_streams.config.settings import Settings
from openmsi_streams.storage.disk import DiskStore
from openmsi_streams.tables.alone import Alone
from openmsi_streams.worker.deliver import Deliverer
from openmsi_streams.worker.engine import Engine
from openmsi_streams.worker.recover import Recovery
from openmsi_streams.worker.sweep import Sweeper

TOPIC = "lab"
GROUP = "workers"


class MemoryLog:
    """Kafka as lists; fulfils `worker.ports.Log` and `worker.ports.Publisher`."""

    def __init__(self, partitions: int) -> None:
        self.partitions = partitions
        self.lists: dict[tuple[str, int], list[Message]] = {}
        self.offsets: dict[tuple[str, int], int] = {}
        self.begins: dict[tuple[str, int], int] = {}
        """First offsets that retention has left."""
        self.reads = 0
        self.refuse: set[str] = set()

    def list_of(self, topic: str, partition: int) -> list[Message]:
        return self.lists.setdefault((topic, partition), [])

    def append(
        self, topic: str, partition: int, key: bytes | None, value: bytes | None, headers: Any = None, when: float = 1e9
    ) -> Message:
        place = self.list_of(topic, partition)
        message = Message(topic, partition, len(place), when, key, value, dict(headers or {}))
        place.append(message)
        return message

    async def send(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        *,
        partition: int | None = None,
        headers: dict[str, bytes] | None = None,
        timestamp: float | None = None,
    ) -> int:
        if topic in self.refuse:
            raise RuntimeError(f"the broker refuses {topic}")
        return self.append(topic, partition or 0, key, value, headers, timestamp or 1e9).offset

    def committed(self, group: str, places: list[tuple[str, int]]) -> dict[tuple[str, int], int]:
        return {place: self.offsets[place] for place in places if place in self.offsets}

    def bounds(self, places: list[tuple[str, int]]) -> dict[tuple[str, int], tuple[int, int]]:
        return {place: self.watermarks(*place) for place in places}

    def watermarks(self, topic: str, partition: int) -> tuple[int, int]:
        return self.begins.get((topic, partition), 0), len(self.list_of(topic, partition))

    def read(self, topic: str, partition: int, start: int, end: int) -> Iterator[Message]:
        self.reads += 1
        yield from self.list_of(topic, partition)[max(start, self.begins.get((topic, partition), 0)) : end]

    def all_of(self, topic: str) -> list[Message]:
        return [m for (name, _), found in sorted(self.lists.items()) if name == topic for m in found]


class DictRows:
    """A table as dictionaries, its changelog in a `MemoryLog`; fulfils `worker.ports.Rows`."""

    changelog = f"{TOPIC}.changelog"

    def __init__(self, log: MemoryLog) -> None:
        self.parts: dict[int, dict[bytes, bytes]] = {}
        self.log = log
        self.written = 0
        """Bytes that went to the changelog."""
        self.alone = Alone()

    def get(self, partition: int, key: bytes) -> bytes | None:
        return self.parts.get(partition, {}).get(key)

    def put(self, partition: int, key: bytes, value: bytes) -> None:
        self.written += len(key) + len(value)
        self.parts.setdefault(partition, {})[key] = value
        self._send(partition, key, value)

    def delete(self, partition: int, key: bytes) -> None:
        self.parts.get(partition, {}).pop(key, None)
        self._send(partition, key, None)

    def items(self, partition: int, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        yield from [item for item in self.parts.get(partition, {}).items() if item[0].startswith(prefix)]

    def read_to(self, partition: int) -> int:
        return len(self.log.list_of(self.changelog, partition)) - 1

    def _send(self, partition: int, key: bytes, value: bytes | None) -> None:
        self.alone.sending(partition)
        self.alone.sent(partition, self.log.append(self.changelog, partition, key, value).offset)

    def of_another(self, partition: int, key: bytes, value: bytes | None) -> None:
        """Have another worker change a row; the table is caught up with its changelog."""
        self.log.append(self.changelog, partition, key, value)
        if value is None:
            self.parts[partition].pop(key)
        else:
            self.parts.setdefault(partition, {})[key] = value


class World:
    """A log that outlives the worker, and one worker at a time."""

    def __init__(self, tmp: Path, partitions: int = 2, **worker: Any) -> None:
        self.tmp = tmp
        self.log = MemoryLog(partitions)
        self.rows = DictRows(self.log)
        self.settings = Settings()
        self.settings.worker.topics = [TOPIC]
        self.settings.worker.data = str(tmp / "data")
        self.settings.worker.threads = 2
        self.settings.disk.root = str(tmp / "store")
        self.settings.disk.free_floor = 0
        for name, value in worker.items():
            setattr(self.settings.worker, name, value)
        self.now = 1_700_000_000.0
        self.faults: list[BaseException] = []
        self.stores: list[Any] | None = None
        self.engine: Engine
        self.started = False

    @property
    def root(self) -> Path:
        return self.tmp / "store" / TOPIC

    async def start(self) -> Engine:
        """Start a worker, as after a crash if there was one before: only log, table and disk are left."""
        if self.started:
            await self._crash()
        stores = self.stores or [DiskStore(self.tmp / "store", self.settings.disk, self.settings.worker.versions)]
        self.engine = Engine(
            self.settings,
            {TOPIC: self.rows},
            {TOPIC: self.log.partitions},
            self.log,
            on_fault=self.faults.append,
            clock=lambda: self.now,
        )
        self.deliverer = Deliverer(self.engine, stores)
        self.recovery = Recovery(self.engine, self.log, GROUP)
        self.sweeper = Sweeper(self.engine, self.deliverer, self.recovery)
        self.started = True
        await self.recovery.adopt([(TOPIC, p) for p in range(self.log.partitions)])
        self.position = {
            (name, p): self.log.offsets.get((name, p), 0)
            for name in (TOPIC, f"{TOPIC}.home")
            for p in range(self.log.partitions)
        }
        return self.engine

    async def _crash(self) -> None:
        """Lose everything in memory. What threads had in hand comes to its end, as it might have before the kill."""
        self.engine.lanes.clear()
        self.engine.live.clear()
        await self.deliverer.stop()
        await self.recovery.stop()
        await asyncio.get_running_loop().run_in_executor(None, self.engine.close)
        await asyncio.get_running_loop().run_in_executor(None, self.engine.pool.shutdown)

    async def stream(self, limit: int | None = None) -> int:
        """Hand new messages of the stream to the engine, at most ``limit``; return how many."""
        done = 0
        moved = True
        while moved and (limit is None or done < limit):
            moved = False
            for place in sorted(self.position):
                topic, partition = place
                messages = self.log.list_of(topic, partition)
                if self.position[place] < len(messages) and (limit is None or done < limit):
                    message = messages[self.position[place]]
                    self.position[place] += 1
                    await self.engine.handle(message, home=topic.endswith(".home"))
                    done += 1
                    moved = True
        return done

    def commit(self) -> None:
        """Commit as Faust does: all that was handed over, whether its effects are in the table or not."""
        self.log.offsets.update(self.position)

    async def quiet(self, timeout: float = 30.0) -> None:
        """Stream everything and wait until nothing is under way."""
        async with asyncio.timeout(timeout):
            while True:
                moved = await self.stream()
                assert not self.faults, self.faults
                busy = any(live.busy and not live.row.retry_at for live in self.engine.live.values())
                reading = self.recovery.waiting or self.recovery.reading or self.engine.writer.pending
                if not (moved or busy or reading):
                    await self._written()
                    return
                await asyncio.sleep(0.002)

    async def _written(self) -> None:
        """Wait until the writer's threads have done what they were given, removals of partial files included."""
        loop = asyncio.get_running_loop()
        for lane in range(len(self.engine.writer._queues)):
            reached: asyncio.Future[None] = loop.create_future()
            nothing = cast(PartialFile, SimpleNamespace(fd=-1))

            def done(_: object, reached: asyncio.Future[None] = reached) -> None:
                loop.call_soon_threadsafe(reached.set_result, None)

            self.engine.writer.call(lane, nothing, lambda: None, done)
            await reached

    async def later(self, seconds: float) -> None:
        """Let time pass, sweep, and become quiet."""
        self.now += seconds
        await self.sweeper.sweep()
        await self.quiet()

    async def stop(self) -> None:
        await self._crash()

    # -- what producers send -----------------------------------------------------------------------------------------

    def chunks(
        self, path: str, data: bytes, *, chunk_bytes: int = 1000, mtime: float | None = 1e9, digest: bytes | None = None
    ) -> list[tuple[bytes, bytes, str]]:
        """Return (key, value, path) of each chunk of a file."""
        subdir, _, name = path.rpartition("/")
        whole = digest or hashlib.sha512(data).digest()
        total = count(len(data), chunk_bytes)
        found = []
        for index, start, end in split(len(data), chunk_bytes):
            piece = data[start:end]
            chunk = Chunk(
                name, whole, hashlib.sha512(piece).digest(), start, index, total, subdir, "", memoryview(piece), mtime
            )
            found.append((chunk_key(name, subdir, index, total), encode(chunk), path))
        return found

    def send(self, chunks: list[tuple[bytes, bytes, str]], *, partition: int | None = None, when: float = 1e9) -> None:
        for key, value, path in chunks:
            home = home_partition(path, self.log.partitions)
            self.log.append(TOPIC, home if partition is None else partition, key, value, when=when)

    def send_file(self, path: str, data: bytes, **options: Any) -> None:
        self.send(self.chunks(path, data, **options))

    def row_of(self, file_id: str) -> bytes:
        """Return the row of a file version as the table has it."""
        return next(part[file_id.encode()] for part in self.rows.parts.values() if file_id.encode() in part)

    # -- what came of it ---------------------------------------------------------------------------------------------

    def files(self) -> dict[str, bytes]:
        """Return every file below the topic's folder."""
        if not self.root.exists():
            return {}
        return {p.relative_to(self.root).as_posix(): p.read_bytes() for p in self.root.rglob("*") if p.is_file()}

    def everything(self) -> set[str]:
        """Return every file below the store, partial files included."""
        base = self.tmp / "store"
        return {p.relative_to(base).as_posix() for p in base.rglob("*") if p.is_file()}

    def receipts(self) -> list[Receipt]:
        return [receipt_from(m.value or b"") for m in self.log.all_of(f"{TOPIC}.receipts")]

    def requests(self) -> list[Request]:
        return [request_from(m.value or b"") for m in self.log.all_of(f"{TOPIC}.requests")]

    def quarantined(self) -> list[str]:
        return [m.headers["reason"].decode() for m in self.log.all_of(f"{TOPIC}.quarantine")]
