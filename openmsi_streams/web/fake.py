"""A worker that is none: rows in a dictionary behind the views' protocols, for tests, benchmarks and screenshots."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec
from aiohttp import web

from openmsi_streams.chunks.keys import file_id as id_of
from openmsi_streams.chunks.messages import Delivery
from openmsi_streams.config.settings import Settings
from openmsi_streams.tables.rows import OPEN, Row, Span, State
from openmsi_streams.web.index import Index
from openmsi_streams.web.mount import build


class FakeSource:
    """Rows in a dictionary, with the index told of each."""

    def __init__(self, *topics: str) -> None:
        self.rows: dict[str, Row] = {}
        self.index = Index()
        self.names = list(topics)
        self.status: dict[str, Any] = {
            "assigned": True,
            "recovered": True,
            "stores": {"disk": "", "main": ""},
            "paused": "",
            "commit_age": {},
            "problems": [],
        }
        self.replayed: list[str] = []
        self.can_replay = True
        self._changes = 0

    def put(self, row: Row, *, written: bool = True) -> str:
        """Set a row; ``written=False``: seen but not in the table yet. Returns its file id."""
        file_id = id_of(row.topic, row.path, row.sha512.hex())
        self.rows[file_id] = row
        self._changes += 1
        if written:
            self.index.note(file_id, row)
        return file_id

    def topics(self) -> list[str]:
        return self.names

    def items(self, topic: str | None = None) -> Iterator[tuple[str, Row]]:
        return ((file_id, row) for file_id, row in self.rows.items() if topic in (None, row.topic))

    def row(self, file_id: str) -> Row | None:
        return self.rows.get(file_id)

    async def replay(self, file_id: str) -> bool:
        if not self.can_replay:
            return False
        self.replayed.append(file_id)
        row = self.rows[file_id]
        self.put(row.to(State.RECEIVING, row.updated + 1, reason="", message="", ranges=()))
        return True

    def partitions(self) -> dict[str, list[int]]:
        return {topic: [0, 1, 2] for topic in self.names}

    def health(self) -> dict[str, Any]:
        return self.status

    def live_ids(self) -> list[str]:
        if len(self.rows) > 1000:
            return []
        return [file_id for file_id, row in self.rows.items() if row.state in OPEN]

    def changes(self) -> int:
        return self._changes


class FakeResults:
    """Results and records in dictionaries."""

    def __init__(self) -> None:
        self.docs: dict[str, dict[str, Any]] = {}
        self.sheets: dict[str, bytes] = {}
        self.gemd: dict[str, bytes] = {}
        self.entries: dict[str, dict[str, Any]] = {}

    def results(self, file_id: str) -> dict[str, Any] | None:
        return self.docs.get(file_id)

    def pdv_items(self) -> Iterable[tuple[str, dict[str, Any]]]:
        return list(self.docs.items())

    def sheet(self, file_id: str) -> bytes | None:
        return self.sheets.get(file_id)

    def record(self, file_id: str) -> bytes | None:
        return self.gemd.get(file_id)

    def records(self) -> Iterable[tuple[str, dict[str, Any]]]:
        return list(self.entries.items())


class FakeServer:
    """The views on a free port of 127.0.0.1, in a thread with an event loop of its own."""

    def __init__(
        self,
        source: FakeSource,
        settings: Settings | None = None,
        *,
        results: FakeResults | None = None,
        worker: str = "worker-1",
        processors: Callable[[], list[dict[str, Any]]] = list,
        host: str = "127.0.0.1",
    ) -> None:
        self.host = host
        self.source = source
        self._application = web.Application()
        self.site = build(
            self._application,
            source,
            source.index,
            settings or Settings(),
            worker=worker,
            results=results,
            processors=processors,
        )
        self.url = ""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._started = threading.Event()
        self._stop = asyncio.Event()

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())

    async def _serve(self) -> None:
        runner = web.AppRunner(self._application, access_log=None, shutdown_timeout=0.5)
        await runner.setup()
        site = web.TCPSite(runner, self.host, 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        self._started.set()
        await self._stop.wait()
        await runner.cleanup()

    def __enter__(self) -> FakeServer:
        self._thread.start()
        if not self._started.wait(20):
            raise RuntimeError("The test server did not start.")
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(timeout=20)

    def on_loop(self, call: Callable[[], Any]) -> Any:
        """Run something on the server's event loop, as an engine would, and return its result."""

        async def run() -> Any:
            return call()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(20)


def make_row(
    path: str,
    state: State = State.DELIVERED,
    *,
    topic: str = "lab",
    size: int = 4_000_000,
    ranges: tuple[int, ...] | None = None,
    now: float = 1_795_000_000.0,
    **more: Any,
) -> Row:
    """Return a row in a state, as an engine would have made it."""
    if ranges is None:
        ranges = (0, size // 4, size // 2, size * 3 // 4) if state in (State.RECEIVING, State.STALLED) else (0, size)
    digest = more.pop("sha512", hashlib.sha512(path.encode("utf-8", "surrogatepass")).digest())
    deliveries: tuple[Delivery, ...] = ()
    if state == State.DELIVERED:
        deliveries = tuple(
            Delivery(kind=kind, store=store, url=url + path, sha512=digest.hex(), bytes=size, time=now)
            for kind, store, url in (("disk", "disk", "/data/lab/"), ("s3", "main", "s3://bucket/lab/"))
        )
    row = Row(
        topic=topic,
        path=path,
        sha512=digest,
        partition=1,
        state=state,
        since=now - 4,
        updated=now,
        timestamp=now - 5,
        mtime=now - 60,
        size=size,
        ranges=ranges,
        log=Span(100, 240),
        chunks=len(ranges) * 4,
        deliveries=deliveries,
        times={"receiving": now - 4, str(state): now},
    )
    return msgspec.structs.replace(row, **more) if more else row
