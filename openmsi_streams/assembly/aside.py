"""Calls that may block for ever, in threads that nobody has to wait for."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


async def aside(call: Callable[..., T], *args: Any, seconds: float | None = None) -> T:
    """Return ``call(*args)``, made in a daemon thread of its own; whoever waits can leave at any time.

    librdkafka waits by the time of day: where the clock is set back meanwhile, a wait of a second takes as long as the
    step. An executor's threads are joined when the interpreter ends, so one such wait there would keep the process.

    Args:
        call: what blocks. After a cancellation or ``seconds`` it may still be running.
        args: its arguments.
        seconds: the longest wait, on the monotonic clock; None: no limit.

    Raises:
        TimeoutError: ``seconds`` are over.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result: T | None = None
        error: BaseException | None = None
        try:
            result = call(*args)
        except BaseException as caught:
            error = caught
        try:
            loop.call_soon_threadsafe(settle, result, error)
        except RuntimeError:
            return  # the loop is closed: nobody waits any more

    threading.Thread(target=run, name=f"aside-{getattr(call, '__name__', 'call')}", daemon=True).start()
    async with asyncio.timeout(seconds):
        return await future
