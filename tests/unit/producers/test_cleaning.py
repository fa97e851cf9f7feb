"""What is done to delivered files: only ever to the very content that was delivered."""

from __future__ import annotations

import os
from hashlib import sha512
from pathlib import Path

import pytest

from openmsi_streams.errors import ConfigurationError
from openmsi_streams.producers.cleaning import Policy, clean
from openmsi_streams.producers.content import Changed


def made(tmp_path: Path, data: bytes = b"measured") -> tuple[Path, int, int, str]:
    path = tmp_path / "watched" / "sub" / "a.dat"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    found = path.stat()
    return path, found.st_size, found.st_mtime_ns, sha512(data).hexdigest()


def test_the_delivered_content_is_deleted(tmp_path: Path) -> None:
    path, size, mtime_ns, digest = made(tmp_path)
    assert clean(Policy("delete"), path, "sub/a.dat", size, mtime_ns, digest) == "deleted"
    assert not path.exists()


@pytest.mark.parametrize("kind", ["delete", "archive"])
@pytest.mark.parametrize("change", ["longer", "same size and time"])
def test_other_content_is_never_touched(tmp_path: Path, kind: str, change: str) -> None:
    path, size, mtime_ns, digest = made(tmp_path)
    other = b"other one, longer" if change == "longer" else b"measureD"
    path.write_bytes(other)
    if change != "longer":
        os.utime(path, ns=(mtime_ns, mtime_ns))
    with pytest.raises(Changed):
        clean(Policy(kind, tmp_path / "archive"), path, "sub/a.dat", size, mtime_ns, digest)
    assert path.read_bytes() == other
    assert not (tmp_path / "archive").exists()


def test_an_archive_keeps_sub_folders_and_older_versions(tmp_path: Path) -> None:
    policy = Policy.parse(f"archive:{tmp_path / 'archive'}", tmp_path / "watched")
    for data in (b"first", b"second"):
        path, size, mtime_ns, digest = made(tmp_path, data)
        clean(policy, path, "sub/a.dat", size, mtime_ns, digest)
        assert not path.exists()
    kept = sorted(file.read_bytes() for file in (tmp_path / "archive" / "sub").iterdir())
    assert kept == [b"first", b"second"]
    assert (tmp_path / "archive" / "sub" / "a.dat").read_bytes() == b"first"


def test_an_archive_on_another_drive_is_copied_checked_and_then_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other_drive(source: str, target: str) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "rename", other_drive)
    path, size, mtime_ns, digest = made(tmp_path)
    clean(Policy("archive", tmp_path / "archive"), path, "sub/a.dat", size, mtime_ns, digest)
    assert not path.exists()
    target = tmp_path / "archive" / "sub" / "a.dat"
    assert target.read_bytes() == b"measured" and target.stat().st_mtime_ns == mtime_ns
    assert [file.name for file in target.parent.iterdir()] == ["a.dat"]


@pytest.mark.parametrize("text", ["", "remove", "archive", "archive:"])
def test_an_unknown_policy_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="keep"):
        Policy.parse(text)


def test_an_archive_inside_the_watched_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="inside the watched folder"):
        Policy.parse(f"archive:{tmp_path / 'sub'}", tmp_path)
