"""Calls that may never come back, and who need not wait for them."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading

import pytest

from openmsi_streams.assembly.aside import aside


def test_a_result_and_an_error_come_back() -> None:
    async def run() -> None:
        assert await aside(divmod, 7, 2) == (3, 1)
        with pytest.raises(ZeroDivisionError):
            await aside(divmod, 7, 0)

    asyncio.run(run())


def test_whoever_waits_can_leave_and_the_late_result_disturbs_nobody() -> None:
    release, ended = threading.Event(), threading.Event()

    def hang() -> None:
        assert release.wait(30)
        ended.set()

    async def run() -> None:
        loop = asyncio.get_running_loop()
        complaints: list[object] = []
        loop.set_exception_handler(lambda _, context: complaints.append(context))
        with pytest.raises(TimeoutError):
            await aside(hang, seconds=0.01)
        waiting = asyncio.ensure_future(aside(hang))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        release.set()
        assert await asyncio.to_thread(ended.wait, 30)
        # Behind what the two threads still hand over.
        await aside(lambda: None)
        assert not complaints

    asyncio.run(run())


def test_a_process_ends_while_a_call_hangs() -> None:
    code = (
        "import asyncio, threading\n"
        "from openmsi_streams.assembly.aside import aside\n"
        "async def run():\n"
        "    try:\n"
        "        await aside(threading.Event().wait, seconds=0.01)\n"
        "    except TimeoutError:\n"
        "        print('left')\n"
        "asyncio.run(run())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "left\n", "")
