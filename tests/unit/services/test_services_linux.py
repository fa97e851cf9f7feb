"""Services of systemd: units that verify, verbs that make the right calls, errors that name the missing right.

systemd itself does not run where these tests do; a fake `systemctl` records its calls and plays the states.
"""

from __future__ import annotations

import http.server
import json
import os
import shlex
import shutil
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from openmsi_streams.cli import cli
from openmsi_streams.errors import OpenMSIStreamsError, ServiceError, UsageError
from openmsi_streams.services import run as service_run
from openmsi_streams.services import spec as specs
from openmsi_streams.services.calls import Answer, must
from openmsi_streams.services.systemd import Systemd, environment, quoted, unit
from tests.support.fake_systemctl import FAKE

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="systemd is Linux")


class Bench:
    """A root folder, a fake systemctl and the command line."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = folder / "root"
        self.log = folder / "calls.log"
        tools = folder / "bin"
        tools.mkdir()
        (tools / "systemctl").write_text(FAKE)
        (tools / "systemctl").chmod(0o755)
        monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
        monkeypatch.setenv("FAKE_LOG", str(self.log))
        monkeypatch.setenv("FAKE_STATE", str(folder / "state"))

    def __call__(self, verb: str, *words: str, scope: str = "--system") -> Result:
        return CliRunner().invoke(cli, ["service", verb, scope, "--root", str(self.root), *words])

    @property
    def calls(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []

    @property
    def unit(self) -> Path:
        return self.root / "etc/systemd/system/openmsi-streams-lab.service"


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(tmp_path, monkeypatch)


def install(bench: Bench, *more: str) -> Result:
    result = bench(
        "install", "lab", "--workdir", str(bench.root.parent), *more, "--", "watch", "data", "--topic", "lab"
    )
    assert result.exit_code == 0, result.output
    return result


def test_the_whole_life_of_a_service(bench: Bench) -> None:
    install(bench)
    assert bench.calls == ["daemon-reload", "enable openmsi-streams-lab.service"]
    assert bench("status", "lab").exit_code == 3
    assert bench("start", "lab").exit_code == 0
    shown = bench("status", "lab")
    assert shown.exit_code == 0 and "lab: active (running), process 4711; starts with the machine" in shown.output
    assert bench("restart", "lab").exit_code == 0
    assert bench.calls[-2:] == ["stop openmsi-streams-lab.service", "start openmsi-streams-lab.service"]
    assert bench("stop", "lab").exit_code == 0
    assert bench("status").exit_code == 3
    assert bench("remove", "lab").exit_code == 0
    assert "disable openmsi-streams-lab.service" in bench.calls
    assert [path for path in bench.root.rglob("*") if path.is_file()] == []


def test_services_of_a_person_use_their_own_manager_and_folders(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", "/home/lab/.config")
    result = bench("install", "lab", "--", "watch", ".", "--topic", "lab", scope="--user")
    assert result.exit_code == 0, result.output
    assert bench.calls[0] == "--user daemon-reload"
    text = (bench.root / "home/lab/.config/systemd/user/openmsi-streams-lab.service").read_text()
    assert "WantedBy=default.target" in text and "ProtectSystem" not in text and "NoNewPrivileges=yes" in text


def test_a_service_that_is_there_already_is_not_overwritten(bench: Bench) -> None:
    install(bench)
    before = bench.unit.read_text()
    result = bench("install", "lab", "--", "worker")
    assert isinstance(result.exception, ServiceError) and "service reinstall lab" in str(result.exception)
    assert bench.unit.read_text() == before


def test_reinstall_changes_the_command_and_starts_again_what_ran(bench: Bench) -> None:
    install(bench, "--env", "TOKEN=0012")
    bench("start", "lab")
    result = bench("reinstall", "lab", "--", "worker", "--topic", "lab")
    assert result.exit_code == 0 and "It runs." in result.output, result.output
    assert "services.run worker --topic lab" in bench.unit.read_text()
    assert 'TOKEN="0012"' in (bench.root / "etc/openmsi-streams/lab.env").read_text()
    assert bench.calls[-1] == "start openmsi-streams-lab.service"
    bench("stop", "lab")
    assert "not running" in bench("reinstall", "lab").output


def test_a_wrong_command_at_reinstall_leaves_the_old_service_alone(bench: Bench) -> None:
    install(bench)
    before = bench.unit.read_text()
    result = bench("reinstall", "lab", "--", "no-such-program-here")
    assert isinstance(result.exception, UsageError)
    assert bench.unit.read_text() == before


def test_secrets_are_in_a_private_file_alone(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_PASSWORD", 't0p "$ecret" \\')
    config = tmp_path / "lab.toml"
    config.write_text('[broker.options]\n"security.protocol"="SASL_SSL"\n"sasl.password" = "$KAFKA_PASSWORD"\n')
    install(bench, "--config", str(config))
    holding = [path for path in bench.root.rglob("*") if path.is_file() and "t0p" in path.read_text()]
    assert {path.name for path in holding} == {"lab.env", "lab.json"}
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in holding)
    assert stat.S_IMODE(bench.unit.stat().st_mode) == 0o644
    text = (bench.root / "etc/openmsi-streams/lab.env").read_text()
    (line,) = [line for line in text.splitlines() if line.startswith("KAFKA_PASSWORD=")]
    # systemd reads such a file as a shell reads words.
    assert shlex.split(line) == ['KAFKA_PASSWORD=t0p "$ecret" \\']
    assert f'OPENMSI_STREAMS_CONFIG="{config}"' in text


def test_folders_of_the_settings_and_of_the_command_are_writable(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    config = tmp_path / "lab.toml"
    config.write_text(f'[disk]\nroot = "{tmp_path}/store"\n[producer]\nwhen_delivered = "archive:{tmp_path}/old"\n')
    install(bench, "--config", str(config), "--writable", str(tmp_path / "with blank"))
    text = bench.unit.read_text()
    for name in ("store", "old", "data"):
        assert f"ReadWritePaths=-{tmp_path / name}\n" in text
    assert f'ReadWritePaths="-{tmp_path}/with blank"\n' in text


def test_the_right_to_give_files_away_is_kept_only_where_the_settings_ask_for_it(bench: Bench, tmp_path: Path) -> None:
    for owner, right in (("", ""), ('owner = "lab:lab"', "CAP_CHOWN")):
        config = tmp_path / "lab.toml"
        config.write_text(f'[disk]\nroot = "{tmp_path}/store"\n{owner}\n')
        install(bench, "--config", str(config))
        assert f"\nCapabilityBoundingSet={right}\n" in bench.unit.read_text()
        bench("remove", "lab")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["bad/name", "--", "watch"], "cannot be called"),
        (["lab", "--config", "none.toml", "--", "watch"], "config init"),
        (["lab", "--env", "NOT_SET_ANYWHERE", "--", "watch"], "NOT_SET_ANYWHERE=VALUE"),
        (["lab", "--", "no-such-program-here"], "no-such-program-here"),
        (["lab", "--", "openmsi-streams"], "after --"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(bench: Bench, words: list[str], says: str) -> None:
    result = bench("install", *words)
    assert isinstance(result.exception, UsageError) and says in str(result.exception)
    assert not bench.root.exists() and bench.calls == []


def test_a_settings_file_that_would_stop_the_service_is_refused(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("[worker]\nthreads = 0\n")
    result = bench("install", "lab", "--config", str(tmp_path / "a.toml"), "--", "worker")
    assert isinstance(result.exception, UsageError) and "worker.threads" in str(result.exception)


def test_no_such_service_names_those_that_are(bench: Bench) -> None:
    install(bench)
    result = bench("start", "lba")
    assert isinstance(result.exception, ServiceError) and "lab" in str(result.exception)


def test_a_refusal_names_the_right_and_leaves_nothing_behind(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_REFUSES", "1")
    result = bench("install", "lab", "--", "watch", ".")
    assert isinstance(result.exception, ServiceError)
    assert "Access denied" in str(result.exception) and "sudo" in str(result.exception)
    assert [path for path in bench.root.rglob("*") if path.is_file()] == []


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write everywhere")
def test_no_right_to_write_units_is_said(bench: Bench) -> None:
    bench.root.mkdir()
    bench.root.chmod(0o500)
    result = bench("install", "lab", "--", "watch", ".")
    assert isinstance(result.exception, ServiceError) and "--user" in str(result.exception)


def test_a_machine_without_systemd_is_told_so() -> None:
    with pytest.raises(ServiceError, match="systemd is not running here"):
        must(lambda _: Answer(1, "Failed to connect to bus: No medium found"), "systemctl", "daemon-reload")


def test_any_program_can_be_a_service_without_the_watchdog(tmp_path: Path) -> None:
    spec = specs.make("other", [sys.executable, "-V"], workdir=str(tmp_path))
    text = unit(spec, tmp_path / "e")
    assert (
        "Type=exec" in text and "WatchdogSec" not in text and f"ExecStart={Path(sys.executable).absolute()} -V" in text
    )


@pytest.mark.parametrize(
    ("word", "written"),
    [
        ("plain", "plain"),
        ("two words", '"two words"'),
        ("50%", "50%%"),
        ('a"b\\c', '"a\\"b\\\\c"'),
        ("", '""'),
        ("semi;colon", '"semi;colon"'),
        ("line\nend", '"line\\nend"'),
        ("größe", "größe"),
    ],
)
def test_words_are_quoted_as_systemd_reads_them(word: str, written: str) -> None:
    assert quoted(word) == written


HARD_WORDS = ["watch", "my data", "--topic", "50%$HOME", 'say "hi"', "back\\slash", "ümlaut", "a;b", "*"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")
@pytest.mark.parametrize("system", [True, False], ids=["system", "user"])
def test_units_verify(tmp_path: Path, system: bool) -> None:
    folder = tmp_path / "with blank"
    folder.mkdir()
    spec = specs.make(
        "verify", HARD_WORDS, system=system, workdir=str(folder), run_as="root" if system else "", writable=["/srv/a b"]
    )
    path = tmp_path / "openmsi-streams-verify.service"
    path.write_text(unit(spec, tmp_path / "verify.env"))
    # The units that ours refers to are those of a machine, which a container may not have.
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", *([] if system else ["--user"]), str(path)],
        capture_output=True,
        text=True,
        env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)},
        check=False,
    )
    ours = [line for line in done.stderr.splitlines() if "openmsi-streams-verify" in line or path.name in line]
    assert ours == [], done.stderr
    assert done.returncode == 0, done.stderr


def test_the_environment_file_is_sorted_and_says_what_it_is(tmp_path: Path) -> None:
    spec = specs.make("e", ["watch"], workdir=str(tmp_path), variables=["B=2", "A=`x`"])
    assert environment(spec).splitlines()[1:] == ['A="`x`"', 'B="2"']


# -- what the service runs -------------------------------------------------------------------------------------------


@pytest.fixture
def channel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    """A socket that stands for systemd's; call it for the next message."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener.bind(str(tmp_path / "s"))
    listener.settimeout(30)
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "s"))
    return lambda: listener.recv(100).decode()


def test_systemd_hears_that_it_is_ready_and_alive(channel: Callable[[], str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "20000")
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    stop = service_run.start_watchdog()
    assert [channel() for _ in range(3)] == ["READY=1", "WATCHDOG=1", "WATCHDOG=1"]
    stop.set()


def test_a_command_runs_through_the_service_door_and_its_exit_code_comes_out(channel: Callable[[], str]) -> None:
    with pytest.raises(SystemExit) as ended:
        service_run.main(["config", "show", "no.such.key"])
    assert ended.value.code == 2
    assert [channel(), channel()] == ["READY=1", "STOPPING=1"]


def test_a_worker_is_alive_while_its_loop_answers_and_not_when_it_stops_answering() -> None:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    is_alive = service_run.liveness(["worker", "--web-port", str(server.server_port), "--topic", "x"])
    server.server_close()
    # While it starts there is nothing that could answer.
    assert is_alive()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", server.server_port), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    assert is_alive()
    server.shutdown()
    thread.join()
    server.server_close()
    assert not is_alive()
    assert service_run.liveness(["watch", "x"])()


def test_without_systemd_nothing_is_sent_and_nothing_breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert service_run.notify("READY=1") is False
    service_run.start_watchdog().set()


def test_a_spec_gives_words_folder_and_secrets_exactly(tmp_path: Path) -> None:
    """The way of Windows and launchd: no command line of the system is involved."""
    code = "import os, sys, json; print(json.dumps([sys.argv[1:], os.getcwd(), os.environ['SECRET']]))"
    hard = ["a b", 'q"u', "50%PATH%", "$HOME", ""]
    spec = specs.make("s", [sys.executable, "-c", code, *hard], workdir=str(tmp_path), variables=['SECRET=x"$y'])
    spec.save(tmp_path / "s.json")
    done = subprocess.run(
        [sys.executable, "-m", "openmsi_streams.services.run", "--spec", str(tmp_path / "s.json")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == [hard, str(tmp_path), 'x"$y']


def test_a_program_that_is_not_there_is_named() -> None:
    from openmsi_streams.services.calls import run

    with pytest.raises(OpenMSIStreamsError, match="no-such-systemctl"):
        run(["no-such-systemctl"])


def test_state_is_read_from_any_order_of_lines(tmp_path: Path) -> None:
    def call(words: Sequence[str]) -> Answer:
        return Answer(0, "MainPID=0\nResult=exit-code\nActiveState=failed\nUnitFileState=\nSubState=failed")

    spec = specs.make("x", ["watch"], workdir=str(tmp_path))
    state = Systemd(system=True, root=tmp_path, call=call).state(spec)
    assert not state.running and "exit-code" in state.word and not state.starts_by_itself
