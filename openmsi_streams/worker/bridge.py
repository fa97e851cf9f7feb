"""From threads to the event loop: many small callbacks in one wake-up."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable


class Bridge:
    """Runs callbacks of threads on a loop, in their order.

    asyncio wakes its loop with a write to a socket for each `call_soon_threadsafe`; for thousands of small files that
    is a good part of all work. Here a burst of callbacks costs one.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Take the loop that callbacks run on."""
        self._loop = loop
        self._waiting: deque[Callable[[], object]] = deque()
        self._called = False

    def call(self, callback: Callable[[], object]) -> None:
        """Have a callback run soon; may be called from any thread. After the loop's end nothing happens."""
        self._waiting.append(callback)
        # Appending before looking at the flag: whoever clears it afterwards sees what was appended.
        if not self._called:
            self._called = True
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._run)

    def _run(self) -> None:
        self._called = False
        while self._waiting:
            self._waiting.popleft()()
