"""What all parts of the producer's loop share: its state, and the books."""

from __future__ import annotations

import heapq
import logging
import queue
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import msgspec

from openmsi_streams.chunks import ranges
from openmsi_streams.producers.cleaning import Policy
from openmsi_streams.producers.content import Piece, Prepared
from openmsi_streams.producers.filters import Filter
from openmsi_streams.producers.mailbox import Mailbox, Open
from openmsi_streams.producers.readiness import Rule, Tracker
from openmsi_streams.producers.registry import Registry, Row
from openmsi_streams.producers.sender import Job, Seal, Sender

if TYPE_CHECKING:
    from openmsi_streams.config.settings import Settings

log = logging.getLogger(__name__)

# A file that cannot be read or sent is tried again after so many seconds, the last for ever.
RETRY = (2.0, 10.0, 60.0, 300.0, 900.0)
Select = Callable[[str, IO[bytes], int], "tuple[tuple[Piece, ...], str]"]
"""``(path, file, size) -> (pieces, name suffix)``; no pieces: the whole file."""


class Core:
    """State of one engine and how it is written down. Only the loop's thread touches it."""

    def __init__(
        self,
        settings: Settings,
        topic: str,
        registry: Registry,
        locate: Callable[[str], Path],
        *,
        rules: list[Rule] | None = None,
        filter_: Filter | None = None,
        policy: Policy | None = None,
        seal: Seal | None = None,
        open_: Open | None = None,
        select: Select | None = None,
        selected: str = "",
        on_change: Callable[[Row], None] = lambda row: None,
        on_skip: Callable[[str, str], None] = lambda path, why: None,
        connect_seconds: float = 0.0,
    ) -> None:
        """``locate`` gives the file of a relative path; ``on_change`` is called after a row's state changed.

        ``connect_seconds``: how long one attempt to connect may hold up the loop; 0: ``broker.connect_timeout``.
        """
        self.settings, self.topic, self.registry, self.locate = settings, topic, registry, locate
        self.filter = filter_ or Filter()
        self.policy = policy or Policy("keep")
        self.select, self.selected = select, selected
        self.on_change, self.on_skip = on_change, on_skip
        # Looks often enough for the quiet time, and not more than once a second.
        self.tracker = Tracker(rules or [], min(1.0, max(0.1, settings.producer.quiet_seconds / 2)))
        self.inbox: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self.preparers = ThreadPoolExecutor(2, "prepare")
        self.readers = ThreadPoolExecutor(2, "read")
        patient = settings
        if connect_seconds:
            quick = msgspec.structs.replace(settings.broker, connect_timeout=connect_seconds)
            patient = msgspec.structs.replace(settings, broker=quick)
        self.sender = Sender(patient, topic, self.readers, seal=seal, on_acknowledged=self._acknowledged)
        self._open = open_
        self.mailbox: Mailbox | None = None
        self.caught_up = False
        self.rows: dict[str, Row] = {}
        """Rows of files in work; the registry has them all."""
        self.jobs: dict[str, Job] = {}
        self.skipped: set[str] = set()
        self.folder_problem = ""
        self.stopping = False
        self.check_asked = False
        """Somebody at the console wants to see the state."""
        self.started = time.time()
        self._heaps: dict[bool, list[tuple[int, str]]] = {True: [], False: []}
        self._queued: set[str] = set()
        self._preparing: dict[str, int] = {}
        self._parked: list[tuple[str, Prepared]] = []
        self._current: deque[Job] = deque()
        self._small_bytes = 0
        self._dirty: set[str] = set()
        self._retry: list[tuple[float, str]] = []
        self._clean: list[tuple[float, str]] = []
        self._answers: dict[str, tuple[int, ...]] = {}
        self._flushed = time.monotonic()
        self._sent_large = False
        self._connected = False
        self._begun = False
        self._probed = 0.0
        self._reconnect_at = 0.0
        self._connect_pause = 1.0
        self.connect_error = ""
        self._first_walk = True
        self._hold_until = 0.0

    @property
    def current_job(self) -> Job | None:
        """The file that is being sent now."""
        return self._current[0] if self._current else None

    def skip(self, path: str, why: str) -> None:
        """Note once that a path is not sent, with the rule."""
        if path not in self.skipped:
            self.skipped.add(path)
            log.info("skipped %s: %s", storable(path), why)
            self.on_skip(path, why)

    def _acknowledged(self, job: Job) -> None:
        """Take an acknowledgement; `Engine` does."""
        raise NotImplementedError

    def _row(self, path: str) -> Row:
        row = self.rows.get(path) or self.registry.get(path)
        if row is None:
            row = Row(path=path, seen=time.time())
        self.rows[path] = row
        return row

    def _set(self, row: Row, state: Any) -> None:
        row.state = state
        row.changed = time.time()
        self.registry.put(row)
        self.on_change(row)

    def _book(self, job: Job) -> None:
        if not job.answer:
            row = self._row(job.path)
            row.acked = text(job.acked)
            self.registry.put(row)

    def _flush(self, now: float) -> None:
        for path in self._dirty:
            if path in self.jobs:
                self._book(self.jobs[path])
        self._dirty.clear()
        self.registry.commit()
        self._flushed = now

    def _plan_cleaning(self, row: Row) -> None:
        if self.policy.kind != "keep" and row.state == "delivered" and not row.selected:
            # Counted on this machine's clock: from when the receipt was read here, or the file came back.
            due = max(0.0, row.changed + self.settings.producer.grace_seconds - time.time())
            heapq.heappush(self._clean, (time.monotonic() + due, row.path))


def parsed(text: str) -> ranges.Ranges:
    return tuple(int(part) for part in text.split(",")) if text else ()


def text(found: ranges.Ranges) -> str:
    return ",".join(map(str, found))


def storable(path: str) -> str:
    """A name that is not valid Unicode is kept escaped, so that it can be shown."""
    try:
        path.encode("utf-8")
        return path
    except UnicodeEncodeError:
        return path.encode("utf-8", "backslashreplace").decode()
