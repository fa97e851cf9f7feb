"""The agent behind delivery: analyses and a lab's own processors, one delivered file at a time."""

from __future__ import annotations

from typing import Any

from openmsi_streams.agents.chunks import message_of
from openmsi_streams.chunks.topics import beside
from openmsi_streams.worker.after import Follower


def declare(app: Any, follower: Follower, topic: str) -> None:
    """Declare the agent on `<topic>.delivered`: work of minutes waits there, not in front of chunks."""
    channel = app.topic(
        beside(topic, "delivered"), key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw"
    )

    async def after(stream: Any) -> Any:
        async for event in stream.events():
            await follower.handle(topic, message_of(event.message))

    app.agent(channel, name=f"after-{topic}", concurrency=1)(after)
