"""A worker knows whether it alone wrote to a changelog, however its records and the answers come."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from openmsi_streams.tables.alone import Alone


def learn(alone: Alone, read_to: int) -> None:
    alone.begin(0, read_to)
    alone.complete(0)


steps = st.lists(st.sampled_from(["send", "answer", "another", "learn"]), max_size=40)


@given(steps)
def test_it_is_alone_exactly_while_no_other_has_written(steps: list[str]) -> None:
    alone = Alone()
    learn(alone, -1)
    log: list[str] = []
    asked: list[int] = []
    others = False
    for step in steps:
        if step == "send":
            # The broker has it at once; the answer is under way.
            alone.sending(0)
            asked.append(len(log))
            log.append("mine")
        elif step == "answer" and asked:
            alone.sent(0, asked.pop(0))
        elif step == "another":
            log.append("other")
            others = True
        elif step == "learn" and not asked:
            learn(alone, len(log) - 1)
            others = False
        told = alone.told(0, len(log))
        if told:
            assert not others
        elif told is None:
            assert asked
        else:
            assert others
    for offset in asked:
        alone.sent(0, offset)
    assert alone.told(0, len(log)) is not others


def test_what_was_never_learned_is_not_known() -> None:
    alone = Alone()
    assert alone.told(3, 0) is False and alone.reached(3) == -1
    alone.sending(3)
    alone.sent(3, 0)
    assert alone.told(3, 1) is False


def test_records_under_way_when_the_table_is_learned_are_its_own() -> None:
    alone = Alone()
    alone.begin(0, -1)
    alone.sending(0)
    alone.sending(0)
    alone.sent(0, 0)
    # What the table has of its changelog is written down only now and then: the own record behind it is known.
    learn(alone, -1)
    assert alone.reached(0) == 1
    assert alone.told(0, 2) is None
    alone.sent(0, 1)
    assert alone.told(0, 2) is True


def test_another_record_between_own_ones_is_noticed_for_good() -> None:
    alone = Alone()
    alone.begin(0, 9)
    alone.complete(0)
    alone.sending(0)
    alone.sent(0, 11)
    assert alone.told(0, 12) is False
    alone.sending(0)
    alone.sent(0, 12)
    assert alone.told(0, 13) is False
    alone.begin(0, 12)
    assert alone.told(0, 13) is False and alone.reached(0) == -1, "its rows are not remembered yet"
    alone.complete(0)
    assert alone.told(0, 13) is True
