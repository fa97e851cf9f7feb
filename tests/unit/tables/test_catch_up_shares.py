"""How the partitions of a rebalance are shared out among the consumers that read their changelogs."""

from __future__ import annotations

import asyncio
import sys
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from openmsi_streams.tables import catchup

PARTITIONS = 6


class Partition:
    """A partition that can be in a set."""

    def __init__(self, topic: str, partition: int) -> None:
        self.topic, self.partition = topic, partition


async def rebalance(monkeypatch: pytest.MonkeyPatch, read: Any, *names: str) -> list[str]:
    """Run a rebalance in which ``read`` stands in for `catch_up`; return what Faust was told."""
    told: list[str] = []
    names = names or ("changelog",)

    async def begin(*_: Any) -> None:
        told.append("begin")

    recovery = SimpleNamespace(on_rebalance=begin)
    app = SimpleNamespace(
        tables=SimpleNamespace(recovery=recovery),
        assignor=SimpleNamespace(assigned_standbys=lambda: set()),
        should_stop=False,
    )
    monkeypatch.setattr(catchup, "catch_up", read)
    newly = {Partition(name, partition) for name in names for partition in range(PARTITIONS)}
    catchup.before_recovery(app, {}, [SimpleNamespace(changelog=name) for name in names], 1.0)  # type: ignore[misc]
    await recovery.on_rebalance(set(), set(), newly)
    return told


def test_every_partition_is_read_once_and_all_shares_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    together = threading.Barrier(catchup.CONSUMERS, timeout=30)
    seen: list[int] = []

    def read(client: Any, tables: list[tuple[Any, int]], seconds: float, turn: Any) -> int:
        together.wait()
        seen.extend(partition for _, partition in tables)
        return len(tables)

    assert asyncio.run(rebalance(monkeypatch, read)) == ["begin"]
    assert sorted(seen) == list(range(PARTITIONS))


def test_the_partitions_of_one_table_are_read_by_as_many_as_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    shares: list[list[str]] = []

    def read(client: Any, tables: list[tuple[Any, int]], seconds: float, turn: Any) -> int:
        shares.append([table.changelog for table, _ in tables])
        return 0

    monkeypatch.setattr(sys.modules[__name__], "PARTITIONS", 3)
    asyncio.run(rebalance(monkeypatch, read, "files-changelog", "results-changelog"))
    assert len(shares) == catchup.CONSUMERS
    assert all(len(set(share)) == len(share) for share in shares)


def test_a_failure_is_told_when_no_share_writes_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    failed, release = threading.Event(), threading.Event()
    ended: list[int] = []

    def read(client: Any, tables: list[tuple[Any, int]], seconds: float, turn: Any) -> int:
        if any(partition == 0 for _, partition in tables):
            failed.set()
            raise OSError("the disk is full")
        assert release.wait(30)
        ended.append(len(tables))
        return len(tables)

    async def run() -> None:
        task = asyncio.ensure_future(rebalance(monkeypatch, read))
        assert await asyncio.to_thread(failed.wait, 30)
        # Turns of the loop enough for the failure to be told, were it told before the others end.
        for _ in range(10_000):
            await asyncio.sleep(0)
        try:
            assert not task.done()
        finally:
            release.set()
        with pytest.raises(OSError, match="full"):
            await task

    asyncio.run(run())
    assert len(ended) == catchup.CONSUMERS - 1


def test_a_worker_that_is_to_end_does_not_wait_for_its_changelogs(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, release = threading.Event(), threading.Event()
    asked: list[bool] = []

    def read(client: Any, tables: list[tuple[Any, int]], seconds: float, turn: Any) -> int:
        reading.set()
        assert release.wait(30)
        asked.append(turn.over)
        return 0

    async def run() -> None:
        task = asyncio.ensure_future(rebalance(monkeypatch, read))
        assert await asyncio.to_thread(reading.wait, 30)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        release.set()
        while len(asked) < catchup.CONSUMERS:
            await asyncio.sleep(0.001)

    asyncio.run(asyncio.wait_for(run(), 30))
    assert asked == [True] * catchup.CONSUMERS, "nothing is written any more"


def test_a_reading_that_hangs_is_left_to_itself_and_writes_nothing_afterwards(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(catchup, "HANGING_SECONDS", -0.95)
    release = threading.Event()
    written: list[bool] = []

    def read(client: Any, tables: list[tuple[Any, int]], seconds: float, turn: Any) -> int:
        if any(partition == 0 for _, partition in tables):
            assert release.wait(30)
            written.append(turn.write(lambda: written.append(True)))
        return len(tables)

    async def run() -> None:
        assert await rebalance(monkeypatch, read) == ["begin"]
        release.set()
        while not written:
            await asyncio.sleep(0.001)

    asyncio.run(asyncio.wait_for(run(), 30))
    assert written == [False]
    assert "clock was set back" in caplog.text
