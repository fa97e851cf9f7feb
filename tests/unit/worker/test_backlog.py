"""Intake waits for the disk while it takes something, and no longer."""

from __future__ import annotations

import asyncio

import pytest

from openmsi_streams.worker import backlog as module
from openmsi_streams.worker.backlog import Backlog


def test_intake_waits_until_there_is_room() -> None:
    async def work() -> None:
        backlog = Backlog(10)
        backlog.add(12)
        waiting = asyncio.ensure_future(backlog.room())
        await asyncio.sleep(0)
        backlog.remove(2)
        await asyncio.sleep(0.01)
        assert not waiting.done(), "as much waits as may"
        backlog.remove(1)
        await asyncio.wait_for(waiting, 10)

    asyncio.run(work())


def test_a_disk_that_takes_nothing_holds_intake_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE_SECONDS", 0.01)

    async def work() -> None:
        backlog = Backlog(10)
        backlog.add(20)
        await asyncio.wait_for(backlog.room(), 10)
        monkeypatch.setattr(module, "PATIENCE_SECONDS", 3600)
        await asyncio.wait_for(backlog.room(), 10)
        backlog.remove(1)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(backlog.room(), 0.02)

    asyncio.run(work())
