"""Finding files."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from openmsi_streams.producers.watcher import Watcher, walk
from tests.support.waiting import wait_until


def test_a_walk_finds_every_regular_file_with_size_and_time(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "x.dat").write_bytes(b"12")
    (tmp_path / "a" / "b" / "é y.csv").write_bytes(b"")
    os.mkfifo(tmp_path / "pipe")
    found = {path: size for path, size, _ in walk(tmp_path)}
    assert found == {"x.dat": 2, "a/b/é y.csv": 0}
    assert {path for path, _, _ in walk(tmp_path, "a")} == {"a/b/é y.csv"}


def test_links_are_followed_only_inside_the_folder_and_never_in_circles(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "real").mkdir(parents=True)
    outside.mkdir()
    (root / "real" / "x.dat").write_bytes(b"1")
    (outside / "secret.dat").write_bytes(b"1")
    (root / "file_link.dat").symlink_to(root / "real" / "x.dat")
    (root / "out.dat").symlink_to(outside / "secret.dat")
    (root / "out_folder").symlink_to(outside)
    (root / "real" / "up").symlink_to(root)
    (root / "broken.dat").symlink_to(root / "nothing")
    skipped: list[str] = []
    found = {path for path, _, _ in walk(root, on_skip=lambda path, why: skipped.append(path))}
    assert found == {"real/x.dat", "file_link.dat"}
    assert sorted(skipped) == ["out.dat", "out_folder"]


def test_a_root_that_is_away_is_an_error_and_a_folder_below_is_passed_over(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        list(walk(tmp_path / "gone"))
    skipped: list[str] = []
    assert list(walk(tmp_path, "gone", lambda path, why: skipped.append(path))) == []
    assert skipped == ["gone"]


@pytest.mark.parametrize("polling", [False, True])
def test_files_are_found_at_start_when_they_come_and_when_a_folder_moves_in(tmp_path: Path, polling: bool) -> None:
    root, aside = tmp_path / "root", tmp_path / "aside"
    root.mkdir()
    (aside / "deep").mkdir(parents=True)
    (root / "first.dat").write_bytes(b"1")
    (aside / "deep" / "moved.dat").write_bytes(b"1")
    found: set[str] = set()
    walked = threading.Event()
    watcher = Watcher(
        root,
        lambda group: found.update(path for path, _, _ in group),
        lambda problem: walked.set(),
        polling=polling,
        rescan_seconds=3600.0,
        poll_seconds=0.1,
    )
    watcher.start()
    try:
        assert walked.wait(30.0)
        assert "first.dat" in found
        (root / "new.dat").write_bytes(b"1")
        wait_until(lambda: "new.dat" in found, 30.0, "the new file is found")
        os.rename(aside / "deep", root / "deep")
        wait_until(lambda: "deep/moved.dat" in found, 30.0, "the moved folder's file is found")
    finally:
        watcher.stop()


def test_a_folder_that_goes_away_and_comes_back_is_watched_again(tmp_path: Path) -> None:
    root = tmp_path / "drive"
    root.mkdir()
    found: set[str] = set()
    problems: list[str] = []
    watcher = Watcher(
        root,
        lambda group: found.update(path for path, _, _ in group),
        problems.append,
        polling=True,
        poll_seconds=0.05,
    )
    watcher.start()
    try:
        wait_until(lambda: problems[-1:] == [""], 30.0, "the folder is read")
        root.rename(tmp_path / "away")
        wait_until(lambda: problems[-1:] not in ([], [""]), 30.0, "the folder is missed")
        (tmp_path / "away" / "x.dat").write_bytes(b"1")
        (tmp_path / "away").rename(root)
        wait_until(lambda: "x.dat" in found and problems[-1] == "", 30.0, "the folder is back")
    finally:
        watcher.stop()
