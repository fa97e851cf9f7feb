"""What differs between operating systems, small enough to be tried with stand-ins where the system is not at hand."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from pathlib import Path
from typing import IO, Any

WINDOWS = sys.platform == "win32"
# Windows refuses plain paths of 260 characters and more; folders need 12 fewer (room for an 8.3 name).
LONG_PATH = 240


def long_path(path: Path, windows: bool = WINDOWS) -> str:
    r"""Return the text to open a path with: on Windows long ones get the ``\\?\`` prefix that lifts the limit."""
    text = str(path)
    if not windows or len(text) < LONG_PATH or text.startswith("\\\\?\\"):
        return text
    text = text.replace("/", "\\")
    return "\\\\?\\UNC\\" + text[2:] if text.startswith("\\\\") else "\\\\?\\" + text


def open_shared(path: Path) -> IO[bytes]:
    """Open a file for reading, unbuffered; Python's own open shares reading and writing on Windows too."""
    return open(long_path(path), "rb", buffering=0)


def is_locked(path: Path, windows: bool = WINDOWS, create_file: Any = None) -> bool:
    """Say whether another program holds a Windows file open for writing; elsewhere always False.

    The file is opened without sharing for writing: that fails with ERROR_SHARING_VIOLATION (32) or
    ERROR_LOCK_VIOLATION (33) while a writer has it open. ``create_file`` stands in for the system call in tests.
    """
    if not windows:
        return False
    call = create_file or _create_file
    return call(long_path(path, windows)) in (32, 33)


def _create_file(path: str) -> int:
    """Open for reading with FILE_SHARE_READ alone, close again; return 0 or the system's error number."""
    import ctypes

    kernel: Any = ctypes.WinDLL("kernel32", use_last_error=True)  # type: ignore[attr-defined]
    kernel.CreateFileW.restype = ctypes.c_void_p
    generic_read, share_read, open_existing, normal = 0x80000000, 0x1, 3, 0x80
    handle = kernel.CreateFileW(path, generic_read, share_read, None, open_existing, normal, None)
    if handle in (None, ctypes.c_void_p(-1).value):
        return int(ctypes.get_last_error())  # type: ignore[attr-defined]
    kernel.CloseHandle(ctypes.c_void_p(handle))
    return 0


def read_at(file: IO[bytes], offset: int, size: int) -> bytes:
    """Read up to ``size`` bytes at ``offset``; fewer only at the end of the file. Threads may share the file."""
    if hasattr(os, "pread"):
        data = os.pread(file.fileno(), size, offset)
        while 0 < len(data) < size:
            more = os.pread(file.fileno(), size - len(data), offset + len(data))
            if not more:
                break
            data += more
        return data
    # Without pread a second handle keeps the threads' positions apart.
    with open(file.name, "rb", buffering=0) as own:
        own.seek(offset)
        parts: list[bytes] = []
        while size > 0 and (part := own.read(size)):
            parts.append(part)
            size -= len(part)
        return b"".join(parts)


class NotCached(Exception):
    """The bytes are not in the system's memory, or it does not tell."""


def read_into(file: IO[bytes], offset: int, view: memoryview, *, cached: bool = False) -> int:
    """Fill ``view`` from ``offset`` on; return the bytes read, fewer only at the end of the file. Threads may share.

    Args:
        file: the file, open.
        offset: where in it.
        view: where to.
        cached: read only what is in the page cache, so that nothing is waited for (Linux).

    Raises:
        NotCached: with ``cached``, if not all of it is there.
        OSError: it cannot be read.
    """
    flags = getattr(os, "RWF_NOWAIT", 0) if cached else 0
    if cached and not flags:
        raise NotCached
    if hasattr(os, "preadv"):
        reached = 0
        try:
            while reached < len(view) and (more := os.preadv(file.fileno(), [view[reached:]], offset + reached, flags)):
                reached += more
        except OSError as error:
            # EOPNOTSUPP: this file system cannot say.
            if cached and error.errno in (errno.EAGAIN, errno.EOPNOTSUPP):
                raise NotCached from None
            raise
        return reached
    with open(file.name, "rb") as own:
        own.seek(offset)
        return own.readinto(view)


def forget_pages(file: IO[bytes]) -> None:
    """Tell the system that a file's pages are not needed again, so that its cache stays with the instrument."""
    if hasattr(os, "posix_fadvise"):
        with contextlib.suppress(OSError):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def try_lock(path: Path) -> IO[str] | None:
    """Take the lock file; return it open (the lock lasts until it is closed or the process ends) or None."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = open(path, "a+", encoding="ascii")  # noqa: SIM115 - its life is the lock's
    try:
        if WINDOWS:
            import msvcrt

            file.seek(1 << 20)  # past the pid, which the second process wants to read
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        else:
            import fcntl

            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return None
    file.seek(0)
    file.truncate()
    file.write(f"{os.getpid()}\n")
    file.flush()
    return file
