"""The index answers as a scan of all rows would, after any changes."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from openmsi_streams.tables.rows import Row, State
from openmsi_streams.web.fake import make_row
from openmsi_streams.web.index import Filter, Index, Key
from openmsi_streams.web.sortedkeys import SortedKeys

changes = st.lists(
    st.tuples(
        st.sampled_from([f"{i:032x}" for i in range(12)]),
        st.sampled_from(list(State)),
        st.integers(0, 20),
        st.booleans(),
    ),
    max_size=60,
)


def apply(
    steps: list[tuple[str, State, int, bool]], index: Index | None = None, rows: dict[str, Row] | None = None
) -> tuple[Index, dict[str, Row]]:
    index = Index() if index is None else index
    rows = {} if rows is None else rows
    for file_id, state, updated, gone in steps:
        if gone:
            index.forget(file_id)
            rows.pop(file_id, None)
            continue
        number = int(file_id, 16)
        row = make_row(f"d{number % 3}/f{number}", state, topic=f"t{number % 2}", now=float(updated), size=100 + number)
        index.note(file_id, row)
        rows[file_id] = row
    return index, rows


def walk(index: Index, which: Filter, limit: int) -> list[Key]:
    found: list[Key] = []
    before: Key | None = None
    while True:
        keys, before = index.page(which, limit, before)
        assert len(keys) <= limit
        found += keys
        if before is None:
            return found


@settings(max_examples=60, deadline=None)
@given(
    changes,
    st.sampled_from(["", "t0", "t1", "t9"]),
    st.frozensets(st.sampled_from(list(State)), max_size=3),
    st.sampled_from(["", "d1", "d1/f1", "zz"]),
    st.integers(0, 20),
    st.integers(0, 20),
    st.integers(1, 5),
)
def test_pages_are_what_a_scan_gives(
    steps: list[tuple[str, State, int, bool]],
    topic: str,
    states: frozenset[State],
    prefix: str,
    since: int,
    until: int,
    limit: int,
) -> None:
    index, rows = apply(steps)
    which = Filter(topic, states, prefix, float(since), float(until))
    expected = sorted(
        ((row.updated, i) for i, row in rows.items() if which.takes(row.topic, row.path, row.state, row.updated)),
        reverse=True,
    )
    assert walk(index, which, limit) == expected


@settings(max_examples=60, deadline=None)
@given(changes)
def test_sums_last_and_versions_are_what_a_scan_gives(steps: list[tuple[str, State, int, bool]]) -> None:
    index, rows = apply(steps)
    assert len(index) == len(rows)
    for (topic, state), sums in index.sums().items():
        chosen = [row for row in rows.values() if (row.topic, row.state) == (topic, state)]
        assert sums == (len(chosen), sum(row.size for row in chosen), sum(row.received for row in chosen))
    assert sum(sums.files for sums in index.sums().values()) == len(rows)
    for topic in index.topics():
        last = index.last(topic)
        assert last is not None
        assert last[0] == max(row.updated for row in rows.values() if row.topic == topic)
    for file_id, row in rows.items():
        assert index.versions(row.topic, row.path) == [file_id]
    again = Index()
    again.begin()
    for file_id, row in rows.items():
        again.add(file_id, row)
    again.complete()
    assert again.sums() == index.sums()
    assert list(again.newest(Filter())) == list(index.newest(Filter()))


@settings(max_examples=60, deadline=None)
@given(changes, changes)
def test_what_changes_while_all_rows_are_taken_anew_is_kept(
    before: list[tuple[str, State, int, bool]], meanwhile: list[tuple[str, State, int, bool]]
) -> None:
    index, rows = apply(before)
    index.begin()
    old = list(rows.items())
    for file_id, row in old[::2]:
        index.add(file_id, row)
    index, rows = apply(meanwhile, index, rows)
    for file_id, row in old[1::2]:
        index.add(file_id, row)
    index.complete()
    expected = Index()
    for file_id, row in rows.items():
        expected.note(file_id, row)
    assert list(index.newest(Filter())) == list(expected.newest(Filter()))
    assert index.sums() == expected.sums()
    index.complete()
    assert len(index) == len(rows)


def test_sorted_keys_stay_sorted_across_blocks() -> None:
    keys: SortedKeys[tuple[int, str]] = SortedKeys()
    numbers = [(i * 7919) % 5003 for i in range(5003)]
    for number in numbers:
        keys.add((number, "x"))
    assert [key[0] for key in keys.below()] == sorted(numbers, reverse=True)
    for number in numbers[::2]:
        keys.remove((number, "x"))
    keys.remove((99999, "x"))
    rest = sorted(set(numbers) - set(numbers[::2]), reverse=True)
    assert [key[0] for key in keys.below()] == rest
    assert len(keys) == len(rest)
    assert [key[0] for key in keys.below((2500, ""))] == [number for number in rest if number < 2500]
    assert (rest[0], "x") in keys and (numbers[0], "x") not in keys
    assert keys.between((0, ""), (10**6, ""), 10) is None
    assert keys.between((rest[0], ""), (10**6, ""), 10) == [(rest[0], "x")]


def test_versions_of_a_path_come_newest_first() -> None:
    index = Index()
    for number in range(3):
        index.note(f"{number:032x}", make_row("a/b", now=10.0 + number, sha512=bytes([number]) * 64))
    index.note("f" * 32, make_row("a/bc", now=50.0))
    assert index.versions("lab", "a/b") == [f"{number:032x}" for number in (2, 1, 0)]
