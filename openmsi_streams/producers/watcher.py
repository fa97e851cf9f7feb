"""Finds files: native events tell soon, walks tell surely. Listens first, then walks, so nothing slips between."""

from __future__ import annotations

import logging
import os
import random
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from openmsi_streams.producers import system

log = logging.getLogger(__name__)

Found = tuple[str, int, int]
"""``(relative path, size, mtime_ns)``."""
# Files are handed over in groups, so that a walk over 100,000 files neither floods the queue nor waits for its end.
GROUP = 500


def walk(root: Path, below: str = "", on_skip: Callable[[str, str], None] = lambda path, why: None) -> Iterator[Found]:
    """Yield every regular file under ``root / below``.

    Links are followed only to what lies inside the root. A folder that cannot be read is passed over with
    ``on_skip``; only the root's own failure is an error.

    Raises:
        OSError: the root cannot be read (a network drive that is away).
    """
    real_root = os.path.realpath(root)
    seen: set[tuple[int, int]] = set()
    todo = [below]
    while todo:
        folder = todo.pop()
        try:
            entries = list(os.scandir(system.long_path(root / folder if folder else root)))
        except OSError as error:
            if not folder:
                raise
            on_skip(folder, f"cannot be read: {error.strerror}")
            continue
        for entry in entries:
            path = f"{folder}/{entry.name}" if folder else entry.name
            try:
                if entry.is_symlink():
                    target = os.path.realpath(entry.path)
                    if os.path.commonpath((real_root, target)) != real_root:
                        on_skip(path, "is a link that leads out of the folder")
                        continue
                if entry.is_dir():
                    if entry.is_symlink():
                        found = entry.stat()
                        # A link to a folder further up would be walked for ever.
                        if (found.st_dev, found.st_ino) in seen or real_root.startswith(target):
                            continue
                        seen.add((found.st_dev, found.st_ino))
                    todo.append(path)
                elif entry.is_file():
                    found = entry.stat()
                    yield path, found.st_size, found.st_mtime_ns
            except (OSError, ValueError) as error:
                on_skip(path, f"cannot be looked at: {error}")


class Watcher:
    """Watches one folder and hands over what it finds."""

    def __init__(
        self,
        root: Path,
        deliver: Callable[[list[Found]], None],
        walked: Callable[[str], None],
        *,
        polling: bool = False,
        rescan_seconds: float = 60.0,
        poll_seconds: float = 1.0,
        on_skip: Callable[[str, str], None] = lambda path, why: None,
    ) -> None:
        """``walked`` is called after each full walk, with an empty text or why the folder could not be read."""
        self.root = root
        self._deliver, self._walked, self._on_skip = deliver, walked, on_skip
        self._polling, self._rescan, self._poll = polling, rescan_seconds, poll_seconds
        self._touched: set[str] = set()
        self._folders: set[str] = set()
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._stopping = False
        self._observer: Any = None
        self._thread = threading.Thread(target=self._run, name="watcher", daemon=True)

    def start(self) -> None:
        """Listen, then walk."""
        self._listen()
        self._thread.start()

    def stop(self) -> None:
        """End the threads."""
        self._stopping = True
        self._wake.set()
        self._quiet()

    def _quiet(self) -> None:
        if self._observer is not None:
            try:
                self._observer.stop()
                self._observer.join(2.0)
            except RuntimeError as error:
                log.debug("observer: %s", error)
            self._observer = None

    def walk_now(self) -> None:
        """Walk the whole folder soon."""
        with self._lock:
            self._folders.add("")
        self._wake.set()

    def _listen(self) -> None:
        if self._polling:
            return
        from watchdog.events import FileSystemEvent, FileSystemEventHandler
        from watchdog.observers import Observer

        watcher = self

        class Handler(FileSystemEventHandler):
            def on_any_event(self, event: FileSystemEvent) -> None:
                watcher._event(event)

        observer = Observer()
        try:
            observer.schedule(Handler(), str(self.root), recursive=True)
            observer.start()
        except OSError as error:
            log.warning(
                "no native events for %s (%s); the folder is walked every %g s instead. On Linux raise "
                "fs.inotify.max_user_watches; on a network drive use --polling",
                self.root,
                error,
                self._poll,
            )
            self._polling = True
            return
        self._observer = observer

    def _event(self, event: Any) -> None:
        if event.event_type in ("opened", "closed_no_write", "deleted"):
            return
        text = os.fsdecode(event.dest_path or event.src_path)
        try:
            path = Path(text).relative_to(self.root).as_posix()
        except ValueError:
            return
        with self._lock:
            # A folder that was moved in brings files that no event tells of.
            (self._folders if event.is_directory and event.event_type != "modified" else self._touched).add(
                "" if path == "." else path
            )
        self._wake.set()

    def _run(self) -> None:
        away = False
        next_walk = 0.0
        while not self._stopping:
            now = time.monotonic()
            with self._lock:
                touched, self._touched = self._touched, set()
                folders, self._folders = self._folders, set()
            self._hand_over(self._stats(touched))
            full = "" in folders or now >= next_walk
            if not full:
                for folder in folders:
                    self._hand_over(walk(self.root, folder, self._on_skip))
            else:
                try:
                    self._hand_over(walk(self.root, "", self._on_skip))
                    if away and not self._polling:
                        # The old watch died with the old mount.
                        self._quiet()
                        self._listen()
                    away = False
                    self._walked("")
                except OSError as error:
                    if not away:
                        log.warning(
                            "the folder %s cannot be read (%s); is a network drive away? It is tried again",
                            self.root,
                            error.strerror,
                        )
                    away = True
                    self._walked(str(error.strerror))
                pause = self._poll if self._polling else self._rescan
                if away:
                    pause = min(5.0, pause)
                # Many instruments on one server should not walk it at the same moment.
                next_walk = time.monotonic() + pause * random.uniform(0.8, 1.2)
            self._wake.wait(max(0.0, next_walk - time.monotonic()))
            self._wake.clear()
            if not self._stopping and not self._polling:
                # A file that is being written makes thousands of events: gather them.
                time.sleep(0.05)

    def _stats(self, paths: set[str]) -> Iterator[Found]:
        real_root = os.path.realpath(self.root)
        for path in paths:
            source = self.root / path
            try:
                found = os.stat(system.long_path(source))
                inside = os.path.commonpath((real_root, os.path.realpath(source))) == real_root
            except (OSError, ValueError):
                continue
            if stat.S_ISREG(found.st_mode) and inside:
                yield path, found.st_size, found.st_mtime_ns

    def _hand_over(self, found: Iterator[Found]) -> None:
        group: list[Found] = []
        for one in found:
            group.append(one)
            if len(group) >= GROUP:
                self._deliver(group)
                group = []
        if group:
            self._deliver(group)
