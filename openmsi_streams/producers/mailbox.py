"""Reads `<topic>.receipts` and `<topic>.requests`: what became of the files that were sent."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from openmsi_streams.chunks.messages import Receipt, Request, receipt_from, request_from
from openmsi_streams.chunks.topics import beside
from openmsi_streams.config import kafka
from openmsi_streams.errors import OpenMSIStreamsError

if TYPE_CHECKING:
    from openmsi_streams.config.settings import Settings

log = logging.getLogger(__name__)

Open = Callable[[str, bytes], "bytes | None"]
"""``(topic, value) -> value``, decrypted; None if it cannot be."""


class Letter(msgspec.Struct, frozen=True):
    """One message, and where to go on reading behind it."""

    topic: str
    partition: int
    next_offset: int
    receipt: Receipt | None = None
    request: Request | None = None


class CaughtUp(msgspec.Struct, frozen=True):
    """Everything that stood on the topics at the start has been handed over."""


class Mailbox(threading.Thread):
    """A consumer without a group: each producer reads all partitions and keeps its own offsets."""

    def __init__(
        self,
        settings: Settings,
        topic: str,
        offsets: Mapping[tuple[str, int], int],
        deliver: Callable[[list[Letter | CaughtUp]], None],
        open_: Open | None = None,
    ) -> None:
        super().__init__(name="mailbox", daemon=True)
        self.settings, self.topic, self.open_ = settings, topic, open_
        self.receipts, self.requests = beside(topic, "receipts"), beside(topic, "requests")
        self._offsets = dict(offsets)
        self._deliver = deliver
        # Where the first message stands that could not be opened: its key may come, so the next start reads on there.
        self._sealed: dict[tuple[str, int], int] = {}
        self._stopping = threading.Event()

    def stop(self) -> None:
        """End the thread."""
        self._stopping.set()

    def run(self) -> None:
        """Read until stopped; whatever the broker does, try again."""
        pause = 1.0
        while not self._stopping.is_set():
            try:
                self._read()
            except OpenMSIStreamsError as error:
                log.warning("receipts cannot be read: %s", error)
            except Exception:
                log.exception("receipts cannot be read; trying again in %.0f s", pause)
            self._stopping.wait(pause)
            pause = min(30.0, pause * 2)

    def _read(self) -> None:
        from confluent_kafka import Consumer, KafkaError, KafkaException

        consumer = kafka.built(
            Consumer,
            kafka.consumer(
                self.settings,
                **{
                    "error_cb": lambda error: log.debug("mailbox: %s", error),
                    # Receipts are small: no need for the default's 64 MB beside an instrument.
                    "queued.max.messages.kbytes": 4096,
                    "fetch.message.max.bytes": 1 << 20,
                },
            ),
        )
        try:
            waiting = self._assign(consumer)
            if waiting is None:
                return
            if not waiting:
                self._deliver([CaughtUp()])
            behind = time.monotonic()
            while not self._stopping.is_set():
                messages = consumer.consume(200, timeout=0.5)
                letters: list[Letter | CaughtUp] = []
                for message in messages:
                    error = message.error()
                    if error is not None:
                        if error.code() in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_PARTITION):
                            return
                        log.debug("mailbox: %s", error)
                        continue
                    letters.append(self._letter(message))
                    place = (message.topic(), message.partition())
                    self._offsets[place] = message.offset() + 1
                    if place in waiting and message.offset() + 1 >= waiting[place]:
                        del waiting[place]
                        if not waiting:
                            letters.append(CaughtUp())
                if letters:
                    self._deliver(letters)
                    behind = time.monotonic()
                elif waiting and time.monotonic() - behind > 5.0:
                    # The last offsets can be empty (transactions, retention): nothing more comes.
                    waiting.clear()
                    self._deliver([CaughtUp()])
        except KafkaException as error:
            log.debug("mailbox: %s", error)
        finally:
            consumer.close()

    def _assign(self, consumer: Any) -> dict[tuple[str, int], int] | None:
        """Assign every partition; return the end offsets still to be reached, None if the topics are not there."""
        from confluent_kafka import OFFSET_BEGINNING, TopicPartition

        metadata = consumer.list_topics(timeout=self.settings.broker.connect_timeout)
        assigned: list[Any] = []
        waiting: dict[tuple[str, int], int] = {}
        for topic in (self.receipts, self.requests):
            found = metadata.topics.get(topic)
            if found is None or found.error is not None:
                log.debug("the topic %s is not there", topic)
                continue
            for partition in found.partitions:
                place = (topic, partition)
                low, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=10.0)
                start = self._offsets.get(place, OFFSET_BEGINNING)
                # A broker that has forgotten, or a topic that was made anew: begin again.
                if start != OFFSET_BEGINNING and not low <= start <= high:
                    start = OFFSET_BEGINNING
                if (low if start == OFFSET_BEGINNING else start) < high:
                    waiting[place] = high
                assigned.append(TopicPartition(topic, partition, start))
        if not assigned:
            return None
        consumer.assign(assigned)
        return waiting

    def _letter(self, message: Any) -> Letter:
        topic, value = message.topic(), message.value()
        partition = (topic, message.partition())
        if value is not None and self.open_ is not None:
            value = self.open_(topic, value)
            if value is None:
                self._sealed.setdefault(partition, message.offset())
        place = (*partition, self._sealed.get(partition, message.offset() + 1))
        if value is None:
            return Letter(*place)
        try:
            if topic == self.receipts:
                return Letter(*place, receipt=receipt_from(value))
            return Letter(*place, request=request_from(value))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            log.warning("message %d of %s [%d] is not understood: %s", message.offset(), topic, place[1], error)
            return Letter(*place)
