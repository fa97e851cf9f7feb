"""A partition's RocksDB folder that is damaged is put aside; what damage is not is left to the caller."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from faust.stores.rocksdb import RocksDBOptions

from openmsi_streams.tables.opening import is_damage, open_checked

WRITER = """
import os, sys
from pathlib import Path
from faust.stores.rocksdb import RocksDBOptions
db = RocksDBOptions(driver="rocksdict").open(Path(sys.argv[1]))
for number in range(300):
    db.put(b"%d" % number, os.urandom(300))
db.flush()
for number in range(300, 400):
    db.put(b"%d" % number, os.urandom(300))
os._exit(9)
"""


def open_db(path: Path) -> Any:
    return RocksDBOptions(driver="rocksdict").open(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A database as a killed process leaves it."""
    path = tmp_path / "files-0.db"
    subprocess.run([sys.executable, "-c", WRITER, str(path)], check=False)
    return path


def test_a_whole_one_is_opened_as_it_is(folder: Path) -> None:
    db, is_new = open_checked(lambda: open_db(folder), folder)
    assert (len(list(db.items())), is_new) == (400, False)
    db.close()


@pytest.mark.parametrize("pattern", ["MANIFEST*", "*.sst", "CURRENT"])
def test_a_damaged_one_is_put_aside_and_a_new_one_opened(folder: Path, pattern: str) -> None:
    for path in folder.glob(pattern):
        if pattern == "CURRENT":
            path.unlink()
            continue
        data = bytearray(path.read_bytes())
        data[10 : len(data) // 2] = b"\x55" * (len(data) // 2 - 10)
        path.write_bytes(data)
    db, is_new = open_checked(lambda: open_db(folder), folder)
    assert (len(list(db.items())), is_new) == (0, True)
    assert len(list(folder.parent.glob("files-0.db.damaged-*"))) == 1
    db.close()


def test_a_file_in_the_place_of_the_folder_is_put_aside(tmp_path: Path) -> None:
    path = tmp_path / "files-0.db"
    path.write_bytes(b"no folder")
    db, is_new = open_checked(lambda: open_db(path), path)
    assert is_new and path.is_dir()
    db.close()


def test_one_that_is_in_use_stays(folder: Path) -> None:
    """A second worker with the same folder must not take the first one's table away."""
    db = open_db(folder)
    with pytest.raises(Exception, match="lock"):
        open_checked(lambda: open_db(folder), folder)
    assert not list(folder.parent.glob("*.damaged-*"))
    db.close()


@pytest.mark.parametrize(
    ("said", "damaged"),
    [
        ("Corruption: block checksum mismatch: stored = 1, computed = 2", True),
        ("IO error: No such file or directory: While open a file: /d/000009.sst", True),
        ("IO error: While lock file: /d/LOCK: Resource temporarily unavailable", False),
        ("IO error: lock hold by current process, acquire time 1: /d/LOCK: No locks available", False),
        ("IO error: No space left on device: While appending to file: /d/000009.log", False),
        ("IO error: Permission denied: While open a file: /d/CURRENT", False),
        ("IO error: Too many open files", False),
    ],
)
def test_what_damage_is(said: str, damaged: bool) -> None:
    assert is_damage(Exception(said)) is damaged
