"""A small HTTP proxy before an S3 server that fails, lies, loses answers or is down, as the test says."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from openmsi_streams.embedded.ports import LOOPBACK

_SLOW_DOWN = b"<?xml version='1.0'?><Error><Code>InternalError</Code><Message>A fault of the test.</Message></Error>"


class Request:
    """What the proxy's rules look at."""

    def __init__(self, method: str, target: str, headers: dict[str, str], body: bytes) -> None:
        self.method, self.target, self.headers, self.body = method, target, headers, body

    @property
    def is_part(self) -> bool:
        """A part of a multipart upload."""
        return self.method == "PUT" and "partNumber=" in self.target

    @property
    def is_put(self) -> bool:
        """A whole object."""
        return self.method == "PUT" and "partNumber=" not in self.target


class S3Proxy:
    """Passes requests on, one connection each.

    Attributes (change them at any time):
        fail_rate: share of calls that fail, in turn by: 500 before the server sees it, 500 after the server did it,
            503 before, and a connection cut in the middle of the answer.
        down: every connection is closed at once.
        change_body: given a request, returns the body that the server gets instead (a server that stores wrong bytes).
        change_etag: given a request and an ETag in the answer, returns another (a server that lies).
        cut: given a request, says whether the connection breaks in the middle of the answer.
        answer: given a request, returns a status and an error code to answer with instead, or None.
    """

    def __init__(self, endpoint: str, seed: int = 1) -> None:
        """Listen on a port of its own; ``endpoint`` is the server behind."""
        found = re.fullmatch(r"http://([^:/]+):(\d+)/?", endpoint)
        assert found, endpoint
        self._host, self._port = found[1], int(found[2])
        self._rng = random.Random(seed)
        self.fail_rate = 0.0
        self.down = False
        self.change_body: Callable[[Request], bytes] | None = None
        self.change_etag: Callable[[Request, str], str] | None = None
        self.answer: Callable[[Request], tuple[int, str] | None] | None = None
        self.cut: Callable[[Request], bool] | None = None
        self.seen: list[Request] = []
        self.failed = 0
        self._loop = asyncio.new_event_loop()
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ready,), name="s3-proxy", daemon=True)
        self._thread.start()
        assert ready.wait(30.0)

    @property
    def endpoint(self) -> str:
        """URL for clients."""
        return f"http://{LOOPBACK}:{self.port}"

    def count(self, condition: Callable[[Request], bool]) -> int:
        """Return how many requests so far meet a condition."""
        return sum(1 for request in list(self.seen) if condition(request))

    def _run(self, ready: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)

        async def start() -> asyncio.Server:
            server = await asyncio.start_server(self._serve, LOOPBACK, 0, backlog=64)
            self.port = int(server.sockets[0].getsockname()[1])
            ready.set()
            return server

        server = self._loop.run_until_complete(start())
        self._loop.run_forever()
        server.close()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()

    def stop(self) -> None:
        """End the proxy."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30.0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if not self.down:
                with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                    await self._one(reader, writer)
        finally:
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.rstrip("\r\n").split("\r\n")
        headers = [tuple(line.split(": ", 1)) for line in lines]
        named = {name.lower(): value for name, value in headers}
        method, target, _ = first.split(" ", 2)
        if named.get("expect", "").lower() == "100-continue":
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = await reader.readexactly(int(named.get("content-length", "0")))
        request = Request(method, target, named, body)
        self.seen.append(request)
        try:
            await self._pass_on(request, writer, first, headers)
        finally:
            # What was asked is kept for counting; gigabytes of parts are not.
            request.body = b""

    async def _pass_on(
        self, request: Request, writer: asyncio.StreamWriter, first: str, headers: list[tuple[str, ...]]
    ) -> None:
        body = request.body
        canned = self.answer(request) if self.answer is not None else None
        if canned is not None:
            await self._refuse(writer, *canned)
            return
        failing = self._rng.randrange(4) if self._rng.random() < self.fail_rate else -1
        if failing >= 0:
            self.failed += 1
        if failing in (0, 2):
            await self._refuse(writer, 500 if failing == 0 else 503, "InternalError" if failing == 0 else "SlowDown")
            return
        if self.change_body is not None:
            body = self.change_body(request)
        keep = [f"{name}: {value}" for name, value in headers if name.lower() not in ("connection", "expect")]
        answer = await self._ask("\r\n".join([first, *keep, "Connection: close", "", ""]).encode("latin-1") + body)
        if failing == 1:
            await self._refuse(writer, 500, "InternalError")
            return
        if failing == 3 or (self.cut is not None and self.cut(request)):
            writer.write(answer[: len(answer) // 2])
            await writer.drain()
            return
        if self.change_etag is not None:
            change = self.change_etag

            def swap(found: re.Match[bytes]) -> bytes:
                return found[1] + change(request, found[2].decode()).encode() + found[3]

            answer = re.sub(rb'(?i)(\r\netag: "?)([0-9a-f-]+)("?)', swap, answer, count=1)
        writer.write(answer)
        await writer.drain()

    async def _ask(self, request: bytes) -> bytes:
        reader, writer = await asyncio.open_connection(self._host, self._port)
        try:
            writer.write(request)
            await writer.drain()
            answer = await reader.read()
        finally:
            writer.close()
        # Each of our connections carries one request.
        return re.sub(rb"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", answer, count=1)

    async def _refuse(self, writer: asyncio.StreamWriter, status: int, code: str) -> None:
        body = _SLOW_DOWN.replace(b"InternalError", code.encode())
        writer.write(
            f"HTTP/1.1 {status} Refused\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n"
            "Connection: close\r\n\r\n".encode()
            + body
        )
        await writer.drain()
