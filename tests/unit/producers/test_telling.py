"""Heartbeats and logs in OpenMSIStream's form, the state's place, the lock, the options, the weight."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import click
import pytest

from openmsi_streams.config import Settings
from openmsi_streams.errors import UsageError
from openmsi_streams.producers import commands, options, report, state, system
from tests.support.waiting import wait_until


def test_a_heartbeat_and_a_log_message_are_byte_for_byte_what_openmsistream_writes() -> None:
    # The values of golden messages that its 1.8.8 wrote.
    golden = b'{"timestamp": "2026-11-22T08:46:32.905224+00:00", "n_messages_produced": 5, "n_bytes_produced": 3377}'
    assert report.heartbeat(1795337192.905224, 5, 3377) == golden
    line = "File /lab/up1/run_07/échantillon 2.csv has a total of 1 chunks"
    golden = (
        b'{"timestamp": 1795337192.9053967, "messages": '
        b'["File /lab/up1/run_07/\\u00e9chantillon 2.csv has a total of 1 chunks"]}'
    )
    assert report.log_message(1795337192.9053967, [line]) == golden


def test_the_console_stops_on_q_and_checks_on_c() -> None:
    said: list[str] = []
    done = threading.Event()

    def stop() -> None:
        said.append("stop")
        done.set()

    report.listen_to_console(stop, lambda: said.append("check"), io.StringIO("check\nhello\n c\nQuit\nc\n"))
    assert done.wait(10.0)
    assert said == ["check", "check", "stop"]


def test_each_folder_and_topic_has_a_state_folder_of_its_own_outside_it(tmp_path: Path) -> None:
    places = {
        state.state_folder(str(tmp_path / "state"), root, topic)
        for root in (tmp_path / "a", tmp_path / "b" / "a", tmp_path / "é ü")
        for topic in ("t", "t.u")
    }
    assert len(places) == 6
    assert all(place.parent == tmp_path / "state" for place in places)


def test_a_second_producer_is_refused_with_the_pid_of_the_first(tmp_path: Path) -> None:
    folder, root = tmp_path / "state" / "x", tmp_path / "root"
    held = state.lock(folder, root, "t", tmp_path / "shared")
    for other in (folder, tmp_path / "other state" / "x"):
        with pytest.raises(UsageError, match=rf"pid {os.getpid()}\) already sends"):
            state.lock(other, root, "t", tmp_path / "shared")
    for one in held:
        one.close()
    for one in state.lock(folder, root, "t", tmp_path / "shared"):
        one.close()


def test_a_lock_ends_with_its_process_even_if_that_is_killed(tmp_path: Path) -> None:
    program = (
        "import sys, time, pathlib\n"
        "from openmsi_streams.producers import system\n"
        "lock = system.try_lock(pathlib.Path(sys.argv[1]))\n"
        "print('held', flush=True)\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "lock")], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None and child.stdout.readline() == b"held\n"
        assert system.try_lock(tmp_path / "lock") is None
        child.kill()
    taken = wait_until(lambda: system.try_lock(tmp_path / "lock"), 10.0, "the lock is free")
    taken.close()


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("C:\\short\\a.dat", "C:\\short\\a.dat"),
        ("C:\\" + "d\\" * 130 + "a.dat", "\\\\?\\C:\\" + "d\\" * 130 + "a.dat"),
        ("\\\\server\\share\\" + "d\\" * 130 + "a.dat", "\\\\?\\UNC\\server\\share\\" + "d\\" * 130 + "a.dat"),
        ("\\\\?\\C:\\" + "d\\" * 130 + "a.dat", "\\\\?\\C:\\" + "d\\" * 130 + "a.dat"),
    ],
)
def test_long_windows_paths_get_the_prefix_that_lifts_the_limit(path: str, expected: str) -> None:
    assert system.long_path(Path(path), windows=True) == expected
    assert system.long_path(Path(path), windows=False) == path


def parsed(*args: str) -> tuple[Settings, str]:
    """Return what `watch` would run with."""
    seen: list[dict[str, Any]] = []

    @click.command()
    @click.argument("folder")
    @options.common
    @options.watching
    def command(folder: str, **given: Any) -> None:
        seen.append(given)

    command.main(list(args), standalone_mode=False)
    return options.settings_of(seen[0]), options.topic_of(seen[0])


def test_the_command_line_that_openmsistreams_users_have_in_scripts_means_the_same(tmp_path: Path) -> None:
    config = tmp_path / "plain.config"
    config.write_text(
        "[broker]\nbootstrap.servers = 127.0.0.1:9999\n[producer]\nbatch.size = 200000\nlinger.ms = 100\n"
        "compression.type = lz4\nkey.serializer = StringSerializer\nvalue.serializer = DataFileChunkSerializer\n"
    )
    settings, topic = parsed(
        "DIR", "--config", str(config), "--topic_name", "T", "--chunk_size", "1024", "--upload_existing",
        "--watchdog_lag_time", "1", "--heartbeat_topic_name", "HB", "--heartbeat_program_id", "P",
        "--heartbeat_interval_secs", "2", "--log_topic_name", "LG", "--log_program_id", "P", "--log_interval_secs", "2",
        "--upload_regex", r"^.*\.csv$", "--use_polling_observer", "--queue_max_size", "500", "--n_threads", "2",
        "--update_seconds", "300", "--logger_stream_level", "info", "--consumer_group_ID", "x",
    )  # fmt: skip
    producer = settings.producer
    assert topic == "T"
    assert settings.broker.bootstrap == "127.0.0.1:9999"
    assert settings.chunks.chunk_bytes == 1024
    assert producer.existing and producer.polling and producer.quiet_seconds == 1.0
    assert producer.include == [r"re:^.*\.csv$"]
    assert (producer.heartbeat_topic, producer.heartbeat_seconds, producer.producer_id) == ("HB", 2.0, "P")
    assert (producer.log_topic, producer.log_seconds) == ("LG", 2.0)
    assert producer.queue_bytes == 500_000_000
    assert producer.compression == "lz4"


def test_options_that_are_not_given_leave_the_settings_alone() -> None:
    settings, _ = parsed("DIR", "--topic", "t")
    assert settings.producer == Settings().producer
    assert not parsed("DIR", "--topic", "t", "--no-existing")[0].producer.existing


def test_a_missing_topic_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="--topic"):
        options.topic_of({"topic": None})


def test_two_files_of_one_relative_path_are_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.dat").write_text(name)
    with pytest.raises(UsageError, match=r"both be sent as 'x\.dat'"):
        commands.find_sources((str(tmp_path / "a"), str(tmp_path / "b")), commands.Filter())
    once = commands.find_sources((str(tmp_path / "a"), str(tmp_path / "a" / "x.dat")), commands.Filter())
    assert list(once.files) == ["x.dat"]


def test_importing_the_producer_loads_nothing_heavy() -> None:
    program = (
        "import sys, openmsi_streams.producers.commands\n"
        "heavy = {'faust', 'aiokafka', 'rocksdict', 'boto3', 'gemd', 'numpy', 'matplotlib', 'kafkacrypto', 'scipy',"
        " 'openmsi_streams.worker', 'openmsi_streams.tables', 'openmsi_streams.agents', 'openmsi_streams.assembly'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(shown.stdout.replace("'", '"')) == []
