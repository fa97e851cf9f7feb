"""Ranges are a set of bytes: every operation does what the same operation on a Python set does."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from openmsi_streams.chunks.ranges import Ranges, add, covers, is_valid, length, missing, pairs

SPANS = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=12)


def built(spans: list[tuple[int, int]]) -> tuple[Ranges, set[int]]:
    ranges: Ranges = ()
    model: set[int] = set()
    for start, end in spans:
        ranges = add(ranges, start, end)
        model |= set(range(start, end))
        assert is_valid(ranges)
    return ranges, model


def as_set(ranges: Ranges) -> set[int]:
    return {byte for start, end in pairs(ranges) for byte in range(start, end)}


@given(SPANS)
def test_adding_is_the_union_and_stays_merged(spans: list[tuple[int, int]]) -> None:
    ranges, model = built(spans)
    assert as_set(ranges) == model
    assert length(ranges) == len(model)


@given(SPANS, st.randoms())
def test_the_order_of_adding_does_not_matter(spans: list[tuple[int, int]], random: object) -> None:
    shuffled = list(spans)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert built(spans)[0] == built(shuffled)[0]


@given(SPANS)
def test_adding_again_changes_nothing(spans: list[tuple[int, int]]) -> None:
    ranges, _ = built(spans)
    for start, end in spans:
        assert add(ranges, start, end) == ranges


@given(SPANS, st.integers(0, 60), st.integers(0, 60))
def test_covers_says_whether_every_byte_is_there(spans: list[tuple[int, int]], start: int, end: int) -> None:
    ranges, model = built(spans)
    assert covers(ranges, start, end) == (set(range(start, end)) <= model)


@given(SPANS, st.integers(0, 70))
def test_missing_is_the_complement_below_the_size(spans: list[tuple[int, int]], size: int) -> None:
    ranges, model = built(spans)
    gaps = missing(ranges, size)
    assert is_valid(gaps)
    assert as_set(gaps) == set(range(size)) - model


def test_a_file_in_order_is_one_pair_whatever_its_size() -> None:
    ranges: Ranges = ()
    for start in range(0, 1 << 40, 1 << 32):
        ranges = add(ranges, start, start + (1 << 32))
    assert ranges == (0, 1 << 40)


def test_what_is_not_a_set_of_ranges_is_not_valid() -> None:
    assert is_valid(()) and is_valid((0, 1, 2, 3))
    assert not is_valid((0,)) and not is_valid((3, 2)) and not is_valid((0, 1, 1, 2)) and not is_valid((-1, 2))
