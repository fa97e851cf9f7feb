"""A worker is killed while it makes records: after compaction one record per file, and always the same bytes."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

import gemd.json
import pytest

from openmsi_streams.gemd import lint, read
from tests.support.brokers import a_broker
from tests.support.files import make_files
from tests.support.kafka import make_topics, read_all
from tests.support.programs import spawn_cli
from tests.support.workers import Worker, wait_delivered

TOPIC = "lab"
MAPPING = """
[[map]]
id = "all"
path = "(?P<sample>[^/]*)$"
sample = { identity = { scope = "lab.sample_id", from = "path:sample" } }
name = "Scan {stem}"
shot = "{stem}"
"""


@pytest.mark.broker
@pytest.mark.parametrize(
    "kills",
    [
        pytest.param(1, id="once", marks=[pytest.mark.slow, pytest.mark.timeout(300)]),
        pytest.param(10, id="ten", marks=[pytest.mark.faults, pytest.mark.timeout(900)]),
    ],
)
def test_a_worker_killed_during_emission(tmp_path: Path, kills: int) -> None:
    rng = random.Random(11)
    hashes = make_files(tmp_path / "source", 12 * (kills + 1), 200_000, 1_000_000 * (kills + 1), seed=11)
    (tmp_path / "lab.toml").write_text(MAPPING)
    with a_broker() as broker:
        make_topics(broker.bootstrap, TOPIC)
        worker = Worker(
            broker.bootstrap,
            TOPIC,
            tmp_path,
            gemd__enabled="true",
            gemd__mapping=tmp_path / "lab.toml",
            worker__stall_after=8,
        )
        upload = spawn_cli(
            *("upload", tmp_path / "source", "--topic", TOPIC, "--broker", broker.bootstrap),
            *("--bandwidth", "100KB/s", "--state", tmp_path / "state"),
        )
        with worker, upload:
            for _ in range(kills):
                worker.start()
                # The moment of the kill is what is random here; nothing is waited for.
                time.sleep(rng.uniform(0.0, 1.2))
                worker.kill9()
            worker.start()
            assert upload.wait(300) == 0, upload.text
            wait_delivered(broker.bootstrap, TOPIC, hashes, 200, worker)
            messages = read_all(broker.bootstrap, f"{TOPIC}.gemd")
    kept: dict[bytes, bytes] = {}
    for message in messages:
        key, value = message.key(), message.value()
        assert key is not None and value is not None
        assert kept.setdefault(key, value) == value, "the same record has other bytes"
    paths = [
        tag[14:] for value in kept.values() for tag in gemd.json.loads(value).tags if tag.startswith("openmsi.path::")
    ]
    assert sorted(paths) == sorted(hashes)
    objects = read.merge(read.iter_records(list(kept.values())))
    assert lint.lint(objects) == []
    beside = [json.loads(path.read_bytes()) for path in (tmp_path / "store").rglob("*.gemd.json")]
    assert len(beside) == len(hashes) and {json.dumps(item) for item in beside} == {
        json.dumps(json.loads(value)) for value in kept.values()
    }
    print(f"{kills} kills, {len(messages)} messages, {len(kept)} records")
