"""What a store is: a place that verified files are delivered to, with optional capabilities."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol, runtime_checkable

import msgspec

from openmsi_streams.chunks.messages import Delivery
from openmsi_streams.errors import StoreError

SUPERSEDED = "superseded"
# What is read at once to hash a file: large enough that a call's cost does not count, small beside a memory budget.
READ_BYTES = 1 << 20


class StoreUnavailable(StoreError):
    """The store cannot take the file just now; the file is kept and the call is made again.

    Attributes:
        retry_after: seconds after which the next attempt makes sense.
    """

    def __init__(self, message: str, retry_after: float = 5.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class SourceGone(StoreError):
    """The local file with the verified bytes is not there or has other bytes; it must be filled again from the log."""


class NoUpload(StoreError):
    """There is no such upload in parts (any more)."""


class Verified(msgspec.Struct, kw_only=True):
    """A local file whose bytes have the sha512 of the file version, to be delivered."""

    path: Path
    """The local file."""
    file_id: str
    topic: str
    relative: str
    """Path of the file version, ``/`` between its parts."""
    sha512: str
    """In hex."""
    size: int
    """Bytes."""
    mtime: float | None = None
    """Modification time at the source, seconds since the epoch."""
    timestamp: float = 0.0
    """Kafka timestamp of the first chunk, seconds since the epoch."""
    producer: str = ""
    content: memoryview | None = None
    """All its bytes, if ``path`` does not have them yet: the disk store writes them there itself."""


class Stored(msgspec.Struct, kw_only=True, frozen=True):
    """What a store says about one file that it holds."""

    topic: str
    path: str
    size: int
    url: str
    sha512: str = ""
    """As the store's metadata say, in hex; empty where it has none."""
    mtime: float | None = None
    """Modification time at the source, seconds since the epoch, where the store knows it."""
    derived: bool = False
    """Whether it was made from a file (a sheet, a record) and is not a file version itself."""


class Store(Protocol):
    """A place for verified files. Every call blocks and has the same effect the second time."""

    kind: str
    name: str

    def wants(self, topic: str) -> bool:
        """Say whether files of this topic are delivered here."""

    def put(self, file: Verified, *, superseded: bool = False) -> Delivery:
        """Deliver a file and return the proof.

        Args:
            file: the verified file.
            superseded: a newer version of the path has the final name already.

        Raises:
            StoreUnavailable: try again after ``retry_after``.
            SourceGone: the local file is not there any more.
            StoreError: it will never work.
        """

    def put_beside(self, file: Verified, name: str, data: bytes, content_type: str) -> Delivery:
        """Store a derived file (sheet, record, result) in the folder of ``file``'s final place.

        ``file.path`` is not read. Raises as `put`.
        """

    def check(self) -> None:
        """Return when the store can be reached and written to. Raises StoreError with the cure."""


@runtime_checkable
class Verifies(Protocol):
    """A store that can compare what it holds with what it should hold."""

    def verify(self, topic: str, relative: str, sha512: str, size: int, *, deep: bool = False) -> str:
        """Return what is wrong with a stored file, empty if nothing; ``deep`` reads and hashes every byte."""


@runtime_checkable
class Exists(Protocol):
    """A store that can be asked for one file."""

    def exists(self, topic: str, relative: str) -> bool:
        """Say whether something has this final name."""


@runtime_checkable
class Removes(Protocol):
    """A store that files can be removed from."""

    def remove(self, topic: str, relative: str) -> None:
        """Remove a file; nothing happens if it is not there."""


@runtime_checkable
class Lists(Protocol):
    """A store that lists what it holds."""

    def list(self, topic: str) -> Iterator[Stored]:
        """Yield every file of a topic."""


def hash_file(path: Path) -> str:
    """Return a file's sha512 in hex. Raises OSError."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha512").hexdigest()


def beside(relative: str, name: str) -> str:
    """Return the relative path of ``name`` in the folder of ``relative``."""
    folder, slash, _ = relative.rpartition("/")
    return f"{folder}{slash}{name}"


def is_derived(name: str, original: str) -> bool:
    """Say whether a name is one that results get beside a delivered file: records, sheets, processors' files."""
    stem = original.rpartition(".")[0] or original
    ours = name.startswith((f"{original}.", f"{stem}.pdv.")) or (name.startswith("pdv_") and f"_{stem}" in name)
    return ours and name != original
