"""Three Apache Kafka brokers, killed in turn, and one that is stopped and comes back: what a lab's cluster does."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.brokers import KafkaCluster
from tests.support.fault_table import Books
from tests.support.files import make_files, tree
from tests.support.kafka import make_topics
from tests.support.programs import run_cli, spawn_cli
from tests.support.waiting import wait_until
from tests.support.workers import Worker, receipts, wait_delivered

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(900)]

TOPIC = "lab"
MB = 1_000_000
KAFKA = "Apache Kafka 4.1.0"


def worker(cluster: KafkaCluster, tmp: Path, name: str = "w0", **more: Any) -> Worker:
    copies = cluster.nodes
    settings = {"worker__profile": "", "worker__session_seconds": 6, "topic__replication": copies}
    return Worker(cluster.bootstrap, TOPIC, tmp, name, **{"worker__stall_after": 8, **settings, **more})


def test_brokers_of_three_are_killed_in_turn(tmp_path: Path) -> None:
    """Each is killed in the middle of the transfer and started again; with two copies in step nothing is lost."""
    books = Books(
        "kill -9 of one broker of three, in turn", "a moment's pause, and nothing else", f"{KAFKA}, 3 brokers"
    )
    hashes = make_files(tmp_path / "source", 60, 4 * MB, 30 * MB, seed=41)
    with KafkaCluster(3) as cluster:
        make_topics(cluster.bootstrap, TOPIC, replication=3)
        with worker(cluster, tmp_path).start() as first, worker(cluster, tmp_path, "w1").start() as second:
            upload = spawn_cli(
                *("upload", tmp_path / "source", "--topic", TOPIC, "--broker", cluster.bootstrap, "--give-up", "240"),
                *("--bandwidth", "1MB/s", "--state", tmp_path / "state"),
            )
            with upload:
                for node in range(3):
                    before = len(receipts(cluster.bootstrap, TOPIC))
                    wait_until(
                        lambda: len(receipts(cluster.bootstrap, TOPIC)) > before or upload.poll() is not None,  # noqa: B023
                        120,
                        "files are delivered",
                        lambda: first.text[-3000:] + second.text[-3000:],
                    )
                    cluster.kill_node(node)
                    time.sleep(8)  # the length of the outage: longer than a session
                    cluster.start_node(node)
                    cluster.wait_complete()
                assert upload.wait(300) == 0, upload.text
            said = wait_delivered(cluster.bootstrap, TOPIC, hashes, 300, first, second)
            assert first.stop() == 0 and second.stop() == 0
    books.settle(
        "3 kills, 8 s each",
        hashes,
        tree(tmp_path / "store" / TOPIC),
        {(r.path, r.sha512) for r in said if r.state == "delivered"},
        notes=f"receipts beyond one a file: {len(said) - len(hashes)}",
        run="kafka",
    )


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_the_only_broker_goes_away_and_comes_back(tmp_path: Path, how: str) -> None:
    """A machine with one broker restarts: the watching producer and the worker wait for it and go on."""
    words = {"kill": "kill -9 of the only broker, started again", "stop": "the only broker stopped, started again"}
    books = Books(words[how], "producer and worker wait and go on by themselves", f"{KAFKA}, 1 broker")
    source = tmp_path / "source"
    with KafkaCluster(1) as cluster:
        make_topics(cluster.bootstrap, TOPIC)
        with worker(cluster, tmp_path).start() as one:
            watch = spawn_cli(
                *("watch", source, "--topic", TOPIC, "--broker", cluster.bootstrap, "--quiet-seconds", "0.2"),
                *("--bandwidth", "2MB/s", "--state", tmp_path / "state"),
            )
            source.mkdir()
            with watch:
                watch.wait_for("watching")
                hashes = make_files(source, 20, 3 * MB, 12 * MB, seed=42)
                for number in range(2):
                    before = len(receipts(cluster.bootstrap, TOPIC))
                    wait_until(
                        lambda: len(receipts(cluster.bootstrap, TOPIC)) > before or before >= len(hashes),  # noqa: B023
                        120,
                        "files are delivered",
                        lambda: one.text[-3000:] + watch.text[-2000:],
                    )
                    if how == "kill":
                        cluster.kill_node(0)
                    else:
                        cluster.stop_node(0)
                    time.sleep(8)  # the length of the outage
                    cluster.start_node(0)
                    cluster.wait_complete()
                    hashes |= make_files(source / f"after {number}", 5, 1 * MB, 2 * MB, seed=43 + number) and {
                        f"after {number}/{path}": digest for path, digest in tree(source / f"after {number}").items()
                    }
                said = wait_delivered(cluster.bootstrap, TOPIC, hashes, 240, one)
                assert watch.terminate() == 0
            assert one.program is not None and one.program.poll() is None, one.text[-3000:]
            assert one.stop() == 0
    books.settle(
        "2 times, 8 s each",
        hashes,
        tree(tmp_path / "store" / TOPIC),
        {(r.path, r.sha512) for r in said if r.state == "delivered"},
        notes=f"receipts beyond one a file: {len(said) - len(hashes)}",
        run="kafka",
    )


def test_a_worker_is_killed_before_its_first_commit(tmp_path: Path) -> None:
    """No offset is there to go on from; what was fetched while tables were recovered is not passed over."""
    books = Books(
        "kill -9 of a worker before its first commit, while files are sent", "its successor begins at the beginning",
        f"{KAFKA}, 1 broker",
    )  # fmt: skip
    hashes = make_files(tmp_path / "source", 24, 200_000, 2_000_000, seed=11)
    with KafkaCluster(1) as cluster:
        make_topics(cluster.bootstrap, TOPIC)
        upload = spawn_cli(
            *("upload", tmp_path / "source", "--topic", TOPIC, "--broker", cluster.bootstrap),
            *("--bandwidth", "200KB/s", "--state", tmp_path / "state"),
        )
        with worker(cluster, tmp_path).start() as one, upload:
            wait_until(
                lambda: receipts(cluster.bootstrap, TOPIC), 60, "something is delivered", lambda: one.text[-2000:]
            )
            # Faust commits for the first time 2.8 s after it began.
            one.kill9()
            one.start()
            assert upload.wait(120) == 0, upload.text
            said = wait_delivered(cluster.bootstrap, TOPIC, hashes, 120, one)
            assert one.stop() == 0
    books.settle(
        "1 kill",
        hashes,
        tree(tmp_path / "store" / TOPIC),
        {(r.path, r.sha512) for r in said if r.state == "delivered"},
        notes=f"receipts beyond one a file: {len(said) - len(hashes)}",
        run="kafka",
    )


def test_the_log_is_shorter_than_an_outage(tmp_path: Path) -> None:
    """While no worker runs, Kafka forgets: the beginnings of some files, all of others."""
    from confluent_kafka import TopicPartition
    from confluent_kafka.admin import AdminClient

    from tests.support.kafka import read_all

    books = Books(
        "retention shorter than an outage: the beginning of the log deleted (DeleteRecords) while no worker runs",
        "what the log still knows of is asked for; the producer shows the rest as sent, and can send it again",
        f"{KAFKA}, 1 broker",
    )
    source = tmp_path / "source"
    with KafkaCluster(1) as cluster:
        make_topics(cluster.bootstrap, TOPIC)
        hashes = make_files(source, 25, 3 * MB, 10 * MB, seed=44)
        command = ("watch", source, "--topic", TOPIC, "--broker", cluster.bootstrap, "--state", tmp_path / "state")
        with spawn_cli(*command, "--quiet-seconds", "0.2", "--chunk-bytes", "131072") as watch:
            watch.wait_for("watching")

            def states() -> dict[str, str]:
                code, text = run_cli("watch", source, "--topic", TOPIC, "--state", tmp_path / "state", "--json")
                assert code == 0, text
                return {one["path"]: one["state"] for one in json.loads(text)["files"]}

            wait_until(
                lambda: sorted(states()) == sorted(hashes) and set(states().values()) == {"sent"},
                90,
                "all is sent",
                lambda: watch.text[-2000:],
            )
            ends: dict[int, int] = {}
            for message in read_all(cluster.bootstrap, TOPIC):
                ends[message.partition()] = message.offset() + 1
            admin = AdminClient({"bootstrap.servers": cluster.bootstrap})
            for future in admin.delete_records(
                [TopicPartition(TOPIC, p, end // 2) for p, end in ends.items()]
            ).values():
                future.result(30)
            left = len(read_all(cluster.bootstrap, TOPIC))
            with worker(cluster, tmp_path, worker__stall_after=3).start() as one:

                def settled() -> bool:
                    found = states()
                    known = {item["path"] for item in one.get("/api/v1/files?limit=500")["items"]}
                    # Each file that the worker has heard of ends as delivered; the others cannot.
                    return all((found[path] == "delivered") == (path in known) for path in hashes)

                wait_until(settled, 150, "every file is delivered or unknown to the worker", lambda: one.text[-3000:])
                waiting = {path for path, state in states().items() if state == "sent"}
                # The cure that the documentation names: a new registry is built from the folder and the receipts.
                assert watch.terminate() == 0
                shutil.rmtree(tmp_path / "state")
                with spawn_cli(*command, "--quiet-seconds", "0.2") as again:
                    wait_delivered(cluster.bootstrap, TOPIC, hashes, 120, one)
                    assert again.terminate() == 0
                said = receipts(cluster.bootstrap, TOPIC)
                assert one.stop() == 0
    books.settle(
        f"1 time; {sum(ends.values()) - left} of {sum(ends.values())} messages deleted",
        hashes,
        tree(tmp_path / "store" / TOPIC),
        {(r.path, r.sha512) for r in said if r.state == "delivered"},
        notes=f"{len(waiting)} files wholly gone from the log stood as 'sent' in the producer's list, until its "
        "registry was removed and it sent them again",
        run="kafka",
    )
