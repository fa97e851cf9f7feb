"""Comparing what receipts say with what stores hold, and a source folder with what was delivered."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Literal

import msgspec

from openmsi_streams.chunks.messages import Receipt
from openmsi_streams.errors import UsageError
from openmsi_streams.storage.base import Stored, hash_file, is_derived
from openmsi_streams.storage.receipts import Held, held

Status = Literal["equal", "missing", "different", "extra"]

# Asking a server is waiting; hashing releases the interpreter: several at once.
_THREADS = 8
# What a producer leaves out unless it is told otherwise: hidden files and those that programs are still writing.
_NOT_SENT = (".*", "~$*", "*~", "*.tmp", "*.temp", "*.part", "*.partial", "*.crdownload", "*.swp", "*.log")
_NOT_SENT_NAMES = frozenset({"thumbs.db", "desktop.ini"})
_NOT_SENT_FOLDERS = frozenset({"logs"})


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One comparison."""

    status: Status
    where: str
    """Name of the store, or ``source`` for a producer's folder."""
    topic: str
    path: str
    why: str = ""
    url: str = ""
    sha512: str = ""
    bytes: int = 0


def check_stores(stores: Iterable[Any], receipts: Iterable[Receipt], topic: str, *, deep: bool) -> Iterator[Finding]:
    """Yield a finding for each file that a store should hold, and for each that it should not.

    Args:
        stores: stores of `stores_from` that can verify and list.
        receipts: of this topic.
        topic: the chunk topic.
        deep: read and hash every byte.

    Raises:
        StoreError: a store does not answer.
    """
    places = held(receipts)
    with ThreadPoolExecutor(_THREADS) as pool:
        for store in stores:
            if not store.wants(topic):
                continue
            mine = {path: one for (name, _, path), one in sorted(places.items()) if name == store.name}

            def check(path: str, store: Any = store, mine: dict[str, Held] = mine) -> Finding:
                receipt = mine[path].receipt
                why = store.verify(topic, path, receipt.sha512, receipt.bytes, deep=deep)
                status: Status = "equal" if not why else "missing" if why == "missing" else "different"
                return _finding(status, store.name, receipt, why, mine[path].delivery.url)

            yield from pool.map(check, mine)
            yield from _extras(store, topic, mine)


def _extras(store: Any, topic: str, mine: dict[str, Held]) -> Iterator[Finding]:
    by_folder: dict[str, list[str]] = {}
    for path in mine:
        folder, _, name = path.rpartition("/")
        by_folder.setdefault(folder, []).append(name)
    for stored in store.list(topic):
        if stored.path in mine:
            continue
        folder, _, name = stored.path.rpartition("/")
        if _says_derived(store, stored) or any(is_derived(name, of) for of in by_folder.get(folder, ())):
            continue
        yield Finding(
            status="extra",
            where=store.name,
            topic=topic,
            path=stored.path,
            why="no receipt names it",
            url=stored.url,
            bytes=stored.size,
        )


def _says_derived(store: Any, stored: Stored) -> bool:
    describe: Callable[[str, str], Stored | None] | None = getattr(store, "describe", None)
    if describe is None or stored.derived:
        return stored.derived
    found = describe(stored.topic, stored.path)
    return found is not None and found.derived


def check_source(
    files: Iterable[tuple[str, int, str | Callable[[], str]]], receipts: Iterable[Receipt], topic: str
) -> Iterator[Finding]:
    """Compare the files of a source with the newest delivered versions.

    Args:
        files: (relative path, bytes, sha512 in hex or a call that computes it) of each file of the source.
        receipts: of this topic.
        topic: the chunk topic.
    """
    delivered: dict[str, Held] = {}
    refused: dict[str, Receipt] = {}
    for one in held(receipts).values():
        known = delivered.get(one.receipt.path)
        if known is None or one.delivery.time >= known.delivery.time:
            delivered[one.receipt.path] = one
    for receipt in receipts:
        if receipt.state == "quarantined":
            refused[receipt.path] = receipt

    def check(file: tuple[str, int, str | Callable[[], str]]) -> Finding:
        path, size, digest = file
        one = delivered.get(path)
        if one is None:
            bad = refused.get(path)
            why = f"quarantined: {bad.reason}" if bad is not None else "not delivered"
            return Finding(status="missing", where="source", topic=topic, path=path, why=why, bytes=size)
        receipt = one.receipt
        if receipt.bytes != size:
            return _finding(
                "different", "source", receipt, f"has {size} bytes in the source, {receipt.bytes} delivered"
            )
        try:
            sha512 = digest if isinstance(digest, str) else digest()
        except OSError as error:
            return _finding("different", "source", receipt, f"cannot be read in the source: {error.strerror}")
        same = sha512 == receipt.sha512
        return _finding("equal" if same else "different", "source", receipt, "" if same else "has other bytes (sha512)")

    seen: set[str] = set()

    def noted() -> Iterator[tuple[str, int, str | Callable[[], str]]]:
        for file in files:
            seen.add(file[0])
            yield file

    with ThreadPoolExecutor(_THREADS) as pool:
        yield from pool.map(check, noted())
    for path, one in sorted(delivered.items()):
        if path not in seen:
            yield _finding("extra", "source", one.receipt, "delivered, and not in the source (any more)")


def _finding(status: Status, where: str, receipt: Receipt, why: str, url: str = "") -> Finding:
    return Finding(
        status=status,
        where=where,
        topic=receipt.topic,
        path=receipt.path,
        why=why,
        url=url,
        sha512=receipt.sha512,
        bytes=receipt.bytes,
    )


def folder_files(folder: Path) -> Iterator[tuple[str, int, str | Callable[[], str]]]:
    """Yield the files of a folder that a producer would send by default, for `check_source`.

    Raises:
        UsageError: there is no such folder.
    """
    if not folder.is_dir():
        raise UsageError(f"The source folder {folder} is not there. Mend the path.")
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if not path.is_file() or not _is_sent(parts):
            continue
        yield "/".join(parts), path.stat().st_size, lambda path=path: hash_file(path)  # type: ignore[misc]


def _is_sent(parts: tuple[str, ...]) -> bool:
    if any(part.lower() in _NOT_SENT_FOLDERS for part in parts[:-1]) or parts[-1].lower() in _NOT_SENT_NAMES:
        return False
    return not any(fnmatch(part.lower(), pattern) for part in parts for pattern in _NOT_SENT)


def registry_files(registry: Path) -> Iterator[tuple[str, int, str | Callable[[], str]]]:
    """Yield the files that a producer's registry knows the hash of, for `check_source`.

    Raises:
        UsageError: the file is not a registry.
    """
    if not registry.is_file():
        raise UsageError(f"The registry {registry} is not there. Mend the path.")
    try:
        # Read-only: the producer may be running.
        with sqlite3.connect(f"{registry.absolute().as_uri()}?mode=ro", uri=True, timeout=10.0) as db:
            rows = db.execute("SELECT path, size, sha512 FROM files WHERE sha512 <> '' ORDER BY path").fetchall()
    except sqlite3.Error as error:
        raise UsageError(f"{registry} is not the registry of a producer ({error}). Mend the path.") from None
    for path, size, sha512 in rows:
        yield str(path), int(size), str(sha512)
