"""Reading a file's content: once to hash it, once to send it, with every byte sent checked against the first pass.

SHA-512 is what a producer's processor does most, so each byte is hashed twice and not more: for the file and for its
chunk, both in the first pass. When a chunk is read again to be sent, its XXH3 (many times as fast) must be that of
the first pass. That is no proof against intent, nor need it be: the receiver checks the SHA-512 of the whole before it
delivers anything, and size and mtime are looked at once more when all is sent.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from hashlib import sha512
from io import BytesIO
from mmap import mmap
from pathlib import Path
from typing import IO

import msgspec
from xxhash import xxh3_64_intdigest as quick_hash

from openmsi_streams.chunks.codec import count
from openmsi_streams.producers import system

DIGEST = 64
# Up to here a file is read once, hashed and sent from memory: what is sent then is what was hashed.
SMALL = 4 << 20
# What is read at a time in the first pass, at least: a chunk may be small, and threads that hand each other work every
# millisecond lose a tenth of their time to that.
BLOCK = 4 << 20
# Blocks that are being hashed at a time.
BLOCKS = 3


class Changed(Exception):
    """The file is not what it was a moment ago: it is being written, so it must wait again."""


class Piece(msgspec.Struct, frozen=True):
    """A part of what is sent: bytes of the file, or bytes that stand for some of them (a corrected header)."""

    start: int
    end: int
    literal: bytes = b""

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.literal) or self.end - self.start


class Prepared(msgspec.Struct):
    """One content of a file, hashed: all that is needed to send it or any part of it."""

    source: Path
    source_size: int
    mtime_ns: int
    size: int
    """Bytes of what is sent."""
    sha512: bytes
    digests: bytes
    """SHA-512 of each chunk, one behind the other; for a file of one chunk it is the file's."""
    checks: list[int]
    """XXH3 (64 bits) of each chunk of a large file."""
    chunk_bytes: int
    data: bytes | None = None
    """The content itself if it is small."""
    pieces: tuple[Piece, ...] = ()
    """What is sent if it is not the whole file."""
    append: str = ""

    @property
    def total(self) -> int:
        """Number of chunks."""
        return count(self.size, self.chunk_bytes)

    def digest(self, index: int) -> bytes:
        """Return the hash that chunk ``index`` (1-based) must have."""
        return self.digests[(index - 1) * DIGEST : index * DIGEST]


def prepare(
    source: Path,
    chunk_bytes: int,
    beside: Executor,
    select: Callable[[IO[bytes], int], tuple[tuple[Piece, ...], str]] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Prepared:
    """Read and hash a file.

    Args:
        source: the file.
        chunk_bytes: size of the pieces it will be sent in.
        beside: where chunk hashes are computed, beside the whole file's.
        select: chooses what part is sent and the name's suffix; None: all of it.
        stop: asked between pieces; True ends with `Changed`.

    Raises:
        Changed: size or mtime differ before and after reading.
        OSError: it cannot be read.
    """
    with system.open_shared(source) as file:
        before = _stat(file)
        pieces: tuple[Piece, ...] = ()
        append = ""
        if select is not None:
            pieces, append = select(file, before[0])
        size = sum(piece.size for piece in pieces) if pieces else before[0]
        prepared = Prepared(source, before[0], before[1], size, b"", b"", [], chunk_bytes, None, pieces, append)
        if size <= SMALL:
            data = read(file, prepared, 0, size)
            # One byte more than expected shows a file that grows.
            if len(data) != size or (not pieces and system.read_at(file, size, 1)):
                raise Changed
            prepared.data = data
            prepared.sha512 = sha512(data).digest()
            if size <= chunk_bytes:
                prepared.digests = prepared.sha512
            else:
                view = memoryview(data)
                prepared.digests = b"".join(
                    sha512(view[start : start + chunk_bytes]).digest() for start in range(0, size, chunk_bytes)
                )
        else:
            _hash_large(file, prepared, beside, stop)
        if _stat(file) != before or _stat_path(source) != before:
            raise Changed
    return prepared


def _hash_large(file: IO[bytes], prepared: Prepared, beside: Executor, stop: Callable[[], bool]) -> None:
    whole = sha512()
    digests: list[bytes] = []
    block_bytes = prepared.chunk_bytes * max(1, BLOCK // prepared.chunk_bytes)
    # Mappings of their own go back to the system when they are let go of; in malloc's heap they may leave holes.
    buffers = [mmap(-1, min(block_bytes, prepared.size)) for _ in range(BLOCKS)]
    running: deque[Future[tuple[list[bytes], list[int]]]] = deque()

    def take() -> None:
        found, checks = running.popleft().result()
        digests.extend(found)
        prepared.checks.extend(checks)

    for number, start in enumerate(range(0, prepared.size, block_bytes)):
        if stop():
            raise Changed
        if len(running) == BLOCKS:
            # This buffer may still be read.
            take()
        block = memoryview(buffers[number % BLOCKS])[: prepared.size - start]
        if read_into(file, prepared, start, block) != len(block):
            raise Changed
        # hashlib lets go of the interpreter for large blocks: both hashes of a block are computed at the same time.
        running.append(beside.submit(_hash_chunks, block, prepared.chunk_bytes))
        whole.update(block)
    while running:
        take()
    prepared.sha512 = whole.digest()
    prepared.digests = b"".join(digests)


def _hash_chunks(block: memoryview, chunk_bytes: int) -> tuple[list[bytes], list[int]]:
    """Return SHA-512 and XXH3 of each chunk of a block."""
    parts = [block[start : start + chunk_bytes] for start in range(0, len(block), chunk_bytes)]
    return [sha512(part).digest() for part in parts], [quick_hash(part) for part in parts]


def chunk(
    file: IO[bytes],
    prepared: Prepared,
    index: int,
    head: bytes = b"",
    tail: bytes = b"",
    room: deque[BytesIO] | None = None,
    *,
    cached: bool = False,
) -> bytes:
    """Read chunk ``index`` again for sending, straight between ``head`` and ``tail``.

    Args:
        file: the file, open.
        prepared: its hashes.
        index: 1-based number of the chunk.
        head: what its message has before the data.
        tail: what its message has behind the data.
        room: memory to build messages in, used in turn: new memory costs more than reading into it. A message that is
            still in use when its turn comes again keeps its bytes.
        cached: only if that takes no waiting for a disk.

    Raises:
        Changed: its bytes are not those that were hashed.
        NotCached: with ``cached``, if it would have to be waited for.
        OSError: it cannot be read.
    """
    start = (index - 1) * prepared.chunk_bytes
    want = min(prepared.chunk_bytes, prepared.size - start)
    size = len(head) + want + len(tail)
    place = room.popleft() if room else BytesIO()
    if place.getbuffer().nbytes != size:
        # Its own bytes from the start, so that it can hand them out without a copy.
        place = BytesIO(bytes(size))
    try:
        # Bytes that somebody still holds are left to him here: BytesIO goes on with a copy.
        with place.getbuffer() as message:
            message[: len(head)] = head
            message[len(head) + want :] = tail
            with message[len(head) : len(head) + want] as data:
                if read_into(file, prepared, start, data, cached=cached) != want:
                    raise Changed
                if quick_hash(data) != prepared.checks[index - 1]:
                    raise Changed
        return place.getvalue()
    finally:
        if room is not None:
            room.append(place)


def read(file: IO[bytes], prepared: Prepared, offset: int, size: int) -> bytes:
    """Return bytes of what is sent; fewer than ``size`` if the file has become shorter."""
    if not prepared.pieces:
        return system.read_at(file, offset, size)
    found = bytearray(max(0, min(size, prepared.size - offset)))
    return bytes(found[: read_into(file, prepared, offset, memoryview(found))])


def read_into(file: IO[bytes], prepared: Prepared, offset: int, view: memoryview, *, cached: bool = False) -> int:
    """Fill ``view`` with what is sent, from ``offset`` on; return the bytes: fewer if the file has become shorter."""
    if not prepared.pieces:
        return system.read_into(file, offset, view, cached=cached)
    reached = filled = 0
    for piece in prepared.pieces:
        low, high = max(offset, reached), min(offset + len(view), reached + piece.size)
        if low < high:
            inside, part = low - reached, view[low - offset : high - offset]
            if piece.literal:
                part[:] = piece.literal[inside : high - reached]
                filled += len(part)
            elif (got := system.read_into(file, piece.start + inside, part, cached=cached)) == len(part):
                filled += got
            else:
                return filled + got
        reached += piece.size
    return filled


def is_current(prepared: Prepared) -> bool:
    """Say whether size and mtime of the file are still those that were hashed."""
    try:
        return _stat_path(prepared.source) == (prepared.source_size, prepared.mtime_ns)
    except OSError:
        return False


def _stat(file: IO[bytes]) -> tuple[int, int]:
    found = os.fstat(file.fileno())
    return found.st_size, found.st_mtime_ns


def _stat_path(path: Path) -> tuple[int, int]:
    found = os.stat(system.long_path(path))
    return found.st_size, found.st_mtime_ns
