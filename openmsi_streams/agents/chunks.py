"""The agents of a chunk topic: its own partitions, and the chunks forwarded to their home partition."""

from __future__ import annotations

from typing import Any

from openmsi_streams.assembly.message import Message
from openmsi_streams.chunks.topics import beside
from openmsi_streams.worker.engine import Engine


def declare(app: Any, engine: Engine, topic: str) -> None:
    """Declare both agents. One event at a time each: a held or concurrent ack loses events (docs/decisions.md)."""
    for name, home in ((topic, False), (beside(topic, "home"), True)):
        channel = app.topic(name, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw")
        app.agent(channel, name=f"chunks-{name}", concurrency=1)(_agent(engine, home))


def _agent(engine: Engine, home: bool) -> Any:
    async def chunks(stream: Any) -> Any:
        async for event in stream.events():
            await engine.handle(message_of(event.message), home=home)

    return chunks


def message_of(found: Any) -> Message:
    """Return a Faust message as ours. A payload is not copied."""
    headers = found.headers or {}
    return Message(
        topic=found.topic,
        partition=found.partition,
        offset=found.offset,
        timestamp=found.timestamp or 0.0,
        key=found.key,
        value=found.value,
        headers={n: v or b"" for n, v in (headers.items() if isinstance(headers, dict) else headers)},
    )
