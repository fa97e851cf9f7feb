"""Messages that wait for their data key: kept by reference, never by content.

A row holds which offsets of a partition wait for one key. The messages stay in the log and are read again when the key
has come: parking needs no memory, holds nobody up, and what is written down survives kills and rebalances. Plain
bookkeeping over a mapping that the caller gives (a table in a worker, a dict in a test).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, MutableMapping

import msgspec

from openmsi_streams.crypto.messages import Keys

# Rows are one per partition and data key. An honest producer makes one data key a day; more rows than this are made
# by somebody who invents key indexes.
MAX_ROWS = 4096
# Runs of offsets in a row. When there are more, the two with the smallest gap become one: messages of others between
# them are then read again and passed over, which costs a little reading and nothing else.
MAX_RUNS = 16


class ParkedRange(msgspec.Struct, frozen=True):
    """Offsets ``[start, end)`` of a partition in which messages with this key index wait.

    Others may stand between them; take only those whose envelope has this key index.
    """

    topic: str
    partition: int
    start: int
    end: int
    root: str
    key_index: bytes
    since: float
    """When the first of the row was parked, seconds since the epoch."""


class _Row(msgspec.Struct, array_like=True):
    root: str
    key_index: bytes
    topic: str
    partition: int
    since: float
    runs: list[tuple[int, int]]


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Row)


def row_key(topic: str, partition: int, key_index: bytes) -> bytes:
    """Return the mapping's key of a row."""
    return _encoder.encode((topic, partition, key_index))


class Parking:
    """Which messages wait for which key.

    In a worker each partition has its own table slice; give one `Parking` the slice of one partition, or a mapping
    over all of them.
    """

    def __init__(
        self,
        rows: MutableMapping[bytes, bytes],
        max_rows: int = MAX_ROWS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Take the mapping that holds the rows; it may be filled already."""
        self._rows = rows
        self._max_rows = max_rows
        self._clock = clock

    def park(self, topic: str, partition: int, offset: int, root: str, key_index: bytes) -> bool:
        """Note that this message waits; the same offset again changes nothing.

        Returns:
            False when too many different keys are waited for already: the message is not noted, and the caller
            quarantines it as ciphertext at once.
        """
        key = row_key(topic, partition, key_index)
        held = self._rows.get(key)
        if held is None:
            if len(self._rows) >= self._max_rows:
                return False
            row = _Row(root, key_index, topic, partition, self._clock(), [])
        else:
            row = _decoder.decode(held)
        if any(start <= offset < end for start, end in row.runs):
            return True
        row.runs = _with(row.runs, offset)
        self._rows[key] = _encoder.encode(row)
        return True

    def ready(self, node: Keys) -> list[ParkedRange]:
        """Return what can be read again because its key is here; asks for the keys of all others."""
        found: list[ParkedRange] = []
        for row in self._all():
            if node.has_key(row.root, row.key_index):
                found += _ranges(row)
            else:
                node.request(row.root, row.key_index)
        return found

    def expired(self, wait_seconds: float) -> list[ParkedRange]:
        """Return what has waited too long: its messages go to quarantine as ciphertext, then `done` is called."""
        limit = self._clock() - wait_seconds
        return [one for row in self._all() if row.since <= limit for one in _ranges(row)]

    def done(self, one: ParkedRange, up_to: int | None = None) -> None:
        """Forget a range, or its part before the offset ``up_to``, because its messages were processed.

        What was parked in the meantime outside of it stays.
        """
        key = row_key(one.topic, one.partition, one.key_index)
        held = self._rows.get(key)
        if held is None:
            return
        row = _decoder.decode(held)
        row.runs = _without(row.runs, one.start, one.end if up_to is None else min(up_to, one.end))
        if row.runs:
            self._rows[key] = _encoder.encode(row)
        else:
            del self._rows[key]

    def holds(self, topic: str, partition: int, offset: int, key_index: bytes) -> bool:
        """Say whether an offset lies in a range that waits for this key."""
        held = self._rows.get(row_key(topic, partition, key_index))
        return held is not None and any(start <= offset < end for start, end in _decoder.decode(held).runs)

    def messages(self) -> int:
        """Return how many offsets wait, for metrics; messages of others inside a run are counted with it."""
        return sum(end - start for row in self._all() for start, end in row.runs)

    def rows(self) -> list[ParkedRange]:
        """Return all ranges, for views."""
        return [one for row in self._all() for one in _ranges(row)]

    def _all(self) -> Iterator[_Row]:
        for held in list(self._rows.values()):
            yield _decoder.decode(held)


def _ranges(row: _Row) -> list[ParkedRange]:
    return [
        ParkedRange(row.topic, row.partition, start, end, row.root, row.key_index, row.since) for start, end in row.runs
    ]


def _with(runs: list[tuple[int, int]], offset: int) -> list[tuple[int, int]]:
    """Return sorted runs with one offset more, neighbours joined, at most `MAX_RUNS` of them."""
    merged: list[tuple[int, int]] = []
    for start, end in sorted([*runs, (offset, offset + 1)]):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    while len(merged) > MAX_RUNS:
        gap = min(range(len(merged) - 1), key=lambda at: merged[at + 1][0] - merged[at][1])
        merged[gap : gap + 2] = [(merged[gap][0], merged[gap + 1][1])]
    return merged


def _without(runs: list[tuple[int, int]], begin: int, stop: int) -> list[tuple[int, int]]:
    left: list[tuple[int, int]] = []
    for start, end in runs:
        left += [part for part in ((start, min(end, begin)), (max(start, stop), end)) if part[0] < part[1]]
    return left
