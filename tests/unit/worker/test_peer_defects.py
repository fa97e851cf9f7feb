"""Each way in which OpenMSIStream 1.8.8's readers lose or mix data, as a test that passes here.

The letters are those of docs/guarantees.md; U4 and U5, the sender's, are in
`tests/broker/producers/test_changing_files.py`.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from openmsi_streams.chunks.keys import home_partition
from tests.support.world import TOPIC, World


def run(tmp: Path, work: Callable[[World], Awaitable[None]], **worker: object) -> None:
    async def main() -> None:
        world = World(tmp, **worker)
        await world.start()
        try:
            await work(world)
        finally:
            await world.stop()

    asyncio.run(main())


OLD = bytes(range(256)) * 12
NEW = OLD[::-1]


def test_c1_a_message_that_is_not_a_chunk_does_not_block_its_partition(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        where = home_partition("a.dat", 2)
        for _ in range(3):
            world.log.append(TOPIC, where, b"k", b"not a chunk")
        world.send_file("a.dat", OLD)
        await world.quiet()
        assert world.files() == {"a.dat": OLD}

    run(tmp_path, work)


def test_c2_the_same_content_in_other_chunks_before_the_first_is_whole(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        world.send(world.chunks("a.dat", OLD, chunk_bytes=1000)[:2])
        world.send(world.chunks("a.dat", OLD, chunk_bytes=700))
        await world.quiet()
        assert world.files() == {"a.dat": OLD} and not world.quarantined()

    run(tmp_path, work)


def test_c3_no_message_writes_outside_the_root(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        for name, subdir in (("x", "../outside"), ("../x", ""), ("x", "/etc"), ("x", "a/../../b")):
            digest = hashlib.sha512(b"x").digest()
            value = msgspec.msgpack.encode([name, digest, digest, 0, 1, 1, subdir, "", b"x", 1.0])
            world.log.append(TOPIC, 0, b"k", value)
        world.send_file("good.dat", b"good")
        await world.quiet()
        assert world.everything() == {f"{TOPIC}/good.dat"}
        assert world.quarantined() == ["unsafe_path"] * 4
        assert not (tmp_path / "outside").exists()

    run(tmp_path, work)


def test_c4_an_offset_of_a_hundred_gigabytes_makes_no_file(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        digest = hashlib.sha512(b"x").digest()
        value = msgspec.msgpack.encode(["a.dat", digest, digest, 100_000_000_000, 2, 2, "", "", b"x", 1.0])
        world.log.append(TOPIC, home_partition("a.dat", 2), b"k", value)
        await world.quiet()
        assert world.quarantined() == ["bad_offset"] and not world.everything()

    run(tmp_path, work)


def test_c5_a_longer_version_that_comes_while_the_old_is_not_whole(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        world.send(world.chunks("a.dat", OLD[:2500], mtime=1e9)[:2])
        world.send_file("a.dat", NEW, mtime=1e9 + 1)
        await world.quiet()
        assert world.files() == {"a.dat": NEW}

    run(tmp_path, work)


def test_c6_a_shorter_version_leaves_no_tail_of_the_old(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        world.send_file("a.dat", OLD, mtime=1e9)
        await world.quiet()
        world.send_file("a.dat", NEW[:700], mtime=1e9 + 1)
        await world.quiet()
        assert world.files() == {"a.dat": NEW[:700]}

    run(tmp_path, work)


def test_c7_the_same_number_of_chunks_without_mtime(tmp_path: Path) -> None:
    """Senders of nine fields: the later Kafka timestamp is the newer version."""

    async def work(world: World) -> None:
        world.send(world.chunks("a.dat", OLD, mtime=None), when=1000.0)
        world.send(world.chunks("a.dat", NEW, mtime=None), when=2000.0)
        await world.quiet()
        assert world.files() == {"a.dat": NEW} and len(world.receipts()) == 2

    run(tmp_path, work)


def test_c8_a_restart_in_the_middle_of_a_file_verifies_and_reports_it(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        chunks = world.chunks("sub/a.dat", OLD)
        world.send(chunks[:2])
        await world.quiet()
        world.commit()
        await world.start()
        world.send(chunks[2:])
        await world.quiet()
        assert world.files() == {"sub/a.dat": OLD}
        assert [(r.path, r.state) for r in world.receipts()] == [("sub/a.dat", "delivered")]

    run(tmp_path, work)


def test_c9_a_restart_does_not_lose_a_file_in_the_root_nor_read_the_topic_from_its_beginning(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        for number in range(50):
            world.send_file(f"before{number}.dat", b"x")
        chunks = world.chunks("root.dat", OLD)
        world.send(chunks[:2])
        await world.quiet()
        world.engine.flush_all()
        world.commit()
        world.log.reads = 0
        await world.start()
        world.send(chunks[2:])
        await world.quiet()
        assert world.files()["root.dat"] == OLD
        assert world.engine.counts["refilled_bytes"] == 0 and world.log.reads == 0

    run(tmp_path, work)
