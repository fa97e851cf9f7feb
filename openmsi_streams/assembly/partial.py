"""A partial file: bytes put where they belong, hashed as far as they are contiguous."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

from openmsi_streams.chunks import ranges as rg
from openmsi_streams.errors import StoreError

# What is read at once to hash bytes that came out of order; large enough that a call's cost does not count.
READ_BYTES = 1 << 20


class Vanished(StoreError):
    """The partial file was removed or replaced under us; its bytes must be fetched from the log again."""


class PartialFile:
    """The file that one file version is written to. Used by one thread at a time.

    The hash covers exactly the bytes given to the operating system: what is overlapped again below ``hashed`` is not
    written a second time, and what was written out of order is hashed from the file.
    """

    __slots__ = ("_sha", "error", "fd", "hashed", "inode", "path", "written")

    def __init__(self, path: Path, written: rg.Ranges = ()) -> None:
        self.path = path
        self.fd = -1
        self.inode = -1
        self.hashed = 0
        self.written = written
        """Bytes that are in the file; given for a file that an earlier process began."""
        self.error: OSError | Vanished | None = None
        """The first failure; nothing is written after it."""
        self._sha = hashlib.sha512()

    def open(self) -> None:
        """Open or create the file.

        Raises:
            Vanished: if it was open before and is not there any more.
            OSError: as the system says.
        """
        if self.fd >= 0:
            return
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
        if self.inode >= 0:
            self._must_be_ours()
            flags &= ~os.O_CREAT
        try:
            self.fd = os.open(self.path, flags, 0o644)
        except FileNotFoundError:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.fd = os.open(self.path, flags, 0o644)
        self.inode = os.fstat(self.fd).st_ino

    def write(self, offset: int, data: memoryview) -> None:
        """Put ``data`` at ``offset``; hash it if it continues what is hashed.

        Raises:
            Vanished, OSError: as `open`, or as the system says (disk full).
        """
        self.open()
        if offset < self.hashed:
            data = data[self.hashed - offset :]
            offset = self.hashed
        end = offset + len(data)
        place, rest = offset, data
        while rest:
            done = os.pwrite(self.fd, rest, place)
            place, rest = place + done, rest[done:]
        self.written = rg.add(self.written, offset, end)
        if offset == self.hashed:
            self._sha.update(data)
            self.hashed = end
            self._catch_up()

    def _catch_up(self, limit: int | None = None) -> None:
        """Hash what was written beyond ``hashed`` before and is contiguous with it now, up to ``limit``."""
        reach = next((end for start, end in rg.pairs(self.written) if start <= self.hashed < end), self.hashed)
        if limit is not None:
            reach = min(reach, limit)
        while self.hashed < reach:
            block = os.pread(self.fd, min(READ_BYTES, reach - self.hashed), self.hashed)
            if not block:
                raise Vanished(f"The partial file {self.path} is shorter than what was written to it.")
            self._sha.update(block)
            self.hashed += len(block)

    def finish(self, size: int) -> bytes:
        """Return the SHA-512 digest of the whole file of ``size`` bytes, and give its handle back.

        Raises:
            Vanished: if the file is not the one that was written.
            OSError: as the system says.
        """
        self.open()
        if self.hashed > size:
            self.restart()
        self._catch_up(size)
        self._must_be_ours()
        if self.hashed != size:
            raise Vanished(f"The partial file {self.path} has {self.hashed} of {size} bytes.")
        if os.fstat(self.fd).st_size != size:
            os.ftruncate(self.fd, size)
        self.close()
        return self._sha.digest()

    def restart(self) -> None:
        """Forget the hash, so that it is computed from the file."""
        self.hashed = 0
        self._sha = hashlib.sha512()

    def _must_be_ours(self) -> None:
        try:
            there = os.stat(self.path).st_ino
        except FileNotFoundError:
            there = -1
        if there != self.inode:
            raise Vanished(f"The partial file {self.path} was removed while it was being written.")

    def close(self) -> None:
        """Give the file handle back; the next write opens the file again."""
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            os.close(fd)

    def remove(self) -> None:
        """Close and delete the file, if it is there."""
        self.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)
