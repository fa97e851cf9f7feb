"""The table on RocksDB: what is put is got, by key, by prefix and in order; options that Faust has none for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import faust
import pytest

from openmsi_streams.tables.files import CACHE_BYTES, FilesTable


class Changelog:
    """Takes records as the worker's producer does, and answers when it is asked to."""

    def __init__(self) -> None:
        self.records: list[tuple[int, bytes, bytes | None]] = []
        self.waiting: list[Any] = []

    def put(self, topic: str, partition: int, key: bytes, value: bytes | None, sent: Any) -> None:
        offset = sum(1 for place, _, _ in self.records if place == partition)
        self.records.append((partition, key, value))
        self.waiting.append((sent, partition, offset))

    def answer(self) -> None:
        for sent, partition, offset in self.waiting:
            sent(partition, offset)
        self.waiting.clear()


@pytest.fixture
def changelog() -> Changelog:
    return Changelog()


@pytest.fixture
def table(tmp_path: Path, changelog: Changelog) -> FilesTable:
    app = faust.App("files-table", broker="kafka://127.0.0.1:1", store="rocksdb://", datadir=str(tmp_path))
    return FilesTable(app, "files-lab", 2, changelog.put)


def test_keys_come_in_order_and_by_prefix(table: FilesTable) -> None:
    keys = [b"\0ledger", b"aa", b"ab", b"b", b"record:aa", b"todo:", b"todo:aa", b"todo;"]
    for key in reversed(keys):
        table.put(1, key, b"value of " + key)
    table._sent(1, 7)
    table.persist_offsets({1})
    assert table.read_to(1) == 7
    everything = [(key, b"value of " + key) for key in keys]
    assert list(table.items(1)) == everything, "and nothing of Faust's own"
    for prefix in (b"a", b"todo:", b"record:", b"\0", b"zz", b"ab"):
        assert list(table.items(1, prefix)) == [item for item in everything if item[0].startswith(prefix)]
    assert list(table.items(0)) == []
    table.delete(1, b"ab")
    assert table.get(1, b"ab") is None and list(table.items(1, b"ab")) == []


def test_a_worker_knows_that_it_alone_wrote(table: FilesTable, changelog: Changelog) -> None:
    table.alone.begin(0, table.read_to(0))
    table.alone.complete(0)
    table.put(0, b"a", b"1")
    table.delete(0, b"a")
    assert table.alone.told(0, 2) is None, "the answers are under way"
    changelog.answer()
    assert table.alone.told(0, 2) is True
    assert table.alone.told(0, 3) is False, "another has written"


def test_all_partitions_share_one_cache(table: FilesTable) -> None:
    for partition in (0, 1):
        table.put(partition, b"key", b"value")
    for partition in (0, 1):
        assert table._db(partition).property_int_value("rocksdb.block-cache-capacity") == CACHE_BYTES
