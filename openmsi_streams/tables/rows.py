"""The row of one file version: its state, what has arrived, where it is in the log, and where it was put."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from openmsi_streams.chunks import ranges as rg
from openmsi_streams.chunks.messages import Delivery
from openmsi_streams.errors import OpenMSIStreamsError


class State(StrEnum):
    """The states of a row: a closed set; `NEXT` says what may follow what."""

    RECEIVING = "receiving"
    VERIFYING = "verifying"
    DELIVERING = "delivering"
    DELIVERED = "delivered"
    STALLED = "stalled"
    QUARANTINED = "quarantined"


NEXT: dict[State, frozenset[State]] = {
    State.RECEIVING: frozenset({State.VERIFYING, State.STALLED, State.QUARANTINED}),
    # Back to receiving when the disk lacks bytes that the row counted (kill, power loss, deleted by hand).
    State.VERIFYING: frozenset({State.DELIVERING, State.RECEIVING, State.STALLED, State.QUARANTINED}),
    State.DELIVERING: frozenset({State.DELIVERED, State.RECEIVING, State.STALLED, State.QUARANTINED}),
    # When this content comes again, newer, after another version had the name: a file put back to what it was.
    State.DELIVERED: frozenset({State.RECEIVING}),
    State.STALLED: frozenset({State.RECEIVING, State.QUARANTINED}),
    # By replay only.
    State.QUARANTINED: frozenset({State.RECEIVING}),
}
OPEN = frozenset({State.RECEIVING, State.VERIFYING, State.DELIVERING, State.STALLED})


class IllegalTransition(OpenMSIStreamsError):
    """A state was asked to become one that cannot follow it: a fault of this program."""


class Span(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Where a file's chunks lie in one topic, on the row's partition."""

    first: int
    last: int


class Row(msgspec.Struct, array_like=True, frozen=True, kw_only=True):
    """One file version. Bounded by construction: ranges and offsets, never payload.

    New fields go to the end, with a default, so that rows of an older release are read.
    """

    topic: str
    path: str
    sha512: bytes
    partition: int
    state: State
    since: float
    """When the first chunk was seen, seconds since the epoch."""
    updated: float
    """When a new byte was last seen, or the state last changed."""
    timestamp: float
    """Kafka timestamp of the first chunk, seconds: the order of versions whose mtime is unknown."""
    mtime: float | None = None
    size: int = -1
    """Bytes of the whole file; -1 until the last chunk was seen."""
    ranges: rg.Ranges = ()
    log: Span | None = None
    """In the chunk topic."""
    home: Span | None = None
    """In `<topic>.home`, where scattered chunks are forwarded to."""
    chunks: int = 0
    """Messages counted, without repeats."""
    reason: str = ""
    message: str = ""
    deliveries: tuple[Delivery, ...] = ()
    attempts: int = 0
    """Requests sent to the producer, or tries of a store, since the last progress."""
    retry_at: float = 0.0
    uploads: dict[str, bytes] = {}
    """Store name -> state of its streamed upload."""
    headers: dict[str, str] = {}
    copy_of: str = ""
    flags: tuple[str, ...] = ()
    times: dict[str, float] = {}
    """State or step -> when it was reached."""

    @property
    def received(self) -> int:
        """Bytes that are there."""
        return rg.length(self.ranges)

    @property
    def is_whole(self) -> bool:
        """Whether every byte is there."""
        return self.size >= 0 and rg.covers(self.ranges, 0, self.size)

    @property
    def order(self) -> tuple[float, float]:
        """What makes one version of a path newer than another: mtime, then Kafka timestamp."""
        known = self.mtime is not None and self.mtime > 0
        return (self.mtime if known and self.mtime else self.timestamp, self.timestamp)

    def to(self, state: State, now: float, **changes: object) -> Row:
        """Return the row in another state.

        Raises:
            IllegalTransition: if ``state`` cannot follow the row's state.
        """
        if state not in NEXT[self.state]:
            raise IllegalTransition(f"A file version cannot go from {self.state} to {state} ({self.path!r}).")
        times = {**self.times, str(state): now}
        return msgspec.structs.replace(self, state=state, updated=now, times=times, **changes)


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Row)


def encode(row: Row) -> bytes:
    """Return the row's bytes in the table."""
    return _encoder.encode(row)


def decode(value: bytes) -> Row:
    """Return the row of a table's value."""
    return _decoder.decode(value)
