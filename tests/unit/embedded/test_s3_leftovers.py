"""A killed S3 server leaves files half written; they are removed before another starts, and nothing else is."""

from __future__ import annotations

from pathlib import Path

from openmsi_streams.embedded.s3 import remove_leftovers


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
