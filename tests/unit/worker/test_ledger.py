"""The ledger: nothing below it is unprocessed, and it never goes back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from openmsi_streams.worker import lane as ledgers
from openmsi_streams.worker.lane import Lane, Ledger, Track


def test_offsets_that_were_left_out_are_named() -> None:
    track = Track()
    assert track.left_out(7) is None, "the first message says where the stream begins"
    track.see(7)
    assert track.left_out(8) is None
    assert track.left_out(11) == (8, 11)
    assert track.left_out(3) is None, "a repeat leaves nothing out"


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=60))
def test_the_ledger_stays_below_what_is_not_written(events: list[tuple[str, bool]]) -> None:
    lane = Lane("t", 0, Ledger())
    unwritten: dict[str, int] = {}
    last = -1
    for offset, (name, written) in enumerate(events):
        lane.log.hold(name, offset)
        unwritten.setdefault(name, offset)
        lane.log.see(offset)
        if written:
            lane.log.release(name)
            unwritten.pop(name)
        now = lane.ledger().log
        assert now == min(unwritten.values(), default=offset + 1)
        assert now >= last
        last = now
        lane.written = Ledger(now, -1)


def test_a_refill_under_way_holds_the_ledger() -> None:
    lane = Lane("t", 0, Ledger(5, -1))
    lane.log.see(20)
    lane.gaps.append((False, 9))
    assert lane.ledger() == Ledger(9, -1)
    lane.gaps.clear()
    assert lane.ledger() == Ledger(21, -1)


def test_a_ledger_is_read_as_it_was_written() -> None:
    assert ledgers.decode(ledgers.encode(Ledger(3, 4))) == Ledger(3, 4)
    assert ledgers.decode(None) == Ledger(-1, -1)
