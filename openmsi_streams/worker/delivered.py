"""What a worker remembers of each delivered file: under which name it is the newest, and which content it has.

There is an entry for each file of the table, so an entry is no more than where the row is; the row is looked at when
two versions meet.
"""

from __future__ import annotations

from collections.abc import Callable

from openmsi_streams.tables.rows import Row, State

# The start of a SHA-512 that finds a file of the same content; the rest is compared with its row.
CONTENT_BYTES = 16
Place = tuple[str, int]


class Delivered:
    """The delivered files of a worker's partitions. All versions of a path are in its home partition."""

    def __init__(self, row: Callable[[str, int, str], Row | None]) -> None:
        """Take what finds a row by topic, partition and file id."""
        self._row = row
        self._newest: dict[Place, dict[str, str]] = {}
        """(topic, partition) -> path -> file id of the newest version."""
        self._contents: dict[Place, dict[bytes, str]] = {}
        """(topic, partition) -> first bytes of sha512 -> file id of the first file with this content."""

    def learn(self, file_id: str, row: Row) -> None:
        """Take in a settled row; one that is not delivered is left out."""
        if row.state is not State.DELIVERED:
            return
        place = (row.topic, row.partition)
        if not self.newer(file_id, row):
            self._newest.setdefault(place, {})[row.path] = file_id
        if row.size > 0:
            self._contents.setdefault(place, {}).setdefault(row.sha512[:CONTENT_BYTES], file_id)

    def forget(self, file_id: str, row: Row) -> None:
        """Drop a row that was pruned."""
        place = (row.topic, row.partition)
        newest, contents = self._newest.get(place, {}), self._contents.get(place, {})
        if newest.get(row.path) == file_id:
            del newest[row.path]
        if contents.get(row.sha512[:CONTENT_BYTES]) == file_id:
            del contents[row.sha512[:CONTENT_BYTES]]

    def drop(self, topic: str, partition: int) -> None:
        """Drop a partition that has left."""
        self._newest.pop((topic, partition), None)
        self._contents.pop((topic, partition), None)

    def newest(self, topic: str, partition: int) -> dict[str, str]:
        """Return path -> file id of the newest version of all paths of a partition."""
        return dict(self._newest.get((topic, partition), {}))

    def holder(self, row: Row) -> str | None:
        """Return the file id of the newest version delivered under this row's name."""
        return self._newest.get((row.topic, row.partition), {}).get(row.path)

    def newer(self, file_id: str, row: Row) -> bool:
        """Say whether another version, newer than this one, is delivered under its name."""
        holder = self.holder(row)
        if holder is None or holder == file_id:
            return False
        other = self._row(row.topic, row.partition, holder)
        return other is not None and other.order > row.order

    def copied(self, row: Row) -> str:
        """Return the path of a delivered file of another name with this content, or an empty string.

        An empty file is nobody's copy.
        """
        if row.size <= 0:
            return ""
        for (topic, partition), contents in self._contents.items():
            if topic != row.topic or (file_id := contents.get(row.sha512[:CONTENT_BYTES])) is None:
                continue
            other = self._row(topic, partition, file_id)
            if other is not None and other.path != row.path and other.sha512 == row.sha512:
                return other.path
        return ""
