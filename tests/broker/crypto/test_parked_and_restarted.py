"""Messages wait for their key while the worker is stopped in order, shares its partitions, or loses the broker."""

from __future__ import annotations

import random
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("kafkacrypto", reason="the crypto extra is not installed")
pytest.importorskip("faust", reason="the server extra is not installed")

from confluent_kafka import Consumer, TopicPartition

from openmsi_streams.chunks.keys import home_partition
from openmsi_streams.config import Settings
from openmsi_streams.crypto.node import Node, open_node
from openmsi_streams.embedded import EmbeddedBroker
from tests.support.brokers import KafkaCluster
from tests.support.crypto_nodes import Lab
from tests.support.files import tree
from tests.support.kafka import make_topics, produce, read_all
from tests.support.proxy import ProxiedBroker
from tests.support.waiting import wait_until
from tests.support.workers import Worker
from tests.support.world import World

TOPIC = "lab.files"
PATIENCE = 120.0
DATA = random.Random(11).randbytes(5000)


def names(folder: str) -> list[str]:
    """Return some paths on each of the three partitions.

    Once all of them are delivered, every message that was sent before them has been passed, parked or not.
    """
    found = [f"{folder}/{number}.dat" for number in range(12)]
    assert {home_partition(path, 3) for path in found} == {0, 1, 2}
    return found


Sealed = dict[int, list[tuple[bytes | None, bytes | None]]]


def seal(lab: Lab, node: Node, paths: list[str]) -> Sealed:
    """Return the messages of files by partition."""
    found: Sealed = {}
    for path in paths:
        for key, value, where in World(lab.folder).chunks(path, DATA):
            found.setdefault(home_partition(where, 3), []).append(node.seal(TOPIC, key, value))
    return found


def send(lab: Lab, sealed: Sealed) -> None:
    for partition, messages in sealed.items():
        produce(lab.bootstrap, TOPIC, messages, partition=partition)


def lab_that_lacks_a_key(folder: Path, bootstrap: str) -> tuple[Lab, Settings]:
    """Return a lab with the files of a producer that has gone with its key, and that producer's settings."""
    lab = Lab(folder, bootstrap)
    make_topics(lab.bootstrap, TOPIC)
    absent = lab.node_settings("absent", "producer", [TOPIC])
    with open_node(absent, "producer") as node:
        send(lab, seal(lab, node, names("absent")))
    return lab, absent


def worker_of(lab: Lab, name: str, **settings: Any) -> Worker:
    node = lab.provision(name, "both", [TOPIC])
    return Worker(lab.bootstrap, TOPIC, lab.folder / "workers", name, crypto__node=str(node.config), **settings)


def wait_for(paths: list[str], *workers: Worker) -> None:
    """Wait until all of these files are in the store, with the right content."""
    root = workers[0].root / TOPIC

    def lacking() -> list[str]:
        found = tree(root) if root.exists() else {}
        return [path for path in paths if found.get(path) is None]

    wait_until(lambda: not lacking(), PATIENCE, "delivered", lambda: (lacking(), [w.text[-3000:] for w in workers]))
    assert all((root / path).read_bytes() == DATA for path in paths)


def all_is_committed(bootstrap: str) -> bool:
    """Say whether the workers' group has passed every message of the topic: what waits holds no offset back."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": Settings().worker.id, "enable.auto.commit": False})
    try:
        places = [TopicPartition(TOPIC, number) for number in range(3)]
        done = {place.partition: place.offset for place in consumer.committed(places, timeout=20)}
        # Offsets of messages, not the broker's word for the end: the embedded one names the last batch's first.
        sent = {(message.partition(), message.offset()) for message in read_all(bootstrap, TOPIC)}
        return all(done[partition or 0] > (offset or 0) for partition, offset in sent)
    finally:
        consumer.close()


@pytest.mark.broker
@pytest.mark.slow
def test_a_worker_ends_in_order_while_messages_wait_and_two_share_what_it_left(
    tmp_path: Path, own_broker: EmbeddedBroker
) -> None:
    """SIGTERM while parked; started again; a second joins while still parked, and both stay; the producer is back."""
    lab, absent = lab_that_lacks_a_key(tmp_path, own_broker.bootstrap)
    with (
        open_node(lab.node_settings("present", "producer", [TOPIC]), "producer") as present,
        worker_of(lab, "worker1") as one,
        worker_of(lab, "worker2") as two,
    ):
        send(lab, seal(lab, present, names("present")))
        one.start()
        wait_for(names("present"), one)
        assert one.stop() == 0, one.text
        one.start()
        two.start()

        def held(worker: Worker) -> int:
            return sum(len(numbers) for numbers in worker.get("/api/v1/health")["partitions"].values())

        wait_until(
            lambda: held(one) and held(two) and held(one) + held(two) == 3,
            PATIENCE,
            "both have partitions",
            lambda: one.text + two.text,
        )
        assert not (one.root / TOPIC / "absent").exists()
        with open_node(absent, "producer"):
            wait_for(names("absent"), one, two)
            # Their receipts and rows go through the same gate; nothing of it is held back either.
            wait_until(
                lambda: all_is_committed(lab.bootstrap), PATIENCE, "all is committed", lambda: one.text + two.text
            )
        assert one.stop() == 0 and two.stop() == 0, one.text + two.text
    assert read_all(lab.bootstrap, f"{TOPIC}.quarantine") == []


@pytest.mark.broker
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_worker_ends_in_order_while_messages_wait_and_the_broker_is_away(
    tmp_path: Path, proxied_broker: ProxiedBroker
) -> None:
    """Faust, the node and our producer each give up on the broker after a while; what is parked is in the table."""
    lab, absent = lab_that_lacks_a_key(tmp_path, proxied_broker.bootstrap)
    with (
        open_node(lab.node_settings("present", "producer", [TOPIC]), "producer") as present,
        worker_of(lab, "worker1") as worker,
    ):
        send(lab, seal(lab, present, names("present")))
        worker.start()
        wait_for(names("present"), worker)
        proxied_broker.proxy.cut()
        # 20 s as a rule, and more than a minute was seen on a loaded machine.
        assert worker.stop(200.0) == 0, worker.text
        proxied_broker.proxy.mend()
        worker.start()
        with open_node(absent, "producer"):
            wait_for(names("absent"), worker)
        assert worker.stop() == 0, worker.text
    assert read_all(lab.bootstrap, f"{TOPIC}.quarantine") == []


@pytest.mark.kafka
@pytest.mark.timeout(600)
def test_the_broker_is_killed_and_started_again_while_messages_wait(tmp_path: Path) -> None:
    """Apache Kafka, since the embedded broker forgets everything. The exchange of keys goes on by itself."""
    with KafkaCluster() as cluster, ExitStack() as stack:
        lab, absent = lab_that_lacks_a_key(tmp_path, cluster.bootstrap)
        present = stack.enter_context(open_node(lab.node_settings("present", "producer", [TOPIC]), "producer"))
        settings = {"worker__profile": "", "worker__session_seconds": "6"}
        worker = stack.enter_context(worker_of(lab, "worker1", **settings)).start()
        send(lab, seal(lab, present, names("before")))
        wait_for(names("before"), worker)
        cluster.kill_node(0)
        # Sealing needs no broker: the data key is there.
        sealed = seal(lab, present, names("after"))
        cluster.start_node(0)
        cluster.wait_complete()
        send(lab, sealed)
        wait_for(names("after"), worker)
        assert not (worker.root / TOPIC / "absent").exists()
        with open_node(absent, "producer"):
            wait_for(names("absent"), worker)
            wait_until(lambda: all_is_committed(lab.bootstrap), PATIENCE, "all is committed", lambda: worker.text)
        # A producer that the worker has never seen: a whole exchange, request and answer, over the new broker.
        fresh = stack.enter_context(open_node(lab.node_settings("fresh", "producer", [TOPIC]), "producer"))
        send(lab, seal(lab, fresh, names("fresh")))
        wait_for(names("fresh"), worker)
        assert worker.stop() == 0, worker.text
        assert read_all(lab.bootstrap, f"{TOPIC}.quarantine") == []
