"""The order of 100,000 rows, kept up to date row by row, so that no view ever walks the table.

The index holds no rows: per file version the few values that lists are sorted, filtered and counted by. A list shows
the rows themselves, fetched one by one for the page at hand.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from openmsi_streams.tables.rows import OPEN, Row, State
from openmsi_streams.web.sortedkeys import SortedKeys

Key = tuple[float, str]
"""(updated, file_id): the order of every list and the content of every cursor."""

# Looked at in one go before the event loop gets its turn again; about 2 ms.
SCAN = 2000
# A path prefix that matches at most so many versions is answered from the paths, else by walking the times.
_FEW = 2000
# Above every character that a path may hold.
_AFTER = "\U0010ffff"


class Entry(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What the index knows of one file version."""

    topic: str
    path: str
    state: State
    updated: float
    bytes: int
    received: int
    partition: int


class Sum(NamedTuple):
    """Files and bytes of one topic and state."""

    files: int
    bytes: int
    received: int


@dataclass(frozen=True, slots=True)
class Filter:
    """Which file versions a list shows; empty: all."""

    topic: str = ""
    states: frozenset[State] = field(default_factory=frozenset)
    prefix: str = ""
    """Start of the path."""
    since: float = 0.0
    """Not updated before, seconds since the epoch."""
    until: float = 0.0
    """Updated before; 0: no limit."""

    def takes(self, topic: str, path: str, state: State, updated: float) -> bool:
        """Say whether a file version belongs to the list."""
        return (
            (not self.topic or topic == self.topic)
            and (not self.states or state in self.states)
            and path.startswith(self.prefix)
            and updated >= self.since
            and (not self.until or updated < self.until)
        )


class Index:
    """All file versions of this worker, by time of change, topic, state and path."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._times: dict[tuple[str, State], SortedKeys[Key]] = {}
        self._paths: dict[str, SortedKeys[tuple[str, str]]] = {}
        self._sums: dict[tuple[str, State], Sum] = {}
        self._topics: dict[str, str] = {}
        self._adding: dict[str, Entry | None] | None = None
        """File versions that were added since `begin`; None for those that were noted or forgotten meanwhile."""
        self.changes = 0
        """Moves with every change."""

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, file_id: str) -> bool:
        return file_id in self._entries

    def get(self, file_id: str) -> Entry | None:
        """Return what is known of a file version."""
        return self._entries.get(file_id)

    def where(self, file_id: str) -> tuple[str, int] | None:
        """Return (topic, home partition) of a file version, so that nobody looks through all tables for it."""
        entry = self._entries.get(file_id)
        return None if entry is None else (entry.topic, entry.partition)

    def note(self, file_id: str, row: Row) -> None:
        """Take a row that was written; about 10 microseconds whatever the number of rows."""
        if self._adding is not None:
            self._adding[file_id] = None
        old = self._entries.get(file_id)
        self._change(file_id, old, self._entry(row, old))

    def begin(self) -> None:
        """Start to take in many rows with `add`, which is quicker than `note`."""
        self._adding = {}

    def add(self, file_id: str, row: Row) -> None:
        """Take in a row as a table has it, unless it was noted or forgotten since `begin`.

        A file version that is not here yet is shown after `complete`.
        """
        if self._adding is None or file_id in self._adding:
            return
        old = self._entries.get(file_id)
        new = self._entry(row, old)
        if old is None:
            self._adding[file_id] = new
        elif new != old:
            self._change(file_id, old, new)

    def complete(self) -> None:
        """Show the file versions that were added since `begin`."""
        added = {file_id: entry for file_id, entry in (self._adding or {}).items() if entry is not None}
        self._adding = None
        times: dict[tuple[str, State], list[Key]] = {}
        paths: dict[str, list[tuple[str, str]]] = {}
        for file_id, entry in added.items():
            times.setdefault((entry.topic, entry.state), []).append((entry.updated, file_id))
            paths.setdefault(entry.topic, []).append((entry.path, file_id))
            self._count(entry, 1)
        for (topic, state), keys in times.items():
            self._times_of(topic, state).update(keys)
        for topic, names in paths.items():
            self._paths_of(topic).update(names)
        self._entries.update(added)
        self.changes += 1

    def _change(self, file_id: str, old: Entry | None, new: Entry) -> None:
        if old is not None and (old.topic, old.path) != (new.topic, new.path):
            self._remove(file_id)
            old = None
        self._entries[file_id] = new
        if old is None:
            self._paths_of(new.topic).add((new.path, file_id))
        if old is None or (old.state, old.updated) != (new.state, new.updated):
            if old is not None:
                self._times_of(old.topic, old.state).remove((old.updated, file_id))
            self._times_of(new.topic, new.state).add((new.updated, file_id))
        if old is not None:
            self._count(old, -1)
        self._count(new, 1)
        self.changes += 1

    def forget(self, file_id: str) -> None:
        """Drop a file version whose row was pruned, or whose partition went to another worker."""
        if self._adding is not None:
            self._adding[file_id] = None
        self._remove(file_id)

    def _remove(self, file_id: str) -> None:
        old = self._entries.pop(file_id, None)
        if old is None:
            return
        self._times_of(old.topic, old.state).remove((old.updated, file_id))
        self._paths_of(old.topic).remove((old.path, file_id))
        self._count(old, -1)
        self.changes += 1

    def sums(self) -> dict[tuple[str, State], Sum]:
        """Return files and bytes by topic and state."""
        return {key: value for key, value in self._sums.items() if value.files}

    def topics(self) -> list[str]:
        """Return the topics that have rows."""
        return sorted({topic for topic, _ in self.sums()})

    def last(self, topic: str) -> Key | None:
        """Return (updated, file_id) of the version of a topic that changed last."""
        lists = (self._times.get((topic, state)) for state in State)
        return max((next(keys.below()) for keys in lists if keys), default=None)

    def in_flight(self) -> int:
        """Return the number of file versions that are not settled."""
        return sum(value.files for (_, state), value in self._sums.items() if state in OPEN)

    def versions(self, topic: str, path: str) -> list[str]:
        """Return the ids of all versions of one path, the newest first; at most 200."""
        found = self._paths_of(topic).between((path, ""), (path, _AFTER), _FEW) or []
        ids = [file_id for _, file_id in found]
        return sorted(ids, key=lambda file_id: self._entries[file_id].updated, reverse=True)[:200]

    def newest(self, which: Filter, before: Key | None = None) -> Iterator[Key]:
        """Yield keys of the matching topics and states, the newest first; path and time are not looked at."""
        lists = [
            keys
            for (topic, state), keys in self._times.items()
            if len(keys) and (not which.topic or topic == which.topic) and (not which.states or state in which.states)
        ]
        if len(lists) == 1:
            return lists[0].below(before)
        return heapq.merge(*(keys.below(before) for keys in lists), reverse=True)

    def page(self, which: Filter, limit: int, before: Key | None = None) -> tuple[list[Key], Key | None]:
        """Return up to ``limit`` keys, and the key to go on from; None at the end.

        Looks at `SCAN` versions at most, so a page may be short or empty though more follows: ask again with the
        returned key, giving other work its turn between.
        """
        if which.until and (before is None or before[0] > which.until):
            before = (which.until, "")
        if which.prefix:
            few = self._with_prefix(which)
            if few is not None:
                return self._page_of(few, which, limit, before)
        found: list[Key] = []
        key: Key | None = None
        for looked, key in enumerate(self.newest(which, before)):
            if key[0] < which.since:
                return found, None
            entry = self._entries[key[1]]
            if entry.path.startswith(which.prefix):
                found.append(key)
            if len(found) == limit or looked + 1 == SCAN:
                return found, key
        return found, None

    def _with_prefix(self, which: Filter) -> list[tuple[str, str]] | None:
        """Return (path, file_id) of all versions below a prefix, None if there are many."""
        found: list[tuple[str, str]] = []
        for topic in [which.topic] if which.topic else list(self._paths):
            keys = self._paths.get(topic)
            more = keys.between((which.prefix, ""), (which.prefix + _AFTER, ""), _FEW - len(found)) if keys else []
            if more is None:
                return None
            found += more
        return found

    def _page_of(
        self, few: list[tuple[str, str]], which: Filter, limit: int, before: Key | None
    ) -> tuple[list[Key], Key | None]:
        keys: list[Key] = []
        for _, file_id in few:
            entry = self._entries[file_id]
            key = (entry.updated, file_id)
            if which.takes(entry.topic, entry.path, entry.state, entry.updated) and (before is None or key < before):
                keys.append(key)
        keys.sort(reverse=True)
        return keys[:limit], keys[limit - 1] if len(keys) > limit else None

    def _entry(self, row: Row, old: Entry | None) -> Entry:
        """Return what is kept of a row, sharing objects with what was kept before (``old``)."""
        topic = self._topics.setdefault(row.topic, row.topic)
        path = old.path if old is not None and old.path == row.path else row.path
        updated = old.updated if old is not None and old.updated == row.updated else row.updated
        received = row.received
        return Entry(
            topic, path, row.state, updated, row.size, row.size if received == row.size else received, row.partition
        )

    def _times_of(self, topic: str, state: State) -> SortedKeys[Key]:
        return self._times.setdefault((topic, state), SortedKeys())

    def _paths_of(self, topic: str) -> SortedKeys[tuple[str, str]]:
        return self._paths.setdefault(topic, SortedKeys())

    def _count(self, entry: Entry, sign: int) -> None:
        files, size, received = self._sums.get((entry.topic, entry.state), (0, 0, 0))
        self._sums[entry.topic, entry.state] = Sum(
            files + sign, size + sign * max(0, entry.bytes), received + sign * entry.received
        )
