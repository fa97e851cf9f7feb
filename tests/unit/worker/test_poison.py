"""Whatever a message holds, it ends in quarantine with its reason, and the next good file is not touched by it."""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.world import TOPIC, World

GOOD = b"data"
DIGEST = hashlib.sha512(GOOD).digest()


def fields(**changes: Any) -> list[Any]:
    named = {
        "filename": "x.dat", "file_hash": DIGEST, "chunk_hash": DIGEST, "offset": 0, "index": 1, "total": 1,
        "subdir": "sub", "append": "", "data": GOOD, "mtime": 1e9,
    }  # fmt: skip
    return list({**named, **changes}.values())


CASES: dict[str, tuple[Any, str]] = {
    "not msgpack": (b"\xc1\xff", "not_a_chunk"),
    "empty value": (b"", "not_a_chunk"),
    "text": (b"hello", "bad_fields"),
    "tombstone": (None, "null_value"),
    "a map": (msgspec.msgpack.encode({"a": 1}), "bad_fields"),
    "eight fields": (fields()[:8], "bad_fields"),
    "eleven fields": ([*fields(), 1], "bad_fields"),
    "name is a number": (fields(filename=7), "bad_fields"),
    "short hash": (fields(file_hash=b"x"), "bad_fields"),
    "mtime is infinite": (fields(mtime=float("inf")), "bad_fields"),
    "chunk hash wrong": (fields(chunk_hash=bytes(64)), "bad_hash"),
    "index 0": (fields(index=0), "bad_index"),
    "index above total": (fields(index=3, total=2), "bad_index"),
    "negative offset": (fields(offset=-1, index=2, total=3), "bad_offset"),
    "single chunk with an offset": (fields(offset=10), "bad_offset"),
    "a hundred gigabytes away": (fields(offset=100_000_000_000, index=2, total=2), "bad_offset"),
    "first chunk with an offset": (fields(offset=5, total=2), "bad_offset"),
    "empty chunk of many": (fields(data=b"", index=2, total=3, offset=4), "bad_offset"),
    "too large a file": (fields(index=1 << 40, total=1 << 40, offset=1 << 50), "too_large"),
    "up and out": (fields(subdir="../outside"), "unsafe_path"),
    "up in the name": (fields(filename="../x"), "unsafe_path"),
    "absolute": (fields(subdir="/etc"), "unsafe_path"),
    "drive": (fields(subdir="C:"), "unsafe_path"),
    "backslashes": (fields(filename="..\\x"), "unsafe_path"),
    "NUL": (fields(filename="x\0y"), "unsafe_path"),
    "reserved on Windows": (fields(filename="con.txt"), "unsafe_path"),
    "over-long name": (fields(filename="n" * 300), "unsafe_path"),
    "over-long path": (fields(subdir="/".join(["d" * 100] * 12)), "unsafe_path"),
    "the partial folder": (fields(subdir=".partial"), "unsafe_path"),
    "empty name": (fields(filename=""), "unsafe_path"),
    "append leaves the folder": (fields(append="/../../x"), "unsafe_path"),
}


async def through(world: World, value: bytes | None, key: bytes | None = b"key") -> None:
    await world.start()
    try:
        for partition in range(2):
            world.log.append(TOPIC, partition, key, value)
        world.send_file("good.dat", b"good")
        await world.quiet()
    finally:
        await world.stop()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_each_malformed_message_is_quarantined_with_its_reason(tmp_path: Path, case: str) -> None:
    value, reason = CASES[case]
    if isinstance(value, list):
        value = msgspec.msgpack.encode(value)
    world = World(tmp_path)
    asyncio.run(through(world, value))
    assert set(world.quarantined()) == {reason}
    assert [m.value for m in world.log.all_of(f"{TOPIC}.quarantine")] == [value, value], "the original bytes are kept"
    assert world.files() == {"good.dat": b"good"}
    assert world.everything() == {f"{TOPIC}/good.dat"}


def test_a_huge_key_is_quarantined(tmp_path: Path) -> None:
    world = World(tmp_path)
    asyncio.run(through(world, msgspec.msgpack.encode(fields()), key=b"k" * 600_000))
    assert world.quarantined() == ["key_too_large", "key_too_large"]


def test_chunks_that_contradict_their_file_are_quarantined(tmp_path: Path) -> None:
    """Two claims of a file's size: the first stands, the other is put aside; the file is whole in the end."""

    async def work() -> None:
        world = World(tmp_path)
        await world.start()
        data = bytes(range(256)) * 12
        chunks = world.chunks("x.dat", data)
        lie = msgspec.msgpack.decode(chunks[-1][1])
        lie[3] = 3 * 1000 + 500
        world.send([*chunks[:2], chunks[-1], (chunks[-1][0], msgspec.msgpack.encode(lie), "x.dat"), *chunks[2:]])
        await world.quiet()
        assert world.quarantined() == ["contradiction"]
        assert world.files() == {"x.dat": data}
        await world.stop()

    asyncio.run(work())


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=20)
    | st.binary(max_size=80),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
names = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
near_chunks = st.builds(
    fields,
    filename=names,
    subdir=names,
    append=st.sampled_from(["", "_s", "/x", "\0"]),
    offset=st.integers(-5, 2**63),
    index=st.integers(-2, 2**62),
    total=st.integers(-2, 2**62),
    data=st.binary(max_size=50),
    mtime=st.floats() | st.none(),
)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(messages=st.lists(anything | near_chunks, max_size=6), raw=st.lists(st.binary(max_size=200), max_size=3))
def test_no_message_stops_a_worker_or_leaves_the_root(messages: list[Any], raw: list[bytes]) -> None:
    async def work(folder: Path) -> None:
        world = World(folder / "inside")
        await world.start()
        for value in [*(msgspec.msgpack.encode(m) for m in messages), *raw]:
            world.log.append(TOPIC, 0, b"k", value)
        world.send_file("good.dat", b"good")
        await world.quiet()
        assert world.files().get("good.dat") == b"good"
        await world.stop()
        outside = [p for p in folder.rglob("*") if p.is_file() and not p.is_relative_to(folder / "inside" / "store")]
        assert not outside

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(work(Path(folder)))
