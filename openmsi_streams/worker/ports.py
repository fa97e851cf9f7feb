"""What the engine needs from outside, as small protocols: Faust fulfils them in a worker, dictionaries in tests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from openmsi_streams.assembly.message import Message
from openmsi_streams.tables.alone import Alone


class Rows(Protocol):
    """The table of one chunk topic, addressed by partition and key. Writes also go to the changelog."""

    alone: Alone
    """Whether others wrote to the changelog."""

    @property
    def changelog(self) -> str:
        """Name of the changelog topic."""

    def read_to(self, partition: int) -> int:
        """Return the offset of the last changelog record that is in the table; -1 if there is none."""

    def get(self, partition: int, key: bytes) -> bytes | None:
        """Return a value or None."""

    def put(self, partition: int, key: bytes, value: bytes) -> None:
        """Set a value."""

    def delete(self, partition: int, key: bytes) -> None:
        """Remove a key."""

    def items(self, partition: int, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Yield every key of a partition that begins with ``prefix``, and its value."""


class Publisher(Protocol):
    """The producer of the worker."""

    async def send(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        *,
        partition: int | None = None,
        headers: dict[str, bytes] | None = None,
        timestamp: float | None = None,
    ) -> Any:
        """Send a message and return when the broker has it. Raises when it has not."""


class Log(Protocol):
    """The log, read again. All calls block."""

    def committed(self, group: str, places: list[tuple[str, int]]) -> dict[tuple[str, int], int]:
        """Return the committed offset of each (topic, partition) that has one."""

    def bounds(self, places: list[tuple[str, int]]) -> dict[tuple[str, int], tuple[int, int]]:
        """Return the first offset and the one behind the last for each (topic, partition)."""

    def watermarks(self, topic: str, partition: int) -> tuple[int, int]:
        """Return the first offset that is there and the one behind the last."""

    def read(self, topic: str, partition: int, start: int, end: int) -> Iterator[Message]:
        """Yield the messages of offsets ``start`` to ``end - 1`` that are there."""


class Index(Protocol):
    """What the views look files up in."""

    def note(self, file_id: str, row: Any) -> None:
        """Take in a row as it is now."""

    def begin(self) -> None:
        """Start to take in many rows."""

    def add(self, file_id: str, row: Any) -> None:
        """Take in a row as the table has it, unless it was noted or forgotten since `begin`."""

    def complete(self) -> None:
        """Show the files that were added since `begin`."""

    def where(self, file_id: str) -> tuple[str, int] | None:
        """Return the topic and partition of a row, or None."""

    def forget(self, file_id: str) -> None:
        """Drop a pruned row, or one of a partition that has left."""
