"""A worker as a process over a live broker: poison, signals, replay, refusals."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

import msgspec
import pytest

from openmsi_streams.chunks.keys import home_partition
from openmsi_streams.embedded import EmbeddedBroker
from tests.support.kafka import make_topics, produce, read_all
from tests.support.programs import run_cli
from tests.support.waiting import wait_until
from tests.support.workers import Worker, receipts, wait_delivered
from tests.support.world import World

pytestmark = pytest.mark.broker


def send(bootstrap: str, topic: str, path: str, data: bytes, tmp: Path, **options: object) -> None:
    for key, value, where in World(tmp).chunks(path, data, **options):  # type: ignore[arg-type]
        produce(bootstrap, topic, [(key, value)], partition=home_partition(where, 3))


def test_poison_between_two_files_and_replay(broker: EmbeddedBroker, tmp_path: Path) -> None:
    """The second file is there at once; what was wrong is listed with its reason, and can be put back through."""
    topic = "poison"
    make_topics(broker.bootstrap, topic)
    with Worker(broker.bootstrap, topic, tmp_path, worker__stall_after=2, worker__expire_after=3) as worker:
        worker.start()
        send(broker.bootstrap, topic, "a.dat", b"first", tmp_path)
        for value in (b"poison", None, msgspec.msgpack.encode([1, 2, 3])):
            for partition in range(3):
                produce(broker.bootstrap, topic, [(b"k", value)], partition=partition)
        data = hashlib.sha512(b"seed").digest() * 50
        send(broker.bootstrap, topic, "b.dat", data, tmp_path)
        digests = {"a.dat": hashlib.sha512(b"first").hexdigest(), "b.dat": hashlib.sha512(data).hexdigest()}
        wait_delivered(broker.bootstrap, topic, digests, 30, worker)
        assert (worker.root / topic / "b.dat").read_bytes() == data
        assert len(read_all(broker.bootstrap, f"{topic}.quarantine")) == 9
        assert worker.metric("openmsi_streams_quarantined_total") == 9

        chunks = World(tmp_path).chunks("late.dat", data)
        where = home_partition("late.dat", 3)
        produce(broker.bootstrap, topic, [chunks[0][:2]], partition=where)
        wait_until(
            lambda: any(r.path == "late.dat" for r in receipts(broker.bootstrap, topic)),
            30,
            "it expires",
            lambda: worker.text,
        )
        code, text = run_cli("replay", "--topic", topic, "--broker", broker.bootstrap, "--list")
        assert code == 0 and "late.dat" in text and "expired" in text and "10 in quarantine" in text
        produce(broker.bootstrap, topic, [c[:2] for c in chunks[1:]], partition=where)
        code, text = run_cli("replay", "--topic", topic, "--broker", broker.bootstrap, "late.dat")
        assert code == 0, text
        wait_delivered(broker.bootstrap, topic, {"late.dat": hashlib.sha512(data).hexdigest()}, 30, worker)
        assert (worker.root / topic / "late.dat").read_bytes() == data
        assert worker.get("/api/v1/files")["ok"] is True
        assert worker.stop() == 0


def test_a_restart_goes_on_where_it_was(broker: EmbeddedBroker, tmp_path: Path) -> None:
    topic = "restart"
    make_topics(broker.bootstrap, topic)
    data = bytes(range(256)) * 20
    chunks = World(tmp_path).chunks("x.dat", data)
    where = home_partition("x.dat", 3)
    with Worker(broker.bootstrap, topic, tmp_path) as worker:
        worker.start()
        produce(broker.bootstrap, topic, [c[:2] for c in chunks[:3]], partition=where)
        wait_until(lambda: worker.get("/api/v1/files")["items"], 20, "the partial file is shown", lambda: worker.text)
        item = worker.get("/api/v1/files")["items"][0]
        assert (item["path"], item["state"], item["received"]) == ("x.dat", "receiving", 3000)
        assert worker.stop() == 0
        worker.start()
        produce(broker.bootstrap, topic, [c[:2] for c in chunks[3:]], partition=where)
        wait_delivered(broker.bootstrap, topic, {"x.dat": hashlib.sha512(data).hexdigest()}, 30, worker)
        assert (worker.root / topic / "x.dat").read_bytes() == data


def test_scattered_chunks_are_forwarded_home(broker: EmbeddedBroker, tmp_path: Path) -> None:
    """OpenMSIStream's producer spreads one file over all partitions."""
    topic = "scatter"
    make_topics(broker.bootstrap, topic)
    data = bytes(range(256)) * 40
    with Worker(broker.bootstrap, topic, tmp_path) as worker:
        worker.start()
        for number, (key, value, _) in enumerate(World(tmp_path).chunks("sub/x.dat", data)):
            produce(broker.bootstrap, topic, [(key, value)], partition=number % 3)
        wait_delivered(broker.bootstrap, topic, {"sub/x.dat": hashlib.sha512(data).hexdigest()}, 30, worker)
        assert (worker.root / topic / "sub/x.dat").read_bytes() == data


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--topic", "a b"], 2, "Kafka refuses the topic name 'a b'"),
        (["--topic", "lab"], 2, "No store is given"),
        ([], 2, "No topic is given"),
        (["--config", "nowhere.toml"], 2, "does not exist"),
    ],
)
def test_a_wrong_start_is_one_clear_line(tmp_path: Path, arguments: list[str], code: int, says: str) -> None:
    root = ["--root", str(tmp_path)] if says != "No store is given" else []
    found, text = run_cli(
        "worker", *arguments, *root, "--data", str(tmp_path / "d"), "--broker", "127.0.0.1:1", cwd=tmp_path
    )
    assert (found, "Traceback" in text) == (code, False), text
    assert says in text


def test_no_broker_is_one_clear_line(tmp_path: Path) -> None:
    started = time.monotonic()
    code, text = run_cli(
        *("worker", "--topic", "lab", "--root", tmp_path, "--data", tmp_path / "d", "--broker", "127.0.0.1:1"),
        env={"OPENMSI_STREAMS__BROKER__CONNECT_TIMEOUT": "2"},
    )
    assert code == 1 and "127.0.0.1:1" in text and "Traceback" not in text, text
    assert time.monotonic() - started < 60
