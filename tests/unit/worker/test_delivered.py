"""What is remembered of delivered files answers as a look at all rows would."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from openmsi_streams.chunks.keys import home_partition
from openmsi_streams.tables.rows import Row, State
from openmsi_streams.web.fake import make_row
from openmsi_streams.worker.delivered import CONTENT_BYTES, Delivered

PARTITIONS = 3


def version(path: str, content: int, mtime: float, state: State = State.DELIVERED) -> Row:
    size = 0 if content == 0 else 10
    # Contents 1 and 2 begin alike: what finds a copy is not yet proof of one.
    digest = bytes([min(content, 1)]) * CONTENT_BYTES + bytes([content]) * (64 - CONTENT_BYTES)
    partition = home_partition(path, PARTITIONS)
    return make_row(path, state, size=size, sha512=digest, mtime=mtime, partition=partition)


versions = st.builds(
    version, st.sampled_from("abcd"), st.integers(0, 3), st.integers(1, 4).map(float),
    st.sampled_from([State.DELIVERED, State.DELIVERED, State.QUARANTINED]),
)  # fmt: skip
steps = st.lists(
    st.tuples(versions, st.sampled_from(["learn", "learn", "learn", "forget", "drop", "adopt"])), max_size=30
)


@given(steps, versions)
def test_names_and_contents_are_found_as_by_looking_at_all_rows(made: list[tuple[Row, str]], asked: Row) -> None:
    rows: dict[str, Row] = {}
    known = Delivered(lambda topic, partition, file_id: rows.get(file_id))
    for row, what in made:
        file_id = f"{row.path}{row.sha512[-1]}"
        if what == "learn":
            if file_id not in rows:
                rows[file_id] = row
                known.learn(file_id, row)
        elif what == "forget":
            if file_id in rows:
                known.forget(file_id, rows.pop(file_id))
        elif what == "adopt":
            # What is settled while the table is read is known, whether the table's snapshot has it or not.
            shown = {name: kept for name, kept in rows.items() if kept.partition == row.partition}
            known.begin(row.topic, row.partition)
            if file_id not in rows:
                rows[file_id] = row
                known.learn(file_id, row)
            for name, kept in sorted(shown.items(), key=lambda item: item[0][::-1]):
                known.add(name, kept)
            known.complete(row.topic, row.partition)
        else:
            known.drop(row.topic, row.partition)
            rows = {name: kept for name, kept in rows.items() if kept.partition != row.partition}
    if any(what == "forget" for _, what in made):
        # Rows are pruned by age; what stays of a name is then looked for by nobody, and never wrong.
        holder = known.holder(asked)
        assert holder is None or rows[holder].path == asked.path
        copied = known.copied(asked)
        assert not copied or copied in {row.path for row in rows.values() if row.sha512 == asked.sha512}
        return
    done = [row for row in rows.values() if row.state is State.DELIVERED]
    named = [row for row in done if row.path == asked.path]
    assert known.newer("asked", asked) == any(row.order > asked.order for row in named)
    holder = known.holder(asked)
    assert (holder is None) == (not named)
    if holder is not None:
        assert rows[holder].order == max(row.order for row in named)
    copied = known.copied(asked)
    assert copied != asked.path
    assert not copied or copied in {row.path for row in done if row.sha512 == asked.sha512}
    if asked.size == 0:
        assert not copied


def test_what_is_pruned_while_its_table_is_read_stays_forgotten() -> None:
    old, new = version("a", 3, 1.0), version("a", 2, 2.0)
    rows = {"old": old, "new": new}
    known = Delivered(lambda topic, partition, file_id: rows.get(file_id))
    known.learn("old", old)
    known.learn("new", new)
    known.begin(old.topic, old.partition)
    known.add("new", new)
    known.forget("new", rows.pop("new"))
    known.forget("old", old)
    known.add("old", old)
    assert known.holder(old) is None
    known.complete(old.topic, old.partition)
    assert known.holder(old) is None
    assert known.copied(version("b", 3, 1.0)) == ""


def test_a_copy_is_found_on_another_partition_and_leaves_with_it() -> None:
    first, second = version("a", 3, 1.0), version("b", 3, 2.0)
    assert first.partition != second.partition
    rows = {"one": first, "two": second}
    known = Delivered(lambda topic, partition, file_id: rows[file_id])
    known.learn("one", first)
    assert known.copied(second) == "a"
    assert known.copied(first) == ""
    assert known.newest(first.topic, first.partition) == {"a": "one"}
    known.drop(first.topic, first.partition)
    assert known.copied(second) == ""
    assert known.newest(first.topic, first.partition) == {}
