"""How a worker times its own event loop."""

from __future__ import annotations

import sys
import threading
import time

import pytest

from openmsi_streams.worker.watch import PULSE_WINDOW_SECONDS, QueueClock, Worst


def test_the_worst_of_the_last_minute_is_kept_for_a_minute_and_not_for_ever() -> None:
    worst = Worst()
    assert worst.note(0.2, 1000.0) == 0.2
    assert worst.note(0.1, 1000.0 + PULSE_WINDOW_SECONDS - 1) == 0.2
    assert worst.note(0.1, 1000.0 + PULSE_WINDOW_SECONDS + 1) == 0.2, "not forgotten just after it was seen"
    assert worst.note(0.05, 1000.0 + 2 * PULSE_WINDOW_SECONDS + 2) == 0.1


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells how long a thread waited for a processor")
def test_the_wait_for_a_processor_is_told() -> None:
    with QueueClock() as clock:
        before, begun = clock.seconds(), time.monotonic()

        time.sleep(0.05)
        waited, passed = clock.seconds() - before, time.monotonic() - begun
        assert 0 <= waited <= passed
    assert clock.seconds() == 0.0, "closed"


def test_where_the_system_does_not_tell_nothing_is_taken_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading, "get_native_id", lambda: -1)
    with QueueClock() as clock:
        assert clock.seconds() == 0.0
