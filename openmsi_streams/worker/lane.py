"""The ledger of a partition: which messages are processed, kept by us and not by the consumer group's offsets.

Faust may commit past a message that was never processed (docs/decisions.md). So each partition of a table has a ledger
row: every offset below it is processed and its effects are in the table. What lies between the ledger and the place
where the stream goes on is read from the log again.
"""

from __future__ import annotations

import msgspec

# No file id starts with NUL.
LEDGER_KEY = b"\0ledger"


class Ledger(msgspec.Struct, array_like=True, frozen=True):
    """Offsets below which everything is processed, in the chunk topic and in `<topic>.home`; -1: unknown."""

    log: int = -1
    home: int = -1


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Ledger)


def encode(ledger: Ledger) -> bytes:
    """Return the ledger's bytes in the table."""
    return _encoder.encode(ledger)


def decode(value: bytes | None) -> Ledger:
    """Return the ledger of a table's value; an empty one for None."""
    return Ledger() if value is None else _decoder.decode(value)


class Track:
    """Progress in one topic's partition, and the offsets whose effects are not in the table yet."""

    __slots__ = ("held", "position")

    def __init__(self, position: int = -1) -> None:
        self.position = position
        """The offset behind the last message seen; -1: none seen."""
        self.held: dict[str, int] = {}
        """file id -> the first offset whose effect on the row is not in the table yet."""

    def left_out(self, offset: int) -> tuple[int, int] | None:
        """Return the half-open range of offsets that were never seen before the message at ``offset``, if any."""
        return (self.position, offset) if 0 <= self.position < offset else None

    def see(self, offset: int) -> None:
        """Note that a message is processed."""
        self.position = max(self.position, offset + 1)

    def hold(self, file_id: str, offset: int) -> None:
        """Note that the row of this file was changed by the message at ``offset`` and not written."""
        self.held.setdefault(file_id, offset)

    def release(self, file_id: str) -> None:
        """Note that the row was written."""
        self.held.pop(file_id, None)

    @property
    def done(self) -> int:
        """The offset below which everything is processed and in the table; -1: unknown."""
        return min(self.held.values(), default=self.position)


class Lane:
    """One partition of one chunk topic, with its part of `<topic>.home`."""

    __slots__ = ("gaps", "home", "known", "log", "partition", "topic", "written")

    def __init__(self, topic: str, partition: int, written: Ledger) -> None:
        self.topic = topic
        self.partition = partition
        self.log = Track()
        self.home = Track()
        self.written = written
        """The ledger as it is in the table."""
        self.known: set[str] = set()
        """File ids of the partition's rows, for when the partition leaves."""
        self.gaps: list[tuple[bool, int]] = []
        """Starts of refills under way, (is home, first offset): the ledger may not pass them."""

    def track(self, home: bool) -> Track:
        """Return the track of the chunk topic or of `<topic>.home`."""
        return self.home if home else self.log

    def ledger(self) -> Ledger:
        """Return the ledger as it is now; it never goes back."""
        return Ledger(self._done(False), self._done(True))

    def _done(self, home: bool) -> int:
        reached = self.track(home).done
        starts = [start for is_home, start in self.gaps if is_home == home]
        if starts and reached >= 0:
            reached = min(reached, *starts)
        return max(reached, self.written.home if home else self.written.log)
