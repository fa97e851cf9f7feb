"""Encrypted messages between our nodes and the published OpenMSIStream 1.8.8, in both directions."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha512
from pathlib import Path

import pytest

pytest.importorskip("kafkacrypto", reason="the crypto extra is not installed")

from openmsi_streams.chunks.codec import Chunk, decode, encode
from openmsi_streams.crypto.files import NodeFiles
from openmsi_streams.crypto.messages import Opened, Opener
from openmsi_streams.crypto.node import open_node
from openmsi_streams.embedded import EmbeddedBroker
from tests.support.crypto_nodes import Lab
from tests.support.kafka import make_topics, produce, read_all
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.interop, pytest.mark.broker]

PINNED = "openmsistream==1.8.8"
ROOT = Path(__file__).parents[2]
# Its first consumed message takes about 25 s on the embedded broker: group joins, and waits of its own.
PATIENCE = 180.0


@pytest.fixture(scope="session")
def peer() -> Path:
    """The programs of OpenMSIStream, in a virtual environment of their own."""
    folder = Path(os.environ.get("INTEROP_VENV", ROOT / ".venv-interop"))
    programs = folder / ("Scripts" if sys.platform == "win32" else "bin")
    if not list(programs.glob("DataFileUploadDirectory*")):
        venv.create(folder, with_pip=True)
        subprocess.run([str(programs / "python"), "-m", "pip", "install", "-q", PINNED], check=True, timeout=900)
    return programs


@pytest.fixture
def lab(tmp_path: Path, own_broker: EmbeddedBroker) -> Lab:
    for topic in ("peer.keys", "peer.reqs", "peer.subs", "chains", "allowlist", "denylist", "peer.files"):
        make_topics(own_broker.bootstrap, topic, 1, also_internal=False)
    return Lab(tmp_path, own_broker.bootstrap)


def configuration(lab: Lab, node: NodeFiles) -> Path:
    """Write a configuration of OpenMSIStream that uses a node of ours."""
    path = lab.folder / f"{node.node_id}-peer.config"
    path.write_text(
        f"[kafkacrypto]\nconfig_file = {node.config}\n"
        f"[broker]\nbootstrap.servers = {lab.bootstrap}\nsecurity.protocol = PLAINTEXT\n"
        "[producer]\nkey.serializer = StringSerializer\nvalue.serializer = DataFileChunkSerializer\n"
        "[consumer]\nauto.offset.reset = earliest\nenable.auto.commit = False\n"
        "key.deserializer = StringDeserializer\nvalue.deserializer = DataFileChunkDeserializer\n"
    )
    return path


@contextmanager
def running(peer: Path, lab: Lab, program: str, *arguments: str | Path) -> Iterator[Path]:
    """Run a program until the block ends; gives its log. Its exit code says nothing: it fails while closing."""
    log = lab.folder / f"{program}.log"
    with log.open("w") as out:
        process = subprocess.Popen(
            [str(peer / program), *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=lab.folder,
        )
    try:
        yield log
    finally:
        assert process.stdin is not None
        try:
            process.communicate("q\n", timeout=60)
        except (subprocess.TimeoutExpired, BrokenPipeError, OSError):
            process.kill()
            process.wait()


def test_we_read_what_openmsistream_encrypts(peer: Path, lab: Lab) -> None:
    rng = random.Random(8)
    content = {"a.dat": rng.randbytes(3000), "sub/b.txt": b"hello " * 1000}
    for path, data in content.items():
        (lab.folder / "up" / path).parent.mkdir(parents=True, exist_ok=True)
        (lab.folder / "up" / path).write_bytes(data)
    config = configuration(lab, lab.provision("maker", "producer", ["peer.files"]))
    with running(
        *(peer, lab, "DataFileUploadDirectory", lab.folder / "up", "--config", config, "--topic_name", "peer.files"),
        *("--chunk_size", "1024", "--upload_existing", "--watchdog_lag_time", "1", "--n_threads", "1"),
    ) as log:
        wait_until(
            lambda: len(read_all(lab.bootstrap, "peer.files")) == 9, PATIENCE, "9 chunks are sent", log.read_text
        )
        with open_node(lab.node_settings("reader", "both", ["peer.files"]), "worker") as reader:
            opener = Opener(reader)
            rebuilt: dict[str, bytearray] = {}
            for message in read_all(lab.bootstrap, "peer.files"):

                def opened(message: object = message) -> Opened | None:
                    found = opener.open("peer.files", message.key(), message.value())  # type: ignore[attr-defined]
                    return found if isinstance(found, Opened) else None

                value = wait_until(opened, PATIENCE, "its data key has come", log.read_text).value
                chunk, path = decode(value, largest_chunk=1 << 20, max_file_bytes=1 << 30)
                data = rebuilt.setdefault(path, bytearray(len(content[path])))
                data[chunk.offset : chunk.end] = chunk.data
    assert rebuilt == content


def test_openmsistream_reads_what_we_encrypt(peer: Path, lab: Lab) -> None:
    data = random.Random(9).randbytes(3000)
    settings = lab.node_settings("maker", "producer", ["peer.files"])
    (lab.folder / "out").mkdir()
    with open_node(settings, "producer") as maker:
        sealed = []
        for index in (1, 2, 3):
            piece = data[(index - 1) * 1024 : index * 1024]
            chunk = Chunk(
                *("x.dat", sha512(data).digest(), sha512(piece).digest(), (index - 1) * 1024, index, 3, "", ""),
                memoryview(piece),
            )
            sealed.append(maker.seal("peer.files", b"x.dat_chunk_%d_of_3" % index, encode(chunk)))
        produce(lab.bootstrap, "peer.files", sealed)
        config = configuration(lab, lab.provision("reader", "both", ["peer.files"]))
        with running(
            *(peer, lab, "DataFileDownloadDirectory", lab.folder / "out", "--config", config),
            *("--topic_name", "peer.files", "--consumer_group_id", "g1", "--n_threads", "1"),
        ) as log:
            target = lab.folder / "out" / "x.dat"
            wait_until(
                lambda: target.exists() and target.read_bytes() == data, PATIENCE, "the file is whole", log.read_text
            )
