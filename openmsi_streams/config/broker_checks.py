"""Our settings beside the broker's: sizes, partitions, retention and time-outs that must agree."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from openmsi_streams.config import kafka, topics
from openmsi_streams.config.checks import Problem

if TYPE_CHECKING:
    from openmsi_streams.config.settings import Settings


def broker_problems(settings: Settings) -> list[Problem]:
    """Ask the broker, and return where it disagrees with the settings.

    Raises:
        BrokerError: no broker answers.
        ConfigurationError: librdkafka refuses the options.
    """
    client = topics.admin(settings)
    found = topics.read_broker(settings, client)
    planned = topics.plan(settings, None, found) if settings.worker.topics else []
    found = topics.read_broker(settings, client, [one.name for one in planned])
    brokers = client.list_topics(timeout=settings.broker.connect_timeout).brokers
    return [
        *topic_problems(settings, topics.compare(planned, found)),
        *config_problems(settings, _broker_config(settings, client, next(iter(brokers), None)), len(brokers)),
    ]


def topic_problems(settings: Settings, findings: Sequence[topics.Finding]) -> Iterator[Problem]:
    """Turn what `topics check` finds into problems."""
    missing = [finding.topic for finding in findings if finding.action == "create"]
    if missing:
        yield Problem(
            "worker.topics",
            settings.worker.topics,
            f"{len(missing)} topics are missing on the broker, first {missing[0]}.",
            "Run `openmsi-streams topics apply`; a worker also creates them at start.",
            "warning",
        )
    for finding in findings:
        if finding.action == "refuse":
            yield Problem("topic", finding.topic, f"It {finding.why}.", "")
        elif finding.action in ("set", "note"):
            yield Problem(
                "topic", finding.topic, f"{finding.why}.", "`openmsi-streams topics apply` sets it.", "warning"
            )


def config_problems(settings: Settings, config: Mapping[str, str], brokers: int) -> Iterator[Problem]:
    """Compare with a broker's own configuration; keys that it does not tell are passed over."""
    needed = kafka.message_bytes(settings)
    limit = _number(config, "message.max.bytes")
    if limit is not None and limit < needed:
        yield Problem(
            "chunks.chunk_bytes",
            settings.chunks.chunk_bytes,
            f"A chunk's message takes up to {needed} bytes, and the broker's message.max.bytes is {limit}.",
            f"Lower it to {max(1024, limit - (needed - settings.chunks.chunk_bytes))}, or raise message.max.bytes "
            "(`topics apply` raises the topics' own limit).",
            "warning",
        )
    session = settings.worker.session_seconds * 1000
    shortest, longest = _number(config, "group.min.session.timeout.ms"), _number(config, "group.max.session.timeout.ms")
    if (shortest is not None and session < shortest) or (longest is not None and session > longest):
        yield Problem(
            "worker.session_seconds",
            settings.worker.session_seconds,
            f"The broker takes {(shortest or 0) / 1000:g} to {(longest or 0) / 1000:g} s.",
            "Choose a value between.",
        )
    if settings.topic.replication > brokers > 0:
        yield Problem(
            "topic.replication",
            settings.topic.replication,
            f"There are {brokers} brokers.",
            f"Set {brokers} or less.",
        )
    elif brokers >= 3 and settings.topic.replication < 3:
        yield Problem(
            "topic.replication",
            settings.topic.replication,
            f"There are {brokers} brokers, and one lost disk would lose the log.",
            "Set 3.",
            "warning",
        )
    in_sync = _number(config, "min.insync.replicas")
    if in_sync is not None and in_sync > settings.topic.replication:
        yield Problem(
            "topic.replication",
            settings.topic.replication,
            f"The broker's min.insync.replicas is {in_sync}, so no message would be taken.",
            f"Set {in_sync} or more.",
        )
    if config.get("auto.create.topics.enable") == "true":
        yield Problem(
            "broker.bootstrap",
            settings.broker.bootstrap,
            "This broker creates topics by itself, with its own number of partitions.",
            "Set auto.create.topics.enable=false there, or run `openmsi-streams topics apply` before anything else.",
            "warning",
        )


def _number(config: Mapping[str, str], key: str) -> int | None:
    try:
        return int(config[key])
    except (KeyError, ValueError):
        return None


def _broker_config(settings: Settings, client: Any, broker: int | None) -> dict[str, str]:
    """Read one broker's configuration; without the right to, or from a broker that keeps none, it is empty."""
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import ConfigResource, ResourceType

    if broker is None:
        return {}
    resource = ConfigResource(ResourceType.BROKER, str(broker))
    try:
        (future,) = client.describe_configs([resource], request_timeout=settings.broker.connect_timeout).values()
        return {name: entry.value for name, entry in future.result().items() if entry.value is not None}
    except (KafkaException, ValueError):
        return {}
