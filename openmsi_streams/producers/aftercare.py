"""What comes back: receipts and requests of workers, and what happens to a file after its receipt."""

from __future__ import annotations

import heapq
import logging
import os
import time

from openmsi_streams.chunks.keys import file_id
from openmsi_streams.chunks.messages import Receipt, Request
from openmsi_streams.producers import system
from openmsi_streams.producers.cleaning import clean
from openmsi_streams.producers.content import Changed
from openmsi_streams.producers.core import RETRY, parsed
from openmsi_streams.producers.intake import Intake
from openmsi_streams.producers.mailbox import Letter
from openmsi_streams.producers.registry import Row

log = logging.getLogger(__name__)


class Aftercare(Intake):
    """The last part of a file's way."""

    def _letter(self, letter: Letter) -> None:
        self.registry.set_offset(letter.topic, letter.partition, letter.next_offset)
        if letter.receipt is not None:
            self._receipt(letter.receipt)
        elif letter.request is not None:
            self._request(letter.request)

    def _receipt(self, receipt: Receipt) -> None:
        expected = file_id(self.topic, receipt.path, receipt.sha512)
        if receipt.file_id != expected or receipt.topic != self.topic:
            log.warning("a receipt for %s contradicts itself and is not used", receipt.path)
            return
        if any(one.sha512 != receipt.sha512 for one in receipt.deliveries):
            log.error("a receipt for %s names a store that holds other bytes; the file is kept", receipt.path)
            return
        when = receipt.time or time.time()
        self.registry.keep_receipt(receipt.path, receipt.file_id, receipt.state, when)
        stored = self.registry.by_id(receipt.file_id)
        if stored is None:
            return
        row = self.rows.get(stored.path, stored)
        if row.file_id != receipt.file_id or row.sha512 != receipt.sha512:
            return
        if receipt.state == "delivered":
            row.delivered = when
            if row.state == "sent" or row.state == "failed":
                row.reason = ""
                self._set(row, "delivered")
                log.info("delivered %s", row.path)
                self._plan_cleaning(row)
                self._look_again(row.path)
            else:
                self.registry.put(row)
        elif receipt.state == "superseded":
            row.reason = "another version has taken this path at the receiver"
            self.registry.put(row)
        elif row.state in ("sent", "delivered"):
            row.reason = f"the receiver put it into quarantine: {receipt.reason} {receipt.message}".strip()
            log.error("%s: %s", row.path, row.reason)
            row.delivered = 0.0
            self._set(row, "failed")

    def _request(self, request: Request) -> None:
        row = self.registry.by_id(request.file_id)
        if row is None or row.sha512 != request.sha512:
            log.debug("a request for another producer's file or an older version: %s", request.path)
            return
        if row.delivered and request.time and request.time < row.delivered:
            return
        size = max((end for _, end in request.missing), default=0)
        job = self.jobs.get(row.path)
        if job is not None:
            wanted = set(chunks_of(request, job.prepared.size, job.prepared.chunk_bytes))
            # What is still to go goes anyway.
            wanted -= set(job.waiting)
            if job.prepared.data is None and not job.handed_over and not job.abandoned:
                job.todo.extend(sorted(wanted))
                row = self._row(row.path)
                row.resent += len(wanted)
            return
        if row.state not in ("sent", "delivered", "failed", "cleaned") or not row.chunk_bytes:
            return
        log.debug("request for %s up to %d", row.path, size)
        total = self._sent_size(row)
        self._answers[row.path] = tuple(chunks_of(request, total, row.chunk_bytes))
        try:
            found = os.stat(system.long_path(self.locate(row.path)))
        except OSError as error:
            log.error("%s is asked for again, but cannot be read: %s", row.path, error.strerror)
            del self._answers[row.path]
            return
        row.size, row.mtime_ns = found.st_size, found.st_mtime_ns
        self.rows[row.path] = row
        self._enqueue(row)

    def _sent_size(self, row: Row) -> int:
        acked = parsed(row.acked)
        return acked[-1] if acked else 0

    def _start_cleaning(self, path: str) -> None:
        row = self.registry.get(path)
        if row is None or row.state != "delivered" or not row.delivered or path in self.jobs or path in self._preparing:
            return
        self.preparers.submit(self._clean_one, row)

    def _clean_one(self, row: Row) -> None:
        result: str | Exception
        try:
            result = clean(self.policy, self.locate(row.path), row.path, row.size, row.mtime_ns, row.sha512)
        except Exception as error:
            result = error
        self.inbox.put(("cleaned", (row.path, result)))

    def _cleaned(self, path: str, result: str | Exception) -> None:
        row = self.registry.get(path)
        if row is None or row.state != "delivered":
            return
        if isinstance(result, str):
            row.reason = result
            self._set(row, "cleaned")
            log.info("%s is delivered and was %s", path, result)
        elif isinstance(result, Changed):
            log.info("%s changed after it was delivered; it is kept and its new content is sent", path)
            self._wait_again(row, "changed after it was delivered", 0.0)
        elif isinstance(result, FileNotFoundError):
            row.reason = "removed by somebody else after its delivery"
            self._set(row, "cleaned")
        else:
            log.error("%s is delivered but cannot be cleaned: %s", path, result)
            heapq.heappush(self._clean, (time.monotonic() + RETRY[-2], path))


def chunks_of(request: Request, size: int, chunk_bytes: int) -> list[int]:
    """Return the indexes of the chunks that cover the missing ranges of a file of ``size`` bytes."""
    indexes: set[int] = set()
    for start, end in request.missing:
        end = size if end < 0 else min(end, size)
        if size == 0:
            indexes.add(1)
        indexes.update(range(start // chunk_bytes + 1, -(-end // chunk_bytes) + 1))
    return sorted(indexes)
