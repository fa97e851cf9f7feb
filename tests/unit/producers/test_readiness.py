"""When a file counts as whole."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from openmsi_streams.producers import readiness, system
from openmsi_streams.producers.readiness import Candidate, Tracker


def tracked(tracker: Tracker, path: Path, now: float, wall: float) -> None:
    found = path.stat()
    tracker.add(path.name, path, found.st_size, found.st_mtime_ns, now, wall)


def ready(tracker: Tracker, now: float) -> list[str]:
    return [found.path if isinstance(found, Candidate) else found[0] for found in tracker.ready(now)]


def test_a_file_that_is_written_waits_until_it_was_quiet_long_enough(tmp_path: Path) -> None:
    file = tmp_path / "a.dat"
    file.write_bytes(b"1")
    wall = file.stat().st_mtime
    tracker = Tracker([readiness.quiet(3.0)])
    tracked(tracker, file, 100.0, wall)
    assert ready(tracker, 100.0) == []
    file.write_bytes(b"12")
    assert ready(tracker, 102.0) == []
    assert ready(tracker, 104.0) == []
    assert tracker.why("a.dat", 104.0) == "written to in the last 3 s"
    assert ready(tracker, 105.5) == ["a.dat"]
    assert "a.dat" not in tracker


def test_a_file_written_long_ago_is_ready_at_once_and_one_from_the_future_is_watched_first(tmp_path: Path) -> None:
    old, future = tmp_path / "old.dat", tmp_path / "future.dat"
    old.write_bytes(b"1")
    future.write_bytes(b"1")
    wall = 1_700_000_000.0
    os.utime(old, (wall - 60, wall - 60))
    os.utime(future, (wall + 3600, wall + 3600))
    tracker = Tracker([readiness.quiet(3.0)])
    tracked(tracker, old, 10.0, wall)
    tracked(tracker, future, 10.0, wall)
    assert ready(tracker, 10.0) == ["old.dat"]
    assert ready(tracker, 12.0) == []
    assert ready(tracker, 13.5) == ["future.dat"]


def test_a_file_that_vanishes_while_it_is_followed_is_reported_once(tmp_path: Path) -> None:
    file = tmp_path / "a.dat"
    file.write_bytes(b"1")
    tracker = Tracker([readiness.quiet(3.0)])
    tracked(tracker, file, 10.0, file.stat().st_mtime)
    file.unlink()
    [(path, error)] = [found for found in tracker.ready(20.0) if isinstance(found, tuple)]
    assert path == "a.dat" and isinstance(error, FileNotFoundError)
    assert ready(tracker, 30.0) == [] and len(tracker) == 0


def test_stable_asks_for_so_many_equal_looks(tmp_path: Path) -> None:
    file = tmp_path / "a.dat"
    file.write_bytes(b"1")
    tracker = Tracker([readiness.stable(3)], pause=1.0)
    tracked(tracker, file, 0.0, file.stat().st_mtime + 1000)
    assert [ready(tracker, at) for at in (0.0, 1.0)] == [[], ["a.dat"]]


def test_a_done_marker_is_waited_for(tmp_path: Path) -> None:
    file = tmp_path / "a.dat"
    file.write_bytes(b"1")
    tracker = Tracker([readiness.done_marker()])
    tracked(tracker, file, 0.0, 0.0)
    assert ready(tracker, 0.0) == []
    assert tracker.why("a.dat", 0.0) == "waits for a.dat.done"
    (tmp_path / "a.dat.done").write_bytes(b"")
    assert ready(tracker, 5.0) == ["a.dat"]


def trc(samples: int, present: int, order: str = "<") -> bytes:
    """A LeCroy file whose header promises ``samples`` 16-bit samples and that has ``present`` of them."""
    head = bytearray(346)
    head[:8] = b"WAVEDESC"
    struct.pack_into(f"{order}h", head, 32, 1)
    struct.pack_into(f"{order}h", head, 34, 1 if order == "<" else 0)
    struct.pack_into(f"{order}8i", head, 36, 346, 0, 0, 0, 0, 0, 2 * samples, 0)
    body = bytes(head) + bytes(2 * present)
    return b"#9%09d" % (346 + 2 * samples) + body


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_lecroy_file_is_whole_when_the_lengths_of_its_header_are_there(tmp_path: Path, order: str) -> None:
    file = tmp_path / "C1.trc"
    for present, whole in ((10, False), (100, True)):
        file.write_bytes(trc(100, present, order))
        candidate = Candidate("C1.trc", file, file.stat().st_size, 0, 0.0)
        assert (readiness.lecroy_whole(candidate, 0.0) == "") is whole


def test_a_trc_file_of_another_kind_does_not_wait_for_ever(tmp_path: Path) -> None:
    file = tmp_path / "x.trc"
    file.write_bytes(b"a trace of something else")
    assert readiness.lecroy_whole(Candidate("x.trc", file, 25, 0, 0.0), 0.0) == ""
    assert readiness.lecroy_whole(Candidate("gone.trc", tmp_path / "gone.trc", 25, 0, 0.0), 0.0) == ""


def test_a_locked_file_waits_and_the_lock_is_asked_only_on_windows(tmp_path: Path) -> None:
    rule = readiness.unlocked(lambda path: True)
    assert rule(Candidate("a", tmp_path / "a", 1, 0, 0.0), 0.0) == "open in another program"
    assert not system.is_locked(tmp_path / "a", windows=False)
    seen: list[str] = []

    def create_file(path: str) -> int:
        seen.append(path)
        return 32

    assert system.is_locked(tmp_path / "a", windows=True, create_file=create_file)
    assert not system.is_locked(tmp_path / "a", windows=True, create_file=lambda path: 0)
    assert not system.is_locked(tmp_path / "a", windows=True, create_file=lambda path: 2)
    assert seen == [str(tmp_path / "a")]
