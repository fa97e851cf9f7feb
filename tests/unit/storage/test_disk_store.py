"""The disk store: a verified partial file becomes the final file, once, durably, never outside the root."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import pytest

from openmsi_streams.chunks.messages import Delivery
from openmsi_streams.config.settings import DiskSettings
from openmsi_streams.errors import StoreError
from openmsi_streams.storage import DiskStore, SourceGone, StoreUnavailable, Verified, folders
from openmsi_streams.storage.base import hash_file
from tests.support.stores import verified


def store_in(folder: Path, versions: str = "replace", **settings: object) -> DiskStore:
    settings.setdefault("free_floor", 0)
    return DiskStore(folder / "root", DiskSettings(root=str(folder / "root"), **settings), versions)  # type: ignore[arg-type]


def partial(store: DiskStore, relative: str, data: bytes | int = 1000, **more: object) -> Verified:
    return verified(store.root / ".partial", relative, data, **more)


def test_a_file_gets_its_place_its_mtime_and_its_proof(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    file = partial(store, "run 07/raw/é.dat")
    delivery = store.put(file)
    final = store.root / "scans/run 07/raw/é.dat"
    assert hash_file(final) == file.sha512 == delivery.sha512
    assert delivery.url == final.as_uri()
    assert (delivery.kind, delivery.bytes, delivery.note) == ("disk", 1000, "")
    assert final.stat().st_mtime == file.mtime
    assert not file.path.exists()
    assert store.verify("scans", "run 07/raw/é.dat", file.sha512, file.size, deep=True) == ""


def test_an_empty_file_is_a_file(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    assert store.put(partial(store, "empty", b"")).bytes == 0
    assert store.exists("scans", "empty")


def test_a_put_repeated_after_the_rename_returns_the_same(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    file = partial(store, "a/b.dat")
    first = store.put(file)
    again = store.put(file)
    assert (again.url, again.sha512, again.bytes) == (first.url, first.sha512, first.bytes)


def test_a_partial_file_that_is_gone_is_asked_for_again(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    file = partial(store, "a/b.dat")
    file.path.unlink()
    with pytest.raises(SourceGone):
        store.put(file)
    (store.root / "scans/a").mkdir(parents=True)
    (store.root / "scans/a/b.dat").write_bytes(b"x" * file.size)
    with pytest.raises(SourceGone):
        store.put(file)


def test_a_partial_file_of_another_size_is_not_delivered(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    file = partial(store, "a.dat")
    with file.path.open("ab") as stream:
        stream.write(b"more")
    with pytest.raises(SourceGone):
        store.put(file)
    assert not store.exists("scans", "a.dat")


def test_a_newer_version_replaces_the_older(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    store.put(partial(store, "a.dat", b"old"))
    new = partial(store, "a.dat", b"new!")
    store.put(new)
    assert store.verify("scans", "a.dat", new.sha512, 4, deep=True) == ""
    assert not (store.root / ".versions").exists()


def test_versions_are_kept_when_asked(tmp_path: Path) -> None:
    store = store_in(tmp_path, "keep")
    old, new = partial(store, "s/a.dat", b"old"), partial(store, "s/a.dat", b"new!")
    store.put(old)
    store.put(new)
    store.put(new)
    kept = store.version_place("scans", "s/a.dat", old.sha512)
    assert kept == store.root / ".versions/scans/s/a.dat" / old.sha512[:16]
    assert kept.read_bytes() == b"old"
    assert (store.root / "scans/s/a.dat").read_bytes() == b"new!"
    assert [one.path for one in store.list("scans")] == ["s/a.dat"]


@pytest.mark.parametrize("versions", ["replace", "keep"])
def test_an_older_version_that_comes_late_does_not_take_the_name(tmp_path: Path, versions: str) -> None:
    store = store_in(tmp_path, versions)
    new, old = partial(store, "a.dat", b"new!"), partial(store, "a.dat", b"old")
    store.put(new)
    for _ in range(2):
        delivery = store.put(old, superseded=True)
        assert delivery.note == "superseded"
    assert (store.root / "scans/a.dat").read_bytes() == b"new!"
    assert not old.path.exists()
    assert store.version_place("scans", "a.dat", old.sha512).exists() == (versions == "keep")


def test_many_files_are_delivered_together_and_each_folder_is_synced_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_in(tmp_path)
    files = [partial(store, f"s{number % 2}/{number}.dat", 10 + number) for number in range(40)]
    for number in range(2):
        store._folders.make(store.root / "scans" / f"s{number}")
    synced: list[Path] = []
    real = folders.sync_folder
    monkeypatch.setattr(folders, "sync_folder", lambda folder: (synced.append(folder), real(folder)))
    results = store.put_many(files)
    assert [result.sha512 for result in results] == [file.sha512 for file in files]  # type: ignore[union-attr]
    assert sorted(synced) == [store.root / "scans/s0", store.root / "scans/s1"]


@pytest.mark.parametrize("versions", ["replace", "keep"])
def test_bytes_in_memory_are_put_as_those_of_a_partial_file(tmp_path: Path, versions: str) -> None:
    store = store_in(tmp_path, versions)
    files = [partial(store, f"s{number % 2}/{number}.dat", 10 + number) for number in range(20)]
    files += [partial(store, "again.dat", b"old"), partial(store, "empty.dat", b"")]
    for file in files:
        file.content = memoryview(file.path.read_bytes())
        file.path.unlink()
    # What an earlier attempt left under the partial name is written over.
    files[3].path.write_bytes(bytes(1000))
    store.put(partial(store, "again.dat", b"new!"))
    results = store.put_many(files, superseded=[file.relative == "again.dat" for file in files])
    assert [result.sha512 for result in results] == [file.sha512 for file in files]  # type: ignore[union-attr]
    for file in files:
        place = store.root / "scans" / file.relative
        if file.relative == "again.dat":
            assert place.read_bytes() == b"new!"
            place = store.version_place("scans", file.relative, file.sha512)
            assert place.exists() == (versions == "keep")
        if place.exists():
            assert place.read_bytes() == file.content
            assert place.stat().st_mtime == file.mtime
        assert not file.path.exists()


@pytest.mark.parametrize("in_memory", [False, True])
def test_a_file_that_was_not_synced_is_never_taken_for_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_memory: bool
) -> None:
    store = store_in(tmp_path)
    file = partial(store, "a.dat", 5000)
    if in_memory:
        file.content = memoryview(file.path.read_bytes())
    real = os.fsync

    def fsync(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(StoreUnavailable, match="Input/output error"):
        store.put(file)
    monkeypatch.setattr(os, "fsync", real)
    file.content = None
    with pytest.raises(SourceGone):
        store.put(file)
    assert not (store.root / "scans/a.dat").exists()


@pytest.mark.parametrize("begins", [True, False])
def test_every_small_file_is_synced_whether_or_not_its_writing_was_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begins: bool
) -> None:
    store = store_in(tmp_path)
    files = [partial(store, f"{number}.dat", 100 + number) for number in range(70)]
    for file in files:
        file.content = memoryview(file.path.read_bytes())
        file.path.unlink()
    begun, synced = [], []
    begin, sync = folders.begin_sync, folders.sync_open

    def begin_sync(fd: int) -> bool:
        begun.append(fd)
        return begins and begin(fd)

    def sync_open(fd: int, path: Path) -> None:
        synced.append(path)
        sync(fd, path)

    monkeypatch.setattr(folders, "begin_sync", begin_sync)
    monkeypatch.setattr(folders, "sync_open", sync_open)
    results = store.put_many(files)
    assert all(isinstance(result, Delivery) for result in results)
    assert len(begun) == len(files)
    assert sorted(synced) == sorted(file.path for file in files)
    for file in files:
        assert file.content is not None
        assert (store.root / "scans" / file.relative).read_bytes() == bytes(file.content)


@pytest.mark.skipif(sys.platform != "linux", reason="sync_file_range is Linux's")
def test_the_writing_of_a_file_is_begun_and_of_what_is_no_file_is_not(tmp_path: Path) -> None:
    with (tmp_path / "a").open("wb") as stream:
        stream.write(b"bytes")
        stream.flush()
        assert folders.begin_sync(stream.fileno())
    reading, writing = os.pipe()
    try:
        assert not folders.begin_sync(writing)
    finally:
        os.close(reading)
        os.close(writing)


def test_one_bad_file_does_not_hold_up_the_others(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    files = [partial(store, "a", 10), partial(store, "b", 10), partial(store, "a/b", 10)]
    files[1].path.unlink()
    good, gone, clash = store.put_many(files)
    assert not isinstance(good, StoreError)
    assert isinstance(gone, SourceGone)
    assert isinstance(clash, StoreError)


def test_a_file_and_a_folder_of_one_name_are_told_apart_from_other_faults(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    store.put(partial(store, "a", 10))
    with pytest.raises(StoreError, match="Rename one of the two") as caught:
        store.put(partial(store, "a/b", 10))
    assert not isinstance(caught.value, StoreUnavailable)
    store.put(partial(store, "c/d", 10))
    with pytest.raises(StoreError, match="is a folder"):
        store.put(partial(store, "c", 10))


def test_a_link_may_not_lead_out_of_the_root(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    outside = tmp_path / "outside"
    outside.mkdir()
    (store.root / "scans").mkdir(parents=True)
    (store.root / "scans/out").symlink_to(outside)
    file = partial(store, "out/x/a.dat")
    with pytest.raises(StoreError, match="link leads"):
        store.put(file)
    assert list(outside.iterdir()) == []
    assert file.path.exists()


def test_a_link_within_the_root_is_followed(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    (store.root / "scans/real").mkdir(parents=True)
    (store.root / "scans/alias").symlink_to(store.root / "scans/real")
    store.put(partial(store, "alias/a.dat"))
    assert (store.root / "scans/real/a.dat").is_file()


def test_a_final_name_that_is_a_link_is_replaced_not_followed(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    outside = tmp_path / "precious"
    outside.write_text("precious")
    (store.root / "scans").mkdir(parents=True)
    (store.root / "scans/a.dat").symlink_to(outside)
    store.put(partial(store, "a.dat"))
    assert outside.read_text() == "precious"
    assert not (store.root / "scans/a.dat").is_symlink()


@pytest.mark.parametrize("relative", ["../x", "a/../../x", ".partial/x", "a//b", "/etc/x"])
def test_paths_that_leave_the_store_are_refused(tmp_path: Path, relative: str) -> None:
    store = store_in(tmp_path)
    with pytest.raises(StoreError):
        store.put(partial(store, relative))


def test_names_that_differ_by_case_alone_are_refused_where_the_disk_is_blind_to_it(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    store.put(partial(store, "Run/a.dat"))
    store._folders.case_blind = True
    with pytest.raises(StoreError, match="only by case"):
        store.put(partial(store, "Run/A.dat"))
    with pytest.raises(StoreError, match="only by case"):
        store.put(partial(store, "run/b.dat"))
    store.put(partial(store, "Run/b.dat"))


def test_mode_is_set(tmp_path: Path) -> None:
    store = store_in(tmp_path, mode="0640")
    store.put(partial(store, "a.dat"))
    assert (store.root / "scans/a.dat").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("settings", [{"mode": "rw"}, {"mode": "99"}, {"owner": "nobody-at-all-here:x"}])
def test_a_mode_or_owner_that_is_none_is_refused_at_start(tmp_path: Path, settings: dict[str, str]) -> None:
    with pytest.raises(StoreError, match=r"disk\."):
        store_in(tmp_path, **settings)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EACCES, errno.EROFS])
def test_faults_of_the_disk_are_tried_again_and_leave_the_partial_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    store = store_in(tmp_path)
    file = partial(store, "a.dat")

    def fails(source: object, target: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(StoreUnavailable) as caught:
        store.put(file)
    assert caught.value.retry_after > 0
    assert file.path.exists()
    monkeypatch.undo()
    assert store.put(file).sha512 == file.sha512


def test_another_file_system_below_the_root_is_crossed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = store_in(tmp_path)
    file = partial(store, "a.dat")
    real = os.replace

    def crossing(source: Path, target: Path) -> None:
        if Path(source) == file.path:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        real(source, target)

    monkeypatch.setattr(os, "replace", crossing)
    store.put(file)
    assert hash_file(store.root / "scans/a.dat") == file.sha512
    assert (store.root / "scans/a.dat").stat().st_mtime == file.mtime
    assert [one.name for one in (store.root / "scans").iterdir()] == ["a.dat"]


def test_too_little_room_is_found_by_the_check(tmp_path: Path) -> None:
    store = store_in(tmp_path, free_floor=1 << 60)
    assert not store.has_room()
    with pytest.raises(StoreUnavailable, match="free_floor"):
        store.check()


def test_check_makes_the_root_and_leaves_nothing(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    store.check()
    assert list((store.root / ".partial").iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError):
        DiskStore(tmp_path / "file" / "root").check()


def test_derived_files_stand_beside_and_are_replaced(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    file = partial(store, "s/a.dat")
    store.put(file)
    for data in (b"{}", b"{1}"):
        delivery = store.put_beside(file, "a.dat.gemd.json", data, "application/json")
        assert (store.root / "scans/s/a.dat.gemd.json").read_bytes() == data
        assert delivery.bytes == len(data)
    with pytest.raises(StoreError):
        store.put_beside(file, "../../../x", b"", "text/plain")


def test_verify_tells_what_is_wrong(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    file = partial(store, "a.dat")
    store.put(file)
    final = store.root / "scans/a.dat"
    data = bytearray(final.read_bytes())
    data[500] ^= 1
    final.write_bytes(data)
    assert store.verify("scans", "a.dat", file.sha512, file.size) == ""
    assert "other bytes" in store.verify("scans", "a.dat", file.sha512, file.size, deep=True)
    final.write_bytes(data[:-1])
    assert store.verify("scans", "a.dat", file.sha512, file.size) == "has 999 bytes instead of 1000"
    store.remove("scans", "a.dat")
    store.remove("scans", "a.dat")
    assert store.verify("scans", "a.dat", file.sha512, file.size) == "missing"
