"""Partitions that stay with a worker while others come and go."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from openmsi_streams.chunks.keys import home_partition
from openmsi_streams.embedded import EmbeddedBroker
from tests.support.files import tree
from tests.support.kafka import make_topics, produce
from tests.support.waiting import wait_until
from tests.support.workers import Worker, wait_delivered
from tests.support.world import World

pytestmark = pytest.mark.broker
TOPIC = "moving"
STAYED = re.compile(r"(\d+) of (\d+) partitions are as they were")


def kept(worker: Worker) -> list[tuple[int, int]]:
    """Return how many partitions stayed as they were, of how many, at each rebalance."""
    return [(int(found[1]), int(found[2])) for found in STAYED.finditer(worker.text)]


def test_rows_are_read_again_only_of_partitions_that_another_had(broker: EmbeddedBroker, tmp_path: Path) -> None:
    make_topics(broker.bootstrap, TOPIC)
    paths = [f"run/{number}.dat" for number in range(30)]
    assert {home_partition(path, 3) for path in paths} == {0, 1, 2}
    sent = 0

    def send() -> dict[str, bytes]:
        """Send a newer version of every file."""
        nonlocal sent
        sent += 1
        files = {path: f"{path} for the {sent}. time".encode() * 100 for path in paths}
        for partition in range(3):
            chunks = [
                (key, value)
                for path, data in files.items()
                if home_partition(path, 3) == partition
                for key, value, _ in World(tmp_path).chunks(path, data, mtime=1e9 + sent)
            ]
            produce(broker.bootstrap, TOPIC, chunks, partition=partition)
        return files

    def arrive(files: dict[str, bytes], *workers: Worker) -> None:
        hashes = {path: hashlib.sha512(data).hexdigest() for path, data in files.items()}
        wait_delivered(broker.bootstrap, TOPIC, hashes, 60, *workers)
        wait_until(lambda: tree(tmp_path / "store" / TOPIC) == hashes, 30, "the newest have the names")

    first = Worker(broker.bootstrap, TOPIC, tmp_path, "w0")
    second = Worker(broker.bootstrap, TOPIC, tmp_path, "w1")
    with first.start(), second:
        arrive(send(), first)
        assert kept(first) == []
        second.start()
        wait_until(lambda: kept(first), 60, "the first worker has shared its partitions", lambda: first.text)
        alone, held = kept(first)[-1]
        assert (alone, 1 <= held <= 2) == (held, True), "all that stayed are as they were"
        arrive(send(), first, second)
        before = len(kept(first))
        assert second.stop() == 0
        wait_until(lambda: len(kept(first)) > before, 60, "it has them back", lambda: first.text)
        assert kept(first)[-1] == (held, 3), "those that another had are read"
        arrive(send(), first)
        items = first.get("/api/v1/files?limit=100")["items"]
        assert len(items) == 3 * len(paths)
        assert {item["state"] for item in items} == {"delivered"}
        assert first.stop() == 0
