"""Client settings for librdkafka, derived from ours in one place."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from openmsi_streams.errors import BrokerError, ConfigurationError

if TYPE_CHECKING:
    from openmsi_streams.config.settings import Settings

# A chunk message's other fields: two hashes of 64 bytes, names and numbers; the path limit bounds the names.
CHUNK_OVERHEAD = 4096
# KafkaCrypto adds 75 bytes a field, a record batch 61 and up to 36 a record (measured, rounded up).
WRAPPING = 1024

CLOCK = (
    "the broker takes no message that is dated so far from its own clock: the clock of this computer is wrong, or the "
    "broker's; set it"
)
"""What Kafka's INVALID_TIMESTAMP means."""


def message_bytes(settings: Settings) -> int:
    """Return the largest message that our own producer makes, in bytes."""
    return settings.chunks.chunk_bytes + CHUNK_OVERHEAD + WRAPPING


def client(settings: Settings) -> dict[str, Any]:
    """Return what every librdkafka client needs: address, security, quiet logs."""
    return {
        "bootstrap.servers": settings.broker.bootstrap,
        # librdkafka prints connection errors to stderr by itself; clients here report through their callbacks.
        "log_level": 2,
        **settings.broker.options,
    }


def producer(settings: Settings, **more: Any) -> dict[str, Any]:
    """Return the settings of an idempotent producer that waits for all in-sync replicas."""
    return {
        **client(settings),
        **settings.producer.options,
        "enable.idempotence": True,
        "acks": "all",
        "message.max.bytes": max(1_000_000, message_bytes(settings)),
        **more,
    }


def consumer(settings: Settings, **more: Any) -> dict[str, Any]:
    """Return the settings of a consumer that assigns partitions itself: no group, no commits."""
    return {
        **client(settings),
        **settings.worker.options,
        "group.id": f"{settings.worker.id}-reader",
        "enable.auto.commit": False,
        "auto.offset.reset": "earliest",
        "enable.partition.eof": False,
        **more,
    }


def built(kind: Callable[[dict[str, Any]], Any], options: dict[str, Any]) -> Any:
    """Return a client of librdkafka made from these options.

    Raises:
        ConfigurationError: librdkafka does not know an option, or refuses its value.
    """
    from confluent_kafka import KafkaException

    try:
        return kind(options)
    except KafkaException as error:
        raise ConfigurationError(
            f"librdkafka refuses the settings under `broker.options`: {cause(error)}. Mend or remove that key; "
            "its manual is https://github.com/confluentinc/librdkafka/blob/master/CONFIGURATION.md"
        ) from None


def cause(error: BaseException) -> str:
    """Return what librdkafka says in an exception, without its code."""
    first = error.args[0] if error.args else error
    text = first.str() if hasattr(first, "str") else str(first)
    return " ".join(text.split()).rstrip(".")


def no_broker(settings: Settings, cause: str = "") -> BrokerError:
    """Return the error for a broker that does not answer."""
    return BrokerError(
        f"No Kafka broker answered at {settings.broker.bootstrap} for {settings.broker.connect_timeout:g} s"
        f"{f' ({cause})' if cause else ''}. Check the address, that the broker runs, and that no firewall is between; "
        "a broker that wants TLS or a password stays silent too."
    )


def faust_options(settings: Settings) -> dict[str, Any]:
    """Return ``broker`` and ``broker_credentials`` for ``faust.App`` from the same `broker.options`.

    Raises:
        ConfigurationError: see `config.security.faust_options`.
    """
    from openmsi_streams.config.security import faust_options as build

    return build(settings)
