"""A lab's own functions in a live worker: results beside the file and on a topic, failures in quarantine, replay."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from openmsi_streams.embedded import EmbeddedBroker
from tests.support.programs import spawn_cli
from tests.support.topic_reader import read_until
from tests.support.workers import Worker, wait_delivered

pytestmark = pytest.mark.broker

LAB = """
import pathlib, time
from openmsi_streams.processors import Result, processor

HERE = pathlib.Path(__file__).parent

@processor(match="*.csv")
def good(file):
    print("chatter on stdout")
    file.beside("lines.txt").write_text(str(file.path.read_bytes().count(b"\\n")))
    return Result(files=[file.beside("lines.txt")], json={"bytes": file.size})

@processor(match="*.csv")
def broken(file):
    if not (HERE / "mended").exists():
        raise ValueError("the detector was off")
    return {"mended": True}

@processor(match="*.csv", time_limit=1)
def hangs(file):
    while True:
        time.sleep(60)

@processor(match="*.csv")
def hungry(file):
    kept = []
    while True:
        kept.append(bytearray(b"x" * (8 << 20)))
"""


def test_results_limits_quarantine_and_replay_in_a_live_worker(broker: EmbeddedBroker, tmp_path: Path) -> None:
    lab = tmp_path / "lab"
    lab.mkdir()
    (lab / "ownlab.py").write_text(LAB)
    content = b"1,2\n" * 1000
    (tmp_path / "scan.csv").write_bytes(content)
    names = ("good", "broken", "hangs", "hungry")
    worker = Worker(
        broker.bootstrap,
        "own",
        tmp_path,
        worker__id="id-own",
        processors__load=json.dumps([f"ownlab:{name}" for name in names]),
        processors__retries=0,
        processors__memory_limit=300 << 20,
    )
    worker.env["PYTHONPATH"] = str(lab)
    with worker.start():
        with spawn_cli("upload", str(tmp_path / "scan.csv"), "--topic", "own", "--broker", broker.bootstrap) as upload:
            assert upload.wait(60) == 0, upload.text
        wait_delivered(broker.bootstrap, "own", {"scan.csv": hashlib.sha512(content).hexdigest()}, 60.0, worker)

        # Each failure is in quarantine once, with what a person needs to mend it; the file itself is safe.
        quarantined = read_until(broker.bootstrap, "own.quarantine", lambda found: len(found) >= 3, "three failures")
        told = {dict(one.headers())["processor"].decode(): dict(one.headers()) for one in quarantined}
        assert set(told) == {"broken", "hangs", "hungry"}
        assert all(one["reason"] == b"processor_failed" and one["path"] == b"scan.csv" for one in told.values())
        assert b"the detector was off" in told["broken"]["message"] and b"ownlab.py" in told["broken"]["message"]
        assert b"longer than 1 s" in told["hangs"]["message"]
        assert b"memory" in told["hungry"]["message"]

        (result,) = read_until(broker.bootstrap, "own.results", bool, "a result")
        assert json.loads(result.value() or b"")["result"] == {"bytes": len(content)}
        beside = worker.root / "own" / "scan.csv.lines.txt"
        assert beside.read_text() == "1000"

        # Mended and put back through, it gives its result; the others are not touched.
        (lab / "mended").touch()
        key = next(one.key() for one in quarantined if dict(one.headers())["processor"] == b"broken") or b""
        with spawn_cli("replay", key.decode(), "--topic", "own", "--broker", broker.bootstrap) as replay:
            assert replay.wait(60) == 0, replay.text
        results = read_until(broker.bootstrap, "own.results", lambda found: len(found) >= 2, "the mended result")
        by_key = {one.key(): json.loads(one.value() or b"") for one in results}
        assert by_key[key]["result"] == {"mended": True}

        # Over what was delivered before: another result of the same file takes the place of the first.
        (lab / "mended").unlink()
        again = ("processors", "again", "--topic", "own", "--match", "*.csv", "--bootstrap", broker.bootstrap)
        good = next(one for one in by_key if one.endswith(b".good"))
        before = sum(one.key() == good for one in results)
        with spawn_cli(*again) as history:
            assert history.wait(60) == 0, history.text
        read_until(
            broker.bootstrap,
            "own.results",
            lambda found: sum(one.key() == good for one in found) > before,
            "the result of a second run",
        )
        assert worker.stop() == 0, worker.text
