"""How a row looks outside: one dict that HTML, API and terminal share, so that they cannot disagree."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

import msgspec

from openmsi_streams.chunks import ranges as rg
from openmsi_streams.chunks.reasons import CURES, Reason
from openmsi_streams.tables.rows import OPEN, Row, Span, State

# A file of a thousand gaps is drawn with fewer: a bar on a wall screen has no more pixels than this.
_BAR_PIECES = 200

STATE_WORDS: dict[State, str] = {
    State.RECEIVING: "Chunks are arriving.",
    State.VERIFYING: "Every byte is there; the sha512 is being checked.",
    State.DELIVERING: "The sha512 is right; the stores are taking the file.",
    State.DELIVERED: "Every store has confirmed the file.",
    State.STALLED: "Waiting: no byte came for a while, and the missing ranges were asked for.",
    State.QUARANTINED: "Set aside with a reason; a replay gives it a new chance.",
}
"""What each state means, in one sentence, for people."""


def item(file_id: str, row: Row, worker: str = "") -> dict[str, Any]:
    """Return the public form of a row, as `/api/v1/files` gives it.

    Times are seconds since the epoch, sizes are bytes, ``ranges`` is a list of half-open ``[start, end]`` pairs.
    """
    return {
        "file_id": file_id,
        "topic": row.topic,
        "path": row.path,
        "sha512": row.sha512.hex(),
        "bytes": row.size if row.size >= 0 else None,
        "received": row.received,
        "ranges": [list(pair) for pair in rg.pairs(row.ranges)],
        "chunks": row.chunks,
        "state": str(row.state),
        "reason": row.reason,
        "message": row.message,
        "cure": cure(row.reason),
        "since": row.since,
        "updated": row.updated,
        "mtime": row.mtime,
        "deliveries": [msgspec.to_builtins(delivery) | _note(delivery.note) for delivery in row.deliveries],
        "attempts": row.attempts,
        "retry_at": row.retry_at or None,
        "headers": row.headers,
        "flags": list(row.flags),
        "copy_of": row.copy_of,
        "partition": row.partition,
        "log": span(row.log),
        "home": span(row.home),
        "times": row.times,
        "worker": worker,
    }


def _note(note: str) -> dict[str, str]:
    return {"note": note}


def cure(reason: str) -> str:
    """Return what helps against a reason; empty for one that is not of the closed set."""
    return CURES[Reason(reason)] if reason in Reason._value2member_map_ else ""


def span(value: Span | None) -> list[int] | None:
    """Return ``[first, last]`` offset."""
    return None if value is None else [value.first, value.last]


def fraction(row: dict[str, Any]) -> float | None:
    """Return how much of the file is there, 0 to 1; None while its size is unknown."""
    size = row["bytes"]
    if size is None:
        return None
    return 1.0 if size == 0 else min(1.0, row["received"] / size)


def gaps(row: dict[str, Any]) -> list[list[int]]:
    """Return the ranges that are missing; an end of -1 means up to an end that is not known yet."""
    flat = tuple(edge for pair in row["ranges"] for edge in pair)
    if row["bytes"] is None:
        end = flat[-1] if flat else 0
        return [list(pair) for pair in rg.pairs(rg.missing(flat, end))] + [[end, -1]]
    return [list(pair) for pair in rg.pairs(rg.missing(flat, row["bytes"]))]


def bar(row: dict[str, Any]) -> list[list[float]]:
    """Return what a progress bar shows: ``[start, width]`` in percent of the file's size.

    While the size is unknown, the bar's end stands for a bit more than the last byte seen.
    """
    size = row["bytes"] if row["bytes"] is not None else int((row["ranges"][-1][1] if row["ranges"] else 0) * 1.25) or 1
    if size == 0:
        return [[0.0, 100.0]]
    pieces: list[list[float]] = []
    smallest = 100.0 / _BAR_PIECES / 2
    for start, end in row["ranges"]:
        left, width = 100.0 * start / size, 100.0 * (end - start) / size
        if pieces and len(row["ranges"]) > _BAR_PIECES and left - (pieces[-1][0] + pieces[-1][1]) < smallest:
            pieces[-1][1] = left + width - pieces[-1][0]
        else:
            pieces.append([left, width])
    return [[round(left, 3), round(width, 3)] for left, width in pieces]


def is_open(row: dict[str, Any]) -> bool:
    """Say whether the file version is still on its way."""
    return row["state"] in OPEN


def bytes_text(count: float | None) -> str:
    """Return a number of bytes for people, e.g. ``12.3 MB`` (powers of ten, as disks and networks count)."""
    if count is None:
        return "?"
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def seconds_text(seconds: float | None) -> str:
    """Return a span of time for people, e.g. ``3 min``."""
    if seconds is None:
        return "?"
    seconds = max(0.0, seconds)
    for size, unit in ((86400.0, "d"), (3600.0, "h"), (60.0, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"


def iso(when: float | None) -> str:
    """Return an ISO 8601 time in UTC for a ``<time>`` element, which the page shows in the viewer's zone."""
    if when is None:
        return ""
    try:
        return datetime.fromtimestamp(when, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except (OverflowError, ValueError, OSError):
        # A time from a message may be anything.
        return ""


def time_text(when: float | None) -> str:
    """Return the same time for people without scripts."""
    stamp = iso(when)
    return stamp[:19].replace("T", " ") + " UTC" if stamp else "unknown"


def way(row: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the steps of the file's way, in time: ``what``, ``when``, ``after`` (seconds since the step before)."""
    names = {
        "first": "First chunk",
        "whole": "Whole",
        "receiving": "Receiving again",
        "verifying": "Whole, being checked",
        "verified": "sha512 verified",
        "delivering": "sha512 verified, going to the stores",
        "delivered": "Delivered, receipt sent",
        "stalled": "Stalled",
        "quarantined": "Quarantined",
        "pdv": "PDV analysed",
        "gemd": "GEMD record written",
        "receipt": "Receipt sent",
    }
    steps: list[tuple[float, str]] = [(row["since"], "First chunk seen")]
    if row["mtime"]:
        steps.append((row["mtime"], "Last modified at the instrument"))
    steps += [(d["time"], f"Confirmed by store {d['store']}") for d in row["deliveries"]]
    # The first chunk also makes the row receiving; that is one step.
    steps += [(when, names.get(step, step)) for step, when in row["times"].items() if when != row["since"]]
    steps.sort(key=lambda step: step[0])
    found: list[dict[str, Any]] = []
    for position, (when, what) in enumerate(steps):
        after = when - steps[position - 1][0] if position else None
        found.append({"what": what, "when": when, "after": after})
    return found


def now() -> float:
    """Return the time, seconds since the epoch; one place for tests to hold still."""
    return time.time()
