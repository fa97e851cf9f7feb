"""What workers have said: the newest receipt of each file version, read from `<topic>.receipts` to its end."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import msgspec

from openmsi_streams.chunks.messages import Delivery, Receipt, receipt_from
from openmsi_streams.chunks.topics import beside
from openmsi_streams.errors import BrokerError, TopicError
from openmsi_streams.storage.base import SUPERSEDED

if TYPE_CHECKING:
    from openmsi_streams.config.settings import Settings

# How long the broker may be silent in the middle of a topic.
_PATIENCE = 30.0
# librdkafka's OFFSET_BEGINNING.
OFFSET_BEGINNING = -2


def read_receipts(settings: Settings, topic: str) -> dict[str, Receipt]:
    """Return file id -> newest receipt of a chunk topic.

    Raises:
        TopicError: there is no topic of receipts.
        BrokerError: the broker does not answer.
    """
    found: dict[str, Receipt] = {}
    for key, value in _messages(settings, beside(topic, "receipts")):
        if value is None:
            found.pop(key, None)
            continue
        try:
            found[key] = receipt_from(value)
        except msgspec.DecodeError:
            # Somebody else's message; a receipt is JSON with our fields.
            continue
    return found


def _messages(settings: Settings, topic: str) -> Iterator[tuple[str, bytes | None]]:
    """Yield key and value of every message of a topic, each partition in order, up to where it ends now."""
    from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

    from openmsi_streams.config import kafka

    # At the end of a partition the broker would else hold its answer back for half a second.
    options = kafka.consumer(settings, **{"enable.partition.eof": True, "fetch.wait.max.ms": 10})
    consumer = kafka.built(Consumer, options)
    try:
        known = consumer.list_topics(topic, timeout=settings.broker.connect_timeout).topics.get(topic)
        if known is None or known.error is not None or not known.partitions:
            raise TopicError(
                f"There is no topic {topic}, so nothing was delivered yet or the name is wrong. "
                "See `openmsi-streams topics check`."
            )
        # A key's messages are all in one partition, so the partitions may come in any order.
        consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in known.partitions])
        left = set(known.partitions)
        heard = time.monotonic()
        while left:
            message = consumer.poll(1.0)
            if message is None:
                if time.monotonic() - heard > _PATIENCE:
                    raise BrokerError(f"The broker was silent for {_PATIENCE:g} s while {topic} was read. Check it.")
                continue
            heard = time.monotonic()
            error = message.error()
            if error is None:
                yield (message.key() or b"").decode("utf-8", "replace"), message.value()
            elif error.code() == KafkaError._PARTITION_EOF:
                left.discard(message.partition())
            elif not error.retriable():
                raise BrokerError(f"{topic} cannot be read: {error.str()}. Check the broker and the user's rights.")
    except KafkaException as error:
        raise kafka.no_broker(settings, kafka.cause(error)) from None
    finally:
        consumer.close()


class Held(msgspec.Struct, frozen=True):
    """What a store should hold under one path."""

    receipt: Receipt
    delivery: Delivery


def held(receipts: Iterable[Receipt]) -> dict[tuple[str, str, str], Held]:
    """Return (store, topic, path) -> the version that has the final name there: the one that was put last."""
    found: dict[tuple[str, str, str], Held] = {}
    for receipt in receipts:
        for delivery in receipt.deliveries:
            place = (delivery.store, receipt.topic, receipt.path)
            known = found.get(place)
            if delivery.note != SUPERSEDED and (known is None or delivery.time >= known.delivery.time):
                found[place] = Held(receipt, delivery)
    return found
