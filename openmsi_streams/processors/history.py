"""Run processors again over files that were delivered before: after a new one is written, or an old one mended."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from openmsi_streams.chunks.messages import FileVersion
from openmsi_streams.chunks.topics import beside
from openmsi_streams.config import kafka
from openmsi_streams.config.reading import read_to_end
from openmsi_streams.errors import UsageError
from openmsi_streams.processors.api import Processor

if TYPE_CHECKING:
    from openmsi_streams.config.settings import Settings


@dataclass(frozen=True, slots=True)
class Delivered:
    """A file version as `<topic>.delivered` holds it."""

    partition: int
    key: bytes
    value: bytes
    timestamp: float
    """Seconds since the epoch."""
    version: FileVersion | None
    """None where the message is sealed (encrypted topics)."""


def read_delivered(settings: Settings, topic: str) -> list[Delivered]:
    """Return what was delivered on a topic, the newest message of each file version, in the order of delivery.

    Raises:
        BrokerError: no broker answers.
        TopicError: the topic does not exist.
    """
    found: dict[bytes, Delivered] = {}
    for message in read_to_end(settings, beside(topic, "delivered")):
        if one := _delivered(message):
            # Taken out and put in again: the newest message gives the place in the order.
            found.pop(one.key, None)
            found[one.key] = one
    return sorted(found.values(), key=lambda one: one.timestamp)


def _delivered(message: Any) -> Delivered | None:
    value = message.value()
    if not value:
        return None
    try:
        version = msgspec.json.decode(value, type=FileVersion)
    except msgspec.DecodeError:
        version = None
    return Delivered(message.partition(), message.key() or b"", value, message.timestamp()[1] / 1000, version)


def choose(
    delivered: Iterable[Delivered],
    processors: Sequence[Processor] = (),
    match: Sequence[str] = (),
    since: float = 0.0,
) -> list[Delivered]:
    """Return the newest delivered version of each path that is wanted.

    Args:
        delivered: in the order of delivery.
        processors: only files that one of these is for; empty: all.
        match: only paths that one of these patterns fits; empty: all.
        since: only files delivered after this time, seconds since the epoch.

    Raises:
        UsageError: files are asked for by path, but the messages are sealed.
    """
    newest: dict[object, Delivered] = {}
    for one in delivered:
        if one.timestamp < since:
            continue
        if one.version is None:
            if processors or match:
                raise UsageError(
                    "The messages of this topic are encrypted, so files cannot be chosen by name here. Leave out the "
                    "choice; workers run each file through the processors that want it."
                )
            newest[one.key] = one
            continue
        path, topic = one.version.path, one.version.topic
        if match and not any(fnmatch.fnmatchcase(path.lower(), pattern.lower()) for pattern in match):
            continue
        if processors and not any(by.wants(topic, path) for by in processors):
            continue
        newest[path] = one
    return list(newest.values())


def send_again(settings: Settings, topic: str, chosen: Iterable[Delivered]) -> int:
    """Put file versions back on `<topic>.delivered`, each on its partition; return how many.

    Workers then run analyses and processors on them as on new files; results replace those that are there.

    Raises:
        BrokerError: the broker did not take one.
    """
    from confluent_kafka import Producer

    producer = kafka.built(Producer, kafka.producer(settings))
    failed: list[str] = []
    count = 0

    def done(error: Any, message: Any) -> None:
        if error is not None:
            failed.append(error.str())

    for one in chosen:
        while True:
            try:
                producer.produce(
                    beside(topic, "delivered"), one.value, one.key, partition=one.partition, on_delivery=done
                )
                break
            except BufferError:
                producer.poll(0.1)
        producer.poll(0)
        count += 1
    left = producer.flush(settings.broker.connect_timeout)
    if failed or left:
        raise kafka.no_broker(settings, failed[0] if failed else "some messages were not taken")
    return count
