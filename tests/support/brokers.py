"""The broker that live tests run on: the embedded one, or Apache Kafka with OPENMSI_TEST_BROKER=kafka."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from openmsi_streams.embedded import EmbeddedBroker
from openmsi_streams.embedded.child import Child
from openmsi_streams.embedded.ports import LOOPBACK, free_port
from tests.support.apache_kafka import CLUSTER, jars
from tests.support.waiting import wait_until

# Starting three JVMs on a machine with other work.
START_SECONDS = 180.0
# Quick to start rather than quick at work: a test's broker lives for a minute.
JAVA = ("java", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")


def on_kafka() -> bool:
    """Say whether live tests run on Apache Kafka."""
    return os.environ.get("OPENMSI_TEST_BROKER") == "kafka"


def worker_settings() -> dict[str, Any]:
    """Return what a worker's settings need on the tests' broker: quick rebalances, and the broker's own ways."""
    return {"worker__session_seconds": "6"} if on_kafka() else {"worker__profile": "embedded"}


class KafkaCluster:
    """Apache Kafka in KRaft mode: brokers that are controllers too, each to be killed and started again."""

    def __init__(self, nodes: int = 1, *, advertised: int | None = None, settings: dict[str, object] | None = None):
        """Prepare ``nodes`` brokers (1 or 3); ``advertised``: the port that clients are told (one node only)."""
        self._jars = jars()
        self.nodes = nodes
        self.advertised = advertised
        self.settings = settings or {}
        self.folder = Path(tempfile.mkdtemp(prefix="openmsi-streams-kafka-"))
        self.ports = [free_port() for _ in range(nodes)]
        self.controls = [free_port() for _ in range(nodes)]
        self.children: dict[int, Child] = {}

    @property
    def port(self) -> int:
        """Port of the first broker."""
        return self.ports[0]

    @property
    def bootstrap(self) -> str:
        """Addresses for clients."""
        return ",".join(f"{LOOPBACK}:{port}" for port in ([self.advertised] if self.advertised else self.ports))

    def _properties(self, node: int) -> Path:
        voters = ",".join(f"{i + 1}@{LOOPBACK}:{port}" for i, port in enumerate(self.controls))
        copies = min(3, self.nodes)
        chosen = {
            "process.roles": "broker,controller",
            "node.id": node + 1,
            "controller.quorum.voters": voters,
            "controller.listener.names": "CONTROLLER",
            "listeners": f"OWN://{LOOPBACK}:{self.ports[node]},CONTROLLER://{LOOPBACK}:{self.controls[node]}",
            "advertised.listeners": f"OWN://{LOOPBACK}:{self.advertised or self.ports[node]}",
            "listener.security.protocol.map": "OWN:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "inter.broker.listener.name": "OWN",
            "log.dirs": self.folder / f"log{node}",
            "auto.create.topics.enable": "false",
            "offsets.topic.num.partitions": 3,
            "offsets.topic.replication.factor": copies,
            "min.insync.replicas": max(1, copies - 1),
            "transaction.state.log.replication.factor": copies,
            "transaction.state.log.min.isr": 1,
            "share.coordinator.state.topic.replication.factor": copies,
            "share.coordinator.state.topic.min.isr": 1,
            # Of the production defaults only what would make a test wait is changed: how soon a dead broker is noticed.
            "group.initial.rebalance.delay.ms": 0,
            "broker.session.timeout.ms": 3000,
            "broker.heartbeat.interval.ms": 500,
            **self.settings,
        }
        path = self.folder / f"server{node}.properties"
        path.write_text("".join(f"{name}={value}\n" for name, value in chosen.items()), encoding="utf-8")
        return path

    def _java(self, main: str, *words: str) -> list[str]:
        return [*JAVA, "-cp", f"{self._jars}{os.sep}*", main, *words]

    def start(self) -> Self:
        """Format and start all brokers and wait until every one of them is in the cluster."""
        made = []
        for node in range(self.nodes):
            words = ("format", "--config", str(self._properties(node)), "--cluster-id", CLUSTER)
            command = self._java("kafka.tools.StorageTool", *words)
            made.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT))
        for one in made:
            said = one.communicate(timeout=START_SECONDS)[0]
            assert one.returncode == 0, said.decode()[-3000:]
        for node in range(self.nodes):
            self.start_node(node)
        self.wait_complete()
        return self

    def start_node(self, node: int) -> None:
        """Start a broker with what it kept; it is not waited for."""
        command = self._java("kafka.Kafka", str(self.folder / f"server{node}.properties"))
        log = self.folder / f"broker{node}.log"
        self.children[node] = Child(command, name=f"Apache Kafka {node}", log=log, cwd=self.folder, grace=20.0)

    def wait_complete(self) -> None:
        """Wait until every broker that runs is in the cluster and answers."""

        def complete() -> bool:
            for child in self.children.values():
                assert child.poll() is None, child.text[-3000:]
            for node in self.children:
                admin = AdminClient(
                    {"bootstrap.servers": f"{LOOPBACK}:{self.ports[node]}", "log_level": 0, "socket.timeout.ms": 3000}
                )
                try:
                    if len(admin.list_topics(timeout=3.0).brokers) < len(self.children):
                        return False
                except KafkaException:
                    return False
            return True

        wait_until(complete, START_SECONDS, "all of Apache Kafka answers")

    def kill_node(self, node: int) -> None:
        """Kill a broker without warning."""
        import signal

        child = self.children.pop(node)
        child.signal(signal.SIGKILL)
        child.wait(30.0)
        child.end()

    def stop_node(self, node: int) -> None:
        """Stop a broker in order."""
        self.children.pop(node).end()

    def stop(self) -> None:
        """Stop all brokers and remove what they kept."""
        for child in self.children.values():
            # In order is not needed: nothing of this is used again.
            child.signal(9)
        for child in self.children.values():
            child.end()
        self.children.clear()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.stop()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


@contextlib.contextmanager
def a_broker() -> Iterator[EmbeddedBroker | KafkaCluster]:
    """Give a broker for the ``with`` block: the embedded one, or one Apache Kafka node."""
    with KafkaCluster() if on_kafka() else EmbeddedBroker() as server:
        yield server


def behind_a_proxy(port: int) -> EmbeddedBroker | KafkaCluster:
    """Return a broker, not started, that tells its clients to come through the proxy on ``port``."""
    return KafkaCluster(advertised=port) if on_kafka() else EmbeddedBroker(advertised=port)
