"""Small files that wait in memory for the disk, and intake that waits for them."""

from __future__ import annotations

import asyncio

# Intake waits this long for a disk that takes nothing; then what comes goes to partial files, as a slow store must not
# hold it up.
PATIENCE_SECONDS = 0.25


class Backlog:
    """Counts bytes; used on the event loop alone."""

    def __init__(self, limit: int) -> None:
        """``limit``: bytes beyond which intake waits, as long as they get fewer."""
        self.limit = limit
        self.bytes = 0
        self._stuck = False
        self._moved = asyncio.Event()

    def add(self, size: int) -> None:
        """Count bytes that wait."""
        self.bytes += size

    def remove(self, size: int) -> None:
        """Count bytes as delivered, or given up."""
        self.bytes -= size
        self._stuck = False
        self._moved.set()

    async def room(self) -> None:
        """Wait until less than the limit waits, or none of it moves."""
        while self.bytes >= self.limit and not self._stuck:
            self._moved.clear()
            try:
                await asyncio.wait_for(self._moved.wait(), PATIENCE_SECONDS)
            except TimeoutError:
                self._stuck = True
