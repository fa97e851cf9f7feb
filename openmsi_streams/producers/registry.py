"""What this producer knows of each file, in SQLite: it survives kill -9 and power loss."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec

from openmsi_streams.errors import ConfigurationError

log = logging.getLogger(__name__)

SCHEMA = 1
State = Literal["seen", "ready", "sending", "sent", "delivered", "cleaned", "failed", "skipped"]
STATES: tuple[State, ...] = ("seen", "ready", "sending", "sent", "delivered", "cleaned", "failed", "skipped")
# Receipts of files that this producer does not know (yet) are kept so long: they prove what was delivered when a
# registry is rebuilt. The worker's rows live 30 days; twice that covers a holiday.
KEEP_RECEIPTS = 60 * 86400.0

_TABLES = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS files (
  path TEXT PRIMARY KEY, state TEXT NOT NULL, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,
  sha512 TEXT NOT NULL, file_id TEXT NOT NULL, chunk_bytes INTEGER NOT NULL, acked TEXT NOT NULL,
  selected TEXT NOT NULL, seen REAL NOT NULL, changed REAL NOT NULL, sent REAL NOT NULL, delivered REAL NOT NULL,
  attempts INTEGER NOT NULL, versions INTEGER NOT NULL, resent INTEGER NOT NULL, reason TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS files_state ON files (state);
CREATE INDEX IF NOT EXISTS files_id ON files (file_id) WHERE file_id <> '';
CREATE TABLE IF NOT EXISTS receipts (
  path TEXT PRIMARY KEY, file_id TEXT NOT NULL, state TEXT NOT NULL, time REAL NOT NULL
) WITHOUT ROWID;
"""


class Row(msgspec.Struct, kw_only=True):
    """One path and its newest version."""

    path: str
    state: State = "seen"
    size: int = 0
    """Bytes of the file on this disk when it was last looked at."""
    mtime_ns: int = 0
    sha512: str = ""
    """Hex digest of what is sent; empty until the file was read."""
    file_id: str = ""
    chunk_bytes: int = 0
    """Of the version as it was cut; requests are answered in the same pieces."""
    acked: str = ""
    """Byte ranges that the broker has, flat, with commas between."""
    selected: str = ""
    """The selection rule this version was sent with; empty: the whole file."""
    seen: float = 0.0
    changed: float = 0.0
    """When this row's state changed, seconds since the epoch."""
    sent: float = 0.0
    delivered: float = 0.0
    attempts: int = 0
    versions: int = 0
    """Contents sent so far."""
    resent: int = 0
    """Chunks sent more than once."""
    reason: str = ""


_COLUMNS = tuple(field.name for field in msgspec.structs.fields(Row))
_PUT = f"INSERT OR REPLACE INTO files ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"
_GET = f"SELECT {', '.join(_COLUMNS)} FROM files"


class Registry:
    """The registry of one watched folder and topic. Used from one thread.

    Writes are gathered in one transaction until `commit`. A crash loses at most what came after the last commit:
    acknowledgements and states, never a file, because a file that is missing here is found by the next walk and sent
    again, which is harmless.
    """

    def __init__(self, path: Path | None) -> None:
        """Open or make the registry; None: in memory.

        Raises:
            ConfigurationError: it was written by a newer version of this program, or its folder cannot be written.
        """
        self.path = path
        self.rebuilt = False
        """A damaged registry was put aside; it must be filled from the folder and the receipts."""
        self.fresh = path is None or not path.exists()
        self._writing = False
        if path is not None:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ConfigurationError(
                    f"The registry's folder {path.parent} cannot be made: {error.strerror}. "
                    "Choose one with --state DIR."
                ) from None
        try:
            self._db = self._open()
        except sqlite3.DatabaseError as error:
            if path is None or (isinstance(error, sqlite3.OperationalError) and "unable to open" in str(error)):
                raise ConfigurationError(
                    f"The registry {path} cannot be opened: {error}. Check that its folder may be written."
                ) from None
            self._put_aside(path, error)
            self._db = self._open()

    def _open(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path or ":memory:", isolation_level=None, timeout=30.0)
        try:
            db.execute("PRAGMA journal_mode=WAL")
            # With WAL, NORMAL cannot damage the file on power loss; it can lose the last commits, see the class.
            db.execute("PRAGMA synchronous=NORMAL")
            # In KiB, an eighth of SQLite's own: the system keeps the pages too, and what is looked up is the newest.
            db.execute("PRAGMA cache_size=-256")
            if not self.fresh and db.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
                raise sqlite3.DatabaseError("quick_check found damaged pages")
            version = int(db.execute("PRAGMA user_version").fetchone()[0])
            if version > SCHEMA:
                raise ConfigurationError(
                    f"The registry {self.path} was written by a newer version of this program (layout {version}, this "
                    f"one knows {SCHEMA}). Update this program, or give another folder with --state."
                )
            db.executescript(_TABLES)
            db.execute(f"PRAGMA user_version={SCHEMA}")
        except BaseException:
            db.close()
            raise
        return db

    def _put_aside(self, path: Path, error: Exception) -> None:
        aside = path.with_name(f"{path.name}.damaged-{time.strftime('%Y%m%dT%H%M%S')}")
        log.warning(
            "The registry %s is damaged (%s). It is kept as %s and built again from the folder and the receipts.",
            path,
            error,
            aside.name,
        )
        path.replace(aside)
        for suffix in ("-wal", "-shm"):
            with contextlib.suppress(OSError):
                path.with_name(path.name + suffix).unlink()
        self.rebuilt = self.fresh = True

    # -- rows

    def get(self, path: str) -> Row | None:
        """Return a path's row."""
        found = self._db.execute(f"{_GET} WHERE path=?", (path,)).fetchone()
        return Row(**dict(zip(_COLUMNS, found, strict=True))) if found else None

    def look(self, path: str) -> tuple[str, int, int] | None:
        """Return ``(state, size, mtime_ns)`` of a path: all that a walk over thousands of known files needs."""
        found: tuple[str, int, int] | None = self._db.execute(
            "SELECT state, size, mtime_ns FROM files WHERE path=?", (path,)
        ).fetchone()
        return found

    def by_id(self, file_id: str) -> Row | None:
        """Return the row whose newest version has this id."""
        found = self._db.execute(f"{_GET} WHERE file_id=? AND file_id<>''", (file_id,)).fetchone()
        return Row(**dict(zip(_COLUMNS, found, strict=True))) if found else None

    def put(self, row: Row) -> None:
        """Write a row."""
        self._begin()
        self._db.execute(_PUT, msgspec.structs.astuple(row))

    def rows(self, *states: str) -> Iterator[Row]:
        """Yield rows by path, of these states or of all."""
        where = f" WHERE state IN ({', '.join('?' * len(states))})" if states else ""
        for found in self._db.execute(f"{_GET}{where} ORDER BY path", states).fetchall():
            yield Row(**dict(zip(_COLUMNS, found, strict=True)))

    def counts(self) -> dict[str, int]:
        """Return the number of files in each state."""
        have = dict(self._db.execute("SELECT state, count(*) FROM files GROUP BY state").fetchall())
        return {state: have.get(state, 0) for state in STATES}

    # -- what else must outlive the process

    def meta(self, key: str) -> str | None:
        """Return a remembered value."""
        found = self._db.execute("SELECT value FROM meta WHERE key=?", (key,)).fetchone()
        return str(found[0]) if found else None

    def set_meta(self, key: str, value: str) -> None:
        """Remember a value."""
        self._begin()
        self._db.execute("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", (key, value))

    def offsets(self) -> dict[tuple[str, int], int]:
        """Return the next offset to read of each partition of the receipts and requests."""
        found = self._db.execute("SELECT key, value FROM meta WHERE key LIKE 'offset %'").fetchall()
        split = ((key.split(" "), value) for key, value in found)
        return {(topic, int(partition)): int(value) for (_, topic, partition), value in split}

    def set_offset(self, topic: str, partition: int, offset: int) -> None:
        """Remember the next offset to read."""
        self.set_meta(f"offset {topic} {partition}", str(offset))

    def keep_receipt(self, path: str, file_id: str, state: str, when: float) -> None:
        """Remember the newest receipt of a path, known here or not."""
        self._begin()
        self._db.execute(
            "INSERT INTO receipts (path, file_id, state, time) VALUES (?, ?, ?, ?) ON CONFLICT (path) DO UPDATE SET "
            "file_id=excluded.file_id, state=excluded.state, time=excluded.time WHERE excluded.time >= receipts.time",
            (path, file_id, state, when),
        )

    def receipt(self, path: str) -> tuple[str, str, float] | None:
        """Return ``(file_id, state, time)`` of the newest receipt of a path."""
        found: tuple[str, str, float] | None = self._db.execute(
            "SELECT file_id, state, time FROM receipts WHERE path=?", (path,)
        ).fetchone()
        return found

    def prune(self, now: float) -> None:
        """Forget receipts that are older than anything they could prove."""
        self._begin()
        self._db.execute("DELETE FROM receipts WHERE time < ?", (now - KEEP_RECEIPTS,))

    # -- transactions

    def _begin(self) -> None:
        if not self._writing:
            self._db.execute("BEGIN IMMEDIATE")
            self._writing = True

    def commit(self) -> None:
        """Make all writes so far last."""
        if self._writing:
            self._db.execute("COMMIT")
            self._writing = False

    def close(self) -> None:
        """Commit and close."""
        self.commit()
        self._db.close()
