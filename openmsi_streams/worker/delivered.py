"""What a worker remembers of each delivered file: under which name it is the newest, and which content it has.

There is an entry for each file of the table, so an entry is no more than where the row is; the row is looked at when
two versions meet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from openmsi_streams.tables.rows import Row, State

# The start of a SHA-512 that finds a file of the same content; the rest is compared with its row.
CONTENT_BYTES = 16
Place = tuple[str, int]


class Part:
    """The delivered files of one partition."""

    __slots__ = ("contents", "forgotten", "newest", "orders")

    def __init__(self) -> None:
        self.newest: dict[str, str] = {}
        """Path -> file id of the newest version."""
        self.contents: dict[bytes, str] = {}
        """First bytes of sha512 -> file id of the first file with this content."""
        self.orders: dict[str, tuple[float, float]] = {}
        """Path -> order of its newest version; kept only while a table is read."""
        self.forgotten: set[str] = set()
        """Pruned while the table was read, which may still show them."""


class Delivered:
    """The delivered files of a worker's partitions. All versions of a path are in its home partition."""

    def __init__(self, row: Callable[[str, int, str], Row | None]) -> None:
        """Take what finds a row by topic, partition and file id, if the partition is held."""
        self._row = row
        self._parts: dict[Place, Part] = {}
        self._taking: dict[Place, Part] = {}
        self._settling: dict[tuple[str, bytes], str] = {}
        """(topic, sha512) -> path of the first of those whose rows are about to say that they are delivered."""

    # -- a partition that is taken over ------------------------------------------------------------------------------

    def begin(self, topic: str, partition: int) -> None:
        """Start to learn a partition anew from its table, with `add`; what was known holds until `complete`."""
        self._taking[topic, partition] = Part()

    def add(self, file_id: str, row: Row) -> None:
        """Take in a row as the table has it."""
        part = self._taking.get((row.topic, row.partition))
        if part is None or row.state is not State.DELIVERED or file_id in part.forgotten:
            return
        order = part.orders.get(row.path)
        if order is None or row.order >= order:
            part.orders[row.path] = row.order
            part.newest[row.path] = file_id
        if row.size > 0:
            part.contents.setdefault(row.sha512[:CONTENT_BYTES], file_id)

    def complete(self, topic: str, partition: int) -> None:
        """Go by what was learned since `begin`."""
        part = self._taking.pop((topic, partition), None)
        if part is not None:
            part.orders, part.forgotten = {}, set()
            self._parts[topic, partition] = part

    def drop(self, topic: str, partition: int) -> None:
        """Drop a partition that has left."""
        self._parts.pop((topic, partition), None)
        self._taking.pop((topic, partition), None)

    # -- one file at a time ------------------------------------------------------------------------------------------

    def learn(self, file_id: str, row: Row) -> None:
        """Take in a settled row; one that is not delivered is left out."""
        if row.state is not State.DELIVERED:
            return
        self.add(file_id, row)
        part = self._parts.setdefault((row.topic, row.partition), Part())
        if not self.newer(file_id, row):
            part.newest[row.path] = file_id
        if row.size > 0:
            part.contents.setdefault(row.sha512[:CONTENT_BYTES], file_id)

    def forget(self, file_id: str, row: Row) -> None:
        """Drop a row that was pruned."""
        place = (row.topic, row.partition)
        for part in filter(None, (self._parts.get(place), self._taking.get(place))):
            if part.newest.get(row.path) == file_id:
                del part.newest[row.path]
                part.orders.pop(row.path, None)
            content = row.sha512[:CONTENT_BYTES]
            if part.contents.get(content) == file_id:
                del part.contents[content]
        if place in self._taking:
            self._taking[place].forgotten.add(file_id)

    # -- questions ---------------------------------------------------------------------------------------------------

    def newest(self, topic: str, partition: int) -> dict[str, str]:
        """Return path -> file id of the newest version of all paths of a partition."""
        part = self._parts.get((topic, partition))
        return dict(part.newest) if part is not None else {}

    def holder(self, row: Row) -> str | None:
        """Return the file id of the newest version delivered under this row's name."""
        part = self._parts.get((row.topic, row.partition))
        return part.newest.get(row.path) if part is not None else None

    def newer(self, file_id: str, row: Row) -> bool:
        """Say whether another version, newer than this one, is delivered under its name."""
        holder = self.holder(row)
        if holder is None or holder == file_id:
            return False
        other = self._row(row.topic, row.partition, holder)
        return other is not None and other.state is State.DELIVERED and other.order > row.order

    def copied(self, row: Row) -> str:
        """Return the path of a delivered file of another name with this content, or an empty string.

        An empty file is nobody's copy. The other may be one that is about to be delivered (`settling`).
        """
        if row.size <= 0:
            return ""
        for (topic, partition), part in self._parts.items():
            if topic != row.topic or (file_id := part.contents.get(row.sha512[:CONTENT_BYTES])) is None:
                continue
            other = self._row(topic, partition, file_id)
            if other is not None and other.path != row.path and other.sha512 == row.sha512:
                return other.path
        first = self._settling.get((row.topic, row.sha512), row.path)
        return first if first != row.path else ""

    @contextmanager
    def settling(self, row: Row) -> Iterator[str]:
        """Yield what `copied` says of a row that is about to say that it is delivered.

        Files of the same content that are settled meanwhile are copies of it.
        """
        copy_of, key = self.copied(row), (row.topic, row.sha512)
        first = not copy_of and key not in self._settling
        if first:
            self._settling[key] = row.path
        try:
            yield copy_of
        finally:
            if first:
                del self._settling[key]
