"""A Kafka message as the worker handles it, whichever client it came from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(slots=True)
class Message:
    """One message. ``topic`` is where it was read, ``timestamp`` is in seconds since the epoch."""

    topic: str
    partition: int
    offset: int
    timestamp: float
    key: bytes | None
    value: bytes | None
    headers: dict[str, bytes]

    @classmethod
    def from_client(cls, found: Any) -> Message:
        """Take over a message of confluent_kafka."""
        return cls(
            topic=found.topic(),
            partition=found.partition(),
            offset=found.offset(),
            timestamp=found.timestamp()[1] / 1000.0,
            key=found.key(),
            value=found.value(),
            headers={name: value or b"" for name, value in found.headers() or ()},
        )

    @property
    def where(self) -> str:
        """Topic, partition and offset, for messages to people."""
        return f"{self.topic}[{self.partition}]@{self.offset}"
