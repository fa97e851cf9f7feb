"""The disk store: a verified partial file becomes the final file by fsync, rename and fsync of the folder."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

from openmsi_streams.chunks.messages import Delivery
from openmsi_streams.chunks.paths import PARTIAL_FOLDER, component_problem, shown
from openmsi_streams.config.settings import DiskSettings
from openmsi_streams.errors import StoreError
from openmsi_streams.storage import folders
from openmsi_streams.storage.base import (
    SUPERSEDED,
    SourceGone,
    Stored,
    StoreUnavailable,
    Verified,
    beside,
    hash_file,
    is_derived,
)

VERSIONS_FOLDER = ".versions"
# Empty files here say which files of other names than the usual ones are derived and not strays.
DERIVED_FOLDER = ".derived"
# 16 hex digits of sha512 tell the versions of one path apart: 64 bits.
_VERSION_DIGITS = 16
# So many files are written, and open, before they are synced.
_AT_ONCE = 32
# fsync waits for the device, not for the processor: more threads than cores let it order many small writes.
_FSYNC_THREADS = 8
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_NEVER = frozenset({errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL})


class DiskStore:
    """Files under ``<root>/<topic>/<relative path>``; everything that is not a final file is in a folder with a dot."""

    kind = "disk"

    def __init__(
        self,
        root: Path,
        settings: DiskSettings | None = None,
        versions: Literal["replace", "keep"] = "replace",
        name: str = "disk",
    ) -> None:
        """Take the root folder (made by `check` or the first `put`).

        Raises:
            StoreError: ``mode`` or ``owner`` in the settings is not one.
        """
        self.root = Path(root).absolute()
        self.settings = settings or DiskSettings()
        self.versions = versions
        self.name = name
        self.mode = folders.parse_mode(self.settings.mode)
        self.owner = folders.parse_owner(self.settings.owner)
        self._folders = folders.Folders(self.root)
        self._pool: ThreadPoolExecutor | None = None

    def __repr__(self) -> str:
        return f"DiskStore({str(self.root)!r})"

    def wants(self, topic: str) -> bool:
        """Every topic's files go to the disk."""
        return True

    # -- places ------------------------------------------------------------------------------------------------------

    def place(self, topic: str, relative: str) -> Path:
        """Return the final place of a file.

        Raises:
            StoreError: if the name cannot be a place below the root.
        """
        parts = relative.split("/")
        if parts[0] == PARTIAL_FOLDER or topic in (PARTIAL_FOLDER, VERSIONS_FOLDER, DERIVED_FOLDER):
            raise StoreError(f"The path {shown(topic + '/' + relative)} is inside the store's own folders. Rename it.")
        for part in (topic, *parts):
            problem = component_problem(part)
            if problem:
                raise StoreError(f"The path {shown(topic + '/' + relative)} {problem}. Rename the file.")
        return self.root.joinpath(topic, *parts)

    def version_place(self, topic: str, relative: str, sha512: str) -> Path:
        """Return where a version that does not have the final name is kept."""
        self.place(topic, relative)
        return self.root.joinpath(VERSIONS_FOLDER, topic, *relative.split("/"), sha512[:_VERSION_DIGITS])

    def free_bytes(self) -> int:
        """Return the bytes that are free for us on the store's file system."""
        folder = self.root
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        return shutil.disk_usage(folder).free

    def has_room(self, more: int = 0) -> bool:
        """Say whether ``more`` bytes leave the free-space floor untouched."""
        return self.free_bytes() - more >= self.settings.free_floor

    def check(self) -> None:
        """Create the root if needed, write and remove a small file there, and look at the free space.

        Raises:
            StoreError: with the cure.
        """
        try:
            self._folders.make(self.root / PARTIAL_FOLDER)
            probe = self.root / PARTIAL_FOLDER / f"check-{secrets.token_hex(6)}"
            try:
                with probe.open("wb") as stream:
                    stream.write(b"check")
                    os.fsync(stream.fileno())
                self._dress(probe, None)
                self._folders.case_blind = probe.with_name(probe.name.upper()).exists()
            finally:
                probe.unlink(missing_ok=True)
        except OSError as error:
            raise self._failed(error, f"The folder {self.root} cannot be written to") from None
        free = self.free_bytes()
        if free < self.settings.free_floor:
            raise StoreUnavailable(
                f"The file system of {self.root} has {free / 2**30:.2f} GiB free, less than disk.free_floor "
                f"({self.settings.free_floor / 2**30:.2f} GiB). Make room or lower the floor.",
                30.0,
            )

    # -- delivery ----------------------------------------------------------------------------------------------------

    def put(self, file: Verified, *, superseded: bool = False) -> Delivery:
        """Move the verified partial file to its final place; see `Store.put`.

        The partial file is consumed. A repeat after the move finds the final file by size and sha512.
        """
        result = self.put_many([file], superseded=[superseded])[0]
        if isinstance(result, StoreError):
            raise result
        return result

    def put_many(
        self, files: Sequence[Verified], *, superseded: Sequence[bool] | None = None
    ) -> list[Delivery | StoreError]:
        """Deliver many files: their bytes are written together, and each folder is synced once.

        Returns:
            One delivery, or the error that `put` would raise, per file and in their order.
        """
        old = list(superseded) if superseded is not None else [False] * len(files)
        results: list[Delivery | StoreError | None] = [None] * len(files)
        targets: list[Path | None] = [None] * len(files)

        def guarded(index: int, step: Callable[[int], None]) -> None:
            if results[index] is not None:
                return
            try:
                step(index)
            except StoreError as error:
                results[index] = error
            except OSError as error:
                path = shown(files[index].topic + "/" + files[index].relative)
                results[index] = self._failed(error, f"The file {path} cannot be put under {self.root}")

        def prepare(index: int) -> None:
            targets[index] = self._target(files[index], old[index])
            content = files[index].content
            if content is not None and targets[index] is not None:
                opened[index] = self._write(files[index], content)
                if folders.begin_sync(opened[index]):
                    begun.append(index)

        def settle(index: int) -> None:
            target = targets[index]
            if index in opened:
                folders.sync_open(opened[index], files[index].path)
            elif target is not None:
                targets[index] = self._settle(files[index], target)

        def move(index: int) -> None:
            target = targets[index]
            if target is not None:
                self._move(files[index], target, versioned=old[index])

        every = range(len(files))
        for start in every[::_AT_ONCE]:
            some = every[start : start + _AT_ONCE]
            opened: dict[int, int] = {}
            begun: list[int] = []
            try:
                # One after the other: threads that make files in one folder wait for its lock, spinning.
                for index in some:
                    guarded(index, prepare)
                for index in begun:
                    guarded(index, settle)
                self._each(lambda index: guarded(index, settle), [index for index in some if index not in begun])
            finally:
                for fd in opened.values():
                    os.close(fd)
        for index in every:
            guarded(index, move)
        changed = sorted({target.parent for index in every if results[index] is None and (target := targets[index])})
        unsynced: dict[Path, StoreError] = {}

        def sync(index: int) -> None:
            try:
                folders.sync_folder(changed[index])
            except OSError as error:
                unsynced[changed[index]] = self._failed(error, f"The folder {changed[index]} cannot be synced")

        self._each(sync, range(len(changed)))
        now = time.time()
        for index in every:
            target = targets[index]
            if results[index] is None:
                failed = unsynced.get(target.parent) if target is not None else None
                results[index] = failed or self._delivery(files[index], target, old[index], now)
        return [result for result in results if result is not None]

    def _each(self, step: Callable[[int], None], indices: Sequence[int]) -> None:
        if len(indices) <= 1:
            for index in indices:
                step(index)
            return
        if self._pool is None:
            self._pool = ThreadPoolExecutor(_FSYNC_THREADS, thread_name_prefix="disk-store")

        def share(first: int) -> None:
            for index in indices[first::_FSYNC_THREADS]:
                step(index)

        # A share for each thread: handing over every file by itself costs as much as its fsync.
        for _ in self._pool.map(share, range(min(len(indices), _FSYNC_THREADS))):
            pass

    def _delivery(self, file: Verified, target: Path | None, superseded: bool, now: float) -> Delivery:
        place = target or self.place(file.topic, file.relative)
        return Delivery(
            kind=self.kind,
            store=self.name,
            url=place.as_uri(),
            sha512=file.sha512,
            bytes=file.size,
            time=now,
            note=SUPERSEDED if superseded else "",
        )

    def _target(self, file: Verified, superseded: bool) -> Path | None:
        """Return where the file goes; None: nowhere, and its partial file is removed."""
        if superseded and self.versions == "replace":
            file.path.unlink(missing_ok=True)
            return None
        place = self.place(file.topic, file.relative)
        target = self.version_place(file.topic, file.relative, file.sha512) if superseded else place
        self._folders.guard(target)
        return target

    def _write(self, file: Verified, content: memoryview) -> int:
        """Write the bytes of a small file under its partial name; return its handle, still to be synced and closed."""
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)
        try:
            fd = os.open(file.path, flags, 0o644)
        except FileNotFoundError:
            self._folders.make(file.path.parent)
            fd = os.open(file.path, flags, 0o644)
        try:
            rest = content
            while rest:
                rest = rest[os.write(fd, rest) :]
            self._dress(file.path, file.mtime)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _settle(self, file: Verified, target: Path) -> Path:
        """Make a partial file durable; return where it goes, or is already."""
        try:
            self._dress(file.path, file.mtime)
            size = folders.sync_file(file.path)
        except FileNotFoundError:
            return self._moved_before(file, target)
        if size != file.size:
            raise SourceGone(f"The partial file {file.path} has {size} bytes instead of {file.size}; it is read again.")
        return target

    def _moved_before(self, file: Verified, target: Path) -> Path:
        """Return where an earlier call has put the file."""
        kept = self.version_place(file.topic, file.relative, file.sha512)
        for place in dict.fromkeys((target, kept)):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError):
                if place.stat().st_size == file.size and hash_file(place) == file.sha512:
                    return place
        raise SourceGone(
            f"The partial file {file.path} is gone and {target} is not this file version; it is filled again."
        )

    def _move(self, file: Verified, target: Path, versioned: bool) -> None:
        if not os.path.lexists(file.path):
            return
        self._folders.make(target.parent)
        if self.versions == "keep" and not versioned:
            self._keep_older(file, target)
        try:
            os.replace(file.path, target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            self._copy_over(file.path, target)
            self._dress(target, file.mtime)

    def _keep_older(self, file: Verified, final: Path) -> None:
        """Give what has the final name a second name under `.versions`, so that the final name is never absent."""
        if not final.is_file():
            return
        older = hash_file(final)
        if older == file.sha512:
            return
        kept = self.version_place(file.topic, file.relative, older)
        self._folders.guard(kept)
        self._folders.make(kept.parent)
        if not kept.exists():
            try:
                os.link(final, kept)
            except OSError:
                # A file system without hard links: the final name is absent for a moment.
                os.replace(final, kept)
            folders.sync_folder(kept.parent)

    def _copy_over(self, source: Path, target: Path) -> None:
        """Replace ``target`` across file systems: copy beside it, sync, rename, remove the source."""
        beside_it = target.with_name(f"{PARTIAL_FOLDER}-{secrets.token_hex(8)}")
        try:
            shutil.copyfile(source, beside_it)
            folders.sync_file(beside_it)
            os.replace(beside_it, target)
        finally:
            beside_it.unlink(missing_ok=True)
        source.unlink(missing_ok=True)

    def _dress(self, path: Path, mtime: float | None) -> None:
        """Set owner, mode and modification time."""
        if self.owner is not None:
            os.chown(path, *self.owner)
        if self.mode is not None:
            path.chmod(self.mode)
        if mtime is not None and mtime > 0:
            os.utime(path, (mtime, mtime))

    def put_beside(self, file: Verified, name: str, data: bytes, content_type: str) -> Delivery:
        """Write a derived file into the folder of ``file``; see `Store.put_beside`."""
        import hashlib

        target = self.place(file.topic, beside(file.relative, name))
        partial = self.root / PARTIAL_FOLDER / f"beside-{secrets.token_hex(8)}"
        try:
            self._folders.guard(target)
            self._folders.make(partial.parent)
            try:
                partial.write_bytes(data)
                self._dress(partial, None)
                folders.sync_file(partial)
                self._folders.make(target.parent)
                if not is_derived(name, file.relative.rpartition("/")[2]):
                    mark = self._mark(target)
                    mark.parent.mkdir(parents=True, exist_ok=True)
                    mark.touch()
                try:
                    os.replace(partial, target)
                except OSError as error:
                    if error.errno != errno.EXDEV:
                        raise
                    self._copy_over(partial, target)
                folders.sync_folder(target.parent)
            finally:
                partial.unlink(missing_ok=True)
        except OSError as error:
            raise self._failed(error, f"The derived file {shown(name)} cannot be put under {self.root}") from None
        return Delivery(
            kind=self.kind,
            store=self.name,
            url=target.as_uri(),
            sha512=hashlib.sha512(data).hexdigest(),
            bytes=len(data),
            time=time.time(),
        )

    def _mark(self, target: Path) -> Path:
        return self.root / DERIVED_FOLDER / target.relative_to(self.root)

    def _failed(self, error: OSError, what: str) -> StoreError:
        said = error.strerror or type(error).__name__
        if error.errno in _FULL:
            return StoreUnavailable(
                f"{what}: {said}. The disk is full; make room, the file is kept in the log and put again.", 30.0
            )
        if error.errno in _NEVER:
            return StoreError(f"{what}: {said}. The file system does not take this name; rename the file, send again.")
        if error.errno in (errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY):
            return StoreError(
                f"{what}: {said}. A file and a folder want the same name; rename one of them, then replay the file."
            )
        if error.errno in (errno.EACCES, errno.EPERM):
            return StoreUnavailable(
                f"{what}: {said}. Let the worker's user write there (disk.root, disk.owner, disk.mode).", 30.0
            )
        return StoreUnavailable(f"{what}: {said}. Check the disk and its mount.", 15.0)

    # -- capabilities ------------------------------------------------------------------------------------------------

    def exists(self, topic: str, relative: str) -> bool:
        """Say whether a file has this final name."""
        return self.place(topic, relative).is_file()

    def verify(self, topic: str, relative: str, sha512: str, size: int, *, deep: bool = False) -> str:
        """Return what is wrong with a stored file, empty if nothing; see `Verifies`."""
        place = self.place(topic, relative)
        try:
            found = place.stat().st_size
            if not place.is_file():
                return "is not a file"
            if found != size:
                return f"has {found} bytes instead of {size}"
            if deep and hash_file(place) != sha512:
                return "has other bytes (sha512)"
        except (FileNotFoundError, NotADirectoryError):
            return "missing"
        except OSError as error:
            return f"cannot be read: {error.strerror}"
        return ""

    def remove(self, topic: str, relative: str) -> None:
        """Remove a final file, durably; folders stay."""
        place = self.place(topic, relative)
        with contextlib.suppress(FileNotFoundError):
            place.unlink()
            folders.sync_folder(place.parent)

    def list(self, topic: str) -> Iterator[Stored]:
        """Yield every final file of a topic, in the order of their paths."""
        top = self.root / topic
        for folder, names, found in os.walk(top):
            names.sort()
            for name in sorted(found):
                path = Path(folder, name)
                if name.startswith(PARTIAL_FOLDER + "-") or path.is_symlink():
                    continue
                relative = path.relative_to(top).as_posix()
                yield Stored(
                    topic=topic,
                    path=relative,
                    size=path.stat().st_size,
                    url=path.as_uri(),
                    derived=self._mark(path).exists(),
                )
