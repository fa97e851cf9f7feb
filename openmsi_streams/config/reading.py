"""Reading a topic from its beginning to its end, once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from openmsi_streams.config import kafka
from openmsi_streams.errors import TopicError

if TYPE_CHECKING:
    from openmsi_streams.config.settings import Settings

# How long every partition's end must stay the end before reading stops.
END_SECONDS = 0.5


def read_to_end(settings: Settings, name: str) -> Iterator[Any]:
    """Yield every message of a topic, each partition in its order; a consumer of its own that belongs to no group.

    Raises:
        BrokerError: no broker answers.
        TopicError: the topic does not exist.
    """
    from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

    consumer = kafka.built(Consumer, kafka.consumer(settings, **{"enable.partition.eof": True}))
    try:
        try:
            known = consumer.list_topics(name, timeout=settings.broker.connect_timeout).topics[name]
        except KafkaException as error:
            raise kafka.no_broker(settings, kafka.cause(error)) from None
        if known.error is not None:
            raise TopicError(f"The topic {name} does not exist. Check the name, or run `openmsi-streams topics apply`.")
        consumer.assign([TopicPartition(name, partition, 0) for partition in known.partitions])
        ended: set[int] = set()
        while True:
            at_the_end = len(ended) == len(known.partitions)
            message = consumer.poll(END_SECONDS if at_the_end else 1.0)
            if message is None:
                if at_the_end:
                    return
            elif message.error() is None:
                ended.discard(message.partition())
                yield message
            elif message.error().code() == KafkaError._PARTITION_EOF:
                ended.add(message.partition())
    finally:
        consumer.close()
