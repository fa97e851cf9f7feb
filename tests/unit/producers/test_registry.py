"""The registry outlives what can happen to it."""

from __future__ import annotations

import logging
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from openmsi_streams.errors import ConfigurationError
from openmsi_streams.producers.registry import SCHEMA, Registry, Row


def test_a_row_comes_back_as_it_was_put(tmp_path: Path) -> None:
    row = Row(path="a/é.dat", state="sending", size=7, mtime_ns=1, sha512="ab", file_id="cd", acked="0,5", seen=1.5)
    registry = Registry(tmp_path / "state" / "r.sqlite3")
    assert registry.fresh
    registry.put(row)
    registry.close()
    again = Registry(tmp_path / "state" / "r.sqlite3")
    assert not again.fresh
    assert again.get("a/é.dat") == row == again.by_id("cd")
    assert again.look("a/é.dat") == ("sending", 7, 1)
    assert again.get("other") is None and again.by_id("") is None
    assert again.counts()["sending"] == 1
    again.close()


def test_offsets_of_topics_with_any_legal_name_come_back(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "r.sqlite3")
    registry.set_offset("lab_1.chunks.receipts", 2, 41)
    registry.set_offset("lab_1.chunks.receipts", 2, 42)
    assert registry.offsets() == {("lab_1.chunks.receipts", 2): 42}
    registry.close()


def test_what_was_committed_survives_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite3"
    program = (
        "import os, sys, pathlib\n"
        "from openmsi_streams.producers.registry import Registry, Row\n"
        "r = Registry(pathlib.Path(sys.argv[1]))\n"
        "r.put(Row(path='kept', state='sent')); r.commit()\n"
        "r.put(Row(path='lost', state='sent'))\n"
        "os.kill(os.getpid(), 9)\n"
    )
    assert subprocess.run([sys.executable, "-c", program, str(path)], timeout=60, check=False).returncode == -9
    registry = Registry(path)
    assert [row.path for row in registry.rows()] == ["kept"]
    registry.close()


@pytest.mark.parametrize("damage", ["header", "page", "text"])
def test_a_damaged_registry_is_put_aside_and_begun_anew_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    path = tmp_path / "r.sqlite3"
    registry = Registry(path)
    for number in range(2000):
        registry.put(Row(path=f"file {number}", state="sent"))
    registry.close()
    content = bytearray(path.read_bytes())
    if damage == "header":
        content[:100] = bytes(100)
    elif damage == "page":
        content[4096 : len(content) - 4096] = b"\xff" * (len(content) - 8192)
    else:
        content = bytearray(b"this is not a database, it is a text that somebody saved here\n" * 40)
    path.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        again = Registry(path)
    assert again.rebuilt and again.fresh
    assert list(again.rows()) == []
    assert "damaged" in caplog.text
    assert len(list(tmp_path.glob("r.sqlite3.damaged-*"))) == 1
    again.close()


def test_a_registry_of_a_newer_version_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite3"
    Registry(path).close()
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version={SCHEMA + 1}")
    db.close()
    with pytest.raises(ConfigurationError, match="newer version"):
        Registry(path)
    assert sqlite3.connect(path).execute("PRAGMA user_version").fetchone() == (SCHEMA + 1,)


def test_a_registry_in_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="--state"):
        Registry(tmp_path / "file" / "r.sqlite3")


def test_receipts_are_kept_and_only_the_newest_of_a_path_counts(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "r.sqlite3")
    registry.keep_receipt("a", "old", "delivered", 1.0)
    registry.keep_receipt("b", "1", "quarantined", 1e9)
    registry.keep_receipt("b", "2", "delivered", 1e9 + 1)
    registry.keep_receipt("b", "1", "delivered", 1e9 - 5)
    registry.prune(1e9 + 2)
    assert registry.receipt("a") is None
    assert registry.receipt("b") == ("2", "delivered", 1e9 + 1)
    registry.close()
