"""Workers are killed, the partial folder is deleted, partitions move: every file arrives, whole, and is said so."""

from __future__ import annotations

import random
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.brokers import a_broker
from tests.support.fault_table import Books
from tests.support.files import make_files, tree
from tests.support.kafka import make_topics
from tests.support.programs import spawn_cli
from tests.support.workers import Worker, wait_delivered

TOPIC = "lab"
MB = 1_000_000
SMALL = {"count": 30, "largest": 8 * MB, "total": 40 * MB, "kills": 3, "rate": "6MB/s", "longest": 4.0}
# 200 files, 0 B to 64 MB, 2 GB in all; at 15 MB/s the kills fall into some two minutes of transfer.
FULL = {"count": 200, "largest": 64 * MB, "total": 2000 * MB, "kills": 20, "rate": "15MB/s", "longest": 10.0}


@pytest.mark.broker
@pytest.mark.parametrize(
    "size",
    [
        pytest.param(SMALL, id="small", marks=pytest.mark.timeout(400)),
        pytest.param(FULL, id="full", marks=[pytest.mark.faults, pytest.mark.timeout(1500)]),
    ],
)
def test_two_workers_killed_at_random_moments(tmp_path: Path, size: dict[str, Any]) -> None:
    """One or the other is killed with SIGKILL and started again; the partial folder is deleted twice in between."""
    books = Books("kill -9 of one of two workers; the partial folder deleted twice", "every file arrives once, whole")
    rng = random.Random(7)
    hashes = make_files(tmp_path / "source", size["count"], size["largest"], size["total"], seed=7)
    with a_broker() as broker:
        make_topics(broker.bootstrap, TOPIC)
        workers = [Worker(broker.bootstrap, TOPIC, tmp_path, f"w{i}", worker__stall_after=8) for i in range(2)]
        with workers[0], workers[1]:
            for worker in workers:
                worker.start(wait=False)
            workers[0].wait_ready()
            upload = spawn_cli(
                *("upload", tmp_path / "source", "--topic", TOPIC, "--broker", broker.bootstrap),
                *("--bandwidth", size["rate"], "--state", tmp_path / "state"),
            )
            with upload:
                for number in range(size["kills"]):
                    # The moment of the kill is what is random here; nothing is waited for.
                    time.sleep(rng.uniform(0.5, size["longest"]))
                    victim = workers[rng.randrange(2)]
                    victim.kill9()
                    if number in (size["kills"] // 3, 2 * size["kills"] // 3):
                        shutil.rmtree(tmp_path / "store" / ".partial", ignore_errors=True)
                    victim.start(wait=False)
                assert upload.wait(600) == 0, upload.text
                said = wait_delivered(broker.bootstrap, TOPIC, hashes, 300, *workers)
            assert tree(tmp_path / "store" / TOPIC) == hashes
            assert {r.path for r in said} == set(hashes), "no receipt without a file"
            for worker in workers:
                worker.wait_ready()
            refilled = sum(w.metric("openmsi_streams_refilled_bytes_total") for w in workers)
            absorbed = sum(w.metric("openmsi_streams_duplicate_chunks_total") for w in workers)
    books.settle(
        f"{size['kills']} kills",
        hashes,
        tree(tmp_path / "store" / TOPIC),
        {(r.path, r.sha512) for r in said if r.state == "delivered"},
        notes=f"receipts beyond one a file {len(said) - len(hashes)}, duplicates absorbed {absorbed:.0f} and bytes "
        f"refilled {refilled:.0f} by the workers that were left",
        run="full" if size is FULL else "quick",
    )


@pytest.mark.broker
@pytest.mark.timeout(400)
def test_a_second_worker_joins_and_leaves_during_transfer(tmp_path: Path) -> None:
    books = Books("a second worker joins and leaves: rebalances", "every file arrives once, whole")
    hashes = make_files(tmp_path / "source", 30, 6 * MB, 40 * MB, seed=8)
    rounds = 3
    with a_broker() as broker:
        make_topics(broker.bootstrap, TOPIC)
        first = Worker(broker.bootstrap, TOPIC, tmp_path, "w0", worker__stall_after=8)
        second = Worker(broker.bootstrap, TOPIC, tmp_path, "w1", worker__stall_after=8)
        with first.start(), second:
            upload = spawn_cli(
                *("upload", tmp_path / "source", "--topic", TOPIC, "--broker", broker.bootstrap),
                *("--bandwidth", "1MB/s", "--state", tmp_path / "state"),
            )
            with upload:
                for _ in range(rounds):
                    second.start()
                    assert second.stop() == 0
                assert upload.wait(200) == 0, upload.text
            said = wait_delivered(broker.bootstrap, TOPIC, hashes, 200, first, second)
        assert tree(tmp_path / "store" / TOPIC) == hashes
        assert {r.path for r in said} == set(hashes)
    books.settle(
        f"{rounds} joins, {rounds} leaves",
        hashes,
        tree(tmp_path / "store" / TOPIC),
        {(r.path, r.sha512) for r in said if r.state == "delivered"},
        notes=f"receipts beyond one a file: {len(said) - len(hashes)}",
    )
