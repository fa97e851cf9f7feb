"""What to do with a chunk: one pure function that decides, and touches nothing."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from openmsi_streams.chunks import ranges as rg
from openmsi_streams.chunks.codec import Chunk
from openmsi_streams.chunks.reasons import Reason
from openmsi_streams.tables.rows import Row, Span, State

# A file whose chunks come in an order that leaves this many gaps gets no larger row: what lies beyond is fetched again
# from the log when the gaps before it are closed. 512 pairs are about 5 KB.
MAX_RANGES = 1024

# Quarantined for these reasons, a file version gets a new chance when its chunks come again: that was the cure.
RETRYABLE = frozenset({Reason.EXPIRED, Reason.LOG_GAP, Reason.STORE_REFUSED})


@dataclass(frozen=True, slots=True)
class Seen:
    """Where and when a chunk's message was seen."""

    partition: int
    offset: int
    timestamp: float
    now: float
    home: bool = False
    """Whether it came through `<topic>.home`."""
    replay: bool = False
    headers: dict[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Write:
    """Write the payload at its offset; ``row`` then holds."""

    row: Row
    is_new: bool


@dataclass(frozen=True, slots=True)
class Repeat:
    """The bytes are there already."""

    row: Row


@dataclass(frozen=True, slots=True)
class Settled:
    """The file version is delivered, or quarantined until a replay; nothing is to be done with a chunk of it."""

    row: Row


@dataclass(frozen=True, slots=True)
class Renew:
    """The delivered content came again with a newer mtime; ``row`` is the row that starts anew.

    If this version still has the final name only its mtime is new. If another version had the name in between, the
    file was put back to what it was, and this content gets the name again.
    """

    row: Row


@dataclass(frozen=True, slots=True)
class Postpone:
    """The row has no room for another gap; the chunk is fetched again later."""

    row: Row


@dataclass(frozen=True, slots=True)
class Reject:
    """The chunk contradicts its file."""

    reason: Reason
    what: str


Step = Write | Repeat | Settled | Renew | Postpone | Reject


def place(row: Row | None, chunk: Chunk, path: str, topic: str, seen: Seen) -> Step:
    """Say what to do with a chunk of the file version whose row this is.

    Identity is (topic, path, sha512), so chunks of other versions never meet here; the same bytes cut in another way
    do, and are placed by their offsets alone.
    """
    if row is None:
        row = Row(
            topic=topic,
            path=path,
            sha512=chunk.file_hash,
            partition=seen.partition,
            state=State.RECEIVING,
            since=seen.now,
            updated=seen.now,
            timestamp=seen.timestamp,
            mtime=chunk.mtime if chunk.mtime and chunk.mtime > 0 else None,
            headers=seen.headers or {},
            times={str(State.RECEIVING): seen.now},
        )
        return _write(row, chunk, seen, is_new=True)
    if row.state is State.DELIVERED:
        if row.mtime is not None and chunk.mtime is not None and chunk.mtime > row.mtime:
            again = reopened(row, seen.now)
            return Renew(
                msgspec.structs.replace(
                    again, mtime=chunk.mtime, timestamp=seen.timestamp, since=seen.now, log=None, home=None, chunks=0
                )
            )
        return Settled(row)
    if row.state is State.QUARANTINED:
        if not (seen.replay or row.reason in RETRYABLE):
            return Settled(row)
        row = reopened(row, seen.now)
    return _write(row, chunk, seen, is_new=False)


def reopened(row: Row, now: float) -> Row:
    """Return a settled row that starts again, its bytes to be fetched from the log or sent once more."""
    return row.to(
        State.RECEIVING, now, ranges=(), size=-1, reason="", message="", attempts=0, retry_at=0.0, uploads={},
        deliveries=(), flags=(), copy_of="",
    )  # fmt: skip


def _write(row: Row, chunk: Chunk, seen: Seen, *, is_new: bool) -> Step:
    start, end = chunk.offset, chunk.end
    where = f"Chunk {chunk.index} of {chunk.total} ({start} to {end})"
    size = row.size
    if chunk.index == chunk.total:
        if size >= 0 and size != end:
            return Reject(Reason.CONTRADICTION, f"{where} ends the file at {end}, another chunk at {size}.")
        size = end
    if size >= 0 and (end > size or (row.ranges and row.ranges[-1] > size)):
        return Reject(Reason.CONTRADICTION, f"{where} and the file's size of {size} bytes contradict each other.")
    spans = {"home": _spanned(row.home, seen.offset)} if seen.home else {"log": _spanned(row.log, seen.offset)}
    if chunk.mtime is not None and row.mtime is not None and chunk.mtime > row.mtime:
        row = msgspec.structs.replace(row, mtime=chunk.mtime)
    known = size == row.size
    if known and rg.covers(row.ranges, start, end):
        return Repeat(msgspec.structs.replace(row, **spans))
    ranges = rg.add(row.ranges, start, end)
    if len(ranges) > MAX_RANGES:
        return Postpone(msgspec.structs.replace(row, **spans))
    changed = msgspec.structs.replace(
        row, ranges=ranges, size=size, updated=seen.now, attempts=0, retry_at=0.0, chunks=row.chunks + 1, **spans
    )
    if changed.state is State.STALLED:
        changed = changed.to(State.RECEIVING, seen.now, reason="", message="")
    return Write(changed, is_new)


def _spanned(span: Span | None, offset: int) -> Span:
    if span is None:
        return Span(offset, offset)
    return Span(min(span.first, offset), max(span.last, offset))
