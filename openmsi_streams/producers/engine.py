"""The loop of the producer: files come in, become whole, are hashed, sent, acknowledged, receipted, cleaned.

One thread decides and owns the registry and the connection; others watch, hash, read ahead and listen for receipts, and
put what they find into one inbox. The parts: `core` (state and books), `intake` (until a file is hashed), this module
(sending), `aftercare` (receipts, requests, cleaning).
"""

from __future__ import annotations

import heapq
import logging
import queue
import time
from typing import Any

from openmsi_streams.config.memory import give_back
from openmsi_streams.errors import OpenMSIStreamsError
from openmsi_streams.producers.aftercare import Aftercare
from openmsi_streams.producers.content import SMALL, Changed
from openmsi_streams.producers.core import text
from openmsi_streams.producers.mailbox import CaughtUp, Mailbox
from openmsi_streams.producers.registry import Row
from openmsi_streams.producers.sender import NO_WORD, Job, explain

log = logging.getLogger(__name__)

# States and acknowledgements are made to last so often; a kill costs at most the chunks of such a span once more.
FLUSH_SECONDS = 0.25
# A registry without history waits so long for the receipts before it sends what may be delivered already.
CATCH_UP_SECONDS = 20.0
# Without an acknowledgement for so long, the broker is asked whether it is still the same and has the topic.
PROBE_SECONDS = 20.0
# If it has, it may be slow, or the line: a chunk over 30 kbit/s takes more than two minutes. Then all is begun anew.
SILENT_SECONDS = 300.0


class Engine(Aftercare):
    """Sends files to one topic and follows each until its receipt."""

    def connect(self) -> None:
        """Connect; raises what `Sender.connect` raises."""
        is_new = self.sender.connect()
        before = self.registry.meta("cluster")
        if is_new or (before and before != self.sender.cluster):
            self._send_all_again()
        self.registry.set_meta("cluster", self.sender.cluster)
        self._connected = True
        self.connect_error = ""
        self._connect_pause = 1.0
        if self.mailbox is None:
            self.mailbox = Mailbox(
                self.settings,
                self.topic,
                self.registry.offsets(),
                lambda letters: self.inbox.put(("mail", letters)),
                self._open,
            )
            self.mailbox.start()

    def begin(self, *, hold: bool = False) -> None:
        """Take up what an earlier run left; ``hold``: a registry without history waits for the receipts first."""
        for row in self.registry.rows("seen", "ready", "sending", "failed"):
            # What the receiver refused stays refused until it changes or is replayed there.
            if row.state != "failed" or not row.sent:
                self._wait_again(row, "", 0.0)
        self.registry.prune(time.time())
        if self.policy.kind != "keep":
            for row in self.registry.rows("delivered"):
                self._plan_cleaning(row)
        self._begun = True
        if hold and self.registry.fresh:
            self._hold_until = time.monotonic() + CATCH_UP_SECONDS

    def _send_all_again(self) -> None:
        """The topic was made anew: what was sent before and is not proved to be delivered is gone with the old one."""
        for row in list(self.registry.rows("seen", "ready", "sending", "sent")):
            if not row.sent and not row.acked:
                continue
            row.sent, row.acked = 0.0, ""
            row = self.rows.get(row.path, row)
            row.sent, row.acked = 0.0, ""
            if row.state == "sent":
                log.warning("%s is sent again: the topic that had it is gone", row.path)
                self._set(row, "ready")
                if self._begun:
                    self._wait_again(row, "", 0.0)
            else:
                self.registry.put(row)

    def stop(self) -> None:
        """Ask the loop to end; safe from signal handlers and other threads."""
        self.stopping = True
        self.inbox.put(("wake", None))

    def close(self, seconds: float = 10.0) -> int:
        """Finish what the broker still takes within ``seconds``, record all, end the threads; return what is left."""
        self.stopping = True
        left = self.sender.flush(seconds)
        for job in list(self.jobs.values()):
            if job.done and job.error is None and not job.abandoned and job.handed_over:
                self._finished(job)
            else:
                self._book(job)
            job.close()
        self.sender.close()
        self.registry.commit()
        if self.mailbox is not None:
            self.mailbox.stop()
        self.preparers.shutdown(wait=False, cancel_futures=True)
        self.readers.shutdown(wait=False, cancel_futures=True)
        if self.mailbox is not None:
            self.mailbox.join(5.0)
        self.registry.close()
        return left

    @property
    def busy(self) -> bool:
        """Something is still to be read, sent or acknowledged."""
        return bool(len(self.tracker) or self._queued or self._preparing or self.jobs)

    def turn(self, idle_wait: float = 0.5) -> None:
        """Do one round of everything that is due; wait up to ``idle_wait`` seconds if there is nothing to send."""
        now = time.monotonic()
        self._probe(now)
        self._unpark()
        moved = self._send()
        begun = len(self.jobs)
        self._take_inbox(0.0 if moved or self.jobs else self._pause(now, idle_wait))
        now = time.monotonic()
        for found in self.tracker.ready(now):
            if isinstance(found, tuple):
                self._vanished(*found)
            else:
                row = self._row(found.path)
                row.size, row.mtime_ns = found.size, found.mtime_ns
                self._set(row, "ready")
                self._enqueue(row)
        self._prepare()
        if not self._connected or self.sender.fatal:
            # While this waits for the broker, a large file that was there at the start is being hashed.
            self._keep_connection(now)
            self._prepare()
        self._retries(now)
        if self.jobs and not moved and len(self.jobs) <= begun:
            head = next((job for job in self._current if job.reading), None)
            if head is not None and self.sender.takes(head):
                self.sender.wait_for_reader(head, 0.02)
                self.sender.poll(0)
            else:
                # An acknowledgement ends the wait; what comes into the inbox does not, so it is short.
                self.sender.poll(0.2 if self.sender.down_since else min(0.05, self.sender.throttle.wait() or 0.02))
        else:
            self.sender.poll(0)
        if now - self._flushed >= FLUSH_SECONDS:
            self._flush(now)
            if self._sent_large and not self.busy:
                self._sent_large = False
                give_back()

    def _pause(self, now: float, idle_wait: float) -> float:
        """How long the inbox may be waited for, given what is due next."""
        due = [
            found for found in (self.tracker.next_due(), *(h[0][0] for h in (self._retry, self._clean) if h)) if found
        ]
        return max(0.0, min(idle_wait, *(at - now for at in due))) if due else idle_wait

    def _send(self) -> bool:
        """Give each file in hand a short turn; say whether anything went."""
        moved = False
        large_turn = False
        for _ in range(len(self._current)):
            if not self.sender.room() or self.stopping:
                break
            job = self._current.popleft()
            if job.prepared.data is None:
                # Only the first large file is sent; the next one is hashed and waits.
                if large_turn:
                    self._current.append(job)
                    continue
                large_turn = True
            try:
                moved |= self.sender.step(job)
            except Changed:
                log.warning(
                    "%s changed while it was being sent: this version is abandoned, the new one follows", job.path
                )
                job.abandoned = True
            except OSError as error:
                job.abandoned = True
                log.warning("%s cannot be read any more: %s", job.path, error.strerror)
            if job.abandoned or job.error is not None or job.handed_over:
                self._release(job)
                if job.outstanding == 0:
                    self._finished(job)
            elif job.prepared.data is None:
                self._current.insert(self._first_large(), job)
            else:
                self._current.append(job)
        return moved

    def _first_large(self) -> int:
        """The large file in hand stays before the other large ones."""
        return next((at for at, job in enumerate(self._current) if job.prepared.data is None), len(self._current))

    def _release(self, job: Job) -> None:
        if job.prepared.data is not None:
            self._small_bytes -= len(job.prepared.data)
        job.close(self.preparers)
        job.released = True

    def _acknowledged(self, job: Job) -> None:
        self._dirty.add(job.path)
        if job.done and job.released:
            self._finished(job)

    def _finished(self, job: Job) -> None:
        """All of a job is acknowledged, or it failed."""
        if self.jobs.get(job.path) is not job:
            return
        del self.jobs[job.path]
        self._dirty.discard(job.path)
        self._sent_large |= job.prepared.size > SMALL
        row = self._row(job.path)
        row.acked = text(job.acked) if not job.answer else row.acked
        if job.error is not None:
            self._failed(job, row)
            return
        if job.abandoned:
            self._wait_again(row, "changed while it was being sent", 0.5)
            return
        row.sent = time.time()
        row.reason = ""
        if not job.answer:
            row.delivered = row.delivered or self._proven(job, row)
        self._set(row, "delivered" if row.delivered and not job.answer else "sent")
        log.info("sent %s (%d bytes, %d chunks)", job.path, job.prepared.size, job.planned)
        if row.state == "delivered":
            log.info("delivered %s", row.path)
        self.rows.pop(job.path, None)
        if row.delivered:
            self._plan_cleaning(row)
        self._look_again(job.path)

    def _proven(self, job: Job, row: Row) -> float:
        """Return when a receipt that came too early for its row says that this was delivered; 0: none does.

        A run that was killed may have sent the file without the registry's taking note of it; its receipt is then read
        before this run knows the file's hash, and no second one need come. A receipt from before the file was seen
        proves nothing of what is sent now.
        """
        receipt = self.registry.receipt(job.far_path)
        if receipt is None or receipt[:2] != (job.file_id, "delivered"):
            return 0.0
        return receipt[2] if row.versions == 1 and receipt[2] >= row.seen else 0.0

    def _failed(self, job: Job, row: Row) -> None:
        reason = explain(self.settings, self.topic, job.error)
        if job.error.fatal() or job.error.code() == -152:  # _PURGE_QUEUE: our own doing at a reconnection
            self._set(row, "ready")
            self._enqueue(row)
            return
        self._try_later(row, reason)
        if "created again" in reason:
            self.sender.fatal = self.sender.fatal or reason

    def _retries(self, now: float) -> None:
        while self._retry and self._retry[0][0] <= now:
            row = self.registry.get(heapq.heappop(self._retry)[1])
            if row is not None and row.state == "failed" and row.path not in self.tracker:
                self._wait_again(row, row.reason, 0.0)
        while self._clean and self._clean[0][0] <= now:
            self._start_cleaning(heapq.heappop(self._clean)[1])

    def _probe(self, now: float) -> None:
        """Nothing is acknowledged for long: librdkafka waits for ever for a topic that was deleted."""
        silent = now - max(self.sender.last_ack, self._probed)
        if self.sender.in_flight and silent > PROBE_SECONDS and not self.sender.fatal:
            self._probed = now
            self.preparers.submit(lambda: self.inbox.put(("silent", self.sender.why_silent())))

    def _keep_connection(self, now: float) -> None:
        if self._connected and not self.sender.fatal:
            return
        if now < self._reconnect_at or self.stopping:
            return
        if self.sender.fatal:
            log.warning("the connection is made anew: %s", self.sender.fatal)
            self._connected = False
        try:
            jobs = list(self.jobs.values())
            for job in jobs:
                self._book(job)
            self.connect()
            for job in jobs:
                job.close()
                self.jobs.pop(job.path, None)
                row = self._row(job.path)
                self._set(row, "ready")
                self._enqueue(row)
            self._current.clear()
            self._small_bytes = sum(size for size in self._preparing.values() if size <= SMALL)
        except OpenMSIStreamsError as error:
            if str(error) != self.connect_error:
                log.warning("%s It is tried again.", error)
            self.connect_error = str(error)
            self._reconnect_at = time.monotonic() + self._connect_pause
            self._connect_pause = min(30.0, self._connect_pause * 2)

    def _take_inbox(self, wait: float) -> None:
        try:
            kind, what = self.inbox.get(timeout=wait) if wait > 0 else self.inbox.get_nowait()
            # Not for ever: sending goes on between.
            for _ in range(1000):
                self._take(kind, what)
                kind, what = self.inbox.get_nowait()
            self._take(kind, what)
        except queue.Empty:
            pass

    def _take(self, kind: str, what: Any) -> None:
        if kind == "prepared":
            self._prepared(*what)
        elif kind == "found":
            self.look_at(what)
        elif kind == "walked":
            self.walked(what)
        elif kind == "check":
            self.check_asked = True
        elif kind == "skip":
            self.skip(*what)
        elif kind == "silent":
            silent = time.monotonic() - self.sender.last_ack
            if what and self.sender.in_flight and silent > (SILENT_SECONDS if what == NO_WORD else PROBE_SECONDS):
                self.sender.fatal = self.sender.fatal or what
        elif kind == "cleaned":
            self._cleaned(*what)
        elif kind == "mail":
            for letter in what:
                if isinstance(letter, CaughtUp):
                    self.caught_up = True
                else:
                    self._letter(letter)
