"""Parking: messages that wait for a key are kept by reference, bounded, and found again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from openmsi_streams.crypto.messages import Envelope
from openmsi_streams.crypto.parking import MAX_RUNS, Parking

A, B = b"a" * 32, b"b" * 32


class Keys:
    """A node with some keys."""

    def __init__(self, *indexes: bytes) -> None:
        self.indexes = set(indexes)
        self.requested: list[tuple[str, bytes]] = []

    def has_key(self, root: str, key_index: bytes) -> bool:
        return key_index in self.indexes

    def request(self, root: str, key_index: bytes) -> None:
        self.requested.append((root, key_index))

    def decrypt(self, root: str, field: str, envelope: Envelope) -> bytes:
        raise AssertionError


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def offsets(parking: Parking) -> set[int]:
    return {offset for one in parking.rows() for offset in range(one.start, one.end)}


def test_what_is_parked_is_found_when_its_key_comes() -> None:
    parking = Parking({})
    for offset in (5, 6, 9):
        assert parking.park("lab.files", 0, offset, "lab", A)
    assert parking.park("lab.files", 1, 3, "lab", B)
    node = Keys(A)
    ready = parking.ready(node)
    assert [(one.topic, one.partition, one.start, one.end, one.key_index) for one in ready] == [
        ("lab.files", 0, 5, 7, A),
        ("lab.files", 0, 9, 10, A),
    ]
    assert node.requested == [("lab", B)]
    for one in ready:
        parking.done(one)
    assert [(one.partition, one.start) for one in parking.rows()] == [(1, 3)]


def test_a_message_that_is_delivered_again_changes_nothing() -> None:
    rows: dict[bytes, bytes] = {}
    parking = Parking(rows)
    parking.park("lab.files", 0, 5, "lab", A)
    before = dict(rows)
    assert parking.park("lab.files", 0, 5, "lab", A)
    assert rows == before and parking.messages() == 1


def test_a_restarted_worker_finds_what_was_parked() -> None:
    rows: dict[bytes, bytes] = {}
    Parking(rows).park("lab.files", 2, 41, "lab", A)
    (again,) = Parking(rows).ready(Keys(A))
    assert (again.partition, again.start, again.end) == (2, 41, 42)
    assert Parking(rows).holds("lab.files", 2, 41, A) and not Parking(rows).holds("lab.files", 2, 42, A)


def test_what_is_parked_while_a_range_is_read_again_stays() -> None:
    parking = Parking({})
    parking.park("lab.files", 0, 5, "lab", A)
    (ready,) = parking.ready(Keys(A))
    parking.park("lab.files", 0, 6, "lab", A)
    parking.done(ready)
    assert offsets(parking) == {6}


def test_a_range_can_be_done_in_parts() -> None:
    parking = Parking({})
    for offset in range(10):
        parking.park("lab.files", 0, offset, "lab", A)
    (ready,) = parking.ready(Keys(A))
    parking.done(ready, up_to=4)
    assert offsets(parking) == set(range(4, 10))
    parking.done(ready)
    parking.done(ready)
    assert offsets(parking) == set()


def test_after_the_time_limit_messages_are_given_up() -> None:
    clock = Clock()
    parking = Parking({}, clock=clock)
    parking.park("lab.files", 0, 5, "lab", A)
    clock.now += 50
    parking.park("lab.files", 0, 8, "lab", B)
    assert parking.expired(60) == []
    clock.now += 20
    assert [(one.start, one.key_index, one.since) for one in parking.expired(60)] == [(5, A, 1000.0)]


def test_invented_keys_cannot_fill_the_table() -> None:
    rows: dict[bytes, bytes] = {}
    parking = Parking(rows, max_rows=10)
    taken = [parking.park("lab.files", 0, number, "lab", bytes([number]) * 32) for number in range(50)]
    assert sum(taken) == len(rows) == 10
    # A key that is waited for already still takes messages.
    assert parking.park("lab.files", 0, 99, "lab", bytes(32))


def test_a_row_stays_small_however_many_messages_wait() -> None:
    """100,000 messages between those of others: the row holds a few runs, and loses none of them."""
    rows: dict[bytes, bytes] = {}
    parking = Parking(rows)
    wanted = set(range(0, 2000, 2)) | set(range(1_000_000, 1_001_000))
    for offset in sorted(wanted):
        parking.park("lab.files", 0, offset, "lab", A)
    (row,) = rows.values()
    assert len(row) < 300
    assert len(parking.rows()) <= MAX_RUNS
    covered = sum(one.end - one.start for one in parking.rows())
    assert covered <= 3 * len(wanted), "runs of different times must not become one"
    assert all(any(one.start <= offset < one.end for one in parking.rows()) for offset in wanted)


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 60), st.sampled_from([A, B])), max_size=80),
    st.lists(st.tuples(st.integers(0, 200), st.integers(0, 70)), max_size=8),
)
def test_no_parked_message_is_lost(parked: list[tuple[int, int, bytes]], finished: list[tuple[int, int]]) -> None:
    """Whatever is parked and partly done in any order: what was parked and not done stays covered."""
    parking = Parking({})
    model: set[tuple[int, int, bytes]] = set()
    for number, (partition, offset, key) in enumerate(parked):
        parking.park("t", partition, offset, "t", key)
        model.add((partition, offset, key))
        for at, up_to in finished:
            if at == number and (ranges := parking.rows()):
                one = ranges[up_to % len(ranges)]
                parking.done(one, up_to=up_to)
                model -= {
                    entry
                    for entry in model
                    if (entry[0], entry[2]) == (one.partition, one.key_index)
                    and one.start <= entry[1] < min(up_to, one.end)
                }
    held = {(one.partition, offset, one.key_index) for one in parking.rows() for offset in range(one.start, one.end)}
    assert model <= held
