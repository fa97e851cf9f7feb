"""Opening a partition of a table: a damaged RocksDB folder is put aside; the rows come back from the changelog."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

# What RocksDB says of files that are there and wrong, or that its list of files names and are not there. Everything
# else (a lock, no right, a full disk) is nothing that a fresh folder would mend.
DAMAGE = ("corruption", "no such file", "file is too short", "not an sstable")
LOCKED = ("lock file", "lock hold", "no locks")


def is_damage(error: BaseException) -> bool:
    """Say whether RocksDB's error means that its files are damaged."""
    said = str(error).lower()
    return not any(word in said for word in LOCKED) and any(word in said for word in DAMAGE)


def open_checked(open_db: Callable[[], Any], path: Path) -> tuple[Any, bool]:
    """Return the open database and whether it is a new one because the old one was damaged.

    Every entry is read once (some 2 s for a million rows), since RocksDB finds a damaged block only when it is read.
    The damaged folder stays beside the new one as ``*.damaged-TIME``: it is never read again and may be removed.
    """
    if path.exists() and not path.is_dir():
        put_aside(path, "it is not a folder")
        return open_db(), True
    try:
        db = open_db()
    except Exception as error:
        if not is_damage(error):
            raise
        put_aside(path, str(error))
        return open_db(), True
    try:
        read_all(db)
    except Exception as error:
        if not is_damage(error):
            raise
        db.close()
        put_aside(path, str(error))
        return open_db(), True
    return db, False


def read_all(db: Any) -> int:
    """Read every entry and return how many there are; raise what RocksDB says of a block that it cannot read.

    Iteration itself just ends there (rocksdict 0.3), so the iterator is asked for its status.
    """
    entries = db.iter()
    try:
        entries.seek_to_first()
        count = 0
        while entries.valid():
            count += 1
            entries.next()
        entries.status()
        return count
    finally:
        # The error's traceback would keep the iterator, which keeps the database and its lock.
        del entries


def put_aside(path: Path, why: str) -> Path:
    """Rename a damaged folder and say so; return its new place."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    target = path.with_name(f"{path.name}.damaged-{stamp}")
    number = 1
    while target.exists():
        target = path.with_name(f"{path.name}.damaged-{stamp}-{number}")
        number += 1
    path.rename(target)
    log.error(
        "The table in %s is damaged (%s). It was put aside as %s and is read from its changelog again; remove it when "
        "you like. Look at the disk: this happens after a power loss or when a disk fails.",
        path, " ".join(why.split()), target.name,
    )  # fmt: skip
    return target
