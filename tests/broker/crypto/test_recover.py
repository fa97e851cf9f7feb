"""`crypto recover`: the data of a producer that is gone, from the vault."""

from __future__ import annotations

import shutil
from hashlib import sha512
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

pytest.importorskip("kafkacrypto", reason="the crypto extra is not installed")

from openmsi_streams.chunks.codec import Chunk, encode
from openmsi_streams.cli import cli
from openmsi_streams.crypto.messages import Opened, Opener, Waiting
from openmsi_streams.crypto.node import Node, open_node
from openmsi_streams.embedded import EmbeddedBroker
from openmsi_streams.errors import CryptoError
from tests.support.crypto_nodes import Lab
from tests.support.kafka import make_topics, produce
from tests.support.waiting import wait_until

pytestmark = pytest.mark.broker

CONTENT = {"shots/one.dat": bytes(range(256)) * 40, "two.txt": b"second file", "empty": b""}
Message = tuple[bytes | None, bytes | None]


def chunks(path: str, data: bytes, size: int = 4096) -> list[tuple[bytes, bytes]]:
    subdir, _, name = path.rpartition("/")
    total = max(1, -(-len(data) // size))
    made = []
    for index in range(1, total + 1):
        piece = data[(index - 1) * size : index * size]
        chunk = Chunk(
            name,
            sha512(data).digest(),
            sha512(piece).digest(),
            (index - 1) * size,
            index,
            total,
            subdir,
            "",
            memoryview(piece),
        )
        made.append((f"{path}_chunk_{index}_of_{total}".encode(), encode(chunk)))
    return made


def send(lab: Lab, node: Node, topic: str, content: dict[str, bytes]) -> list[Message]:
    sealed = [node.seal(topic, k, v) for path, data in content.items() for k, v in chunks(path, data)]
    produce(lab.bootstrap, topic, sealed)
    return sealed


@pytest.fixture
def lab(tmp_path: Path, broker: EmbeddedBroker) -> Lab:
    return Lab(tmp_path, broker.bootstrap)


def recover(lab: Lab, *more: str | Path) -> Result:
    return CliRunner().invoke(
        cli,
        [
            *("crypto", "recover", "--authority", str(lab.authority.folder), "--broker", lab.bootstrap),
            *("--vault-key", str(lab.authority.folder / "vault.key"), *map(str, more)),
        ],
    )


def test_files_of_a_producer_that_is_gone_come_back(lab: Lab) -> None:
    """Three starts, so three data keys; then the producer's disk is gone. No other node is needed."""
    topic = "gone1.files"
    make_topics(lab.bootstrap, topic, 2, also_internal=False)
    settings = lab.node_settings("maker", "producer", [topic])
    for path, data in CONTENT.items():
        with open_node(settings, "producer") as maker:
            send(lab, maker, topic, {path: data})
    shutil.rmtree(lab.folder / "maker")
    done = recover(lab, "--topics", topic, "--output", lab.folder / "out")
    assert done.exit_code == 0, (done.output, done.exception)
    assert "3 data keys found in the vault, 0 not" in done.output
    assert {path: (lab.folder / "out" / topic / path).read_bytes() for path in CONTENT} == CONTENT


def test_a_running_worker_takes_the_keys_and_reads_on(lab: Lab) -> None:
    topic = "gone2.files"
    make_topics(lab.bootstrap, topic, 1, also_internal=False)
    with open_node(lab.node_settings("maker", "producer", [topic]), "producer") as maker:
        messages = send(lab, maker, topic, CONTENT)
    shutil.rmtree(lab.folder / "maker")
    settings = lab.node_settings("worker", "both", [topic])
    with open_node(settings, "worker") as worker:
        opener = Opener(worker)
        assert all(isinstance(opener.open(topic, *message), Waiting) for message in messages)
        done = recover(lab, "--topics", topic, "--into", settings.crypto.node)
        assert done.exit_code == 0, (done.output, done.exception)
        wait_until(lambda: isinstance(opener.open(topic, *messages[0]), Opened), 30.0, "the worker has the key")
        assert all(isinstance(opener.open(topic, *message), Opened) for message in messages)


def test_what_the_vault_does_not_hold_is_told(lab: Lab, tmp_path: Path) -> None:
    topic = "gone3.files"
    make_topics(lab.bootstrap, topic, 1, also_internal=False)
    stranger = Lab(tmp_path / "stranger", lab.bootstrap)
    with open_node(stranger.node_settings("maker", "producer", [topic]), "producer") as maker:
        send(lab, maker, topic, {"a.txt": b"a"})
    done = recover(lab, "--topics", topic, "--output", lab.folder / "out")
    assert isinstance(done.exception, CryptoError) and "1 data keys are of producers" in str(done.exception)
