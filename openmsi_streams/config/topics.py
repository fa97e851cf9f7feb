"""Topics on a broker: read, created when missing, mended; what is wanted comes from `topic_plan`."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from openmsi_streams.config import kafka
from openmsi_streams.config.topic_plan import (
    COPARTITIONED,
    Finding,
    Found,
    Planned,
    changelog,
    compare,
    plan,
    refuse,
)
from openmsi_streams.errors import TopicError

if TYPE_CHECKING:
    from openmsi_streams.config.settings import Settings

__all__ = [
    "COPARTITIONED",
    "Finding",
    "Found",
    "Planned",
    "admin",
    "alter",
    "changelog",
    "compare",
    "create",
    "ensure_topics",
    "plan",
    "read_broker",
    "refuse",
]

log = logging.getLogger(__name__)


def admin(settings: Settings) -> Any:
    """Return an AdminClient of confluent-kafka. Raises ConfigurationError for options that librdkafka refuses."""
    from confluent_kafka.admin import AdminClient

    return kafka.built(AdminClient, kafka.client(settings))


def read_broker(settings: Settings, client: Any = None, names: Iterable[str] | None = None) -> dict[str, Found]:
    """Return the broker's topics; with ``names``, those topics also with their configuration.

    Raises:
        BrokerError: the broker does not answer within ``broker.connect_timeout``.
    """
    from confluent_kafka import KafkaException

    client = client or admin(settings)
    try:
        metadata = client.list_topics(timeout=settings.broker.connect_timeout)
    except KafkaException as error:
        raise kafka.no_broker(settings, kafka.cause(error)) from None
    found = {
        name: Found(len(topic.partitions), _replication(topic))
        for name, topic in metadata.topics.items()
        if topic.error is None
    }
    wanted = [name for name in names or () if name in found]
    for name, config in _configs(settings, client, wanted).items():
        found[name] = Found(found[name].partitions, found[name].replication, config)
    return found


def _replication(topic: Any) -> int:
    return min((len(partition.replicas) for partition in topic.partitions.values()), default=1)


def _configs(settings: Settings, client: Any, names: Sequence[str]) -> dict[str, dict[str, str]]:
    """Read topic configurations; a broker that does not tell them (no rights, not implemented) gives none."""
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import ConfigResource, ResourceType

    if not names:
        return {}
    resources = [ConfigResource(ResourceType.TOPIC, name) for name in names]
    read: dict[str, dict[str, str]] = {}
    for resource, future in client.describe_configs(resources, request_timeout=settings.broker.connect_timeout).items():
        try:
            read[resource.name] = {
                name: entry.value for name, entry in future.result().items() if entry.value is not None
            }
        except KafkaException as error:
            log.warning("The configuration of topic %s cannot be read: %s", resource.name, kafka.cause(error))
    return read


def create(settings: Settings, planned: Sequence[Planned], client: Any = None) -> list[str]:
    """Create these topics and wait until the broker shows them; one that is there already is passed over.

    Returns:
        The names that were created.

    Raises:
        TopicError: with the broker's reason for the first that could not be made.
    """
    from confluent_kafka import KafkaError, KafkaException
    from confluent_kafka.admin import NewTopic

    if not planned:
        return []
    client = client or admin(settings)
    new = [
        NewTopic(one.name, num_partitions=one.partitions, replication_factor=one.replication, config=dict(one.config))
        for one in planned
    ]
    created: list[str] = []
    for name, future in client.create_topics(new, operation_timeout=settings.broker.connect_timeout).items():
        try:
            future.result()
            created.append(name)
        except KafkaException as error:
            code = error.args[0].code() if error.args and hasattr(error.args[0], "code") else None
            if code == KafkaError.TOPIC_ALREADY_EXISTS:
                continue
            raise TopicError(_why_not(settings, name, error)) from None
    _wait_for(settings, client, created)
    return created


def _why_not(settings: Settings, name: str, error: Exception) -> str:
    said = kafka.cause(error)
    cure = "Read the broker's log, or create it by hand as `openmsi-streams topics plan` lists it."
    if "replication" in said.lower():
        cure = (
            f"topic.replication is {settings.topic.replication}; set it to the number of brokers or less, "
            "with 3 where there are 3."
        )
    elif "auth" in said.lower():
        cure = "This user may not create topics: give it Create on the cluster, or let an administrator apply the plan."
    return f"The broker did not create the topic {name}: {said}. {cure}"


def _wait_for(settings: Settings, client: Any, names: Sequence[str]) -> None:
    """A created topic can be missing from the metadata of the next request; a worker would then stop at start."""
    deadline = time.monotonic() + settings.broker.connect_timeout
    missing = set(names)
    while missing and time.monotonic() < deadline:
        missing -= set(client.list_topics(timeout=settings.broker.connect_timeout).topics)
        if missing:
            time.sleep(0.05)


def alter(settings: Settings, findings: Iterable[Finding], client: Any = None) -> list[str]:
    """Change the configuration of each topic whose finding says ``set``; return their names.

    Raises:
        TopicError: with the broker's reason.
    """
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

    client = client or admin(settings)
    resources = [
        ConfigResource(
            ResourceType.TOPIC,
            finding.topic,
            incremental_configs=[
                ConfigEntry(key, value, incremental_operation=AlterConfigOpType.SET)
                for key, value in finding.config.items()
            ],
        )
        for finding in findings
        if finding.action == "set"
    ]
    if not resources:
        return []
    for resource, future in client.incremental_alter_configs(resources).items():
        try:
            future.result()
        except KafkaException as error:
            raise TopicError(
                f"The broker did not change the topic {resource.name}: {kafka.cause(error)}. "
                "This user needs AlterConfigs on it, or an administrator makes the change."
            ) from None
    return [resource.name for resource in resources]


def ensure_topics(
    settings: Settings, topics: Iterable[str] | None = None, tables: Sequence[str] | None = None
) -> list[str]:
    """Create every topic that is missing for these chunk topics; what exists is checked and left as it is.

    The worker calls it at start, so that no broker creates a topic by itself with another number of partitions.

    Args:
        settings: the settings.
        topics: chunk topics; None: ``worker.topics``.
        tables: names of the worker's tables, whose changelogs are then made with the right partitions; None: those of
            each chunk topic.

    Returns:
        The names that were created; empty the second time.

    Raises:
        TopicError: a topic that exists with a partition count that would break the tables, or that cannot be made.
        BrokerError: no broker.
    """
    client = admin(settings)
    found = read_broker(settings, client)
    planned = plan(settings, topics, found, tables)
    refuse(compare(planned, found))
    return create(settings, [one for one in planned if one.name not in found], client)
