"""Memory that was let go of goes back to the system."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache


def give_back() -> None:
    """Have glibc return what is free inside its heaps (`malloc_trim`); elsewhere nothing is done.

    Large messages come and go; what is freed below something small that stays, glibc keeps for good otherwise, and a
    program that runs for months is as large as in its worst hour. It takes 7 ms for 50 to 150 MB with holes and less
    than 1 ms without, and lets go of the interpreter.
    """
    trim = _trim()
    if trim is not None:
        trim(0)


@cache
def _trim() -> Callable[[int], int] | None:
    import ctypes

    try:
        found: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        # Another C library (Windows, macOS, musl).
        return None
    return found
