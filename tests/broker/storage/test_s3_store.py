"""The S3 store against a live server (the embedded one, or the one that OPENMSI_TEST_S3 names)."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from openmsi_streams.chunks import ranges as rg
from openmsi_streams.config.settings import MIB
from openmsi_streams.embedded import EmbeddedS3
from openmsi_streams.errors import IntegrityError, StoreError
from openmsi_streams.storage import SourceGone, StoreUnavailable, Verified, upload
from openmsi_streams.storage.base import NoUpload
from openmsi_streams.storage.s3 import S3Store
from openmsi_streams.storage.s3client import Absent
from tests.support.stores import arrived, new_topic, s3_settings, verified

pytestmark = pytest.mark.broker

MAKER = "instrument-7 é"


@pytest.fixture
def store(s3: EmbeddedS3) -> Iterator[S3Store]:
    one = S3Store("main", s3_settings(s3))
    yield one
    one.close()


@pytest.fixture
def topic() -> str:
    return new_topic()


def unfinished(store: S3Store, topic: str) -> list[str]:
    found = store.client.list_multipart_uploads(Bucket=store.settings.bucket).get("Uploads", [])
    return [upload["UploadId"] for upload in found if upload["Key"].startswith(topic)]


def begin(store: S3Store, file: Verified) -> Any:
    return store.begin(file.file_id, file.topic, file.relative, file.sha512, None, mtime=file.mtime)


@pytest.mark.parametrize("size", [0, 1, 1000, 5 * MIB, 5 * MIB + 1, 12 * MIB])
def test_a_file_arrives_with_its_bytes_and_metadata(store: S3Store, topic: str, tmp_path: Path, size: int) -> None:
    file = verified(tmp_path, "run 07/é/50% #1.dat", size, topic, producer=MAKER)
    delivery = store.put(file)
    assert (delivery.kind, delivery.store, delivery.bytes, delivery.sha512) == ("s3", "main", size, file.sha512)
    key = delivery.url.removeprefix(f"s3://{store.settings.bucket}/")
    assert store.keys.place(key) == (topic, file.relative)
    head = store.client.head_object(Bucket=store.settings.bucket, Key=key)["Metadata"]
    assert head["sha512"] == file.sha512
    assert float(head["mtime"]) == file.mtime
    assert (head["topic"], head["file-id"]) == (topic, file.file_id)
    assert head["producer"].isascii()
    assert store.verify(topic, file.relative, file.sha512, size, deep=True) == ""
    assert unfinished(store, topic) == []
    assert file.path.exists(), "an S3 store leaves the partial file alone"


def test_the_same_content_is_not_sent_again(store: S3Store, topic: str, tmp_path: Path) -> None:
    small, large = verified(tmp_path, "s", 100, topic), verified(tmp_path, "l", 6 * MIB, topic)
    for file in (small, large):
        store.put(file)
    before = dict(store.sent)
    for file in (small, large):
        store.put(file)
    assert {**store.sent, "skipped": 0} == {**before, "skipped": 0}
    assert store.sent["skipped"] == before["skipped"] + 2


def test_a_newer_version_replaces_and_a_late_older_one_does_not(store: S3Store, topic: str, tmp_path: Path) -> None:
    new, old = verified(tmp_path, "a.dat", b"new", topic), verified(tmp_path, "a.dat", b"older", topic)
    store.put(verified(tmp_path, "a.dat", b"oldest", topic))
    store.put(new)
    assert store.put(old, superseded=True).note == "superseded"
    assert store.verify(topic, "a.dat", new.sha512, 3, deep=True) == ""


def test_versions_are_kept_when_asked(s3: EmbeddedS3, topic: str, tmp_path: Path) -> None:
    store = S3Store("main", s3_settings(s3), "keep")
    files = [verified(tmp_path, "a.dat", data, topic) for data in (b"first", b"second", b"late")]
    store.put(files[0])
    store.put(files[1])
    assert store.put(files[2], superseded=True).note == "superseded"
    for file in files:
        store.fetch(file, tmp_path / "back")
        assert (tmp_path / "back").read_bytes() == file.path.read_bytes()
    assert [one.path for one in store.list(topic)] == ["a.dat"]
    store.close()


def test_a_large_older_version_is_kept_in_parts_and_never_takes_the_name(
    s3: EmbeddedS3, topic: str, tmp_path: Path
) -> None:
    store = S3Store("main", s3_settings(s3), "keep")
    new, old = verified(tmp_path, "a.dat", b"new", topic), verified(tmp_path, "a.dat", 11 * MIB, topic)
    store.put(new)
    begin_now = store.uploads.begin

    def lost(*args: Any, **more: Any) -> Any:
        state = begin_now(*args, **more)
        store.uploads.forget(state.upload_id)
        store.client.abort_multipart_upload(Bucket=store.settings.bucket, Key=state.key, UploadId=state.upload_id)
        store.uploads.begin = begin_now  # type: ignore[method-assign]
        return state

    store.uploads.begin = lost  # type: ignore[method-assign]
    assert store.put(old, superseded=True).note == "superseded"
    assert store.verify(topic, "a.dat", new.sha512, 3, deep=True) == ""
    store.fetch(old, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == old.path.read_bytes()
    store.close()


def test_versions_are_kept_of_streamed_files_too(s3: EmbeddedS3, topic: str, tmp_path: Path) -> None:
    store = S3Store("main", s3_settings(s3), "keep")
    old, new = verified(tmp_path, "a.dat", 11 * MIB, topic), verified(tmp_path, "a.dat", 12 * MIB, topic)
    for file in (old, new):
        state = store.advance(begin(store, file), file.path, arrived(0, 7 * MIB), None)
        store.complete(state, file)
    for file in (old, new):
        store.fetch(file, tmp_path / "back")
        assert (tmp_path / "back").read_bytes() == file.path.read_bytes()
    store.close()


def test_parts_go_up_while_the_file_arrives(store: S3Store, topic: str, tmp_path: Path) -> None:
    file = verified(tmp_path, "big.dat", 23 * MIB, topic)
    state = begin(store, file)
    sent = []
    for reached in range(2 * MIB, file.size, 2 * MIB):
        state = store.advance(state, file.path, arrived(0, reached), None)
        sent.append(store.sent["parts"])
    assert sent == [reached // (5 * MIB) for reached in range(2 * MIB, file.size, 2 * MIB)]
    assert len(store.dump_state(state)) < 500
    delivery = store.complete(store.load_state(store.dump_state(state)), file)
    assert store.sent["parts"] == 5
    assert delivery.bytes == file.size
    assert store.verify(topic, "big.dat", file.sha512, file.size, deep=True) == ""
    assert store.complete(state, file).url == delivery.url, "a repeat after completion returns the same"
    assert unfinished(store, topic) == []


def test_parts_that_become_whole_meanwhile_go_up_in_the_same_call(
    store: S3Store, topic: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = verified(tmp_path, "big.dat", 31 * MIB, topic)
    asked: list[int] = []

    def growing() -> rg.Ranges:
        asked.append(store.sent["parts"])
        return 0, min(5 * len(asked), 31) * MIB

    monkeypatch.setattr(upload, "PARTS_PER_CALL", 4)
    state = store.advance(begin(store, file), file.path, growing, None)
    assert sorted(state.parts) == [1, 2, 3, 4], "no more than a call may send"
    assert asked[0] == 0 and len(asked) >= 4
    state = store.advance(state, file.path, growing, file.size)
    assert sorted(state.parts) == [1, 2, 3, 4, 5, 6, 7]
    store.complete(state, file)
    assert store.sent["parts"] == 7
    assert store.verify(topic, "big.dat", file.sha512, file.size, deep=True) == ""


def test_chunks_out_of_order_are_sent_as_they_become_whole(store: S3Store, topic: str, tmp_path: Path) -> None:
    file = verified(tmp_path, "big.dat", 16 * MIB, topic)
    state = begin(store, file)
    ranges: rg.Ranges = ()
    for start in (10, 4, 14, 0, 12, 8, 6, 2):
        ranges = rg.add(ranges, start * MIB, (start + 2) * MIB)
        state = store.advance(state, file.path, arrived(*ranges), file.size)
    assert sorted(state.parts) == [1, 2, 3, 4]
    store.complete(state, file)
    assert store.verify(topic, "big.dat", file.sha512, file.size, deep=True) == ""


def test_another_process_goes_on_without_sending_parts_again(s3: EmbeddedS3, topic: str, tmp_path: Path) -> None:
    settings = s3_settings(s3)
    first, second = S3Store("main", settings), S3Store("main", settings)
    file = verified(tmp_path, "big.dat", 23 * MIB, topic)
    early = first.dump_state(begin(first, file))
    first.advance(first.load_state(early), file.path, arrived(0, 17 * MIB), None)
    assert first.sent["parts"] == 3
    # The row that the first process wrote last knows of no part: the server is asked.
    state = second.advance(second.load_state(early), file.path, arrived(0, 21 * MIB), None)
    assert second.sent["parts"] == 1
    assert sorted(state.parts) == [1, 2, 3, 4]
    second.complete(state, file)
    assert second.sent["parts"] == 2
    assert second.verify(topic, "big.dat", file.sha512, file.size, deep=True) == ""
    first.close()
    second.close()


@pytest.mark.parametrize("how", ["another process", "file replaced", "out of order", "recheck"])
def test_a_part_whose_bytes_changed_after_it_was_sent_is_sent_again(
    s3: EmbeddedS3, topic: str, tmp_path: Path, how: str
) -> None:
    settings = s3_settings(s3)
    store = S3Store("main", settings)
    right = verified(tmp_path, "big.dat", 17 * MIB, topic)
    content = right.path.read_bytes()
    wrong = bytearray(content)
    wrong[6 * MIB] ^= 1
    right.path.write_bytes(wrong)
    state = begin(store, right)
    state = store.advance(state, right.path, arrived((5 if how == "out of order" else 0) * MIB, 15 * MIB), None)
    if how == "file replaced":
        right.path.unlink()
        right.path.write_bytes(content)
    else:
        with right.path.open("r+b") as stream:
            stream.write(content)
    if how == "another process":
        data = store.dump_state(state)
        store.close()
        store = S3Store("main", settings)
        state = store.load_state(data)
    store.complete(state, right, recheck=how == "recheck")
    assert store.verify(topic, "big.dat", right.sha512, right.size, deep=True) == ""
    store.close()


def test_a_file_that_shrank_has_no_parts_of_before(store: S3Store, topic: str, tmp_path: Path) -> None:
    large, small = verified(tmp_path, "a", 12 * MIB, topic), verified(tmp_path, "a", 6 * MIB, topic)
    state = begin(store, small)
    state = store.advance(state, large.path, arrived(0, 12 * MIB), 12 * MIB)
    assert len(state.parts) == 3
    store.complete(state, small)
    assert store.verify(topic, "a", small.sha512, small.size, deep=True) == ""


def test_an_upload_that_the_server_lost_is_made_anew(store: S3Store, topic: str, tmp_path: Path) -> None:
    file = verified(tmp_path, "big.dat", 12 * MIB, topic)
    state = begin(store, file)
    state = store.advance(state, file.path, arrived(0, 6 * MIB), None)
    store.client.abort_multipart_upload(Bucket=store.settings.bucket, Key=state.key, UploadId=state.upload_id)
    try:
        store.complete(state, file)
    except StoreUnavailable as error:
        assert error.retry_after <= 5
        store.complete(state, file)
    assert store.verify(topic, "big.dat", file.sha512, file.size, deep=True) == ""
    assert unfinished(store, topic) == []


def test_a_growing_file_whose_upload_the_server_lost_is_told(store: S3Store, topic: str, tmp_path: Path) -> None:
    """The worker begins another upload then."""
    file = verified(tmp_path, "big.dat", 12 * MIB, topic)
    state = store.advance(begin(store, file), file.path, arrived(0, 6 * MIB), None)
    store.client.abort_multipart_upload(Bucket=store.settings.bucket, Key=state.key, UploadId=state.upload_id)
    for _ in range(2):
        with pytest.raises(NoUpload):
            store.advance(state, file.path, arrived(0, 12 * MIB), None)


def test_a_small_file_that_was_begun_as_an_upload_ends_as_one_put(store: S3Store, topic: str, tmp_path: Path) -> None:
    file = verified(tmp_path, "a", 1000, topic)
    store.complete(begin(store, file), file)
    assert store.sent["parts"] == 0
    assert unfinished(store, topic) == []


def test_abort_leaves_nothing_and_can_be_repeated(store: S3Store, topic: str, tmp_path: Path) -> None:
    file = verified(tmp_path, "a", 6 * MIB, topic)
    state = store.advance(begin(store, file), file.path, arrived(0, 6 * MIB), None)
    store.abort(state)
    store.abort(state)
    assert unfinished(store, topic) == []


def test_the_sweep_aborts_what_no_row_knows_once_it_is_old(s3: EmbeddedS3, topic: str, tmp_path: Path) -> None:
    store = S3Store("main", s3_settings(s3, orphan_hours=1e-9))
    patient = S3Store("main", store.settings.__class__(**{**_fields(store), "orphan_hours": 1.0}))
    file = verified(tmp_path, "a", 6 * MIB, topic)
    known, orphan = begin(store, file), begin(store, file)
    other = store.client.create_multipart_upload(Bucket=store.settings.bucket, Key="another-program/x")["UploadId"]
    assert patient.sweep({known.upload_id}, [topic]) == 0
    assert store.sweep({known.upload_id}, [topic]) == 1
    assert unfinished(store, topic) == [known.upload_id]
    assert other in unfinished(store, "another-program")
    assert orphan.upload_id not in unfinished(store, topic)
    store.close()
    patient.close()


def _fields(store: S3Store) -> dict[str, Any]:
    return {name: getattr(store.settings, name) for name in store.settings.__struct_fields__}


def test_the_partial_file_must_be_what_was_verified(store: S3Store, topic: str, tmp_path: Path) -> None:
    for size in (1000, 6 * MIB):
        file = verified(tmp_path, "a", size, topic)
        os.truncate(file.path, size - 1)
        with pytest.raises(SourceGone):
            store.put(file)
        file.path.unlink()
        with pytest.raises(SourceGone):
            store.put(file)
    changed = verified(tmp_path, "b", 1000, topic)
    changed.path.write_bytes(b"x" * 1000)
    with pytest.raises(SourceGone):
        store.put(changed)
    assert list(store.list(topic)) == []
    assert unfinished(store, topic) == []


def test_many_threads_share_a_store(store: S3Store, topic: str, tmp_path: Path) -> None:
    files = [verified(tmp_path, f"s/{number}", 100 + number, topic) for number in range(60)]
    failures: list[BaseException] = []

    def put(some: list[Verified]) -> None:
        try:
            for file in some:
                store.put(file)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=put, args=(files[number::4],)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert {one.path: one.size for one in store.list(topic)} == {file.relative: file.size for file in files}


def test_derived_files_stand_beside_and_say_so(store: S3Store, topic: str, tmp_path: Path) -> None:
    file = verified(tmp_path, "s/a.dat", 100, topic)
    store.put(file)
    for data in (b"{}", b"{}", b"{1}"):
        delivery = store.put_beside(file, "a.dat.gemd.json", data, "application/json")
        assert delivery.bytes == len(data)
    assert store.sent["puts"] == 3
    described = store.describe(topic, "s/a.dat.gemd.json")
    assert described is not None and described.derived
    original = store.describe(topic, "s/a.dat")
    assert original is not None and not original.derived and original.sha512 == file.sha512
    assert store.describe(topic, "nothing") is None


def test_fetch_gives_the_bytes_back_and_refuses_changed_ones(store: S3Store, topic: str, tmp_path: Path) -> None:
    file = verified(tmp_path, "s/a.dat", 3 * MIB, topic)
    store.put(file)
    target = tmp_path / "out/a.dat"
    assert store.fetch(file, target) == file.size
    assert target.read_bytes() == file.path.read_bytes()
    assert target.stat().st_mtime == file.mtime
    key = store.keys.key(topic, file.relative)
    data = bytearray(file.path.read_bytes())
    data[7] ^= 1
    store.client.put_object(Bucket=store.settings.bucket, Key=key, Body=bytes(data), Metadata={"sha512": file.sha512})
    with pytest.raises(IntegrityError, match="verify --deep"):
        store.fetch(file, tmp_path / "out/b.dat")
    assert [one.name for one in (tmp_path / "out").iterdir()] == ["a.dat"]
    assert store.verify(topic, file.relative, file.sha512, file.size) == ""
    assert "other bytes" in store.verify(topic, file.relative, file.sha512, file.size, deep=True)
    store.remove(topic, file.relative)
    store.remove(topic, file.relative)
    assert store.verify(topic, file.relative, file.sha512, file.size) == "missing"
    with pytest.raises(Absent):
        store.fetch(file, target)


def test_check_says_what_to_mend_and_never_shows_a_secret(s3: EmbeddedS3, tmp_path: Path) -> None:
    good = s3_settings(s3)
    S3Store("main", good).check()
    file = verified(tmp_path, "a", 10)
    for change, cure in (
        ({"secret_access_key": "wrong-secret-123456"}, "credentials"),
        ({"access_key_id": "nobody-known-123456"}, "credentials"),
        ({"bucket": "no-such-bucket-here"}, "bucket"),
        ({"endpoint": "http://127.0.0.1:9"}, "Check that it runs"),
        ({"access_key_id": "", "secret_access_key": "", "endpoint": "http://127.0.0.1:9"}, "S3"),
    ):
        settings = good.__class__(**{**{n: getattr(good, n) for n in good.__struct_fields__}, **change})
        store = S3Store("main", settings)
        for call in (store.check, lambda store=store: store.put(file)):
            with pytest.raises(StoreUnavailable, match=cure) as caught:
                call()
            text = f"{caught.value} {caught.value!r} {store!r}"
            for secret in (good.secret_access_key, good.access_key_id, "wrong-secret-123456"):
                assert secret not in text
        store.close()


@pytest.mark.parametrize(
    ("change", "cure"),
    [
        ({"bucket": ""}, "bucket"),
        ({"ca": "/no/such/bundle.pem"}, "CA bundle"),
        ({"access_key_id": "", "secret_access_key": "", "profile": "no-such-profile"}, "profile"),
        ({"endpoint": "not a url"}, "endpoint"),
        ({"key": "{filename}"}, "template"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_anything_starts(
    s3: EmbeddedS3, change: dict[str, str], cure: str
) -> None:
    good = s3_settings(s3)
    with pytest.raises(StoreError, match=cure):
        S3Store("main", good.__class__(**{**{n: getattr(good, n) for n in good.__struct_fields__}, **change}))


def test_bandwidth_is_kept_by_sending_in_pieces(s3: EmbeddedS3, topic: str, tmp_path: Path) -> None:
    store = S3Store("main", s3_settings(s3, bandwidth=500 * MIB))
    file = verified(tmp_path, "a", 11 * MIB, topic)
    taken: list[int] = []
    store.throttle.take = taken.append  # type: ignore[method-assign,assignment]
    store.put(file)
    assert sum(taken) == file.size, "what is read to sign a request is not counted"
    assert max(taken) <= 1 * MIB
    assert store.verify(topic, "a", file.sha512, file.size, deep=True) == ""
    store.close()
