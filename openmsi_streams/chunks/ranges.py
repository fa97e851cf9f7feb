"""Sets of bytes as merged half-open ranges, flat and sorted: ``(start, end, start, end, ...)``.

A file that arrives in order is one pair whatever its size, which is what keeps a row small.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from itertools import pairwise

Ranges = tuple[int, ...]


def add(ranges: Ranges, start: int, end: int) -> Ranges:
    """Return ``ranges`` with ``[start, end)`` added; touching ranges become one."""
    if start >= end:
        return ranges
    if ranges and ranges[-1] == start:
        return (*ranges[:-1], end)
    # All pairs that touch or overlap [start, end): an even lower edge and an odd upper edge in the flat tuple.
    low = bisect_left(ranges, start)
    high = bisect_right(ranges, end)
    if low % 2:
        low -= 1
        start = ranges[low]
    if high % 2:
        end = ranges[high]
        high += 1
    return (*ranges[:low], start, end, *ranges[high:])


def pairs(ranges: Ranges) -> Iterator[tuple[int, int]]:
    """Yield each ``(start, end)``."""
    return zip(ranges[::2], ranges[1::2], strict=True)


def covers(ranges: Ranges, start: int, end: int) -> bool:
    """Say whether every byte of ``[start, end)`` is there."""
    if start >= end:
        return True
    place = bisect_right(ranges, start)
    return place % 2 == 1 and ranges[place] >= end


def length(ranges: Ranges) -> int:
    """Return the number of bytes."""
    return sum(ranges[1::2]) - sum(ranges[::2])


def missing(ranges: Ranges, size: int) -> Ranges:
    """Return what ``[0, size)`` lacks."""
    gaps: list[int] = []
    reached = 0
    for start, end in pairs(ranges):
        if start >= size:
            break
        if start > reached:
            gaps += [reached, start]
        reached = max(reached, end)
    if reached < size:
        gaps += [reached, size]
    return tuple(gaps)


def is_valid(ranges: Ranges) -> bool:
    """Say whether ``ranges`` is sorted, merged and without empty pairs."""
    return len(ranges) % 2 == 0 and all(a < b for a, b in pairwise(ranges)) and min(ranges, default=0) >= 0
