"""A Faust table of raw bytes on RocksDB, addressed by partition as well as by key.

Faust puts a row into the partition of the event in hand and refuses writes outside of one. A row here always belongs to
the partition it was read from, and is also changed by threads' results and by the sweep; so the partition is given, and
the changelog record goes out through the worker's own producer. Faust recovers the table and moves it between workers.
Tried on faust-streaming 0.15.3; `tests/unit/tables` holds what this depends on.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import rocksdict

from openmsi_streams.config.settings import MIB
from openmsi_streams.tables.alone import Alone
from openmsi_streams.tables.opening import open_checked

log = logging.getLogger(__name__)

# Each partition has a database of its own, with buffers that it fills before it gives anything back: with Faust's
# defaults 2 GiB of cache and 90 % of the process's file handles. Rows are some hundred bytes each, and those of files
# in flight are in memory anyway.
ROCKSDB_OPTIONS = {
    "max_open_files": 64,
    "write_buffer_size": MIB // 4,
    # Used only while a disk is slower than the rows come, so that the event loop does not wait for it at once.
    "max_write_buffer_number": 8,
    "target_file_size_base": 4 * MIB,
}
# Rows in a level before it spills into the next, ten times as large: with RocksDB's 256 MiB, four full write buffers
# would have all rows of a partition written anew.
LEVEL_BYTES = 4 * MIB
# One for all partitions of a process.
CACHE_BYTES = 8 * MIB
# A key that is not there is looked for in a file in one of a hundred cases; most messages are of new files.
BLOOM_BITS = 10


@cache
def _block_cache() -> Any:
    return rocksdict.Cache(CACHE_BYTES)


def shape(options: Any) -> None:
    """Have Faust's RocksDB options open every database with one cache for all, and with small levels."""
    plain: Callable[[], Any] = options.as_options

    def as_options() -> Any:
        found = plain()
        found.set_max_bytes_for_level_base(LEVEL_BYTES)
        blocks = rocksdict.BlockBasedOptions()
        blocks.set_bloom_filter(BLOOM_BITS, block_based=False)
        blocks.set_block_cache(_block_cache())
        found.set_block_based_table_factory(blocks)
        return found

    options.as_options = as_options


Put = Callable[[str, int, bytes, bytes | None, Callable[[int, int], None]], None]
"""(topic, partition, key, value, called with partition and offset once the broker has it)."""


class Cipher(Protocol):
    """Seals and opens values."""

    def seal(self, value: bytes) -> bytes:
        """Return a value sealed."""

    def open(self, value: bytes) -> bytes:
        """Return a value in the clear; raises CryptoError."""


class FilesTable:
    """The rows of one chunk topic; fulfils `worker.ports.Rows`."""

    def __init__(self, app: Any, name: str, partitions: int, put: Put, cipher: Cipher | None = None) -> None:
        """Declare the table; ``put`` sends a changelog record. ``cipher`` seals values, here and in the changelog."""
        self.table = app.Table(
            name,
            partitions=partitions,
            key_type=bytes,
            value_type=bytes,
            # Recovery never ends on a changelog with `delete` in its policy (faust-streaming issue 176).
            extra_topic_configs={"cleanup.policy": "compact"},
            options={**ROCKSDB_OPTIONS, "driver": "rocksdict"},
        )
        self._put = put
        self._cipher = cipher
        self._lock = threading.Lock()
        self._offsets: dict[int, int] = {}
        self.alone = Alone()
        self.ends: dict[int, int] = {}
        """Partition -> the offset behind the changelog's last record when this worker started."""
        self._opened_once: set[int] = set()
        self._ahead: set[int] = set()
        store = self.table.data
        shape(store.rocksdb_options)
        self._open_raw: Callable[[int], Any] = store._open_for_partition
        store._open_for_partition = self._open

    def get(self, partition: int, key: bytes) -> bytes | None:
        """Return a value of this partition, or None."""
        value = self._db(partition).get(key)
        return None if value is None else self._opened(bytes(value))

    def put(self, partition: int, key: bytes, value: bytes) -> None:
        """Set a value here and in the changelog."""
        if self._cipher is not None:
            value = self._cipher.seal(value)
        self._db(partition).put(key, value)
        self._send(partition, key, value)

    def delete(self, partition: int, key: bytes) -> None:
        """Remove a key here and in the changelog."""
        self._db(partition).delete(key)
        self._send(partition, key, None)

    def items(self, partition: int, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Yield every key of this partition that begins with ``prefix``, in order, and its value."""
        for key, value in self._db(partition).items(from_key=prefix):
            key = bytes(key)
            if not key.startswith(prefix):
                return
            if key != self.table.data.offset_key:
                yield key, self._opened(bytes(value))

    def persist_offsets(self, owned: set[int]) -> None:
        """Remember in RocksDB up to where the changelog is in it, so that a restart reads only what came after."""
        with self._lock:
            offsets, self._offsets = self._offsets, {}
        for partition, offset in offsets.items():
            if partition in owned:
                self._db(partition).put(self.table.data.offset_key, str(offset).encode())

    # -- catching up with the changelog ------------------------------------------------------------------------------

    @property
    def changelog(self) -> str:
        """Name of the changelog topic."""
        return str(self.table.changelog_topic_name)

    def read_to(self, partition: int) -> int:
        """Return the offset of the last changelog record that is in the table; -1 if there is none."""
        stored = self._db(partition).get(self.table.data.offset_key)
        return -1 if stored is None else int(stored)

    def apply(self, partition: int, records: list[tuple[bytes, bytes | None]], offset: int) -> None:
        """Write changelog records, None for what was deleted, and that the changelog is read up to ``offset``."""
        batch = rocksdict.WriteBatch(raw_mode=True)
        for key, value in records:
            if value is None:
                batch.delete(key)
            else:
                batch.put(key, value)
        batch.put(self.table.data.offset_key, str(offset).encode())
        self._db(partition).write(batch)

    # -- opening -----------------------------------------------------------------------------------------------------

    def has_local(self, partition: int) -> bool:
        """Say whether an earlier run left a partition here."""
        return Path(self.table.data.partition_path(partition)).exists()

    def _open(self, partition: int) -> Any:
        """Open a partition's RocksDB; Faust calls this when the partition is assigned."""
        path = Path(self.table.data.partition_path(partition))
        if partition in self._opened_once:
            return self._open_raw(partition)
        db, is_new = open_checked(lambda: self._open_raw(partition), path)
        self._opened_once.add(partition)
        stored = None if is_new else db.get(self.table.data.offset_key)
        if stored is not None and partition in self.ends and int(stored) >= self.ends[partition]:
            # Faust would refuse to start: the changelog was deleted, or made anew, and this table was not.
            log.error(
                "%s[%d] ends at %d, but the table here has read it to %s: the changelog was deleted. The rows of this "
                "table are sent to it again.",
                self.changelog, partition, self.ends[partition], int(stored),
            )  # fmt: skip
            db.delete(self.table.data.offset_key)
            self._ahead.add(partition)
        return db

    def restore(self, partition: int) -> int:
        """Send the rows of an owned partition to its changelog if that was deleted; return how many.

        What is kept beside the rows (the ledger, under keys that begin with NUL) is forgotten: the log may have been
        made anew as well, so all of it is read again.
        """
        if partition not in self._ahead:
            return 0
        self._ahead.discard(partition)
        rows = list(self.table.data._visible_items(self._db(partition)))
        for key, value in rows:
            if bytes(key[:1]) == b"\0":
                self.delete(partition, bytes(key))
            else:
                self._send(partition, bytes(key), bytes(value))
        return len(rows)

    def _send(self, partition: int, key: bytes, value: bytes | None) -> None:
        self.alone.sending(partition)
        self._put(self.changelog, partition, key, value, self._sent)

    def _opened(self, value: bytes) -> bytes:
        return value if self._cipher is None else self._cipher.open(value)

    def _db(self, partition: int) -> Any:
        return self.table.data._db_for_partition(partition)

    def _sent(self, partition: int, offset: int) -> None:
        self.alone.sent(partition, offset)
        with self._lock:
            self._offsets[partition] = max(offset, self._offsets.get(partition, -1))
