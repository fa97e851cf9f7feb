"""The chunk message is what OpenMSIStream 1.8.8 writes, byte for byte, and nothing else is taken for one."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
from itertools import pairwise
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openmsi_streams.chunks.codec import Chunk, count, decode, encode, is_intact, split
from openmsi_streams.chunks.keys import chunk_key
from openmsi_streams.chunks.reasons import Reason, Unusable

GOLDEN = Path(__file__).parents[2] / "golden"
LIMITS = {"largest_chunk": 1 << 24, "max_file_bytes": 1 << 40}


def maker() -> ModuleType:
    """The script that made the golden messages: its `content` is what the files held."""
    spec = importlib.util.spec_from_file_location("make_golden", GOLDEN / "make_golden.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


content = maker().content
FILES: list[dict[str, Any]] = json.loads((GOLDEN / "golden.json").read_text(encoding="utf-8"))["files"]


def chunks_of(path: str, data: bytes, chunk_bytes: int, append: str = "", mtime: float | None = None) -> list[Chunk]:
    """All chunks of a file, as our producer makes them."""
    parent = PurePosixPath(path).parent.as_posix()
    whole = hashlib.sha512(data).digest()
    return [
        Chunk(
            filename=PurePosixPath(path).name,
            file_hash=whole,
            chunk_hash=hashlib.sha512(data[start:end]).digest(),
            offset=start,
            index=index,
            total=count(len(data), chunk_bytes),
            subdir="" if parent == "." else parent,
            append=append,
            data=memoryview(data)[start:end],
            mtime=mtime,
        )
        for index, start, end in split(len(data), chunk_bytes)
    ]


def golden_chunks(entry: dict[str, Any]) -> list[Chunk]:
    return chunks_of(entry["path"], content(entry["bytes"]), entry["chunk_bytes"], entry["append"], entry["mtime"])


@pytest.mark.parametrize("entry", FILES, ids=lambda entry: entry["path"])
def test_our_messages_are_those_of_openmsistream_byte_for_byte(entry: dict[str, Any]) -> None:
    ours = golden_chunks(entry)
    assert len(ours) == len(entry["chunks"])
    for chunk, golden in zip(ours, entry["chunks"], strict=True):
        value = encode(chunk)
        if "value" in golden:
            assert value.hex() == golden["value"]
        assert hashlib.sha256(value).hexdigest() == golden["sha256"]
        assert chunk_key(chunk.filename, chunk.subdir, chunk.index, chunk.total) == golden["key"].encode()


@pytest.mark.parametrize("entry", FILES, ids=lambda entry: entry["path"])
def test_a_message_reads_back_as_the_chunk_it_was(entry: dict[str, Any]) -> None:
    for chunk in golden_chunks(entry):
        for wire in (10, 9):
            read, path = decode(encode(chunk, wire), **LIMITS)
            assert read == (chunk if wire == 10 else msgspec.structs.replace(chunk, mtime=None))
            assert is_intact(read)
            assert PurePosixPath(path).parent == PurePosixPath(entry["path"]).parent


def test_the_golden_values_read_back_without_our_encoder() -> None:
    """Else an error that encoder and decoder share would not be seen."""
    seen = 0
    for entry in FILES:
        for chunk, golden in zip(golden_chunks(entry), entry["chunks"], strict=True):
            if "value" in golden:
                read, _ = decode(bytes.fromhex(golden["value"]), **LIMITS)
                assert read == chunk
                seen += 1
    assert seen >= 10


@pytest.mark.parametrize("size", [0, 1, 255, 256, 65_535, 65_536, 70_000])
@pytest.mark.parametrize("wire", [9, 10])
def test_a_message_is_plain_msgpack_whatever_the_length_of_its_data(size: int, wire: Literal[9, 10]) -> None:
    """Head and tail are put around the data by hand."""
    data = os.urandom(size)
    chunk = Chunk("Grün.dat", bytes(64), bytes(range(64)), 2**33, 16_385, 70_000, "a/b", "_s", memoryview(data), 1.5)
    fields = [getattr(chunk, name) for name in Chunk.__struct_fields__]
    assert encode(chunk, wire) == msgspec.msgpack.encode(fields[:wire])


def test_the_message_of_nine_fields_is_the_other_without_its_time() -> None:
    """What openmsipython 0.9.2.3 reads: it refuses a tenth field."""
    chunk = chunks_of("run_07/a.dat", b"abc", 8, mtime=1.7e9)[0]
    ten, nine = encode(chunk, 10), encode(chunk, 9)
    assert ten[0] == 0x9A and nine[0] == 0x99
    assert nine[1:] == ten[1:-9] and ten[-9] == 0xCB


def test_an_unknown_time_is_sent_as_zero() -> None:
    assert encode(chunks_of("a", b"x", 8)[0])[-9:] == b"\xcb" + bytes(8)


def test_keys_of_the_root_folder_have_an_underscore_since_openmsistream_1_4() -> None:
    assert chunk_key("root.dat", "", 1, 1) == b"_root.dat_chunk_1_of_1"
    assert chunk_key("root.dat", "", 1, 1, legacy_root=True) == b"root.dat_chunk_1_of_1"
    assert (
        chunk_key("b.dat", "a/b", 2, 3, legacy_root=True)
        == chunk_key("b.dat", "a/b", 2, 3)
        == (b"a_b_b.dat_chunk_2_of_3")
    )


@given(data=st.binary(max_size=2000), chunk_bytes=st.integers(1, 700), mtime=st.none() | st.floats(1, 4e9))
def test_any_file_comes_back_from_its_messages_in_any_order(data: bytes, chunk_bytes: int, mtime: float | None) -> None:
    rebuilt = bytearray(len(data))
    for value in reversed([encode(chunk) for chunk in chunks_of("d/f.bin", data, chunk_bytes, mtime=mtime)]):
        chunk, path = decode(value, largest_chunk=chunk_bytes, max_file_bytes=len(data))
        rebuilt[chunk.offset : chunk.end] = chunk.data
        assert path == "d/f.bin" and chunk.mtime == (mtime or 0.0)
    assert bytes(rebuilt) == data


@given(size=st.integers(0, 10_000), chunk_bytes=st.integers(1, 3000))
def test_split_covers_a_file_once_and_in_order(size: int, chunk_bytes: int) -> None:
    pieces = list(split(size, chunk_bytes))
    assert [index for index, _, _ in pieces] == list(range(1, count(size, chunk_bytes) + 1))
    assert pieces[0][1] == 0 and pieces[-1][2] == size
    assert all(before[2] == after[1] for before, after in pairwise(pieces))
    assert all(0 < end - start <= chunk_bytes for _, start, end in pieces) or size == 0


def test_an_empty_file_is_one_chunk_of_no_bytes() -> None:
    (chunk,) = chunks_of("empty", b"", 512)
    read, _ = decode(encode(chunk), **LIMITS)
    assert (read.index, read.total, read.offset, len(read.data)) == (1, 1, 0, 0)
    assert read.file_hash == hashlib.sha512(b"").digest()


def packed(**changes: Any) -> bytes:
    """A message of the second of three chunks, with some fields changed."""
    chunk = chunks_of("d/f.bin", bytes(range(250)), 100, mtime=1.7e9)[1]
    fields = {name: getattr(chunk, name) for name in Chunk.__struct_fields__} | changes
    return msgspec.msgpack.encode(list(fields.values()))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"file_hash": b"short"}, Reason.BAD_FIELDS),
        ({"chunk_hash": bytes(63)}, Reason.BAD_FIELDS),
        ({"mtime": float("nan")}, Reason.BAD_FIELDS),
        ({"mtime": float("inf")}, Reason.BAD_FIELDS),
        ({"mtime": 1e300}, Reason.BAD_FIELDS),
        ({"filename": 7}, Reason.BAD_FIELDS),
        ({"data": None}, Reason.BAD_FIELDS),
        ({"offset": 1.5}, Reason.BAD_FIELDS),
        ({"index": 0}, Reason.BAD_INDEX),
        ({"index": 4}, Reason.BAD_INDEX),
        ({"total": 0}, Reason.BAD_INDEX),
        ({"index": -1}, Reason.BAD_INDEX),
        ({"offset": -1}, Reason.BAD_OFFSET),
        ({"offset": 0}, Reason.BAD_OFFSET),
        ({"offset": 1 << 40}, Reason.BAD_OFFSET),
        ({"data": b""}, Reason.BAD_OFFSET),
        ({"index": 1, "total": 1}, Reason.BAD_OFFSET),
        ({"index": 1, "total": 1, "offset": 0}, Reason.BAD_HASH),
        ({"total": 1 << 41}, Reason.TOO_LARGE),
        ({"filename": ".."}, Reason.UNSAFE_PATH),
        ({"filename": "../../etc/passwd"}, Reason.UNSAFE_PATH),
        ({"subdir": "/etc"}, Reason.UNSAFE_PATH),
        ({"subdir": "a/../b"}, Reason.UNSAFE_PATH),
        ({"subdir": ".partial"}, Reason.UNSAFE_PATH),
    ],
)
def test_a_message_that_contradicts_itself_is_refused_with_its_reason(changes: dict[str, Any], reason: Reason) -> None:
    decode(packed(), **LIMITS)
    with pytest.raises(Unusable) as caught:
        decode(packed(**changes), **LIMITS)
    assert caught.value.reason is reason


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, Reason.NULL_VALUE),
        (b"", Reason.NOT_A_CHUNK),
        (b"{}", Reason.BAD_FIELDS),
        (b"\xc1", Reason.NOT_A_CHUNK),
        (msgspec.msgpack.encode([1, 2, 3]), Reason.BAD_FIELDS),
        (msgspec.msgpack.encode({"a": 1}), Reason.BAD_FIELDS),
        (packed()[:-1], Reason.NOT_A_CHUNK),
        (packed() + b"\x00", Reason.NOT_A_CHUNK),
        (b"\x91" * 100_000, Reason.BAD_FIELDS),
    ],
)
def test_what_is_not_a_chunk_is_refused_with_its_reason(value: bytes | None, reason: Reason) -> None:
    with pytest.raises(Unusable) as caught:
        decode(value, **LIMITS)
    assert caught.value.reason is reason


@given(st.binary(max_size=300))
def test_no_bytes_raise_anything_but_unusable(value: bytes) -> None:
    try:
        decode(value, **LIMITS)
    except Unusable as error:
        assert error.reason in Reason


@given(position=st.integers(0, 10_000), byte=st.integers(0, 255))
def test_one_wrong_byte_is_refused_or_shows_in_a_hash_or_in_the_names(position: int, byte: int) -> None:
    value = bytearray(packed())
    position %= len(value)
    if value[position] == byte:
        return
    original, path = decode(bytes(value), **LIMITS)
    value[position] = byte
    try:
        chunk, changed = decode(bytes(value), **LIMITS)
    except Unusable:
        return
    assert (chunk, changed) != (original, path)


def test_a_chunk_larger_than_the_limit_is_not_possible() -> None:
    with pytest.raises(Unusable):
        decode(packed(), largest_chunk=10, max_file_bytes=1 << 40)
