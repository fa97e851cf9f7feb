"""Feeds Faust's consumer through librdkafka: the messages come from it, everything else stays aiokafka's.

aiokafka keeps the group, the assignment, positions, pauses and commits. Its own fetching copies each byte several times
in Python and unpacks batches on the interpreter; librdkafka does both in C beside it (docs/decisions.md, "Fetching").
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator
from typing import Any

from aiokafka.consumer.fetcher import FetchResult
from aiokafka.structs import ConsumerRecord, TopicPartition
from confluent_kafka import Consumer, KafkaException
from confluent_kafka import TopicPartition as Place

log = logging.getLogger(__name__)

# How long the broker may hold an empty fetch: a partition that is sought waits behind it.
FETCH_WAIT_MS = 250
# What one partition may hand over in a fetch: eight chunks of the default size keep the pipe full.
FETCH_BYTES = 4 << 20
# What a record takes beside its key and value: a named tuple, numbers, two headers of objects.
RECORD_BYTES = 400
# How long the thread waits for a message before it looks whether partitions have moved.
POLL_SECONDS = 0.1
# Messages taken at once from librdkafka's queue behind the first.
BATCH = 500
# librdkafka's pause after its queue was full is a second; at 200 MB/s its queue is empty long before.
BACKOFF_MS = 5
# What waits is given up after this long without any of it being taken: a partition that is wanted and not taken must
# not be in the way of others. It is fetched again when its records are used up.
PARK_SECONDS = 0.25
# An error that stays (no right to read a topic) is said this often.
ERROR_SECONDS = 30.0


class Run:
    """Messages of one partition, one after the other; stands in for aiokafka's unpacked fetch response."""

    def __init__(self, start: int) -> None:
        """Begin at offset ``start``, which may be before the first message: offsets have gaps."""
        self.next_fetch_offset = start
        self.messages: list[Any] = []
        self.bytes = 0
        self._at = 0

    @property
    def end(self) -> int:
        """Offset behind the last message."""
        return int(self.messages[-1].offset) + 1 if self.messages else self.next_fetch_offset

    def add(self, record: Any) -> int:
        """Append a record; return its size in bytes, at the least what its objects take."""
        # A missing key or value has the size -1.
        size = RECORD_BYTES + max(0, int(record.serialized_value_size)) + max(0, int(record.serialized_key_size))
        self.messages.append(record)
        self.bytes += size
        return size

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if self._at >= len(self.messages):
            raise StopIteration
        record = self.messages[self._at]
        # Handed on: what Faust has let go must not be held by a list that is half read.
        self.messages[self._at] = None
        self._at += 1
        self.next_fetch_offset = record.offset + 1
        return record


class Feed:
    """Puts what librdkafka fetches where aiokafka's fetcher would put it.

    `plan` and `_place` run on the loop of Faust's consumer thread, `_run` in a thread of its own; the lock guards what
    both touch.
    """

    def __init__(
        self,
        fetcher: Any,
        loop: asyncio.AbstractEventLoop,
        client: dict[str, Any],
        budget: int,
        on_fault: Callable[[BaseException], None],
    ) -> None:
        """Take aiokafka's fetcher and its loop, librdkafka's settings, the bytes that may wait, and whom to tell."""
        self._fetcher = fetcher
        self._on_fault = on_fault
        self._loop = loop
        self._limit = max(1 << 20, budget // 2)
        self._consumer = Consumer(
            {
                **client,
                "queued.max.messages.kbytes": max(1024, budget // 2048),
                "fetch.queue.backoff.ms": BACKOFF_MS,
                "fetch.wait.max.ms": FETCH_WAIT_MS,
                "fetch.message.max.bytes": FETCH_BYTES,
                "isolation.level": "read_uncommitted",
            }
        )
        self._lock = threading.Condition()
        self._goal: dict[TopicPartition, tuple[int, int]] = {}
        """What is to be read: epoch and first offset. Another epoch: read from there anew."""
        self._reading: dict[TopicPartition, int] = {}
        """What librdkafka reads, and of which epoch; the thread's own."""
        self._held: dict[TopicPartition, Run] = {}
        self._waiting = 0
        self._given: dict[TopicPartition, int] = {}
        """Where aiokafka's position must be, if nobody has moved it."""
        self._ends: dict[TopicPartition, int] = {}
        self._parked: set[TopicPartition] = set()
        """Partitions that are not read until their records are used up and they are wanted."""
        self._wanted: frozenset[Any] | None = None
        self._placed = 0
        self._epoch = 0
        self._ended = False
        self._actions: Callable[[Any], Any] = fetcher._get_actions_per_node
        fetcher._get_actions_per_node = self.plan
        self._thread = threading.Thread(target=self._run, name="feed", daemon=True)
        self._thread.start()

    # -- on the loop of Faust's consumer thread ----------------------------------------------------------------------

    def want(self, partitions: Collection[Any] | None) -> None:
        """Read these partitions alone from now on; None: all.

        Faust stays assigned to the changelogs that this worker writes and takes nothing of them once its tables are
        recovered. Unless they are left out, each row comes back from the broker and waits here for nobody.
        """
        wanted = None if partitions is None else frozenset(partitions)
        if wanted != self._wanted:
            self._wanted = wanted
            # Gives `plan` a turn.
            self._fetcher._notify(self._fetcher._wait_consume_future)

    def look_again(self) -> None:
        """Have a fetch that waits look anew at what lies there; from any thread.

        It goes by the set of partitions that it was given, which Faust changes while it waits.
        """
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        for waiter in self._fetcher._fetch_waiters:
            self._fetcher._notify(waiter)

    def plan(self, assignment: Any) -> Any:
        """Leave to aiokafka the partitions that have no position yet or are paused; have the others read.

        aiokafka calls this at each turn: when records were used up, a partition was moved or paused, or time passed.
        """
        others = set()
        active: dict[TopicPartition, int] = {}
        now = int(time.time() * 1000)
        for tp in assignment.tps:
            state = assignment.state_value(tp)
            if state.has_valid_position and not state.paused:
                active[tp] = state.position
                state.timestamp = now
                state.highwater = self._ends.get(tp, state.highwater)
                if state.highwater is None:
                    # Nothing came of it yet, or ever will. Faust logs an error for it every few seconds.
                    state.highwater = state.position
            else:
                others.add(tp)
        self._follow(active)
        self._place(assignment)
        return self._actions(_Part(assignment, others))

    def _follow(self, active: dict[TopicPartition, int]) -> None:
        records = self._fetcher._records
        with self._lock:
            for tp in [tp for tp in self._given if tp not in active]:
                self._forget(tp)
            for tp, position in active.items():
                if self._wanted is not None and tp not in self._wanted:
                    if self._goal.pop(tp, None) is not None:
                        self._drop(tp)
                        self._parked.add(tp)
                    continue
                # While records lie there unused the position is before them, and nobody has moved it: a seek
                # removes them.
                known = tp in self._given and (tp in records or position == self._given[tp])
                if not known or (tp in self._parked and tp not in records):
                    self._forget(tp)
                    self._epoch += 1
                    self._goal[tp] = (self._epoch, position)
                    self._given[tp] = position
            self._lock.notify()

    def _forget(self, tp: TopicPartition) -> None:
        self._goal.pop(tp, None)
        self._given.pop(tp, None)
        self._ends.pop(tp, None)
        self._parked.discard(tp)
        self._drop(tp)

    def _drop(self, tp: TopicPartition) -> None:
        run = self._held.pop(tp, None)
        if run is not None:
            self._waiting -= run.bytes

    def _place(self, assignment: Any) -> None:
        """Give aiokafka's fetcher what is held for partitions whose records are used up, and wake who waits for it."""
        fetcher = self._fetcher
        placed = False
        with self._lock:
            for tp in [tp for tp in self._held if tp not in fetcher._records]:
                state = assignment.state_value(tp)
                run = self._held[tp]
                if state is None or state.paused or state._position != run.next_fetch_offset:
                    # Moved or paused: `plan` sees to it.
                    continue
                del self._held[tp]
                self._waiting -= run.bytes
                self._given[tp] = run.end
                state.highwater = self._ends.get(tp, state.highwater)
                fetcher._records[tp] = FetchResult(
                    tp, partition_records=run, assignment=assignment, backoff=fetcher._prefetch_backoff
                )
                placed = True
            if placed:
                self._placed += 1
                self._lock.notify()
        if placed:
            self._wake()

    def _arrived(self) -> None:
        subscription = self._fetcher._subscriptions.subscription
        assignment = subscription.assignment if subscription is not None else None
        if assignment is not None and assignment.active and not self._fetcher._closed:
            self._place(assignment)

    # -- in the thread -----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        consumer = self._consumer
        quiet_until = 0.0
        try:
            while True:
                with self._lock:
                    self._wait()
                    if self._ended:
                        return
                    goal = dict(self._goal)
                self._assign(goal)
                first = consumer.poll(POLL_SECONDS)
                if first is None:
                    continue
                errors = self._keep([first, *consumer.consume(BATCH, 0)])
                if errors and time.monotonic() > quiet_until:
                    quiet_until = time.monotonic() + ERROR_SECONDS
                    log.warning("broker: %s", errors[-1])
        except Exception as error:
            if not self._ended:
                log.exception("messages cannot be fetched any more")
                self._on_fault(error)
        finally:
            consumer.close()

    def _wait(self) -> None:
        placed, since = self._placed, time.monotonic()
        while not self._ended:
            if self._waiting >= self._limit:
                self._lock.wait(PARK_SECONDS)
                if self._placed != placed:
                    placed, since = self._placed, time.monotonic()
                elif time.monotonic() - since >= PARK_SECONDS:
                    for tp in list(self._held):
                        self._drop(tp)
                        self._goal.pop(tp, None)
                        self._parked.add(tp)
            elif self._reading or self._goal:
                return
            else:
                self._lock.wait()

    def _assign(self, goal: dict[TopicPartition, tuple[int, int]]) -> None:
        """Make librdkafka read what is wanted, each partition from where it is wanted."""
        gone = [tp for tp, epoch in self._reading.items() if tp not in goal or goal[tp][0] != epoch]
        if gone:
            self._consumer.incremental_unassign([Place(*tp) for tp in gone])
            for tp in gone:
                del self._reading[tp]
        new = {tp: place for tp, place in goal.items() if tp not in self._reading}
        if new:
            self._consumer.incremental_assign([Place(tp.topic, tp.partition, at) for tp, (_, at) in new.items()])
            self._reading.update({tp: epoch for tp, (epoch, _) in new.items()})

    def _keep(self, messages: list[Any]) -> list[str]:
        """Hold messages until aiokafka's fetcher wants them; return what went wrong."""
        errors = []
        found: dict[TopicPartition, list[Any]] = {}
        for message in messages:
            if message.error() is not None:
                errors.append(message.error().str())
                continue
            record = record_of(message)
            found.setdefault(TopicPartition(record.topic, record.partition), []).append(record)
        ends = {tp: self._end(tp) for tp in found}
        with self._lock:
            for tp, records in found.items():
                if tp not in self._goal or self._goal[tp][0] != self._reading.get(tp):
                    # Moved away or read anew from elsewhere since.
                    continue
                run = self._held.get(tp)
                if run is None:
                    run = self._held[tp] = Run(self._given[tp])
                for record in records:
                    self._waiting += run.add(record)
                self._ends[tp] = max(ends[tp], records[-1].offset + 1)
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._arrived)
        return errors

    def _end(self, tp: TopicPartition) -> int:
        try:
            return int(self._consumer.get_watermark_offsets(Place(*tp), cached=True)[1])
        except KafkaException:
            return 0

    def close(self) -> None:
        """End the thread and its connections."""
        with self._lock:
            self._ended = True
            self._lock.notify()
        self._thread.join(10.0)


class _Part:
    """An assignment of aiokafka with some of its partitions only."""

    def __init__(self, assignment: Any, tps: set[TopicPartition]) -> None:
        self.tps = frozenset(tps)
        self.state_value = assignment.state_value


def record_of(message: Any) -> Any:
    """Return a message of librdkafka as a record of aiokafka. A payload is not copied."""
    kind, milliseconds = message.timestamp()
    key, value = message.key(), message.value()
    return ConsumerRecord(
        message.topic(),
        message.partition(),
        message.offset(),
        milliseconds if kind else None,
        kind - 1 if kind else None,
        key,
        value,
        None,
        len(key) if key is not None else -1,
        len(value) if value is not None else -1,
        tuple(message.headers() or ()),
    )
