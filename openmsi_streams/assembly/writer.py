"""Threads that write and hash partial files, so that the event loop never waits for a disk or a hash."""

from __future__ import annotations

import logging
import queue
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from openmsi_streams.assembly.partial import PartialFile, Vanished

log = logging.getLogger(__name__)

# Open files in all; far below the 1024 handles that a process gets by default, RocksDB's included.
MAX_OPEN = 192


class _Write(NamedTuple):
    partial: PartialFile
    offset: int
    data: memoryview


class _Call(NamedTuple):
    partial: PartialFile
    work: Callable[[], object]
    done: Callable[[object], object]
    size: int


class Writer:
    """A few threads, each with the files that belong to it, so that one file's operations keep their order.

    ``pending`` is the number of bytes handed over and not yet written. ``on_drain`` is called from a thread whenever it
    falls below the mark that `wait_below` was given.
    """

    def __init__(self, threads: int, on_drain: Callable[[], None]) -> None:
        self._queues: list[queue.SimpleQueue[_Write | _Call | None]] = [queue.SimpleQueue() for _ in range(threads)]
        self._lock = threading.Lock()
        self._pending = 0
        self._mark = 0
        self._on_drain = on_drain
        self._threads = [
            threading.Thread(target=self._run, args=(q, max(8, MAX_OPEN // threads)), name=f"writer-{i}", daemon=True)
            for i, q in enumerate(self._queues)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def pending(self) -> int:
        """Bytes on their way to the disk."""
        return self._pending

    def write(self, lane: int, partial: PartialFile, offset: int, data: memoryview) -> None:
        """Hand over a chunk; its memory is kept until it is written. Failures stay in ``partial.error``."""
        self.borrow(len(data))
        self._queues[lane % len(self._queues)].put(_Write(partial, offset, data))

    def borrow(self, size: int) -> None:
        """Count bytes as pending that somebody else writes, until they are given back."""
        with self._lock:
            self._pending += size

    def give_back(self, size: int) -> None:
        """Count bytes as written that were borrowed."""
        self._written(size)

    def call(
        self,
        lane: int,
        partial: PartialFile,
        work: Callable[[], object],
        done: Callable[[object], object],
        size: int = 0,
    ) -> None:
        """Run ``work`` after what this lane was given before; ``done`` gets its result or exception, in the thread.

        ``size``: bytes that ``work`` holds until it has written them.
        """
        if size:
            self.borrow(size)
        self._queues[lane % len(self._queues)].put(_Call(partial, work, done, size))

    def notify_below(self, mark: int) -> bool:
        """Ask for one call of ``on_drain`` when less than ``mark`` bytes are pending; False if that is so already."""
        with self._lock:
            if self._pending < mark:
                return False
            self._mark = mark
            return True

    def close(self) -> None:
        """Finish what was handed over, close all files and end the threads."""
        for q in self._queues:
            q.put(None)
        for thread in self._threads:
            thread.join(timeout=30)

    def _run(self, q: queue.SimpleQueue[_Write | _Call | None], max_open: int) -> None:
        opened: OrderedDict[int, PartialFile] = OrderedDict()

        def use(partial: PartialFile) -> None:
            opened[id(partial)] = partial
            opened.move_to_end(id(partial))
            if len(opened) > max_open:
                opened.popitem(last=False)[1].close()

        while True:
            item = q.get()
            if item is None:
                break
            partial = item.partial
            if isinstance(item, _Write):
                if partial.error is None:
                    try:
                        partial.write(item.offset, item.data)
                    except (OSError, Vanished) as error:
                        partial.error = error
                self._written(len(item.data))
            else:
                try:
                    result = item.work()
                except Exception as error:
                    result = error
                if item.size:
                    self._written(item.size)
                item.done(result)
            if partial.fd >= 0:
                use(partial)
            else:
                opened.pop(id(partial), None)
            del item, partial
        for partial in opened.values():
            partial.close()

    def _written(self, size: int) -> None:
        with self._lock:
            self._pending -= size
            ring = self._mark and self._pending < self._mark
            if ring:
                self._mark = 0
        if ring:
            self._on_drain()
