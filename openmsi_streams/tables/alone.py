"""Whether a worker alone wrote to a changelog, so that what it remembers of the rows still holds.

A partition may come back to a worker from which it never went, or after another had it, even while this process slept.
Kafka gives consecutive offsets to the records of a partition: if those of this worker's own records have no gap, and
the changelog ends behind the last of them, nobody else wrote.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass


@dataclass(slots=True)
class _Part:
    reached: int = -1
    """The offset behind the last record known here, if all before it are; -1: another wrote, or nothing was read."""
    learned: bool = False
    """Whether all rows that were there are remembered."""
    last: int = -1
    """The offset of the last record that was sent from here."""
    under_way: int = 0


class Alone:
    """Follows the records of one changelog. Records are counted on the event loop, answers in the producer's thread."""

    def __init__(self) -> None:
        self._parts: dict[int, _Part] = {}
        self._lock = threading.Lock()

    def begin(self, partition: int, read_to: int) -> None:
        """Follow a table that has read its changelog up to the record ``read_to`` (-1: none).

        It counts only after `complete`, when its rows are remembered.
        """
        with self._lock:
            part = self._parts.setdefault(partition, _Part())
            part.reached = max(read_to, part.last) + 1
            part.learned = False

    def complete(self, partition: int) -> None:
        """Take note that all rows that were there at `begin` are remembered."""
        with self._lock:
            self._parts[partition].learned = True

    def sending(self, partition: int) -> None:
        """Count a record that is sent from here."""
        with self._lock:
            self._parts.setdefault(partition, _Part()).under_way += 1

    def sent(self, partition: int, offset: int) -> None:
        """Take the offset that the broker gave to a record from here."""
        with self._lock:
            part = self._parts.setdefault(partition, _Part())
            part.under_way -= 1
            part.last = max(part.last, offset)
            if part.reached >= 0:
                part.reached = offset + 1 if offset == part.reached else -1

    def reached(self, partition: int) -> int:
        """Return the offset up to which every record is known here; -1: another has written, or none was read."""
        with self._lock:
            part = self._parts.get(partition)
            return part.reached if part is not None and part.learned else -1

    def told(self, partition: int, end: int) -> bool | None:
        """Say whether every record below ``end`` is known here; None while answers that may tell are under way."""
        with self._lock:
            part = self._parts.get(partition)
            if part is None or not part.learned or part.reached < 0:
                return False
            if part.reached >= end:
                return True
            return None if part.under_way > 0 else False
