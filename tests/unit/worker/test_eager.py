"""A coroutine that is begun at once does what it does in a task."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openmsi_streams.worker.eager import Begun

STEPS = {
    "pass on": lambda: asyncio.sleep(0),
    "sleep": lambda: asyncio.sleep(0.0001),
    "nothing": lambda: _nothing(),
    "timeout": lambda: _times_out(),
}


async def _nothing() -> None:
    pass


async def _times_out() -> None:
    event = asyncio.Event()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(event.wait(), 0.0001)


@given(st.lists(st.sampled_from(sorted(STEPS)), max_size=5), st.booleans())
def test_it_returns_or_raises_the_same_as_awaited(steps: list[str], fails: bool) -> None:
    async def work() -> list[str]:
        done = []
        for step in steps:
            await STEPS[step]()
            done.append(step)
        if fails:
            raise ValueError(done)
        return done

    async def outcome(begin: Callable[[], Awaitable[list[str]]]) -> object:
        try:
            return await begin()
        except ValueError as error:
            return error.args

    async def both() -> tuple[object, object]:
        return await outcome(work), await outcome(lambda: asyncio.ensure_future(Begun(work()).rest()))

    plain, begun = asyncio.run(both())
    assert begun == plain


def test_what_waits_for_nothing_is_done_at_once() -> None:
    async def work() -> int:
        return 7

    begun = Begun(work())
    assert begun.done
    assert begun.value == 7


def test_cancelled_where_it_waits_it_tidies_up() -> None:
    seen: list[str] = []

    async def work() -> None:
        seen.append("begun")
        try:
            await asyncio.Event().wait()
        finally:
            seen.append("tidied")

    async def cancel() -> None:
        begun = Begun(work())
        assert not begun.done
        assert seen == ["begun"]
        task = asyncio.ensure_future(begun.rest())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())
    assert seen == ["begun", "tidied"]
