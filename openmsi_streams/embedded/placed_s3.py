"""The program of the embedded S3 server: nanio, with each part of an upload written to its place in the object.

nanio keeps every part in a file and copies them together when the upload is completed. For 4 GB that is half a minute
of a busy disk in which it answers nobody. Parts mostly arrive in order, so their place is known as soon as they begin:
completing an upload then moves one file, as it changes one entry on a large server.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import secrets
import shutil
import sys
from collections.abc import AsyncIterator, Iterable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nanio import cli
from nanio.app_state import get_settings
from nanio.errors import InvalidPart, InvalidPartOrder, InvalidRequest, NoSuchUpload
from nanio.etag import multipart_etag, quote_etag, unquote_etag
from nanio.handlers import multipart as handlers
from nanio.storage.backend import ObjectInfo
from nanio.storage.metadata import write_metadata
from nanio.storage.multipart import MultipartManager, PartInfo
from nanio.storage.paths import metadata_path, multipart_dir, object_path

MAX_PARTS = 10_000
# What is hashed and written by one call of a thread: nanio's 64 KiB cost as much to hand over as to write.
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class Part:
    """A part that is whole."""

    md5: str
    size: int
    at: int | None
    """Offset in the upload's object file; None: in a file of its own."""
    file: str
    """Name of the file that holds it, in the upload's folder."""


@dataclass(slots=True)
class Layout:
    """Where the parts of one upload lie, as far as it is known."""

    sizes: dict[int, int] = field(default_factory=dict)
    """Part number -> bytes, as announced when the part first began."""
    places: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Part number -> its range in the object file, of parts that are or may be written there."""
    whole: set[int] = field(default_factory=set)
    writing: set[int] = field(default_factory=set)
    """Parts that are being written to their place now."""

    def place(self, number: int, size: int | None) -> int | None:
        """Return the offset at which a part that begins now is written, or None for a file of its own.

        A part that is sent again gets a file of its own: the first one stays what it is until the second is whole.
        Parts below that have not begun yet are taken to be as large as this one if the one below them is. A place that
        turns out to be wrong costs a copy at the end.
        """
        if size is None or self.sizes.setdefault(number, size) != size:
            return None
        if number in self.whole or number in self.writing:
            return None
        below = [self.sizes.get(one) for one in range(1, number)]
        nearest = next((one for one in reversed(below) if one is not None), None)
        if None in below and nearest != size:
            return None
        start = sum(size if one is None else one for one in below)
        if any(a < start + size and start < b for one, (a, b) in self.places.items() if one != number):
            return None
        self.places[number] = start, start + size
        return start


_layouts: dict[str, Layout] = {}
"""Upload id -> layout; the server is one process."""


class PlacedUploads(MultipartManager):  # type: ignore[misc]
    """nanio's uploads, with the parts in place."""

    def __init__(self, data: Path, *, chunk_size: int = _BLOCK, length: int | None = None) -> None:
        """Take the data folder and the bytes that the request's body announces, if it does."""
        super().__init__(data, chunk_size=chunk_size)
        self._data = data
        self._length = length

    def _folder(self, upload_id: str) -> Path:
        folder: Path = multipart_dir(self._data, upload_id)
        if not folder.is_dir():
            raise NoSuchUpload(resource=upload_id)
        return folder

    def _layout(self, upload_id: str, folder: Path) -> Layout:
        layout = _layouts.get(upload_id)
        if layout is None:
            # After a restart of the server: what was under way then is unknown, and may leave a gap.
            parts = dict(_parts(folder))
            layout = _layouts[upload_id] = Layout(
                {n: part.size for n, part in parts.items()},
                {n: (part.at, part.at + part.size) for n, part in parts.items() if part.at is not None},
                set(parts),
            )
        return layout

    async def upload_part(self, upload_id: str, part_number: int, body: AsyncIterator[bytes]) -> PartInfo:
        """Write a part; see nanio."""
        if not 1 <= part_number <= MAX_PARTS:
            raise InvalidPart(f"part number out of range: {part_number}")
        folder = self._folder(upload_id)
        layout = self._layout(upload_id, folder)
        at = layout.place(part_number, self._length)
        name = "object" if at is not None else f"part-{part_number}-{secrets.token_hex(4)}"
        if at is not None:
            layout.writing.add(part_number)
        md5, size = hashlib.md5(usedforsecurity=False), 0
        try:
            fd = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o644)
            try:
                async for block in _blocks(body):
                    if self._length is not None and size + len(block) > self._length:
                        raise InvalidRequest("the body is longer than announced")
                    await asyncio.to_thread(_put, fd, block, (at or 0) + size, md5)
                    size += len(block)
                if self._length is not None and size != self._length:
                    raise InvalidRequest("the body is shorter than announced")
                await asyncio.to_thread(os.fsync, fd)
            finally:
                os.close(fd)
            part = Part(md5.hexdigest(), size, at, name)
            _write_part(folder, part_number, part)
            layout.whole.add(part_number)
        except BaseException:
            if at is None:
                (folder / name).unlink(missing_ok=True)
            raise
        finally:
            if at is not None:
                layout.writing.discard(part_number)
        return PartInfo(part_number, quote_etag(part.md5), size, datetime.now(tz=UTC))

    def list_parts(self, upload_id: str) -> list[PartInfo]:
        """Return the parts that are whole, by number."""
        folder = self._folder(upload_id)
        return [
            PartInfo(n, quote_etag(part.md5), part.size, datetime.fromtimestamp(_entry(folder, n).stat().st_mtime, UTC))
            for n, part in sorted(_parts(folder))
        ]

    def abort(self, upload_id: str) -> None:
        """Remove an upload; see nanio."""
        super().abort(upload_id)
        _layouts.pop(upload_id, None)

    def complete(self, upload_id: str, client_parts: Iterable[tuple[int, str]]) -> ObjectInfo:
        """Make the object of the parts named; see nanio."""
        folder = self._folder(upload_id)
        layout = self._layout(upload_id, folder)
        init = self.load_init(upload_id)
        there = dict(_parts(folder))
        pieces: list[tuple[int, Part]] = []
        last = total = 0
        for number, etag in client_parts:
            if number <= last:
                raise InvalidPartOrder()
            last = number
            part = there.get(number)
            if part is None or unquote_etag(etag) != part.md5:
                raise InvalidPart(f"part {number} is missing or another one")
            pieces.append((total, part))
            total += part.size
        if not pieces:
            raise InvalidPart("no parts are named")
        # A request that still writes, of a client that has given it up, would write into the finished object.
        placed = not layout.writing and all(part.at in (None, start) for start, part in pieces)
        name = "object" if placed else f"assembled-{secrets.token_hex(4)}"
        fd = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        try:
            for start, part in pieces:
                if not placed or part.at is None:
                    _copy(folder / part.file, part, fd, start, self._chunk_size)
            os.ftruncate(fd, total)
            os.fsync(fd)
        finally:
            os.close(fd)
        target = object_path(self._data, init.bucket, init.key)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(folder / name, target)
        info = ObjectInfo(
            key=init.key,
            size=total,
            etag=multipart_etag(part.md5 for _, part in pieces),
            last_modified=datetime.now(tz=UTC),
            content_type=init.content_type,
            user_metadata=dict(init.user_metadata),
            content_encoding=init.content_encoding,
            content_disposition=init.content_disposition,
            cache_control=init.cache_control,
        )
        write_metadata(metadata_path(self._data, init.bucket, init.key), info)
        shutil.rmtree(folder, ignore_errors=True)
        _layouts.pop(upload_id, None)
        return info


def _entry(folder: Path, number: int) -> Path:
    return folder / "parts" / f"{number:06d}.json"


def _parts(folder: Path) -> Iterable[tuple[int, Part]]:
    for path in (folder / "parts").glob("*.json"):
        # Of a part whose entry did not reach the disk when the machine stopped, nothing is known: it is sent again.
        with contextlib.suppress(ValueError):
            yield int(path.stem), Part(**json.loads(path.read_text()))


def _write_part(folder: Path, number: int, part: Part) -> None:
    """Make a part known, in place of the one that was sent before it."""
    path = _entry(folder, number)
    old = path.read_text() if path.exists() else ""
    fresh = path.with_name(f"{path.stem}-{secrets.token_hex(4)}")
    fresh.write_text(json.dumps(asdict(part)))
    os.replace(fresh, path)
    if old and json.loads(old)["at"] is None:
        (folder / json.loads(old)["file"]).unlink(missing_ok=True)


async def _blocks(body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Gather a body's pieces into blocks that are worth a call."""
    gathered = bytearray()
    async for piece in body:
        gathered += piece
        if len(gathered) >= _BLOCK:
            yield bytes(gathered)
            gathered.clear()
    if gathered:
        yield bytes(gathered)


def _put(fd: int, block: bytes, at: int, md5: Any) -> None:
    md5.update(block)
    rest = memoryview(block)
    while rest:
        done = os.pwrite(fd, rest, at)
        at, rest = at + done, rest[done:]


def _copy(source: Path, part: Part, target: int, start: int, chunk: int) -> None:
    fd = os.open(source, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        done = 0
        while done < part.size:
            block = os.pread(fd, min(chunk, part.size - done), (part.at or 0) + done)
            if not block:
                raise InvalidPart("a part is shorter than it was")
            _put(target, block, start + done, hashlib.md5(usedforsecurity=False))
            done += len(block)
    finally:
        os.close(fd)


def _uploads(request: Any) -> PlacedUploads:
    settings = get_settings(request)
    said = request.headers.get("x-amz-decoded-content-length") or request.headers.get("content-length")
    length = int(said) if said is not None and said.isdigit() else None
    return PlacedUploads(settings.data_dir, chunk_size=settings.chunk_size, length=length)


def main() -> int:
    """Run nanio's command line with our uploads."""
    handlers._manager = _uploads
    return int(cli.main())


if __name__ == "__main__":
    sys.exit(main())
