"""The commands as people run them: with OpenMSIStream's options, before the broker is up, twice by mistake."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from openmsi_streams.embedded import EmbeddedBroker
from tests.support.programs import run_cli, spawn_cli
from tests.support.proxy import ProxiedBroker
from tests.support.receiver import put
from tests.support.topic_reader import read_until, rebuilt

pytestmark = pytest.mark.broker

CONFIG = """[broker]
bootstrap.servers = {bootstrap}
[producer]
batch.size = 200000
linger.ms = 100
compression.type = lz4
key.serializer = StringSerializer
value.serializer = DataFileChunkSerializer
[consumer]
group.id = create_new
auto.offset.reset = earliest
enable.auto.commit = False
key.deserializer = StringDeserializer
value.deserializer = DataFileChunkDeserializer
"""


@pytest.fixture(scope="module")
def broker() -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker() as running:
        yield running


def test_their_documented_command_line_works_with_the_programs_name_changed(
    broker: EmbeddedBroker, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    put(data / "a.csv", b"1,2,3\n" * 500)
    (tmp_path / "plain.config").write_text(CONFIG.format(bootstrap=broker.bootstrap))
    command = [
        *(sys.executable, "-m", "openmsi_streams", "watch", str(data), "--config", str(tmp_path / "plain.config")),
        *("--topic_name", "legacy", "--chunk_size", "1024", "--upload_existing", "--watchdog_lag_time", "1"),
        *("--upload_regex", r"^((?!(\.|.*.log))).*$", "--n_threads", "2", "--queue_max_size", "500"),
        *("--heartbeat_topic_name", "HB", "--heartbeat_program_id", "P", "--heartbeat_interval_secs", "1"),
        *("--log_topic_name", "LG", "--log_program_id", "P", "--log_interval_secs", "1"),
        *("--state", str(tmp_path / "state")),
    ]
    program = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        found = read_until(broker.bootstrap, "legacy", lambda found: "a.csv" in rebuilt(found))
        assert len(found) == 3
        beats = read_until(broker.bootstrap, "HB", lambda found: sum(count(m) for m in found) >= 3)
        lines = read_until(broker.bootstrap, "LG", lambda found: any(b"sent a.csv" in m.value() for m in found))
        output, _ = program.communicate(b"check\nq\n", timeout=60)
    finally:
        program.kill()
        program.wait()
    assert program.returncode == 0
    assert {m.key() for m in beats} == {b"P_heartbeat"} and {m.key() for m in lines} == {b"P_log"}
    assert list(json.loads(beats[0].value())) == ["timestamp", "n_messages_produced", "n_bytes_produced"]
    state = json.loads(next(line for line in output.splitlines() if line.startswith(b"{")))
    assert state["condition"] == "ok" and state["files"] == {"sent": 1}


def count(message: object) -> int:
    """Return the messages that a heartbeat tells of."""
    return int(json.loads(message.value())["n_messages_produced"])  # type: ignore[attr-defined]


def test_watch_starts_without_a_broker_and_sends_when_there_is_one(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    put(data / "a.dat", b"1")
    with ProxiedBroker() as broker:
        broker.proxy.cut()
        with spawn_cli(
            *("watch", data, "--topic", "late", "--broker", broker.bootstrap, "--state", tmp_path / "state"),
            *("--quiet-seconds", "0.2"),
            env={"XDG_DATA_HOME": str(tmp_path / "xdg")},
        ) as program:
            program.wait_for("No Kafka broker answered")
            broker.proxy.mend()
            program.wait_for("sent a.dat")
            assert program.terminate() == 0


def test_upload_without_a_broker_ends_with_one_line_and_exit_code_1(tmp_path: Path) -> None:
    put(tmp_path / "a.dat", b"1")
    code, text = run_cli(
        *("upload", tmp_path / "a.dat", "--topic", "t", "--broker", "127.0.0.1:1"),
        env={"OPENMSI_STREAMS__BROKER__CONNECT_TIMEOUT": "1"},
    )
    assert code == 1
    assert "No Kafka broker answered at 127.0.0.1:1" in text and "Traceback" not in text


def test_a_second_producer_on_a_folder_is_refused(broker: EmbeddedBroker, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    env = {"XDG_DATA_HOME": str(tmp_path / "xdg")}
    command = ("watch", tmp_path / "data", "--topic", "twice", "--broker", broker.bootstrap)
    with spawn_cli(*command, "--state", tmp_path / "one", env=env) as program:
        program.wait_for("watching")
        code, text = run_cli(*command, "--state", tmp_path / "two", env=env)
        assert code == 2 and f"(pid {program.pid})" in text, text
        assert program.interrupt() == 0
