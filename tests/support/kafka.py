"""Topics and messages for tests."""

from __future__ import annotations

import time
from dataclasses import replace

from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition

from openmsi_streams.config import Settings
from openmsi_streams.config.settings import BrokerSettings, TopicSettings
from openmsi_streams.config.topics import create, plan

# What a test waits for the embedded broker on a machine with other work.
ANSWER_SECONDS = 30.0


def make_topics(
    bootstrap: str,
    topic: str | list[str],
    partitions: int = 3,
    also_internal: bool = True,
    *,
    config: dict[str, str] | None = None,
    replication: int = 1,
) -> list[str]:
    """Create a chunk topic (or several) and, if wanted, its siblings, as `topics apply` does; topics that exist stay.

    ``config`` is set on the chunk topics. Returns the names of all.
    """
    settings = Settings(
        broker=BrokerSettings(bootstrap=bootstrap, connect_timeout=ANSWER_SECONDS),
        topic=TopicSettings(partitions=partitions, replication=replication),
    )
    topics = [topic] if isinstance(topic, str) else topic
    planned = plan(settings, topics)
    if not also_internal:
        planned = [one for one in planned if one.name in topics]
    if config:
        planned = [replace(one, config={**one.config, **config}) if one.name in topics else one for one in planned]
    create(settings, planned)
    return [one.name for one in planned]


def produce(
    bootstrap: str,
    topic: str,
    messages: list[tuple[bytes | None, bytes | None]],
    partition: int = -1,
    headers: list[tuple[str, bytes]] | None = None,
    timestamp: float = 0.0,
) -> None:
    """Send ``(key, value)`` pairs in order and wait until the broker has them all; ``timestamp``: their date."""
    producer = Producer({"bootstrap.servers": bootstrap, "enable.idempotence": True, "message.max.bytes": 20_000_000})
    failed: list[str] = []

    def report(error: object, message: Message) -> None:
        if error is not None:
            failed.append(str(error))

    for key, value in messages:
        more = {} if partition < 0 else {"partition": partition}
        more |= {"timestamp": int(timestamp * 1000)} if timestamp else {}
        while True:
            try:
                producer.produce(topic, value=value, key=key, on_delivery=report, headers=headers or [], **more)
                break
            except BufferError:
                producer.poll(0.1)
    assert producer.flush(ANSWER_SECONDS) == 0, "the broker did not take all messages"
    assert not failed, failed


def read_all(bootstrap: str, topic: str, timeout: float = ANSWER_SECONDS) -> list[Message]:
    """Return all messages of a topic, partition by partition in offset order; none if the topic does not exist.

    The end is where a fetch says so and stays so for half a second: the embedded broker's own "latest" offset is that
    of the last batch's first message.
    """
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "tests-read-all",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "enable.partition.eof": True,
            "fetch.message.max.bytes": 20_000_000,
        }
    )
    try:
        known = consumer.list_topics(timeout=timeout).topics.get(topic)
        if known is None or known.error is not None:
            return []
        places = [TopicPartition(topic, partition, 0) for partition in sorted(known.partitions)]
        consumer.assign(places)
        messages: list[Message] = []
        ended: set[int] = set()
        deadline = time.monotonic() + timeout
        while True:
            message = consumer.poll(0.5 if len(ended) == len(places) else 0.2)
            if message is None:
                if len(ended) == len(places):
                    break
                assert time.monotonic() < deadline, f"{topic}: not read to its end in {timeout:g} s"
            elif message.error() is None:
                messages.append(message)
                ended.discard(message.partition())
                deadline = time.monotonic() + timeout
            elif message.error().code() == KafkaError._PARTITION_EOF:
                ended.add(message.partition())
        return sorted(messages, key=lambda found: (found.partition(), found.offset()))
    finally:
        consumer.close()
