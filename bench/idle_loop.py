"""The yardstick for stalls of an event loop: a loop that does nothing, in a process of its own, at the same time.

What this one is late, the machine is late: other programs, and the processors that the measured process itself keeps
busy. A stall of a worker's loop means something beside it only.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from typing import Self

# As the worker times itself (openmsi_streams.worker.watch).
PULSE_SECONDS = 0.01


class IdleLoop:
    """Times an idle loop for the ``with`` block; `worst` is its longest stall in seconds then."""

    def __init__(self) -> None:
        self.worst = 0.0
        self._process = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        out, _ = self._process.communicate(b"stop\n", timeout=60)
        self.worst = float(out)


async def pulse() -> float:
    """Return the longest stall in seconds until a line comes on the standard input."""
    asked = asyncio.create_task(asyncio.to_thread(sys.stdin.readline))
    worst = 0.0
    while not asked.done():
        before = time.monotonic()
        await asyncio.sleep(PULSE_SECONDS)
        worst = max(worst, time.monotonic() - before - PULSE_SECONDS)
    return worst


if __name__ == "__main__":
    print(asyncio.run(pulse()))
