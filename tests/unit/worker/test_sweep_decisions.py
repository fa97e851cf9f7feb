"""What is due, when: decided by pure functions."""

from __future__ import annotations

import pytest

from openmsi_streams.config.settings import WorkerSettings
from openmsi_streams.tables.rows import NEXT, OPEN, IllegalTransition, Row, State
from openmsi_streams.worker.sweep import LONGEST_WAIT, Due, due, next_request, prunable

SETTINGS = WorkerSettings(stall_after=60, expire_after=1000, keep_rows_for=5000)


def row(state: State, **changes: object) -> Row:
    fields: dict[str, object] = {
        "topic": "t",
        "path": "p",
        "sha512": b"",
        "partition": 0,
        "since": 0.0,
        "timestamp": 0.0,
    }
    return Row(state=state, **{**fields, "updated": 100.0, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("one", "now", "expected"),
    [
        (row(State.RECEIVING), 160.0, Due.NOTHING),
        (row(State.RECEIVING), 160.1, Due.STALL),
        (row(State.STALLED, retry_at=120.0), 119.0, Due.NOTHING),
        (row(State.STALLED, retry_at=120.0), 120.0, Due.REQUEST),
        (row(State.STALLED, retry_at=120.0), 1100.1, Due.EXPIRE),
        (row(State.VERIFYING), 1e9, Due.NOTHING),
        (row(State.DELIVERING), 1e9, Due.NOTHING),
        (row(State.DELIVERING, retry_at=150.0), 149.0, Due.NOTHING),
        (row(State.DELIVERING, retry_at=150.0), 150.0, Due.DELIVER),
        (row(State.DELIVERED), 1e9, Due.NOTHING),
        (row(State.QUARANTINED), 1e9, Due.NOTHING),
    ],
)
def test_due(one: Row, now: float, expected: Due) -> None:
    assert due(one, now, SETTINGS) is expected


def test_requests_come_at_growing_intervals_up_to_an_hour() -> None:
    waits = [next_request(attempt, SETTINGS) for attempt in range(1, 20)]
    assert waits[:3] == [120, 240, 480] and waits == sorted(waits) and waits[-1] == LONGEST_WAIT


def test_only_settled_rows_are_pruned() -> None:
    for state in State:
        assert prunable(row(state), 5100.1, SETTINGS) == (state in (State.DELIVERED, State.QUARANTINED))
        assert not prunable(row(state), 5099.0, SETTINGS)


def test_states_follow_the_table_and_nothing_else() -> None:
    for state in State:
        for after in State:
            if after in NEXT[state]:
                assert row(state).to(after, 5.0).state is after
            else:
                with pytest.raises(IllegalTransition):
                    row(state).to(after, 5.0)
    assert set(State) - OPEN == {State.DELIVERED, State.QUARANTINED}
