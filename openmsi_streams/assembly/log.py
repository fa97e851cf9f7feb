"""Reading a part of a partition again, with a short-lived consumer that belongs to no group."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from openmsi_streams.assembly.message import Message
from openmsi_streams.errors import BrokerError

# How long a broker may be silent in the middle of a read before the read is given up (and tried again later).
PATIENCE = 30.0
# How long the end of a partition must stay the end.
EOF_SECONDS = 0.5


class LogReader:
    """Reads offsets ``[start, end)`` of one partition, bounded in memory."""

    def __init__(self, client: dict[str, Any], budget: int) -> None:
        """Take librdkafka settings of a consumer, and the bytes that may be fetched ahead."""
        self._client = {
            **client,
            "queued.max.messages.kbytes": max(1024, budget // 1024),
            "fetch.message.max.bytes": max(1 << 20, min(budget, 8 << 20)),
            "auto.offset.reset": "earliest",
            "enable.partition.eof": True,
            "enable.auto.commit": False,
        }

    def watermarks(self, topic: str, partition: int) -> tuple[int, int]:
        """Return the first offset in the log and the one behind the last.

        Raises:
            BrokerError: if the broker does not answer.
        """
        consumer = Consumer(self._client)
        try:
            low, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=PATIENCE)
            return low, high
        except KafkaException as error:
            raise BrokerError(f"The broker did not say where {topic}[{partition}] begins and ends: {error}.") from None
        finally:
            let_go(consumer)

    def bounds(self, places: list[tuple[str, int]]) -> dict[tuple[str, int], tuple[int, int]]:
        """Return the first offset and the one behind the last for each (topic, partition), with one connection.

        Raises:
            BrokerError: if the broker does not answer.
        """
        consumer = Consumer(self._client)
        try:
            return {place: consumer.get_watermark_offsets(TopicPartition(*place), timeout=PATIENCE) for place in places}
        except KafkaException as error:
            raise BrokerError(f"The broker did not say where topics begin and end: {error}.") from None
        finally:
            let_go(consumer)

    def committed(self, group: str, places: list[tuple[str, int]]) -> dict[tuple[str, int], int]:
        """Return the offset that a group has committed for each (topic, partition) that has one.

        Raises:
            BrokerError: if the broker does not answer.
        """
        consumer = Consumer({**self._client, "group.id": group})
        try:
            found = consumer.committed([TopicPartition(*place) for place in places], timeout=PATIENCE)
        except KafkaException as error:
            raise BrokerError(f"The broker did not say what {group} committed: {error}.") from None
        finally:
            let_go(consumer)
        return {(place.topic, place.partition): int(place.offset) for place in found if place.offset >= 0}

    def read(self, topic: str, partition: int, start: int, end: int) -> Iterator[Message]:
        """Yield the messages of offsets ``start`` to ``end - 1`` that the log still has.

        Raises:
            BrokerError: if the broker is silent or refuses.
        """
        if start >= end:
            return
        consumer = Consumer(self._client)
        try:
            consumer.assign([TopicPartition(topic, partition, start)])
            heard = time.monotonic()
            at_end = False
            while True:
                found = consumer.poll(EOF_SECONDS if at_end else 1.0)
                if found is None:
                    if at_end:
                        return
                    if time.monotonic() - heard > PATIENCE:
                        raise BrokerError(f"The broker was silent while {topic}[{partition}] was read again.")
                    continue
                heard = time.monotonic()
                error = found.error()
                if error is not None:
                    # The end is what the broker calls so; a moment is given to one that is behind itself.
                    if error.code() != KafkaError._PARTITION_EOF:
                        raise BrokerError(f"{topic}[{partition}] cannot be read again: {error}.")
                    at_end = True
                    continue
                at_end = False
                if found.offset() >= end:
                    return
                yield Message.from_client(found)
                if found.offset() == end - 1:
                    return
        except KafkaException as error:
            raise BrokerError(f"{topic}[{partition}] cannot be read again: {error}.") from None
        finally:
            let_go(consumer)


def let_go(consumer: Any) -> None:
    """Close a consumer, without waiting for it.

    librdkafka's threads wait by the time of day: where the clock was set back meanwhile, closing takes as long as the
    step, and neither a refill nor the end of the process may wait for that.
    """
    threading.Thread(target=consumer.close, name="log-close", daemon=True).start()
