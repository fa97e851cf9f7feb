"""When a file is whole: small rules that are asked one after the other, and the tracker that asks them."""

from __future__ import annotations

import heapq
import os
import struct
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import msgspec

from openmsi_streams.producers import system


class Candidate(msgspec.Struct):
    """A file that may still be being written."""

    path: str
    source: Path
    size: int
    mtime_ns: int
    unchanged_since: float
    """On the monotonic clock: when size or mtime were last seen to change."""
    looks: int = 1
    """How often in a row size and mtime were found the same."""
    due: float = 0.0


Rule = Callable[[Candidate, float], str]
"""``(candidate, now) -> why it must wait``, empty if this rule is content. ``now`` is on the monotonic clock."""


def quiet(seconds: float) -> Rule:
    """Return the rule that size and mtime have been the same for so long."""

    def rule(candidate: Candidate, now: float) -> str:
        return "" if now - candidate.unchanged_since >= seconds else f"written to in the last {seconds:g} s"

    return rule


def stable(looks: int) -> Rule:
    """Return the rule that so many looks in a row found the same size; for drives whose times cannot be trusted."""

    def rule(candidate: Candidate, now: float) -> str:
        return "" if candidate.looks >= looks else f"looked at {candidate.looks} of {looks} times"

    return rule


def unlocked(is_locked: Callable[[Path], bool] = system.is_locked) -> Rule:
    """Return the rule that no other program has the file open for writing (Windows)."""

    def rule(candidate: Candidate, now: float) -> str:
        return "open in another program" if is_locked(candidate.source) else ""

    return rule


def done_marker(suffix: str = ".done") -> Rule:
    """Return the rule that a file ``NAME.done`` stands beside the file."""

    def rule(candidate: Candidate, now: float) -> str:
        marker = candidate.source.with_name(candidate.source.name + suffix)
        return "" if os.path.exists(system.long_path(marker)) else f"waits for {marker.name}"

    return rule


# Where LeCroy's template LECROY_2_3 keeps the lengths of its blocks: eight 32-bit integers from here.
_TRC_LENGTHS = 36
_TRC_DESCRIPTOR = 346


def lecroy_whole(candidate: Candidate, now: float) -> str:
    """Rule: a LeCroy ``.trc`` has all the bytes that its header promises."""
    if not candidate.path.lower().endswith(".trc"):
        return ""
    try:
        with system.open_shared(candidate.source) as file:
            head = file.read(64 + _TRC_DESCRIPTOR)
    except OSError:
        return ""  # reading it for sending will say why not
    expected = lecroy_bytes(head)
    return "" if candidate.size >= expected else f"has {candidate.size} of the {expected} bytes its header promises"


def lecroy_bytes(head: bytes) -> int:
    """Return the size that a ``.trc`` must have, from its first 410 bytes; 0 if that is not such a header."""
    at = head.find(b"WAVEDESC", 0, 64)
    if at < 0 or len(head) < at + 76:
        return 0
    order = "<" if head[at + 34] == 1 else ">"
    # WAVEDESC, USERTEXT, RES_DESC1, TRIGTIME, RIS_TIME, RES_ARRAY1, WAVE_ARRAY_1, WAVE_ARRAY_2 in bytes
    lengths = struct.unpack_from(f"{order}8i", head, at + _TRC_LENGTHS)
    if lengths[0] != _TRC_DESCRIPTOR or min(lengths) < 0:
        return 0
    return at + int(sum(lengths))


class Tracker:
    """Follows files until every rule is content. A file that is written to for hours costs a look now and then."""

    def __init__(self, rules: Iterable[Rule], pause: float = 1.0) -> None:
        """``pause``: seconds between two looks at a file that is not ready."""
        self._rules = list(rules)
        self._pause = pause
        self._files: dict[str, Candidate] = {}
        self._heap: list[tuple[float, str]] = []

    def __contains__(self, path: str) -> bool:
        return path in self._files

    def __len__(self) -> int:
        return len(self._files)

    def add(
        self, path: str, source: Path, size: int, mtime_ns: int, now: float, wall: float, wait: float = 0.0
    ) -> None:
        """Follow a file; one that was last written long ago counts as quiet since then.

        A modification time in the future (a clock set back) says nothing: then it is quiet from now on.
        """
        age = max(0.0, wall - mtime_ns / 1e9) if wait == 0 else 0.0
        candidate = Candidate(path, source, size, mtime_ns, now - age, due=now + wait)
        self._files[path] = candidate
        heapq.heappush(self._heap, (candidate.due, path))

    def drop(self, path: str) -> None:
        """Follow a file no longer."""
        self._files.pop(path, None)

    def next_due(self) -> float | None:
        """Return when the next look is due, on the monotonic clock."""
        return self._heap[0][0] if self._heap else None

    def ready(self, now: float) -> Iterator[Candidate | tuple[str, OSError]]:
        """Yield files that are whole; or path and error for one that cannot be looked at any more."""
        while self._heap and self._heap[0][0] <= now:
            due, path = heapq.heappop(self._heap)
            candidate = self._files.get(path)
            if candidate is None or candidate.due != due:
                continue
            try:
                found = os.stat(system.long_path(candidate.source))
            except OSError as error:
                del self._files[path]
                yield path, error
                continue
            if (found.st_size, found.st_mtime_ns) != (candidate.size, candidate.mtime_ns):
                candidate.size, candidate.mtime_ns = found.st_size, found.st_mtime_ns
                candidate.unchanged_since, candidate.looks = now, 1
            else:
                candidate.looks += 1
            if not any(rule(candidate, now) for rule in self._rules):
                del self._files[path]
                yield candidate
                continue
            candidate.due = now + self._pause
            heapq.heappush(self._heap, (candidate.due, path))

    def why(self, path: str, now: float) -> str:
        """Return what a file waits for."""
        candidate = self._files.get(path)
        return next((text for rule in self._rules if candidate and (text := rule(candidate, now))), "")
