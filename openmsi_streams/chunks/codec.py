"""The chunk message: a msgpack array of 9 (openmsipython 0.9.2.3) or 10 (OpenMSIStream >= 1.8.6.1) fields.

Field by field it is what the ancestors write, byte for byte; `tests/golden` holds messages made by them.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha512
from typing import Literal

import msgspec

from openmsi_streams.chunks.paths import relative_path
from openmsi_streams.chunks.reasons import Reason, Unusable

SHA512_BYTES = 64
Wire = Literal[9, 10]
# A key is the path, "_chunk_", and two numbers: ten times the longest path is surely not one.
MAX_KEY_BYTES = 10_000


class Chunk(msgspec.Struct, array_like=True, forbid_unknown_fields=True, frozen=True, gc=False):
    """A piece of one file: one Kafka message.

    ``data`` is a view into the message where it was decoded, so that the payload is not copied.
    """

    filename: str
    file_hash: bytes
    """SHA-512 digest of the whole file as sent."""
    chunk_hash: bytes
    """SHA-512 digest of ``data``."""
    offset: int
    """Where ``data`` belongs in the rebuilt file, in bytes."""
    index: int
    """1-based."""
    total: int
    subdir: str
    """Folder below the watched root, ``/`` between parts, empty for the root."""
    append: str
    """Text to put between stem and suffix of the rebuilt name, e.g. ``_skimmed``."""
    data: memoryview
    mtime: float | None = None
    """The file's modification time, seconds since the epoch; None or <= 0: unknown."""

    @property
    def end(self) -> int:
        """Offset just behind the data."""
        return self.offset + len(self.data)


_decoder = msgspec.msgpack.Decoder(Chunk)
_encoder = msgspec.msgpack.Encoder()


def encode(chunk: Chunk, wire: Wire = 10) -> bytes:
    """Return the message value of a chunk with 10 fields, or 9 for readers older than OpenMSIStream 1.8.6.1."""
    head, tail = envelope(chunk, len(chunk.data), wire)
    return b"".join((head, chunk.data, tail))


def envelope(chunk: Chunk, size: int, wire: Wire = 10) -> tuple[bytes, bytes]:
    """Return what stands before and behind a chunk's data of ``size`` bytes in its message value.

    So the data can be read from the file straight to its place; ``chunk.data`` is not looked at.
    """
    fields = _encoder.encode(
        (chunk.filename, chunk.file_hash, chunk.chunk_hash, chunk.offset, chunk.index, chunk.total, chunk.subdir,
         chunk.append)
    )  # fmt: skip
    # msgpack: 0x90 + number of fields opens a short array; 0xc4, 0xc5 and 0xc6 open binary data with a length of 1, 2
    # and 4 bytes.
    if size < 1 << 8:
        opening = b"\xc4" + size.to_bytes(1, "big")
    elif size < 1 << 16:
        opening = b"\xc5" + size.to_bytes(2, "big")
    else:
        opening = b"\xc6" + size.to_bytes(4, "big")
    head = bytes((0x90 + wire,)) + fields[1:] + opening
    return head, _encoder.encode(float(chunk.mtime or 0.0)) if wire == 10 else b""


def decode(value: bytes | None, *, largest_chunk: int, max_file_bytes: int) -> tuple[Chunk, str]:
    """Return a message's chunk and its checked relative path.

    Nothing is hashed here: a wrong payload shows in the file's hash, which is checked before delivery. What one
    message can contradict in itself is refused at once, before a byte is written.

    Raises:
        Unusable: with the reason code for quarantine.
    """
    if value is None:
        raise Unusable(Reason.NULL_VALUE, "The message has no value.")
    try:
        chunk = _decoder.decode(value)
    except msgspec.ValidationError as error:
        raise Unusable(Reason.BAD_FIELDS, f"The message is msgpack, but not a chunk: {error}.") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Unusable(Reason.NOT_A_CHUNK, f"The message's {len(value)} bytes are not a chunk.") from None
    _check(chunk, largest_chunk, max_file_bytes)
    return chunk, relative_path(chunk.filename, chunk.subdir, chunk.append)


def _check(chunk: Chunk, largest_chunk: int, max_file_bytes: int) -> None:
    size = len(chunk.data)
    if len(chunk.file_hash) != SHA512_BYTES or len(chunk.chunk_hash) != SHA512_BYTES:
        raise Unusable(Reason.BAD_FIELDS, "A hash in the message does not have the 64 bytes of SHA-512.")
    if chunk.mtime is not None and not abs(chunk.mtime) < 1e12:
        raise Unusable(Reason.BAD_FIELDS, f"The modification time {chunk.mtime} is not one.")
    if not 1 <= chunk.index <= chunk.total:
        raise Unusable(Reason.BAD_INDEX, f"The message calls itself chunk {chunk.index} of {chunk.total}.")
    where = f"Chunk {chunk.index} of {chunk.total} with {size} bytes at offset {chunk.offset}"
    if chunk.total == 1:
        if chunk.offset != 0:
            raise Unusable(Reason.BAD_OFFSET, f"{where} is the whole file, but does not start at 0.")
        if chunk.chunk_hash != chunk.file_hash:
            raise Unusable(Reason.BAD_HASH, "The only chunk of a file has another hash than the file.")
        return
    # Each chunk before this one has at least one byte and at most what a message can carry.
    if not chunk.index - 1 <= chunk.offset <= (chunk.index - 1) * largest_chunk:
        raise Unusable(Reason.BAD_OFFSET, f"{where} is not possible.")
    if size == 0:
        raise Unusable(Reason.BAD_OFFSET, f"{where} is not possible: only an empty file has an empty chunk.")
    if chunk.end + (chunk.total - chunk.index) > max_file_bytes:
        raise Unusable(Reason.TOO_LARGE, f"{where} belongs to a file over the limit of {max_file_bytes} bytes.")


def is_intact(chunk: Chunk) -> bool:
    """Say whether the payload has the hash that its sender computed."""
    return sha512(chunk.data).digest() == chunk.chunk_hash


def split(size: int, chunk_bytes: int) -> Iterator[tuple[int, int, int]]:
    """Yield ``(index, start, end)`` of each chunk of a file; an empty file is one chunk of no bytes."""
    if size == 0:
        yield 1, 0, 0
        return
    for index, start in enumerate(range(0, size, chunk_bytes), start=1):
        yield index, start, min(start + chunk_bytes, size)


def count(size: int, chunk_bytes: int) -> int:
    """Return the number of chunks of a file."""
    return max(1, -(-size // chunk_bytes))
