"""The thread that asks the broker for the views: heartbeats, what is in quarantine, and how much waits.

It has no consumer group of its own to speak of: it assigns partitions itself and commits nothing, so that reading costs
the worker's group nothing and every worker sees everything.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from openmsi_streams.chunks.topics import beside
from openmsi_streams.config import kafka
from openmsi_streams.config.settings import Settings
from openmsi_streams.web.lag import LAG_SECONDS, Lag
from openmsi_streams.web.peers import Beat, read_beat

log = logging.getLogger(__name__)

# Messages read per partition at start: heartbeats of an hour of ten programs; quarantined messages carry whole chunks,
# so fewer.
BACKLOG = {"heartbeats": 4000, "quarantine": 60}
# Quarantined messages kept for the page, the newest; all of them are on the topic.
KEPT = 500
# Small topics need no large buffers beside the worker's own.
OPTIONS: dict[str, Any] = {"auto.offset.reset": "latest", "queued.max.messages.kbytes": 4096}
# A text from a message is cut to this.
_TEXT = 1000


def read_quarantined(headers: list[tuple[str, bytes | None]] | None) -> dict[str, Any] | None:
    """Return what a quarantined message says of itself; None for a file version, which has a row."""
    found = {name: (value or b"").decode("utf-8", "replace")[:_TEXT] for name, value in headers or ()}
    if found.get("kind") != "message":
        return None

    def number(name: str) -> float:
        try:
            return float(found.get(name, ""))
        except ValueError:
            return -1.0

    return {
        "topic": found.get("topic", ""),
        "partition": int(number("partition")),
        "offset": int(number("offset")),
        "time": max(0.0, number("timestamp")),
        "reason": found.get("reason", ""),
        "message": found.get("message", ""),
        "path": found.get("path", ""),
    }


class Notices:
    """The newest quarantined messages; filled by the reader's thread, read by the views."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._items: OrderedDict[tuple[str, int, int], dict[str, Any]] = OrderedDict()

    def take(self, item: dict[str, Any]) -> None:
        """Note a message; a repeat of it replaces it."""
        with self._lock:
            key = (item["topic"], item["partition"], item["offset"])
            self._items[key] = item
            self._items.move_to_end(key)
            while len(self._items) > KEPT:
                self._items.popitem(last=False)

    def newest(self, limit: int = 100) -> list[dict[str, Any]]:
        """Return the newest first."""
        with self._lock:
            items = list(self._items.values())
        return sorted(items, key=lambda item: -item["time"])[:limit]


Opener = Callable[[str, bytes | None, bytes | None], tuple[bytes | None, bytes | None] | None]
"""(topic, key, value) -> both in the clear, or None."""
# The first byte of an encrypted message; JSON never begins with it.
SEALED = b"\x01"


class Reader:
    """The thread."""

    def __init__(
        self,
        settings: Settings,
        topics: list[str],
        beat: Callable[[Beat], None],
        quarantined: Callable[[dict[str, Any]], None],
        lag: Lag,
        open_: Opener | None = None,
    ) -> None:
        self._settings = settings
        self._open = open_
        self._lag = lag
        self._topics = {beside(topic, suffix): (topic, suffix) for topic in topics for suffix in BACKLOG}
        self._beat = beat
        self._quarantined = quarantined
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="views-reader", daemon=True)

    def start(self) -> None:
        """Start reading."""
        if self._topics:
            self._thread.start()

    def stop(self) -> None:
        """Stop reading and wait for the thread."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._read()
            except Exception as error:
                # Heartbeats are a convenience: without them the views show less, the files go on.
                log.warning("Heartbeats and quarantine cannot be read (%s); trying again in 5 s.", error)
                self._stop.wait(5)

    def _read(self) -> None:
        from confluent_kafka import Consumer, KafkaException, TopicPartition

        consumer = Consumer(kafka.consumer(self._settings, **OPTIONS))
        assigned: set[tuple[str, int]] = set()
        look_again = lag_again = 0.0
        try:
            while not self._stop.is_set():
                if time.monotonic() >= look_again:
                    # New topics and partitions appear while we run; a look every 10 s is one small request.
                    look_again = time.monotonic() + 10
                    fresh: list[Any] = []
                    for name in self._topics:
                        known = consumer.list_topics(name, timeout=5).topics.get(name)
                        for partition in known.partitions if known and not known.error else ():
                            if (name, partition) in assigned:
                                continue
                            place = TopicPartition(name, partition)
                            low, high = consumer.get_watermark_offsets(place, timeout=5)
                            place.offset = max(low, high - BACKLOG[self._topics[name][1]])
                            fresh.append(place)
                            assigned.add((name, partition))
                    if fresh:
                        consumer.incremental_assign(fresh)
                if time.monotonic() >= lag_again:
                    lag_again = time.monotonic() + LAG_SECONDS
                    self._lag.update()
                message = consumer.poll(0.5)
                if message is None:
                    continue
                if message.error():
                    continue
                topic, suffix = self._topics[message.topic() or ""]
                if suffix == "quarantine":
                    notice = read_quarantined(message.headers())
                    if notice is not None:
                        self._quarantined(notice)
                    continue
                key, value = message.key(), message.value()
                if self._open is not None and (value or b"")[:1] == SEALED:
                    key, value = self._open(message.topic() or "", key, value) or (None, None)
                beat = read_beat(topic, key, value, (message.timestamp()[1] or 0) / 1000)
                if beat is not None:
                    self._beat(beat)
        except KafkaException as error:
            raise RuntimeError(str(error)) from error
        finally:
            consumer.close()
            self._lag.close()
