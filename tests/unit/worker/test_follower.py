"""What follows a delivery: failures are put aside with their reason, and the next file goes on."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from openmsi_streams.assembly.message import Message
from openmsi_streams.chunks.messages import Delivery, FileVersion
from openmsi_streams.errors import ConfigurationError
from openmsi_streams.processors.api import DeliveredFile, Processor, Result
from openmsi_streams.storage.base import StoreUnavailable
from openmsi_streams.worker import after
from openmsi_streams.worker.after import Follower
from tests.support.world import TOPIC, DictRows, World


def shout(file: DeliveredFile) -> Result:
    """A lab's function: the file in capitals beside it, its length as JSON."""
    text = file.open().read()
    return Result(files={f"{file.name}.loud": text.upper()}, json={"length": len(text)})


def message_about(version: FileVersion) -> Message:
    return Message(f"{TOPIC}.delivered", 0, 0, 0.0, version.file_id.encode(), msgspec.json.encode(version), {})


async def follower_of(world: World, *processors: Processor) -> Follower:
    world.settings.gemd.enabled = False
    world.settings.pdv.enabled = False
    engine = await world.start()
    follower = Follower(engine, world.deliverer.stores, world.log)
    follower.processors = list(processors)
    world.deliverer.follow = follower.wants
    return follower


def test_a_wrong_rule_for_pdv_is_told_before_anything_starts(tmp_path: Path) -> None:
    async def work() -> None:
        world = World(tmp_path)
        world.settings.pdv.rules = [{"path": "*.trc", "materal": "copper"}]
        try:
            with pytest.raises(ConfigurationError, match="Did you mean material"):
                await follower_of(world)
        finally:
            await world.stop()

    asyncio.run(work())


def test_a_processor_runs_on_a_delivered_file_and_its_result_is_stored_and_sent(tmp_path: Path) -> None:
    async def work() -> None:
        world = World(tmp_path)
        follower = await follower_of(world, Processor(shout, "shout", match=("*.txt",)))
        world.send_file("sub/a.txt", b"hello")
        world.send_file("b.dat", b"not for it")
        await world.quiet()
        told = world.log.all_of(f"{TOPIC}.delivered")
        assert len(told) == 1
        for _ in range(2):
            await follower.handle(TOPIC, told[0])
        assert world.files()["sub/a.txt.loud"] == b"HELLO"
        results = [msgspec.json.decode(m.value or b"") for m in world.log.all_of(f"{TOPIC}.results")]
        assert [r["result"] for r in results] == [{"length": 5}] * 2 and results[0] == results[1]
        follower.close()
        await world.stop()

    asyncio.run(work())


def test_a_file_that_no_store_has_any_more_is_put_aside(tmp_path: Path) -> None:
    async def work() -> None:
        world = World(tmp_path)
        follower = await follower_of(world, Processor(shout, "shout"))
        gone = Delivery("disk", "disk", (tmp_path / "gone.txt").as_uri(), "00", 1, 1.0)
        version = FileVersion(file_id="f" * 32, topic=TOPIC, path="gone.txt", sha512="00", bytes=1, deliveries=(gone,))
        await follower.handle(TOPIC, message_about(version))
        assert world.quarantined() == ["processor_failed"]
        note = world.log.all_of(f"{TOPIC}.quarantine")[0]
        assert note.headers["processor"] == b"shout" and b"No store can give" in note.headers["message"]
        follower.close()
        await world.stop()

    asyncio.run(work())


def test_a_store_that_is_away_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(after, "RETRY_SECONDS", 0.01)

    async def work() -> None:
        world = World(tmp_path)
        follower = await follower_of(world, Processor(shout, "shout", match=("*.txt",)))
        world.send_file("a.txt", b"hello")
        await world.quiet()
        tries = 0
        real = follower.recorder.store_beside

        def away(*arguments: object) -> object:
            nonlocal tries
            tries += 1
            if tries < 3:
                raise StoreUnavailable("away")
            return real(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(follower.recorder, "store_beside", away)
        await follower.handle(TOPIC, world.log.all_of(f"{TOPIC}.delivered")[0])
        assert tries == 3 and world.files()["a.txt.loud"] == b"HELLO" and not world.quarantined()
        follower.close()
        await world.stop()

    asyncio.run(work())


def test_a_message_that_never_came_is_made_up_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Faust may pass over an event during a rebalance; the table knows what is still to be done, also after a crash."""

    async def work() -> None:
        world = World(tmp_path)
        results = DictRows(world.log)
        one = Processor(shout, "shout", match=("*.txt",))

        async def begin() -> Follower:
            follower = await follower_of(world, one)
            follower.tables[TOPIC] = results
            world.deliverer.promise = follower.promise
            follower.adopt()
            return follower

        follower = await begin()
        world.send_file("a.txt", b"hello")
        await world.quiet()
        await follower.catch_up()
        assert "a.txt.loud" not in world.files(), "a message may still come"
        follower.close()
        world.commit()
        follower = await begin()
        world.now += after.IDLE_SECONDS + 1
        await follower.catch_up()
        assert world.files()["a.txt.loud"] == b"HELLO"
        assert not any(key.startswith(after.TODO_PREFIX) for part in results.parts.values() for key in part)
        await follower.catch_up()
        assert len(world.log.all_of(f"{TOPIC}.results")) == 1
        follower.close()
        await world.stop()

    asyncio.run(work())


def test_what_is_not_a_file_version_is_passed_over(tmp_path: Path) -> None:
    async def work() -> None:
        world = World(tmp_path)
        follower = await follower_of(world)
        await follower.handle(TOPIC, Message(f"{TOPIC}.delivered", 0, 0, 0.0, b"k", b"nonsense", {}))
        follower.close()
        await world.stop()

    asyncio.run(work())
