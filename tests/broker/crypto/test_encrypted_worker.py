"""The whole way with encryption: our producer, the worker, receipts, quarantine; nobody else can read anything."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from hashlib import sha512
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("kafkacrypto", reason="the crypto extra is not installed")
pytest.importorskip("faust", reason="the server extra is not installed")

from confluent_kafka import Consumer, KafkaError, TopicPartition
from confluent_kafka.admin import AdminClient

from openmsi_streams.chunks.keys import home_partition
from openmsi_streams.chunks.messages import receipt_from
from openmsi_streams.crypto.node import Node, open_node
from openmsi_streams.embedded import EmbeddedBroker
from tests.support.crypto_nodes import Lab
from tests.support.kafka import make_topics, produce, read_all
from tests.support.programs import run_cli
from tests.support.waiting import wait_until
from tests.support.workers import Worker
from tests.support.world import World

pytestmark = pytest.mark.broker

PATIENCE = 90.0


@pytest.fixture
def lab(tmp_path: Path, own_broker: EmbeddedBroker) -> Lab:
    return Lab(tmp_path, own_broker.bootstrap)


def worker_of(lab: Lab, topic: str, name: str, **settings: Any) -> Worker:
    """Return a worker with a node of its own."""
    node = lab.provision(name, "both", [topic])
    return Worker(lab.bootstrap, topic, lab.folder / "workers", name, crypto__node=str(node.config), **settings)


def send(lab: Lab, node: Node, topic: str, files: dict[str, bytes], partitions: int = 3) -> None:
    """Send files' chunks as our producer does: the partition follows from the plain path."""
    batches: dict[int, list[tuple[bytes | None, bytes | None]]] = {}
    for path, data in files.items():
        for key, value, where in World(lab.folder).chunks(path, data):
            batches.setdefault(home_partition(where, partitions), []).append(node.seal(topic, key, value))
    for partition, messages in batches.items():
        produce(lab.bootstrap, topic, messages, partition=partition)


def six(folder: str, data: bytes) -> dict[str, bytes]:
    return {f"{folder}/{number}.dat": data + bytes([number]) for number in range(6)}


def is_there(worker: Worker, topic: str, path: str, data: bytes) -> Callable[[], bool]:
    target = worker.root / topic / path
    return lambda: target.exists() and target.read_bytes() == data


def waits(worker: Worker, topic: str, files: dict[str, bytes]) -> None:
    for path, data in files.items():
        wait_until(is_there(worker, topic, path, data), PATIENCE, f"{path} is delivered", lambda: worker.text[-3000:])


def everything_on(bootstrap: str) -> bytes:
    """Return the bytes of all keys, values and headers of all topics."""
    topics = AdminClient({"bootstrap.servers": bootstrap}).list_topics(timeout=30).topics
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "everything",
            "enable.partition.eof": True,
            "enable.auto.commit": False,
        }
    )
    places = [TopicPartition(name, number, 0) for name, topic in topics.items() for number in topic.partitions]
    consumer.assign(places)
    found = bytearray()
    ended: set[tuple[str, int]] = set()
    try:
        while True:
            # All ends are reached and nothing more comes for a moment.
            message = consumer.poll(0.5 if len(ended) == len(places) else 10.0)
            if message is None:
                assert len(ended) == len(places), f"{len(places) - len(ended)} partitions were not read to their end"
                return bytes(found)
            if message.error() is not None:
                assert message.error().code() == KafkaError._PARTITION_EOF, message.error()
                ended.add((message.topic(), message.partition()))
                continue
            found += b"\n".join([message.topic().encode(), message.key() or b"", message.value() or b""])
            found += b"".join(header.encode() + (value or b"") for header, value in message.headers() or ())
    finally:
        consumer.close()


def test_nobody_without_a_node_sees_a_name_a_path_or_content(lab: Lab) -> None:
    """`upload` waits for its receipts; then every byte of every topic is searched."""
    topic = "lab.files"
    make_topics(lab.bootstrap, topic)
    rng = random.Random(8)
    source = lab.folder / "source"
    files = {
        "Zirkon-7/versuch_Kupfer.dat": b"SEHR-GEHEIMER-INHALT " * 300,
        "plain_name_of_file.bin": b"MARKE-IM-INHALT" + rng.randbytes(4000),
    }
    for path, data in files.items():
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        (source / path).write_bytes(data)
    maker = lab.provision("maker", "both", [topic])
    with worker_of(lab, topic, "worker1", gemd__enabled="true") as worker:
        worker.start()
        code, text = run_cli(
            *("upload", source, "--topic", topic, "--broker", lab.bootstrap, "--chunk-bytes", "2000"),
            *("--state", lab.folder / "state", "--wait-for-receipts", "60"),
            env={"OPENMSI_STREAMS__CRYPTO__NODE": str(maker.config)},
        )
        waits(worker, topic, files)
        assert code == 0, text + worker.text
        # A message that cannot be used, and a file that goes to quarantine, say nothing in the clear either.
        with open_node(lab.settings(maker.config), "producer") as node:
            first = World(lab.folder).chunks("Halbfertig_Datei.dat", b"UNVOLLENDET " * 300)[0]
            produce(lab.bootstrap, topic, [node.seal(topic, *first[:2])], partition=home_partition(first[2], 3))
            produce(lab.bootstrap, topic, [node.seal(topic, b"schlecht_Name.dat", b"KEIN-CHUNK-INHALT")], partition=0)
            wait_until(
                lambda: read_all(lab.bootstrap, f"{topic}.quarantine"),
                PATIENCE,
                "it is in quarantine",
                lambda: worker.text,
            )
        assert worker.stop() == 0
    everything = everything_on(lab.bootstrap)
    assert len(everything) > 10_000
    words = (
        *(b"Zirkon", b"Kupfer", b"plain_name", b"GEHEIM", b"MARKE-IM", b"Halbfertig", b"UNVOLLENDET"),
        *(b"schlecht_Name", b"KEIN-CHUNK"),
    )
    assert [word for word in words if word in everything] == []


def test_a_producer_that_is_off_holds_nobody_up_and_survives_a_killed_worker(lab: Lab) -> None:
    """Its messages wait in the log; others' files go on; kill -9 of the worker, its return, then the key."""
    topic = "lab.files"
    make_topics(lab.bootstrap, topic)
    absent = lab.node_settings("absent", "producer", [topic])
    data = random.Random(1).randbytes(5000)
    with open_node(absent, "producer") as node:
        send(lab, node, topic, six("absent", data))
    with open_node(lab.node_settings("present", "producer", [topic]), "producer") as node:
        send(lab, node, topic, six("present", data))
        with worker_of(lab, topic, "worker1") as worker:
            worker.start()
            waits(worker, topic, six("present", data))
            assert not (worker.root / topic / "absent").exists()
            worker.kill9()
            worker.start()
            send(lab, node, topic, {"present/later.dat": data})
            waits(worker, topic, {"present/later.dat": data})
            with open_node(absent, "producer"):
                waits(worker, topic, six("absent", data))
            assert worker.stop() == 0
    assert read_all(lab.bootstrap, f"{topic}.quarantine") == []


@pytest.mark.slow
def test_partitions_move_while_messages_wait(lab: Lab) -> None:
    """A second worker with a node of its own joins, the first is killed; then the producer comes back."""
    topic = "lab.files"
    make_topics(lab.bootstrap, topic)
    absent = lab.node_settings("absent", "producer", [topic])
    data = random.Random(2).randbytes(5000)
    with open_node(absent, "producer") as node:
        send(lab, node, topic, six("absent", data))
    with worker_of(lab, topic, "worker1") as one, worker_of(lab, topic, "worker2") as two:
        one.start()
        wait_until(
            lambda: read_all(lab.bootstrap, "lab.reqs"), PATIENCE, "the first asks for the key", lambda: one.text
        )
        two.start()
        one.kill9()
        with open_node(absent, "producer"):
            waits(two, topic, six("absent", data))
        assert two.stop() == 0
    assert read_all(lab.bootstrap, f"{topic}.quarantine") == []


def test_what_is_wrong_goes_to_quarantine_and_what_waits_too_long_comes_back_by_replay(lab: Lab) -> None:
    topic = "lab.files"
    make_topics(lab.bootstrap, topic)
    absent = lab.node_settings("absent", "producer", [topic])
    data = random.Random(3).randbytes(700)
    with open_node(absent, "producer") as node:
        send(lab, node, topic, {"absent.dat": data})
    with open_node(lab.node_settings("present", "producer", [topic]), "producer") as node:
        ((key, value, _),) = World(lab.folder).chunks("tampered.dat", data)
        sealed_key, sealed = node.seal(topic, key, value)
        assert sealed is not None
        wrong = [
            (sealed_key, sealed[:-1] + bytes([sealed[-1] ^ 1])),
            (sealed_key, sealed[:-1]),
            (key, value),
            (b"junk", b"\x01" + bytes(200)),
        ]
        produce(lab.bootstrap, topic, wrong, partition=1)
        with worker_of(lab, topic, "worker1", crypto__wait_seconds="3") as worker:
            worker.start()
            send(lab, node, topic, {"after.dat": data})
            waits(worker, topic, {"after.dat": data})

            def reasons() -> list[str]:
                found = read_all(lab.bootstrap, f"{topic}.quarantine")
                return sorted(dict(one.headers() or [])["reason"].decode() for one in found)

            expected = sorted(["undecryptable", "not_encrypted", "not_encrypted", "not_encrypted", "key_never_came"])
            wait_until(
                lambda: reasons() == expected, PATIENCE, "all is in quarantine", lambda: (reasons(), worker.text)
            )
            with open_node(absent, "producer"):
                code, text = run_cli(
                    *("replay", "--topic", topic, "--broker", lab.bootstrap, "--reason", "key_never_came")
                )
                assert code == 0, text
                waits(worker, topic, {"absent.dat": data})
            assert worker.stop() == 0


def test_a_worker_whose_keys_can_no_longer_be_exchanged_ends_and_says_why(lab: Lab) -> None:
    """Its node's folder is not writable any more, so a new data key cannot be stored: kafkacrypto's thread dies."""
    topic = "lab.files"
    make_topics(lab.bootstrap, topic)
    with worker_of(lab, topic, "worker1") as worker:
        worker.start()
        # The library writes beside the configuration; a folder of that name is in its way, also for root.
        (lab.folder / "worker1" / "worker1.config.tmp").mkdir()
        with open_node(lab.node_settings("present", "producer", [topic]), "producer") as node:
            send(lab, node, topic, {"a.dat": b"the receipt of this one needs a new data key"})
            wait_until(lambda: "the worker stops" in worker.text, PATIENCE, "the worker ends", lambda: worker.text)
            assert "background thread has stopped" in worker.text


@pytest.mark.slow
def test_receipts_name_what_was_delivered(lab: Lab) -> None:
    topic = "lab.files"
    make_topics(lab.bootstrap, topic)
    maker = lab.node_settings("maker", "both", [topic])
    with worker_of(lab, topic, "worker1") as worker, open_node(maker, "producer") as node:
        worker.start()
        send(lab, node, topic, {"a.dat": b"content"})

        def receipt() -> Any:
            for one in read_all(lab.bootstrap, f"{topic}.receipts"):
                value = node.open(f"{topic}.receipts", one.value() or b"")
                if value is not None:
                    return receipt_from(value)
            return None

        found = wait_until(receipt, PATIENCE, "the receipt can be opened", lambda: worker.text)
        assert (found.path, found.sha512, found.state) == ("a.dat", sha512(b"content").hexdigest(), "delivered")
        assert json.dumps(worker.get("/api/v1/files")).count("a.dat")
        assert worker.stop() == 0
