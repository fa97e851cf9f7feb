"""A TCP proxy between clients and a broker that can cut, delay and slow their connections."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
import time
from collections import deque
from types import TracebackType
from typing import Self

from openmsi_streams.embedded.ports import LOOPBACK
from tests.support.brokers import behind_a_proxy

_PIECE = 65536


class _Way:
    """One direction of one connection: what was read and when it may go on."""

    def __init__(self, source: socket.socket, sink: socket.socket) -> None:
        self.source, self.sink = source, sink
        self.pending: deque[tuple[float, bytes]] = deque()
        self.allowance = 0.0
        self.closed = False


class TcpProxy:
    """Listens on a port of its own and passes bytes to the target.

    Attributes (change them at any time):
        delay: seconds that each piece waits, in each direction.
        rate: bytes a second in each direction of each connection; 0: no limit.
        refusing: new connections are closed at once.
    """

    def __init__(self, target: int = 0) -> None:
        """Listen; ``target`` is a port of 127.0.0.1 and may be set later."""
        self.target = target
        self.delay = 0.0
        self.rate = 0.0
        self.refusing = False
        self._silent = False
        self.passed = 0
        self.accepted = 0
        self._lock = threading.Lock()
        self._ways: list[_Way] = []
        self._stop = threading.Event()
        self._listener = socket.create_server((LOOPBACK, 0), backlog=64)
        self._listener.setblocking(False)
        self.port = int(self._listener.getsockname()[1])
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        """``host:port`` for clients."""
        return f"{LOOPBACK}:{self.port}"

    def cut(self, *, refuse: bool = True) -> None:
        """Reset all connections; with ``refuse`` also close new ones until `mend`."""
        self.refusing = refuse
        with self._lock:
            for way in self._ways:
                self._reset(way)

    def silence(self) -> None:
        """Pass nothing more but keep all connections open, as a firewall that drops packets does, until `mend`."""
        self._silent = True

    def mend(self) -> None:
        """Pass everything at once again."""
        self.refusing, self._silent, self.delay, self.rate = False, False, 0.0, 0.0

    @staticmethod
    def _reset(way: _Way) -> None:
        way.closed = True
        for end in (way.source, way.sink):
            with contextlib.suppress(OSError):
                # Linger 0: the other side sees a reset, as after a crash, and not an orderly end.
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            client, _ = self._listener.accept()
            if self.refusing or not self.target:
                client.close()
                return
            try:
                server = socket.create_connection((LOOPBACK, self.target), timeout=5.0)
            except OSError:
                client.close()
                return
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                end.setblocking(False)
            self.accepted += 1
            with self._lock:
                self._ways += [_Way(client, server), _Way(server, client)]

    def _run(self) -> None:
        last = time.monotonic()
        while not self._stop.is_set():
            with selectors.DefaultSelector() as selector:
                selector.register(self._listener, selectors.EVENT_READ)
                with self._lock:
                    ways = [way for way in self._ways if not way.closed]
                    self._ways = ways
                    for way in ways:
                        if len(way.pending) < 16 and not self._silent:
                            with contextlib.suppress(OSError, ValueError, KeyError):
                                selector.register(way.source, selectors.EVENT_READ, way)
                waiting = any(way.pending for way in ways)
                for key, _ in selector.select(0.002 if waiting else 0.02):
                    if key.data is None:
                        self._accept()
                    else:
                        self._read(key.data)
            now = time.monotonic()
            with self._lock:
                for way in self._ways:
                    self._write(way, now, now - last)
            last = now
        self._listener.close()

    def _read(self, way: _Way) -> None:
        with self._lock:
            if way.closed:
                return
            try:
                piece = way.source.recv(_PIECE)
            except BlockingIOError:
                return
            except OSError:
                piece = b""
            way.pending.append((time.monotonic() + self.delay, piece))

    def _write(self, way: _Way, now: float, elapsed: float) -> None:
        # A quarter of a second's worth at most is saved up, so that a limit holds after a pause too.
        way.allowance = min(way.allowance + self.rate * elapsed, max(self.rate / 4, 1.0))
        while way.pending and not way.closed and not self._silent:
            due, piece = way.pending[0]
            if due > now or (self.rate and way.allowance < 1):
                return
            if not piece:
                # Closed by one side: both ways end. What the other way still holds is lost, as with a reset.
                for other in self._ways:
                    if other.source in (way.source, way.sink):
                        other.closed = True
                for end in (way.source, way.sink):
                    with contextlib.suppress(OSError):
                        end.shutdown(socket.SHUT_RDWR)
                    end.close()
                return
            part = piece[: int(way.allowance)] if self.rate else piece
            try:
                sent = way.sink.send(part)
            except BlockingIOError:
                return
            except OSError:
                self._reset(way)
                return
            self.passed += sent
            way.allowance -= sent
            if sent < len(piece):
                way.pending[0] = (due, piece[sent:])
            else:
                way.pending.popleft()

    def close(self) -> None:
        """End the proxy and all its connections."""
        self._stop.set()
        self._thread.join(10.0)
        with self._lock:
            for way in self._ways:
                self._reset(way)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class ProxiedBroker:
    """A broker that clients can only reach through a proxy; ``bootstrap`` is the proxy's address."""

    def __enter__(self) -> Self:
        self.proxy = TcpProxy()
        self.broker = behind_a_proxy(self.proxy.port)
        try:
            self.broker.start()
        except BaseException:
            self.proxy.close()
            raise
        self.proxy.target = self.broker.port
        self.bootstrap = self.broker.bootstrap
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.proxy.close()
        self.broker.stop()
