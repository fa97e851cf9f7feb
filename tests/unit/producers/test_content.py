"""Reading a file twice and trusting only what is the same both times."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha512
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from openmsi_streams.producers import content, system
from openmsi_streams.producers.content import Changed, Piece, Prepared


@pytest.fixture(scope="module")
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as running:
        yield running


@pytest.mark.parametrize("size", [0, 1, 1024, 1025, 4096, content.SMALL, content.SMALL + 1, content.SMALL + 70_000])
def test_hashes_are_those_of_file_and_chunks_whatever_the_size(
    tmp_path: Path, pool: ThreadPoolExecutor, size: int
) -> None:
    data = os.urandom(size)
    (tmp_path / "x").write_bytes(data)
    chunk_bytes = 1024 if size < 10_000 else 65_536
    prepared = content.prepare(tmp_path / "x", chunk_bytes, pool)
    assert prepared.sha512 == sha512(data).digest()
    assert prepared.total == max(1, -(-size // chunk_bytes))
    for index in range(1, prepared.total + 1):
        assert prepared.digest(index) == sha512(data[(index - 1) * chunk_bytes : index * chunk_bytes]).digest()
    assert (prepared.data is not None) == (size <= content.SMALL)
    if prepared.data is None:
        with system.open_shared(prepared.source) as file:
            assert b"".join(content.chunk(file, prepared, n) for n in range(1, prepared.total + 1)) == data


@pytest.mark.parametrize("chunk_bytes", [1000, content.BLOCK - 1, content.BLOCK, 2 * content.BLOCK + 1])
def test_hashes_of_a_large_file_do_not_depend_on_the_blocks_it_is_read_in(
    tmp_path: Path, pool: ThreadPoolExecutor, chunk_bytes: int
) -> None:
    data = os.urandom(2 * content.SMALL + 3)
    (tmp_path / "x").write_bytes(data)
    prepared = content.prepare(tmp_path / "x", chunk_bytes, pool)
    parts = [data[start : start + chunk_bytes] for start in range(0, len(data), chunk_bytes)]
    assert prepared.sha512 == sha512(data).digest()
    assert prepared.digests == b"".join(sha512(part).digest() for part in parts)
    assert prepared.checks == [xxh3_64_intdigest(part) for part in parts]


def test_a_message_keeps_its_bytes_while_its_memory_is_used_for_the_next(
    tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    data = os.urandom(content.SMALL + 100_000)
    (tmp_path / "x").write_bytes(data)
    prepared = content.prepare(tmp_path / "x", 65_536, pool)
    room = deque([BytesIO(), BytesIO()])
    with system.open_shared(prepared.source) as file:
        # Heads of two lengths, and a shorter last chunk.
        found = [
            content.chunk(file, prepared, n, b"h" * (1 + n % 2), b"tail", room) for n in range(1, prepared.total + 1)
        ]
    for index, message in enumerate(found, start=1):
        part = data[(index - 1) * 65_536 : index * 65_536]
        assert message == b"h" * (1 + index % 2) + part + b"tail"


@pytest.mark.parametrize("change", ["other bytes", "shorter", "one bit"])
def test_a_chunk_that_changed_since_it_was_hashed_is_never_handed_out(
    tmp_path: Path, pool: ThreadPoolExecutor, change: str
) -> None:
    path = tmp_path / "x"
    path.write_bytes(os.urandom(content.SMALL + 100_000))
    prepared = content.prepare(path, 65_536, pool)
    with open(path, "r+b") as file:
        if change == "shorter":
            file.truncate(65_536 + 10)
        else:
            file.seek(65_536 + 500)
            old = file.read(1)
            file.seek(65_536 + 500)
            file.write(bytes([old[0] ^ 1]) if change == "one bit" else os.urandom(100) + b"!")
    with system.open_shared(path) as file_:
        content.chunk(file_, prepared, 1)
        with pytest.raises(Changed):
            content.chunk(file_, prepared, 2)


def test_a_file_that_is_written_while_it_is_hashed_must_wait(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    path = tmp_path / "x"
    path.write_bytes(os.urandom(content.SMALL + 100_000))

    def grows() -> bool:
        with open(path, "ab") as file:
            file.write(b"more")
        return False

    with pytest.raises(Changed):
        content.prepare(path, 65_536, pool, stop=grows)


def test_hashing_of_a_large_file_ends_when_the_program_ends(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    (tmp_path / "x").write_bytes(bytes(content.SMALL + 1))
    with pytest.raises(Changed):
        content.prepare(tmp_path / "x", 65_536, pool, stop=lambda: True)


def test_a_missing_file_is_an_os_error(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    with pytest.raises(FileNotFoundError):
        content.prepare(tmp_path / "gone", 1024, pool)


@given(
    parts=st.lists(st.tuples(st.integers(0, 90), st.integers(1, 40), st.booleans()), min_size=1, max_size=4),
    offset=st.integers(0, 120),
    size=st.integers(0, 120),
)
def test_reading_pieces_is_reading_from_their_concatenation(
    tmp_path_factory: pytest.TempPathFactory, parts: list[tuple[int, int, bool]], offset: int, size: int
) -> None:
    data = bytes(range(200))
    path = tmp_path_factory.getbasetemp() / "pieces.bin"
    path.write_bytes(data)
    pieces = tuple(Piece(start, start + length, b"*" * length if literal else b"") for start, length, literal in parts)
    whole = b"".join(piece.literal or data[piece.start : piece.end] for piece in pieces)
    prepared = Prepared(path, 200, 0, len(whole), b"", b"", [], 16, None, pieces)
    with system.open_shared(path) as file:
        assert content.read(file, prepared, offset, size) == whole[offset : offset + size]
