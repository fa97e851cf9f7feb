"""The gate beside the event loop."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from openmsi_streams.assembly.message import Message
from openmsi_streams.config import Settings
from openmsi_streams.crypto.messages import Opened
from openmsi_streams.worker.gate import Gate


class OpenDoor:
    """An opener for which every message is in the clear."""

    def open(self, topic: str, key: bytes | None, value: bytes | None) -> Opened:
        return Opened(key, value)


def test_messages_that_come_without_a_pause_leave_turns_to_others() -> None:
    """Decryption is done on the loop; a full buffer of messages must not become one long turn."""
    gate = Gate(Settings(), cast(Any, None), None)
    gate._opener = cast(Any, OpenDoor())
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    async def stream() -> None:
        other = asyncio.create_task(others())
        for offset in range(20):
            message = Message("lab.files", 0, offset, 0.0, b"k", b"v", {})
            assert await gate.open(cast(Any, None), cast(Any, None), message) == message
        other.cancel()

    asyncio.run(stream())
    assert turns >= 19
