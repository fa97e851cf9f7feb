"""A producer that is off left far more than fits into memory: nobody waits for it, and nothing of it is lost."""

from __future__ import annotations

import random
import re
import sys
import time
from hashlib import sha512
from pathlib import Path
from statistics import median

import pytest

pytest.importorskip("kafkacrypto", reason="the crypto extra is not installed")
pytest.importorskip("faust", reason="the server extra is not installed")

from openmsi_streams.chunks.keys import home_partition
from openmsi_streams.crypto.node import Node, open_node
from openmsi_streams.embedded import EmbeddedBroker
from tests.support.crypto_nodes import Lab
from tests.support.kafka import make_topics, produce
from tests.support.waiting import wait_until
from tests.support.workers import Worker
from tests.support.world import World

pytestmark = [
    pytest.mark.broker,
    pytest.mark.faults,
    pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc"),
]

TOPIC = "lab.files"
CHUNK = 512 << 10
MESSAGES = 500
MIB = 1 << 20
BUDGET = 64 * MIB


def send(lab: Lab, node: Node, path: str, data: bytes) -> None:
    """Send a file in messages of 512 KiB, ten at a time."""
    chunks = World(lab.folder).chunks(path, data, chunk_bytes=CHUNK)
    for start in range(0, len(chunks), 10):
        batch = [node.seal(TOPIC, key, value) for key, value, _ in chunks[start : start + 10]]
        produce(lab.bootstrap, TOPIC, batch, partition=home_partition(path, 3))


def most_memory(worker: Worker) -> int:
    """Return the most bytes that the worker's process ever had resident."""
    assert worker.program is not None
    status = Path(f"/proc/{worker.program.child.pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) * 1024


def test_500_messages_of_an_absent_producer(
    tmp_path: Path, own_broker: EmbeddedBroker, capsys: pytest.CaptureFixture[str]
) -> None:
    lab = Lab(tmp_path, own_broker.bootstrap)
    make_topics(lab.bootstrap, TOPIC)
    data = random.Random(5).randbytes(CHUNK) * (MESSAGES // 2)
    small = random.Random(6).randbytes(3 * CHUNK)
    absent = lab.node_settings("absent", "producer", [TOPIC])
    present = lab.node_settings("present", "producer", [TOPIC])
    node = lab.provision("worker1", "both", [TOPIC])
    settings = {"crypto__node": str(node.config), "worker__memory_budget": str(BUDGET)}
    with open_node(absent, "producer") as gone:
        # One in the partition of most small files, one elsewhere.
        for path in ("absent/0.dat", "absent/1.dat"):
            send(lab, gone, path, data)
    with Worker(lab.bootstrap, TOPIC, tmp_path / "w", "worker1", **settings) as worker:
        worker.start()
        base = most_memory(worker)
        with open_node(present, "producer") as sender:
            beside = [passes(lab, sender, worker, f"present/{number}.dat", small) for number in range(10)]
            parked = most_memory(worker)
            assert not (worker.root / TOPIC / "absent").exists()
            with open_node(absent, "producer"):
                begun = time.monotonic()
                for path in ("absent/0.dat", "absent/1.dat"):
                    target = worker.root / TOPIC / path
                    wait_until(target.exists, 240.0, f"{path} is delivered", lambda: worker.text[-3000:])
                    assert sha512(target.read_bytes()).digest() == sha512(data).digest()
                taken = time.monotonic() - begun
            most = most_memory(worker)
            alone = [passes(lab, sender, worker, f"alone/{number}.dat", small) for number in range(10)]
        assert worker.stop() == 0
    with capsys.disabled():
        print(
            f"\n1.5 MiB take {median(alone):.2f} s alone, {median(beside):.2f} s beside 500 parked messages. "
            f"Resident at most {base / MIB:.0f} MiB before, {parked / MIB:.0f} while parked, {most / MIB:.0f} then. "
            f"250 MiB delivered {taken:.1f} s after the producer was back."
        )
    # 250 MiB waited; what came on top of the start is the budget and what libraries keep, not the messages.
    assert parked - base < BUDGET + 64 * MIB
    assert most - base < 2 * BUDGET + 64 * MIB


def passes(lab: Lab, node: Node, worker: Worker, path: str, data: bytes) -> float:
    """Send a file and return the seconds until it is delivered."""
    begun = time.monotonic()
    send(lab, node, path, data)
    target = worker.root / TOPIC / path
    wait_until(target.exists, 120.0, f"{path} is delivered", lambda: worker.text[-3000:])
    assert target.read_bytes() == data
    return time.monotonic() - begun
