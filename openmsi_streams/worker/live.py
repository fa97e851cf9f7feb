"""A file version in flight on this worker: its row as it is now, ahead of the table, and its partial file."""

from __future__ import annotations

from openmsi_streams.assembly.partial import PartialFile
from openmsi_streams.tables.rows import Row


class Live:
    """What the engine holds of an open file version."""

    __slots__ = (
        *("again", "busy", "checked", "content", "dirty", "failures", "file_id", "flushed_at", "flushed_received"),
        *("lane", "mark", "partial", "refills", "row", "trusted", "uploading", "whole_at"),
    )

    def __init__(self, file_id: str, row: Row, partial: PartialFile, *, trusted: bool) -> None:
        self.file_id = file_id
        self.row = row
        self.partial = partial
        self.lane = int(file_id[:8], 16)
        """Which writer thread the file belongs to."""
        self.trusted = trusted
        """Whether this process wrote all of the partial file, so that a wrong hash is not the disk's fault."""
        self.dirty = False
        self.flushed_at = 0.0
        self.flushed_received = 0
        self.busy = False
        """Being verified or delivered."""
        self.content: memoryview | None = None
        """All its bytes, while they are not in the partial file."""
        self.refills = 0
        """Refills of the whole file because of a wrong hash."""
        self.checked = False
        """Whether each chunk's own hash is checked from now on, since the file's hash was wrong once."""
        self.failures = 0
        """Times that the disk did not take the bytes."""
        self.again = False
        """Whether the bytes were begun anew on this worker."""
        self.mark = 0
        """Steps of growth after which stores were last given a look."""
        self.uploading: set[str] = set()
        """Stores that are being sent parts just now."""
        self.whole_at = 0.0
        """When the last of its bytes came, seconds since the epoch."""
