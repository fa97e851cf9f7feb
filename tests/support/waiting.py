"""Waiting for conditions instead of sleeping for a guessed time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(condition: Callable[[], T], timeout: float, what: str, detail: Callable[[], object] | None = None) -> T:
    """Return the first truthy value of ``condition()``; fail with ``what`` and ``detail()`` after ``timeout`` seconds.

    An exception of the condition ends the wait at once: a condition says False while it is not true yet.
    """
    deadline = time.monotonic() + timeout
    pause = 0.01
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            more = f"\n{detail()}" if detail is not None else ""
            raise AssertionError(f"waited {timeout:g} s in vain until {what}; last seen: {value!r}{more}")
        time.sleep(pause)
        pause = min(pause * 1.5, 0.2)
