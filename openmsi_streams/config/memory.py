"""Memory that was let go of goes back to the system, or is used again, instead of lying about."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from typing import Any

# glibc's numbers of its settings, and the variables by which a user sets them: `mallopt(3)`.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
_VARIABLES = {
    _TRIM_THRESHOLD: "MALLOC_TRIM_THRESHOLD_",
    _MMAP_THRESHOLD: "MALLOC_MMAP_THRESHOLD_",
    _ARENA_MAX: "MALLOC_ARENA_MAX",
}
# Threads share two heaps; with one each, up to eight for each processor, what is free lies about in all of them.
ARENAS = 2


def share_heaps(large: int | None = None) -> None:
    """Have glibc keep few heaps for all threads; to be called before there are threads. Elsewhere nothing is done.

    What a user has set by glibc's own variables stays.

    Args:
        large: blocks of so many bytes and more are taken from the system one by one and go back at once; they would
            leave holes in the heaps. None: as glibc does it, by what was freed before.
    """
    setting = _glibc("mallopt")
    if setting is None:
        return
    wanted = {_ARENA_MAX: ARENAS}
    if large is not None:
        wanted |= {_MMAP_THRESHOLD: large, _TRIM_THRESHOLD: 2 * large}
    for number, value in wanted.items():
        if _VARIABLES[number] not in os.environ:
            setting(number, value)


def give_back() -> None:
    """Have glibc return what is free inside its heaps (`malloc_trim`); elsewhere nothing is done.

    Large messages come and go; what is freed below something small that stays, glibc keeps for good otherwise, and a
    program that runs for months is as large as in its worst hour. It takes 7 ms for 50 to 150 MB with holes and less
    than 1 ms without, and lets go of the interpreter.
    """
    trim = _glibc("malloc_trim")
    if trim is not None:
        trim(0)


@cache
def _glibc(name: str) -> Callable[..., Any] | None:
    import ctypes

    try:
        library = ctypes.CDLL(None)
        # Another library may have `mallopt` too, with other numbers.
        getattr(library, "gnu_get_libc_version")  # noqa: B009
        found: Callable[..., Any] = getattr(library, name)
    except (AttributeError, OSError, TypeError):
        # Another C library (Windows, macOS, musl).
        return None
    return found
