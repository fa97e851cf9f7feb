"""What all views share: the worker's rows, their order, the settings, the other workers."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from openmsi_streams.config.settings import Settings
from openmsi_streams.tables.rows import Row, State
from openmsi_streams.web import shape
from openmsi_streams.web.index import Entry, Index
from openmsi_streams.web.peers import Peers
from openmsi_streams.web.rates import Rates
from openmsi_streams.web.reader import Notices
from openmsi_streams.web.security import Guard
from openmsi_streams.web.source import NoResults, Results, Source

# About 2 KB each; twice the largest page.
SETTLED = 2000


@dataclass(slots=True)
class Site:
    """One worker's views."""

    source: Source
    index: Index
    settings: Settings
    worker: str
    guard: Guard
    peers: Peers
    notices: Notices = field(default_factory=Notices)
    results: Results = field(default_factory=NoResults)
    rates: Rates = field(default_factory=Rates)
    clock: Callable[[], float] = shape.now
    processors: Callable[[], list[dict[str, Any]]] = list
    """The lab's own processors: ``{"name", "topics", "match"}`` each, and ``"ok", "retried", "failed", "last_time",
    "last_seconds", "last_error"`` once there is something to say."""
    settled: OrderedDict[str, tuple[Entry, Row]] = field(default_factory=OrderedDict)
    """Rows of delivered files that lists showed lately, each with the index's entry that it belongs to."""
    kept: dict[str, tuple[float, Any]] = field(default_factory=dict)
    """Answers that may be given again for a moment, by name, with the time they were made."""

    def row(self, file_id: str) -> Row | None:
        """Return a row as it is now; one that is delivered, and so at its end, is not read from the table each time.

        A table's read lets other threads run and then waits for its own turn, which makes a page of 100 rows slow
        while a worker is busy.
        """
        entry = self.index.get(file_id)
        if entry is None or entry.state != State.DELIVERED:
            return self.source.row(file_id)
        known = self.settled.get(file_id)
        # The index makes a new entry whenever the row is written.
        if known is not None and known[0] is entry:
            self.settled.move_to_end(file_id)
            return known[1]
        row = self.source.row(file_id)
        if row is not None and row.state == State.DELIVERED:
            self.settled[file_id] = (entry, row)
            if len(self.settled) > SETTLED:
                self.settled.popitem(last=False)
        return row

    def note_of_recovery(self) -> list[str]:
        """Return a sentence while this worker is still reading its table."""
        if self.source.health().get("recovered"):
            return []
        return [f"Worker {self.worker} is still reading its table; files may be missing here for a moment."]


SITE: web.AppKey[Site] = web.AppKey("openmsi_streams", Site)


def site_of(request: web.Request) -> Site:
    """Return the site that a request is for."""
    return request.app[SITE]
