"""How a file is cut into the parts of a multipart upload before its size is known."""

from __future__ import annotations

from openmsi_streams.chunks import ranges as rg
from openmsi_streams.config.settings import MIB

# S3's limits: parts of one upload, bytes of an object, bytes of a part.
MAX_PARTS = 10_000
MAX_OBJECT = 5 << 40
MAX_PART = 5 << 30
# Every 100 parts the part size grows by 11 MiB: 10,000 parts then hold at least 100 * 11 MiB * (0 + 1 + ... + 99) =
# 5.19 TiB, more than the largest object, with parts of at most 1.1 GiB, while a file of 4 GB has parts of 30 MiB.
GROW_EVERY = 100
GROWTH = 11 * MIB


class Plan:
    """Where each part begins: a function of the part's number alone, so it can be made before the size is known."""

    __slots__ = ("base", "step")

    def __init__(self, base: int, step: int = GROWTH) -> None:
        """Take the bytes of the first part and by how many it grows every `GROW_EVERY` parts (0: equal parts)."""
        self.base = base
        self.step = step

    def start(self, number: int) -> int:
        """Return the offset at which part ``number`` (1-based) begins."""
        block, within = divmod(number - 1, GROW_EVERY)
        before = GROW_EVERY * (self.base * block + self.step * block * (block - 1) // 2)
        return before + within * (self.base + self.step * block)

    def span(self, number: int, size: int | None = None) -> tuple[int, int]:
        """Return the half-open range of a part, cut off at ``size``."""
        start, end = self.start(number), self.start(number + 1)
        return (start, end) if size is None else (min(start, size), min(end, size))

    def count(self, size: int) -> int:
        """Return the number of parts of a file of ``size`` bytes; at least 1."""
        low, high = 1, 1
        while self.start(high + 1) < size:
            low, high = high, high * 2
        while low < high:
            middle = (low + high) // 2
            if self.start(middle + 1) >= size:
                high = middle
            else:
                low = middle + 1
        return low

    def whole(self, ranges: rg.Ranges, size: int | None) -> list[int]:
        """Return the numbers of the parts whose bytes are all there.

        The last part is among them only if ``size`` is known.
        """
        if not ranges:
            return []
        last = self.count(size) if size is not None else self.count(ranges[-1])
        numbers: list[int] = []
        for start, end in rg.pairs(ranges):
            number = self.count(start) if start else 1
            while number <= last:
                first, behind = self.span(number, size)
                if behind > end:
                    break
                if first >= start:
                    numbers.append(number)
                number += 1
        return numbers


def plan_for(base: int, size_hint: int | None, equal: bool) -> Plan:
    """Return the plan of a new upload.

    Args:
        base: smallest part, in bytes.
        size_hint: bytes that the file has at most, if known.
        equal: the server wants all parts of the same size (Cloudflare R2).
    """
    if not equal:
        return Plan(base)
    largest = min(size_hint or MAX_OBJECT, MAX_OBJECT)
    return Plan(max(base, -(-largest // MAX_PARTS)), 0)
