"""What the views need of a worker: two small protocols, so that the views know neither Faust nor the engine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Protocol

from openmsi_streams.tables.rows import Row


class Source(Protocol):
    """The rows of one worker, as they are now. All calls but `items` are cheap; none blocks."""

    def topics(self) -> list[str]:
        """Return the chunk topics that the worker reads."""
        ...

    def items(self, topic: str | None = None) -> Iterator[tuple[str, Row]]:
        """Yield (file_id, row) of the worker's rows, with what is not yet written to the table laid over."""
        ...

    def row(self, file_id: str) -> Row | None:
        """Return the row as it is now; None if this worker has none."""
        ...

    async def replay(self, file_id: str) -> bool:
        """Put a quarantined file version back through; False if there is nothing to replay."""
        ...

    def partitions(self) -> dict[str, list[int]]:
        """Return the assigned partitions by topic."""
        ...

    def health(self) -> dict[str, Any]:
        """Return ``assigned``, ``recovered`` (bool), ``stores`` (name -> "" or the problem), ``paused`` ("" or why),
        ``commit_age`` ("topic-partition" -> seconds) and ``problems`` (sentences)."""
        ...

    def live_ids(self) -> list[str]:
        """Return the ids of the files that are in flight on this worker."""
        ...

    def changes(self) -> int:
        """Return a counter that moves with every change, so that an answer can be kept until it moves."""
        ...


class Results(Protocol):
    """What analyses and records left behind, for the views; each call may be made from a thread."""

    def results(self, file_id: str) -> dict[str, Any] | None:
        """Return the PDV result document of a file version."""
        ...

    def pdv_items(self) -> Iterable[tuple[str, dict[str, Any]]]:
        """Yield (file_id, result document) of this worker's analyses, in any order."""
        ...

    def sheet(self, file_id: str) -> bytes | None:
        """Return the PNG of a file version's sheet."""
        ...

    def record(self, file_id: str) -> bytes | None:
        """Return the GEMD record (one JSON document) of a file version."""
        ...

    def records(self) -> Iterable[tuple[str, dict[str, Any]]]:
        """Yield (file_id, {"uid", "name", "kind", "sample", "topic", "path", "time"}) of this worker's records."""
        ...


class NoResults:
    """Stands where no analyses or records are kept."""

    def results(self, file_id: str) -> dict[str, Any] | None:
        return None

    def pdv_items(self) -> Iterable[tuple[str, dict[str, Any]]]:
        return ()

    def sheet(self, file_id: str) -> bytes | None:
        return None

    def record(self, file_id: str) -> bytes | None:
        return None

    def records(self) -> Iterable[tuple[str, dict[str, Any]]]:
        return ()
