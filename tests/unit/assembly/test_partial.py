"""Partial files: any order gives the bytes and their hash; what happens to the file behind our back is noticed."""

from __future__ import annotations

import hashlib
import os
import random
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openmsi_streams.assembly.partial import PartialFile, Vanished


@settings(max_examples=60, deadline=None)
@given(
    size=st.integers(0, 4000), cuts=st.lists(st.integers(1, 900), min_size=1, max_size=3), seed=st.integers(0, 2**32)
)
def test_pieces_in_any_order_cut_in_any_way_give_the_file_and_its_hash(size: int, cuts: list[int], seed: int) -> None:
    rng = random.Random(seed)
    data = rng.randbytes(size)
    pieces = [(start, data[start : start + cut]) for cut in cuts for start in range(0, size, cut)]
    rng.shuffle(pieces)
    with tempfile.TemporaryDirectory() as folder:
        partial = PartialFile(Path(folder) / "a" / "b")
        for number, (start, piece) in enumerate(pieces):
            partial.write(start, memoryview(piece))
            if number % 5 == 0:
                partial.close()
        assert partial.finish(size) == hashlib.sha512(data).digest()
        assert partial.path.read_bytes() == data
        partial.remove()
        assert not partial.path.exists()


def test_a_file_begun_by_another_process_is_hashed_from_the_disk(tmp_path: Path) -> None:
    data = bytes(range(200))
    (tmp_path / "x").write_bytes(data[:100])
    partial = PartialFile(tmp_path / "x", (0, 100))
    partial.write(100, memoryview(data[100:]))
    assert partial.finish(200) == hashlib.sha512(data).digest()


@pytest.mark.parametrize("closed", [True, False])
def test_a_file_that_was_removed_meanwhile_is_noticed(tmp_path: Path, closed: bool) -> None:
    partial = PartialFile(tmp_path / "x")
    partial.write(0, memoryview(b"half"))
    if closed:
        partial.close()
    os.unlink(tmp_path / "x")
    with pytest.raises(Vanished):
        partial.write(4, memoryview(b"rest"))
        partial.finish(8)


def test_a_longer_file_is_cut_to_its_size(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abcdefgh")
    partial = PartialFile(tmp_path / "x", (0, 8))
    assert partial.finish(3) == hashlib.sha512(b"abc").digest()
    assert (tmp_path / "x").read_bytes() == b"abc"
