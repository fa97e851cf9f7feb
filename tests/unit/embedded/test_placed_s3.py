"""The embedded S3 server's uploads: completed without a copy where parts came in order, and right however they came."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("nanio")
from nanio.errors import InvalidPart, InvalidPartOrder, InvalidRequest, NoSuchUpload
from nanio.storage.filesystem import FilesystemStorage
from nanio.storage.multipart import MultipartInit
from nanio.storage.paths import multipart_dir

from openmsi_streams.embedded import placed_s3
from openmsi_streams.embedded.placed_s3 import PlacedUploads

KIB = 1 << 10


class Upload:
    """One upload of a server without HTTP."""

    def __init__(self, data: Path) -> None:
        self.data = data
        FilesystemStorage(data).create_bucket("lab")
        self.id = PlacedUploads(data).create(MultipartInit("lab", "a/b", user_metadata={"x-amz-meta-sha512": "ab"}))
        self.folder = multipart_dir(data, self.id)
        self.etags: dict[int, str] = {}

    def send(self, number: int, content: bytes, announced: int | None = -1, then: Exception | None = None) -> None:
        asyncio.run(self.sending(number, content, announced, then))

    async def sending(self, number: int, content: bytes, announced: int | None = -1, then: Any = None) -> None:
        async def body() -> AsyncIterator[bytes]:
            for start in range(0, len(content), 100 * KIB):
                yield content[start : start + 100 * KIB]
            if isinstance(then, asyncio.Event):
                await then.wait()
            elif then is not None:
                raise then

        length = len(content) if announced == -1 else announced
        info = await PlacedUploads(self.data, length=length).upload_part(self.id, number, body())
        assert info.etag == f'"{hashlib.md5(content).hexdigest()}"' and info.size == len(content)
        self.etags[number] = info.etag

    def complete(self, *numbers: int) -> bytes:
        wanted = numbers or tuple(sorted(self.etags))
        info = PlacedUploads(self.data).complete(self.id, [(n, self.etags[n]) for n in wanted])
        joined = b"".join(bytes.fromhex(self.etags[n].strip('"')) for n in wanted)
        assert info.etag == f'"{hashlib.md5(joined).hexdigest()}-{len(wanted)}"'
        content = (self.data / "lab" / "a" / "b").read_bytes()
        assert info.size == len(content) and info.user_metadata == {"x-amz-meta-sha512": "ab"}
        assert FilesystemStorage(self.data).head_object("lab", "a/b").etag == info.etag
        assert not self.folder.exists() and self.id not in placed_s3._layouts
        return content

    @property
    def inode(self) -> int:
        return (self.folder / "object").stat().st_ino


@pytest.fixture
def upload(tmp_path: Path) -> Iterator[Upload]:
    yield Upload(tmp_path)
    placed_s3._layouts.clear()


def some(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def test_parts_in_order_become_the_object_without_a_copy(upload: Upload) -> None:
    parts = [some(2500 * KIB), some(2500 * KIB + 1), some(3)]
    for number, part in enumerate(parts, 1):
        upload.send(number, part)
    inode = upload.inode
    assert upload.complete() == b"".join(parts)
    assert (upload.data / "lab" / "a" / "b").stat().st_ino == inode


def test_parts_side_by_side_are_in_their_places(upload: Upload) -> None:
    parts = [some(1500 * KIB + n) for n in range(4)]

    async def all_at_once() -> None:
        await asyncio.gather(*(upload.sending(n, part) for n, part in enumerate(parts, 1)))

    asyncio.run(all_at_once())
    inode = upload.inode
    assert upload.complete() == b"".join(parts)
    assert (upload.data / "lab" / "a" / "b").stat().st_ino == inode


def test_equal_parts_that_overtake_each_other_are_in_their_places_too(upload: Upload) -> None:
    for n in (1, 3, 2, 5, 6, 4):
        upload.send(n, bytes([n]) * 1000)
    upload.send(7, b"end")
    inode = upload.inode
    assert upload.complete() == b"".join(bytes([n]) * 1000 for n in range(1, 7)) + b"end"
    assert (upload.data / "lab" / "a" / "b").stat().st_ino == inode


def test_a_wrong_guess_of_a_place_costs_a_copy_only(upload: Upload) -> None:
    upload.send(1, b"a" * 1000)
    upload.send(3, b"c" * 1000)
    upload.send(2, b"b" * 1500)
    assert upload.complete() == b"a" * 1000 + b"b" * 1500 + b"c" * 1000


@pytest.mark.parametrize("order", [(3, 2, 1), (2, 1, 3), (1, 3, 2)])
@pytest.mark.parametrize("announced", [-1, None])
def test_any_order_gives_the_same_object(upload: Upload, order: tuple[int, ...], announced: int | None) -> None:
    parts = {n: some(300 * KIB + n) for n in order}
    for n in order:
        upload.send(n, parts[n], announced)
    listed = PlacedUploads(upload.data).list_parts(upload.id)
    assert [(p.part_number, p.size, p.etag) for p in listed] == [(n, len(parts[n]), upload.etags[n]) for n in (1, 2, 3)]
    assert upload.complete() == b"".join(parts[n] for n in (1, 2, 3))


def test_a_part_sent_again_replaces_the_first_only_when_it_is_whole(upload: Upload) -> None:
    parts = {n: some(200 * KIB + n) for n in (1, 2, 3)}
    for n, part in parts.items():
        upload.send(n, part)
    with pytest.raises(ConnectionError):
        upload.send(2, bytes(len(parts[2])), then=ConnectionError())
    for same_size in (some(150 * KIB) + parts[2][150 * KIB :], parts[2][::-1]):
        upload.send(2, same_size)
        parts[2] = same_size
    assert len(list(upload.folder.glob("part-2-*"))) == 1, "what nobody needs any more is gone"
    assert upload.complete() == b"".join(parts.values())


def test_a_part_sent_again_with_another_size_moves_those_behind_it(upload: Upload) -> None:
    for n in (1, 2, 3):
        upload.send(n, some(200 * KIB + n))
    upload.send(1, b"short")
    assert upload.complete() == b"short" + some(200 * KIB + 2) + some(200 * KIB + 3)


def test_a_part_that_broke_off_is_written_to_its_place_again(upload: Upload) -> None:
    with pytest.raises(ConnectionError):
        upload.send(1, b"x" * 500, 1000, ConnectionError())
    upload.send(2, b"b" * 10)
    with pytest.raises(InvalidRequest):
        upload.send(1, b"x" * 500, 1000)
    with pytest.raises(InvalidRequest):
        upload.send(1, b"x" * 1001, 1000)
    assert [p.part_number for p in PlacedUploads(upload.data).list_parts(upload.id)] == [2]
    upload.send(1, b"a" * 1000)
    inode = upload.inode
    assert upload.complete() == b"a" * 1000 + b"b" * 10
    assert (upload.data / "lab" / "a" / "b").stat().st_ino == inode


def test_parts_not_named_are_left_out(upload: Upload) -> None:
    for n in (1, 2, 3):
        upload.send(n, bytes([n]) * 1000)
    assert upload.complete(1, 3) == b"\1" * 1000 + b"\3" * 1000


def test_an_upload_goes_on_after_the_server_was_started_again(upload: Upload) -> None:
    for n in (1, 2, 4):
        upload.send(n, some(1000 * n))
    placed_s3._layouts.clear()
    for n in (3, 5):
        upload.send(n, some(1000 * n))
    (upload.folder / "parts" / "000006.json").write_text("")
    assert upload.complete() == b"".join(some(1000 * n) for n in (1, 2, 3, 4, 5))


def test_a_request_that_still_writes_cannot_change_the_finished_object(upload: Upload) -> None:
    async def both() -> bytes:
        go_on = asyncio.Event()
        late = asyncio.create_task(upload.sending(2, b"late" * (400 * KIB), then=go_on))
        while 2 not in upload_layout().writing:
            await asyncio.sleep(0)
        await upload.sending(2, b"good" * (400 * KIB))
        content = upload.complete()
        go_on.set()
        with pytest.raises(FileNotFoundError):
            await late
        return content

    def upload_layout() -> Any:
        return placed_s3._layouts[upload.id]

    upload.send(1, b"first")
    expected = b"first" + b"good" * (400 * KIB)
    assert asyncio.run(both()) == expected
    assert (upload.data / "lab" / "a" / "b").read_bytes() == expected


def test_what_is_not_there_is_refused(upload: Upload) -> None:
    upload.send(1, b"a")
    upload.send(2, b"b")
    uploads = PlacedUploads(upload.data)
    with pytest.raises(InvalidPart):
        uploads.complete(upload.id, [(1, upload.etags[2])])
    with pytest.raises(InvalidPart):
        uploads.complete(upload.id, [(3, upload.etags[1])])
    with pytest.raises(InvalidPart):
        uploads.complete(upload.id, [])
    with pytest.raises(InvalidPartOrder):
        uploads.complete(upload.id, [(2, upload.etags[2]), (1, upload.etags[1])])
    for number in (0, 10_001):
        with pytest.raises(InvalidPart):
            upload.send(number, b"x")
    uploads.abort(upload.id)
    for call in (lambda: upload.send(1, b"a"), lambda: uploads.list_parts(upload.id), lambda: upload.complete()):
        with pytest.raises(NoSuchUpload):
            call()
