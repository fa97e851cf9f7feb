"""What is otherwise in Faust's consumer."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import faust
import pytest

from openmsi_streams.config.settings import Settings
from openmsi_streams.worker.fetching import adapt


def test_a_fetch_that_waits_is_woken_when_a_full_stream_has_room_again() -> None:
    app = faust.App("fetching", broker="kafka://127.0.0.1:1", store="memory://")
    adapt(app, Settings(), lambda error: None)
    consumer = app.transport.Consumer.__new__(app.transport.Consumer)
    full: Any = ("lab", 0)
    consumer._active_partitions, consumer._buffered_partitions = set(), {full}
    woken: list[set[Any]] = []
    consumer._thread = SimpleNamespace(look_again=lambda: woken.append(set(consumer._active_partitions)))
    consumer.on_buffer_drop(full)
    assert woken == [{full}], "after the partition is one of those that are fetched"


def test_a_message_is_handed_over_without_a_task_unless_its_stream_is_full() -> None:
    app = faust.App("handing-over", broker="kafka://127.0.0.1:1", store="memory://")
    adapt(app, Settings(), lambda error: None)

    async def work() -> None:
        consumer = app.transport.Consumer.__new__(app.transport.Consumer)
        consumer._stopped, consumer._crashed = asyncio.Event(), asyncio.Event()
        consumer.loop = asyncio.get_running_loop()
        suspended, room, taken = asyncio.Event(), asyncio.Event(), []

        async def hand_over(number: int) -> int:
            if number > 1:
                await room.wait()
            taken.append(number)
            return number

        tasks = asyncio.all_tasks()
        found = await consumer.wait_first(hand_over(1), suspended.wait())
        assert found.results == [1]
        assert asyncio.all_tasks() == tasks

        full = asyncio.ensure_future(consumer.wait_first(hand_over(2), suspended.wait()))
        await asyncio.sleep(0)
        assert taken == [1]
        room.set()
        assert (await asyncio.wait_for(full, 10)).results == [2]

        room.clear()
        full = asyncio.ensure_future(consumer.wait_first(hand_over(3), suspended.wait()))
        await asyncio.sleep(0)
        suspended.set()
        assert (await asyncio.wait_for(full, 10)).results == [True], "the order to stop does not wait for a stream"
        assert taken == [1, 2]

        async def fails() -> None:
            raise OSError("the disk is full")

        with pytest.raises(OSError, match="full"):
            await consumer.wait_first(fails(), suspended.wait())

        consumer._stopped.set()
        assert (await consumer.wait_first(hand_over(1), suspended.wait())).stopped

    asyncio.run(work())
