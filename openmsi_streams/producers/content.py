"""Reading a file's content: once to hash it, once to send it, with every byte sent checked against the first pass.

SHA-512 is what a producer's processor does most, so each byte is hashed twice and not more: for the file and for its
chunk, both in the first pass. When a chunk is read again to be sent, its CRC-32 (five times as fast) must be that of
the first pass. That is no proof against intent, nor need it be: the receiver checks the SHA-512 of the whole before it
delivers anything, and size and mtime are looked at once more when all is sent.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Executor
from hashlib import sha512
from pathlib import Path
from typing import IO
from zlib import crc32

import msgspec

from openmsi_streams.chunks.codec import count
from openmsi_streams.producers import system

DIGEST = 64
# Up to here a file is read once, hashed and sent from memory: what is sent then is what was hashed.
SMALL = 4 << 20


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
    """CRC-32 of each chunk of a large file."""
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
    for start in range(0, prepared.size, prepared.chunk_bytes):
        if stop():
            raise Changed
        want = min(prepared.chunk_bytes, prepared.size - start)
        block = read(file, prepared, start, want)
        if len(block) != want:
            raise Changed
        # hashlib lets go of the interpreter for large blocks: both hashes of a block run at the same time.
        other = beside.submit(_digest, block)
        whole.update(block)
        prepared.checks.append(crc32(block))
        digests.append(other.result())
    prepared.sha512 = whole.digest()
    prepared.digests = b"".join(digests)


def _digest(block: bytes) -> bytes:
    return sha512(block).digest()


def chunk(file: IO[bytes], prepared: Prepared, index: int) -> bytes:
    """Read chunk ``index`` again for sending.

    Raises:
        Changed: its bytes are not those that were hashed.
        OSError: it cannot be read.
    """
    start = (index - 1) * prepared.chunk_bytes
    want = min(prepared.chunk_bytes, prepared.size - start)
    data = read(file, prepared, start, want)
    if len(data) != want or crc32(data) != prepared.checks[index - 1]:
        raise Changed
    return data


def read(file: IO[bytes], prepared: Prepared, offset: int, size: int) -> bytes:
    """Return bytes of what is sent; fewer than ``size`` if the file has become shorter."""
    if not prepared.pieces:
        return system.read_at(file, offset, size)
    found: list[bytes] = []
    reached = 0
    for piece in prepared.pieces:
        low, high = max(offset, reached), min(offset + size, reached + piece.size)
        if low < high:
            inside = low - reached
            if piece.literal:
                found.append(piece.literal[inside : high - reached])
            else:
                found.append(system.read_at(file, piece.start + inside, high - low))
        reached += piece.size
    return b"".join(found)


def _stat(file: IO[bytes]) -> tuple[int, int]:
    found = os.fstat(file.fileno())
    return found.st_size, found.st_mtime_ns


def _stat_path(path: Path) -> tuple[int, int]:
    found = os.stat(system.long_path(path))
    return found.st_size, found.st_mtime_ns
