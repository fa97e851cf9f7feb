"""Reading a changelog into RocksDB in batches, before Faust looks how far behind a table is.

Faust's own recovery takes one event at a time through its streams, about 100 microseconds each. What is read here is
what it would have read; what is left when time is up, and standby tables, it reads itself.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Protocol

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from openmsi_streams.assembly.aside import aside
from openmsi_streams.assembly.log import let_go

log = logging.getLogger(__name__)

# Rows written to RocksDB at once.
BATCH = 2000
# Partitions are shared out among so many consumers: a broker answers one connection at a time (with one, the embedded
# broker hands over 8,000 rows a second; with three, 17,000).
CONSUMERS = 4
# Longest wait for a message before the clock is looked at.
POLL_SECONDS = 0.2
# Asking where changelogs end saves half a second, so it may take no longer; the rest are taken to have more.
ASKING_SECONDS = 0.5
# A reading that has not come back so long after its time was up hangs (see `aside`): it is left to itself. Short, for
# the session's sake; what is just being written is waited for.
HANGING_SECONDS = 1.0


class Catching(Protocol):
    """What is caught up: `tables.files.FilesTable`."""

    @property
    def changelog(self) -> str:
        """Name of the changelog topic."""

    def read_to(self, partition: int) -> int:
        """Return the offset of the last changelog record that is in the table; -1 if there is none."""

    def apply(self, partition: int, records: list[tuple[bytes, bytes | None]], offset: int) -> None:
        """Write records, None for what was deleted, and that the changelog is read up to ``offset``."""


class Turn:
    """Whose turn it is to write to the tables: those who read changelogs here, until they are told to leave it."""

    def __init__(self, ending: Callable[[], bool] = lambda: False) -> None:
        """``ending``: asked before each writing: whether the worker ends."""
        self._ending = ending
        self._left = False
        self._lock = threading.Lock()

    @property
    def over(self) -> bool:
        """Whether nothing may be written any more."""
        return self._left or self._ending()

    def write(self, work: Callable[[], None]) -> bool:
        """Do what writes, unless the turn is over; say whether it was done."""
        with self._lock:
            if self.over:
                return False
            work()
            return True

    def leave(self) -> None:
        """End the turn: what is being written is waited for, nothing is written after it."""
        with self._lock:
            self._left = True


def catch_up(
    client: dict[str, Any],
    tables: Iterable[tuple[Catching, int]],
    seconds: float,
    turn: Turn | None = None,
) -> int:
    """Read the changelogs of tables' partitions to their ends, for ``seconds`` at most.

    Args:
        client: librdkafka's settings of a consumer.
        tables: each table and partition that this worker owns and nothing writes to yet.
        seconds: how long; the rest is left to Faust.
        turn: what may end the reading before; None: nothing does.

    Returns:
        How many records were read. A broker that does not answer is left to Faust too.
    """
    places = {(table.changelog, partition): table for table, partition in tables}
    if not places:
        return 0
    turn = turn or Turn()
    deadline = time.monotonic() + seconds
    open_: set[tuple[str, int]] = set()
    count = 0
    consumer = Consumer({**client, "enable.partition.eof": True})
    try:
        starts = {place: table.read_to(place[1]) + 1 for place, table in places.items()}
        # A broker answers a fetch at the end only after half a second; most changelogs of a restart are at theirs.
        asked_until = time.monotonic() + ASKING_SECONDS
        open_ = {
            place
            for place, start in starts.items()
            if time.monotonic() > asked_until or _has_more(consumer, place, start)
        }
        consumer.assign([TopicPartition(*place, starts[place]) for place in open_])
        while open_ and time.monotonic() < deadline and not turn.over:
            found: dict[tuple[str, int], list[Any]] = {}
            for message in consumer.consume(BATCH, POLL_SECONDS):
                place = (message.topic(), message.partition())
                if message.error() is None:
                    found.setdefault(place, []).append(message)
                elif message.error().code() == KafkaError._PARTITION_EOF:
                    open_.discard(place)
                else:
                    log.info("changelogs are left to Faust: %s", message.error().str())
                    return count
            for place, messages in found.items():
                records = [(message.key(), message.value()) for message in messages]
                work = partial(places[place].apply, place[1], records, messages[-1].offset())
                if not turn.write(work):
                    return count
                count += len(records)
    except KafkaException as error:
        log.info("changelogs are left to Faust: %s", error)
    finally:
        let_go(consumer)
    return count


def _has_more(consumer: Consumer, place: tuple[str, int], start: int) -> bool:
    try:
        low, high = consumer.get_watermark_offsets(TopicPartition(*place), timeout=ASKING_SECONDS)
    except KafkaException:
        return True
    return bool(high > max(low, start))


def before_recovery(app: Any, client: dict[str, Any], tables: Iterable[Catching], seconds: float) -> None:
    """Have the tables' newly owned partitions caught up at each rebalance, before Faust's recovery begins."""
    recovery = app.tables.recovery
    begin = recovery.on_rebalance
    known = {table.changelog: table for table in tables}

    async def on_rebalance(assigned: Any, revoked: Any, newly: Any, generation_id: int = 0) -> None:
        standby = set(app.assignor.assigned_standbys())
        # In order, so that the partitions of one table, which are of one size, go to different consumers.
        places = sorted(
            (tp for tp in newly if tp.topic in known and tp not in standby), key=lambda tp: (tp.topic, tp.partition)
        )
        mine = [(known[tp.topic], tp.partition) for tp in places]
        started = time.monotonic()
        turn = Turn(lambda: app.should_stop)
        shares = [mine[number::CONSUMERS] for number in range(min(CONSUMERS, len(mine)))]

        async def read(one: list[tuple[Catching, int]]) -> int:
            try:
                return await aside(catch_up, client, one, seconds, turn, seconds=seconds + HANGING_SECONDS)
            except TimeoutError:
                log.warning(
                    "A changelog's reading hangs, as it does when this machine's clock was set back; left to Faust."
                )
                return 0

        try:
            # Each in a thread of its own: one that waited for a free thread would begin late and end after the session.
            found = await asyncio.gather(*map(read, shares), return_exceptions=True)
        finally:
            turn.leave()
        # None writes any more when Faust is told of a failure.
        for one in found:
            if isinstance(one, BaseException):
                raise one
        count = sum(one for one in found if isinstance(one, int))
        if count:
            log.info("%d changelog records were read in %.1f s", count, time.monotonic() - started)
        await begin(assigned, revoked, newly, generation_id)

    recovery.on_rebalance = on_rebalance
