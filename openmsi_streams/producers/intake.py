"""Files come in: seen, followed until they are whole, hashed, and made into jobs."""

from __future__ import annotations

import heapq
import logging
import os
import time
from pathlib import Path

from openmsi_streams.chunks.reasons import Unusable
from openmsi_streams.producers import content, system
from openmsi_streams.producers.content import Changed, Prepared
from openmsi_streams.producers.core import RETRY, Core, parsed, storable
from openmsi_streams.producers.registry import Row
from openmsi_streams.producers.sender import Job

log = logging.getLogger(__name__)

# Small files in memory at a time: read ahead while the broker takes the others.
SMALL_BYTES = 16 << 20
SMALL_FILES = 200


class Intake(Core):
    """The first half of the loop."""

    def look_at(self, found: list[tuple[str, int, int]]) -> None:
        """Take note of files with size and mtime; safe only in the loop's thread (others: put it into the inbox)."""
        for path, size, mtime_ns in found:
            self._see(path, size, mtime_ns)

    def _see(self, path: str, size: int, mtime_ns: int) -> None:
        if path in self.tracker or path in self._queued:
            return
        if path in self._preparing or path in self.jobs:
            # Reading it finds a change by itself, and it is looked at once more afterwards.
            return
        known = None if path in self.skipped else self.registry.look(storable(path))
        if known is not None:
            if (size, mtime_ns) == known[1:] and known[0] not in ("seen", "ready", "sending"):
                return
        elif path in self.skipped:
            return
        elif why := self.filter.why_not(path):
            self.skip(path, why)
            return
        now = time.time()
        row = self.registry.get(path) if known is not None else None
        if row is None:
            row = Row(path=storable(path), seen=now)
            if row.path != path:
                row.size, row.mtime_ns = size, mtime_ns
                row.reason = "its name is not valid Unicode; rename it"
                self._set(row, "failed")
                log.error("%s cannot be sent: %s", row.path, row.reason)
                return
            if self._is_old(mtime_ns):
                row.size, row.mtime_ns = size, mtime_ns
                row.reason = "was there before the start, and existing files are not asked for"
                self._set(row, "skipped")
                return
        row.size, row.mtime_ns, row.reason = size, mtime_ns, ""
        self.rows[path] = row
        self._set(row, "seen")
        self.tracker.add(path, self.locate(path), size, mtime_ns, time.monotonic(), now)

    def _is_old(self, mtime_ns: int) -> bool:
        """Say whether a new path was there before the first start and such files are not wanted.

        A registry that was rebuilt knows nothing of what it had sent or not: then everything is looked at.
        """
        if self.settings.producer.existing or not self._first_walk or self.registry.rebuilt:
            return False
        return self.registry.meta("walked") is None and mtime_ns < self.started * 1e9

    def walked(self, problem: str) -> None:
        """Take note that the folder was walked through."""
        self.folder_problem = problem
        if not problem and self._first_walk:
            self._first_walk = False
            self.registry.set_meta("walked", "yes")

    def _vanished(self, path: str, error: OSError) -> None:
        row = self._row(path)
        self.rows.pop(path, None)
        if isinstance(error, FileNotFoundError):
            if row.sent and row.sha512:
                # The version that was sent is on its way or there; nothing newer will come.
                self._set(row, "delivered" if row.delivered else "sent")
                return
            row.reason = "deleted before it could be sent"
            log.warning("%s was deleted before it could be sent", path)
            self._set(row, "failed")
        else:
            self._try_later(row, f"cannot be looked at: {error.strerror}")

    def _wait_again(self, row: Row, reason: str, wait: float) -> None:
        """Follow a file until it is whole (again)."""
        source = self.locate(row.path)
        try:
            found = os.stat(system.long_path(source))
        except OSError as error:
            self._vanished(row.path, error) if row.state != "failed" else None
            return
        row.size, row.mtime_ns, row.reason = found.st_size, found.st_mtime_ns, reason
        self.rows[row.path] = row
        self._set(row, "seen")
        self.tracker.add(row.path, source, row.size, row.mtime_ns, time.monotonic(), time.time(), wait)

    def _try_later(self, row: Row, reason: str) -> None:
        row.reason = reason
        row.attempts += 1
        pause = RETRY[min(row.attempts, len(RETRY)) - 1]
        log.error("%s: %s; tried again in %.0f s", row.path, reason, pause)
        self._set(row, "failed")
        self.rows.pop(row.path, None)
        heapq.heappush(self._retry, (time.monotonic() + pause, row.path))

    def _look_again(self, path: str) -> None:
        """A change that came while a file was being sent makes a new version."""
        try:
            found = os.stat(system.long_path(self.locate(path)))
        except OSError:
            return
        self._see(path, found.st_size, found.st_mtime_ns)

    def _enqueue(self, row: Row) -> None:
        if row.path not in self._queued:
            self._queued.add(row.path)
            heapq.heappush(self._heaps[row.size <= content.SMALL], (row.mtime_ns, row.path))

    def _may_start(self) -> bool:
        """Say whether files may be sent: there is a connection, and what receipts have to say first was heard."""
        if not self._connected or self.sender.fatal:
            return False
        return not self._hold_until or self.caught_up or time.monotonic() >= self._hold_until

    def _unpark(self) -> None:
        """Start what was hashed before it could be sent."""
        if self._parked and self._may_start():
            parked, self._parked = self._parked, []
            for path, prepared in parked:
                # An outage may have been long.
                self._prepared(path, prepared if content.is_current(prepared) else Changed())

    def _prepare(self) -> None:
        """Hand the oldest files to the hashing threads: many small ones, one large one at a time."""
        if self.stopping:
            return
        small = sum(1 for size in self._preparing.values() if size <= content.SMALL) + sum(
            1 for job in self._current if job.prepared.data is not None
        )
        heap = self._heaps[True]
        while heap and small < SMALL_FILES and self._small_bytes < SMALL_BYTES and self._may_start():
            self._submit(heapq.heappop(heap)[1])
            small += 1
        heap = self._heaps[False]
        large = sum(1 for size in self._preparing.values() if size > content.SMALL) + sum(
            1 for job in self._current if job.prepared.data is None
        )
        # One is sent while the next is hashed; the first is hashed while there is no connection yet.
        if heap and large < 2 and not any(size > content.SMALL for size in self._preparing.values()):
            self._submit(heapq.heappop(heap)[1])

    def _submit(self, path: str) -> None:
        self._queued.discard(path)
        row = self._row(path)
        self._preparing[path] = row.size
        if row.size <= content.SMALL:
            self._small_bytes += row.size
        # A version that was begun is cut as before, whatever the settings say now.
        chunk_bytes = row.chunk_bytes if row.acked or path in self._answers else 0
        self.preparers.submit(
            self._prepare_one, path, self.locate(path), chunk_bytes or self.settings.chunks.chunk_bytes
        )

    def _prepare_one(self, path: str, source: Path, chunk_bytes: int) -> None:
        result: Prepared | Exception
        try:
            select = self.select
            chosen = (lambda file, size: select(path, file, size)) if select is not None else None
            result = content.prepare(source, chunk_bytes, self.readers, chosen, lambda: self.stopping)
        except Exception as error:
            result = error
        self.inbox.put(("prepared", (path, result)))

    def _prepared(self, path: str, result: Prepared | Exception) -> None:
        if isinstance(result, Prepared) and not self._may_start():
            self._parked.append((path, result))
            return
        size = self._preparing.pop(path)
        row = self._row(path)
        indexes = self._answers.pop(path, None)
        if not isinstance(result, Prepared) or result.data is None:
            self._small_bytes -= size if size <= content.SMALL else 0
        else:
            self._small_bytes += len(result.data) - (size if size <= content.SMALL else 0)
        if isinstance(result, Changed):
            if not self.stopping:
                log.info("%s is being written; it waits until it is whole", path)
                self._wait_again(row, "changed while it was read", 0.5)
            return
        if isinstance(result, FileNotFoundError):
            self._vanished(path, result)
            return
        if isinstance(result, OSError):
            self._try_later(row, f"cannot be read: {result.strerror or result}")
            return
        if isinstance(result, Exception):
            log.error("%s cannot be prepared", path, exc_info=result)
            self._try_later(row, f"cannot be prepared: {result}")
            return
        self._start(row, result, indexes)

    def _start(self, row: Row, prepared: Prepared, indexes: tuple[int, ...] | None) -> None:
        """Decide what of a hashed content goes out."""
        digest = prepared.sha512.hex()
        row.size, row.mtime_ns = prepared.source_size, prepared.mtime_ns
        selected = self.selected if prepared.append else ""
        same = digest == row.sha512 and selected == row.selected
        if not same:
            if indexes is not None:
                log.info("%s has changed since it was asked for; its new content is sent", row.path)
            row.chunk_bytes, row.acked, row.selected = prepared.chunk_bytes, "", selected
            row.delivered = row.sent = 0.0
            indexes = None
        acked = parsed(row.acked) if row.chunk_bytes == prepared.chunk_bytes else ()
        try:
            job = Job(
                self.topic,
                row.path,
                prepared,
                self.sender.partitions,
                acked=acked,
                indexes=indexes if indexes is not None and same else None,
            )
        except Unusable as error:
            self._forget(row.path, prepared)
            row.reason = str(error.what) + " Rename it."
            log.error("%s cannot be sent: %s", row.path, row.reason)
            self._set(row, "failed")
            return
        row.sha512, row.file_id = digest, job.file_id
        if not same:
            row.versions += 1
            receipt = self.registry.receipt(job.far_path) if self._hold_until and row.versions == 1 else None
            if receipt is not None and receipt[:2] == (job.file_id, "delivered"):
                # A registry without history: the newest word on this path is that it holds this very content.
                log.info("%s is delivered already, says its receipt", row.path)
                row.sent = row.delivered = receipt[2]
        if indexes is None and (row.delivered or (same and row.sent)):
            # Touched, or written again with the same bytes.
            self._forget(row.path, prepared)
            self._set(row, "delivered" if row.delivered else "sent")
            self._plan_cleaning(row)
            self._look_again(row.path)
            return
        row.attempts += 1
        if job.answer:
            row.resent += len(job.todo)
            log.info("%s: the worker asks for %d of %d chunks again", row.path, len(job.todo), prepared.total)
        self.jobs[row.path] = job
        self._current.append(job)
        self._set(row, "sending")

    def _forget(self, path: str, prepared: Prepared) -> None:
        if prepared.data is not None:
            self._small_bytes -= len(prepared.data)
            prepared.data = None
        self.rows.pop(path, None)
