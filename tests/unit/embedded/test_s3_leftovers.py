"""A killed S3 server leaves files half written; they are removed before another starts, and nothing else is."""

from __future__ import annotations

from pathlib import Path

import pytest

from openmsi_streams.embedded.s3 import KEYS_FILE, kept_keys, remove_leftovers
from openmsi_streams.errors import UsageError


def test_only_what_was_half_written_goes(tmp_path: Path) -> None:
    keep = ["lab/a.dat", "lab/mine.json.tmp", "lab/.tmp.notes", "lab/.nanio-meta/a.dat.json", "lab/x/.tmp.short"]
    gone = ["lab/.nanio-meta/deep/a.dat.json.tmp", "lab/deep/.tmp." + "0a" * 16]
    for name in keep + gone:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    assert remove_leftovers(tmp_path) == 2
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert left == set(keep)
    assert remove_leftovers(tmp_path / "not there") == 0


def test_keys_stay_those_of_the_first_start_and_only_their_owner_reads_them(tmp_path: Path) -> None:
    assert kept_keys(tmp_path, "name", "secret") == ("name", "secret")
    assert kept_keys(tmp_path, "other", "another") == ("name", "secret")
    assert (tmp_path / KEYS_FILE).stat().st_mode & 0o077 == 0
    (tmp_path / KEYS_FILE).write_text("half")
    with pytest.raises(UsageError, match="Delete it"):
        kept_keys(tmp_path, "other", "another")
