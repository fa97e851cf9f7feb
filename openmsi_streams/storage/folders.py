"""Folders of the disk store: made durably, never left through a link, never two names that differ by case alone."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path

from openmsi_streams.chunks.paths import shown
from openmsi_streams.errors import StoreError

# So many folders are remembered as made and checked; a name is about 100 bytes.
_REMEMBERED = 10_000
# SYNC_FILE_RANGE_WRITE of <linux/fs.h>.
_RANGE_WRITE = 2


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable. Windows has no such call and does not need it."""
    if os.name != "posix":
        return
    fd = os.open(folder, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_open(fd: int, path: Path) -> None:
    """Make an open file's bytes durable; a file that cannot be synced is removed.

    Linux takes pages that it could not write for written: the next fsync says that all is well, and the bytes are lost
    with the next power cut (LWN, "PostgreSQL's fsync() surprise", 2018). So nobody may try again with this file.

    Raises:
        OSError: as the system says.
    """
    try:
        os.fsync(fd)
    except OSError:
        with contextlib.suppress(OSError):
            path.unlink()
        raise


def begin_sync(fd: int) -> bool:
    """Have the system begin to write an open file's bytes, without waiting for it; False where it cannot be asked to.

    Linux alone, sync_file_range(2). Nothing is durable by it: `sync_open` must follow. Of many files each fsync waits
    for its own bytes; begun before, they are written together, and one journal commit serves them all.
    """
    call = _sync_file_range()
    return call is not None and call(fd, 0, 0, _RANGE_WRITE) == 0


@functools.cache
def _sync_file_range() -> Callable[[int, int, int, int], int] | None:
    if sys.platform != "linux":
        return None
    try:
        call = ctypes.CDLL(None).sync_file_range
    except (OSError, AttributeError):
        return None
    call.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    found: Callable[[int, int, int, int], int] = call
    return found


def sync_file(path: Path) -> int:
    """Make a file's bytes durable and return its size; see `sync_open`. Raises FileNotFoundError, OSError."""
    fd = os.open(path, (os.O_RDWR if os.name != "posix" else os.O_RDONLY) | getattr(os, "O_NOFOLLOW", 0))
    try:
        sync_open(fd, path)
        return os.fstat(fd).st_size
    finally:
        os.close(fd)


def parse_mode(text: str) -> int | None:
    """Return the mode of an octal text, None for an empty one. Raises StoreError."""
    if not text:
        return None
    try:
        mode = int(text, 8)
    except ValueError:
        mode = -1
    if not 0 <= mode <= 0o7777:
        raise StoreError(f"disk.mode is {text!r}, which is not an octal mode. Write e.g. 0640.")
    return mode


def parse_owner(text: str) -> tuple[int, int] | None:
    """Return ``(uid, gid)`` of ``user:group``; -1 where one is left out. Raises StoreError."""
    if not text:
        return None
    if os.name != "posix":
        raise StoreError("disk.owner works on POSIX systems only. Leave it empty.")
    import grp
    import pwd

    user, _, group = text.partition(":")
    try:
        uid = -1 if not user else int(user) if user.isdigit() else pwd.getpwnam(user).pw_uid
        gid = -1 if not group else int(group) if group.isdigit() else grp.getgrnam(group).gr_gid
    except KeyError:
        raise StoreError(f"disk.owner is {text!r}, but there is no such user or group here. Create it.") from None
    return uid, gid


class Folders:
    """The folders below one root."""

    def __init__(self, root: Path) -> None:
        """Take the root; everything is made and checked below it."""
        self.root = root
        self.case_blind = False
        """Whether the file system takes names that differ by case or Unicode form as the same."""
        self._made: set[Path] = set()
        self._guarded: set[Path] = set()

    def make(self, folder: Path) -> None:
        """Make a folder and those above it, each one durable in its parent. Raises OSError."""
        if folder in self._made and folder.is_dir():
            return
        missing: list[Path] = []
        place = folder
        while not place.is_dir():
            missing.append(place)
            if place == place.parent:
                break
            place = place.parent
        for place in reversed(missing):
            place.mkdir(exist_ok=True)
            sync_folder(place.parent)
        self._remember(self._made, folder)

    def guard(self, target: Path) -> None:
        """Check that a file can be put at ``target``, below the root.

        Raises:
            StoreError: a folder has the name; a file stands where a folder is needed; a link leads out of the root; on
                a file system that is blind to case, another spelling of the name exists.
        """
        name = shown(target.relative_to(self.root).as_posix())
        if target.is_dir() and not target.is_symlink():
            raise StoreError(f"{name} is a folder under {self.root} and cannot also be a file. Rename one of the two.")
        self._guard_parents(target.parent, name)
        if self.case_blind:
            self._guard_spelling(target, name)

    def _guard_parents(self, folder: Path, name: str) -> None:
        if folder in self._guarded and not folder.is_symlink():
            return
        place = folder
        linked = False
        while place != self.root:
            linked = linked or place.is_symlink()
            if place.exists() and not place.is_dir():
                raise StoreError(
                    f"{shown(place.relative_to(self.root).as_posix())} is a file under {self.root}, so {name} cannot "
                    "be put below it. Rename one of the two."
                )
            place = place.parent
        if linked and not Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(self.root)):
            raise StoreError(f"A link leads {name} out of {self.root}. Remove the link, then replay the file.")
        if not linked and folder.is_dir():
            self._remember(self._guarded, folder)

    def _guard_spelling(self, target: Path, name: str) -> None:
        place = self.root
        for part in target.relative_to(self.root).parts:
            if not place.is_dir():
                return
            for other in os.listdir(place):
                if other != part and _fold(other) == _fold(part):
                    raise StoreError(
                        f"{name} differs from {shown(other)} only by case or accents' form, which the file system "
                        f"under {self.root} does not tell apart. Rename one of the two."
                    )
            place = place / part

    @staticmethod
    def _remember(known: set[Path], folder: Path) -> None:
        if len(known) >= _REMEMBERED:
            known.clear()
        known.add(folder)


def _fold(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
