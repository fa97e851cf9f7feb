"""`openmsi-streams status`: light, the same answers as the pages, exit codes for scripts, one clear line on failure."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from openmsi_streams.cli import main
from openmsi_streams.tables.rows import State
from openmsi_streams.web import commands
from openmsi_streams.web.fake import FakeServer, FakeSource, make_row
from openmsi_streams.web.peers import Beat

Serve = Callable[..., FakeServer]
TOKEN = "correct-horse-battery-staple"


@pytest.fixture(autouse=True)
def _no_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPENMSI_STREAMS_CONFIG", raising=False)
    monkeypatch.setenv("OPENMSI_STREAMS__PRODUCER__STATE", str(tmp_path / "state"))


def status(*arguments: str) -> Result:
    return CliRunner().invoke(commands.status, list(arguments), standalone_mode=False)


def test_it_needs_only_what_a_producer_has() -> None:
    code = (
        "import sys, openmsi_streams.web.commands\n"
        "heavy = ('faust', 'aiohttp', 'jinja2', 'prometheus_client', 'rich', 'confluent_kafka', 'rocksdict')\n"
        "sys.exit(', '.join(name for name in heavy if name in sys.modules) or 0)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert found.returncode == 0, found.stderr


def test_the_table_puts_first_what_is_on_its_way(serve: Serve) -> None:
    source = FakeSource("lab")
    source.put(make_row("old.bin", State.RECEIVING, now=10.0, size=1000, ranges=(0, 500)))
    for number in range(5):
        source.put(make_row(f"done{number}", now=100.0 + number))
    found = status("--url", serve(source).url, "--limit", "3")
    lines = found.output.splitlines()
    assert lines[0].startswith("receiving 1  delivered 5")
    assert "old.bin" in lines[2] and "50%" in lines[2] and "████████████············" in lines[2]
    assert found.return_value == 0 and "older ones" in found.output


def test_a_path_shows_versions_reasons_and_missing_ranges(serve: Serve) -> None:
    source = FakeSource("lab")
    source.put(make_row("a b/é.trc", now=10.0, sha512=bytes(64)))
    source.put(
        make_row(
            *("a b/é.trc", State.STALLED),
            now=20.0,
            size=1000,
            ranges=(0, 100, 300, 1000),
            reason="expired",
            message="evil \x1b[2J \u202e",
        )
    )
    server = serve(source)
    found = status("a b/é.trc", "--url", server.url)
    assert found.return_value == commands.NEEDS_HELP
    assert "missing bytes 100-300" in found.output and "expired" in found.output
    assert "\x1b" not in found.output and "\u202e" not in found.output
    assert found.output.count("version ") == 2
    assert status("./a b\\é.trc", "--url", server.url).return_value == commands.NEEDS_HELP
    assert status("none", "--url", server.url).return_value == commands.UNKNOWN


@pytest.mark.parametrize(
    ("path", "code"),
    [("delivered.dat", 0), ("receiving.dat", 3), ("stalled.dat", 4), ("quarantined.dat", 4), ("none.dat", 5)],
)
def test_scripts_see_the_state_of_a_path_in_the_exit_code(serve: Serve, path: str, code: int) -> None:
    source = FakeSource("lab")
    for state in (State.DELIVERED, State.RECEIVING, State.STALLED, State.QUARANTINED):
        source.put(make_row(f"{state}.dat", state))
    server = serve(source)
    with pytest.raises(SystemExit) as ended:
        main(["status", path, "--url", server.url])
    # Click leaves with None after a success.
    assert (ended.value.code or 0) == code


def test_watching_a_path_ends_when_it_is_settled(serve: Serve) -> None:
    source = FakeSource("lab")
    file_id = source.put(make_row("x", State.DELIVERING))
    server = serve(source)
    count = [0]
    plain = source.row

    def row(wanted: str) -> object:
        count[0] += 1
        if count[0] == 4:
            source.put(source.rows[file_id].to(State.DELIVERED, 5e9))
        return plain(wanted)

    source.row = row  # type: ignore[assignment, method-assign]
    found = status("x", "--watch", "--interval", "0.1", "--json", "--url", server.url)
    documents = [json.loads(line) for line in found.output.splitlines()]
    assert found.return_value == 0 and len(documents) > 1
    assert [documents[0]["items"][0]["state"], documents[-1]["items"][0]["state"]] == ["delivering", "delivered"]


def test_instruments_that_are_late_are_said_to_be(serve: Serve) -> None:
    server = serve(FakeSource("lab"))
    server.site.peers.take(Beat("scope", "producer", "lab", time.time(), values={"n_bytes_produced": 5_000_000}))
    found = status("--instrument", "--url", server.url)
    assert found.return_value == 0 and "scope" in found.output and "5.0 MB" in found.output
    server.site.peers.take(Beat("camera", "producer", "lab", time.time() - 1000, interval=30.0))
    server.site.kept.clear()
    found = status("--instrument", "--url", server.url)
    assert found.return_value == commands.NEEDS_HELP and "LATE" in found.output


def test_the_producers_of_this_machine_are_shown_without_a_worker(tmp_path: Path) -> None:
    folder = tmp_path / "state" / "scope-lab-0123456789"
    folder.mkdir(parents=True)
    state = {"topic": "lab", "condition": "ok", "problem": "", "files": {"delivered": 7}}
    (folder / "state.json").write_text(json.dumps(state))
    (tmp_path / "state" / "broken").mkdir()
    (tmp_path / "state" / "broken" / "state.json").write_text("{")
    found = status("--instrument", "--url", "http://127.0.0.1:9")
    assert found.return_value == 0 and "scope-lab-0123456789: ok  delivered 7" in found.output
    (folder / "state.json").write_text(json.dumps({**state, "condition": "broker away", "problem": "no answer"}))
    found = status("--instrument", "--url", "http://127.0.0.1:9")
    assert found.return_value == commands.NEEDS_HELP and "no answer" in found.output
    os.utime(folder / "state.json", (1, 1))
    assert "stopped" in status("--instrument", "--url", "http://127.0.0.1:9").output


def test_a_token_comes_from_the_settings_or_a_file(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(FakeSource("lab"), web={"token": TOKEN})
    with pytest.raises(commands.Unreachable, match="token is needed"):
        CliRunner().invoke(commands.status, ["--url", server.url], standalone_mode=False, catch_exceptions=False)
    (tmp_path / "token").write_text(TOKEN + "\n")
    assert status("--url", server.url, "--token-file", "token").return_value == 0
    monkeypatch.setenv("OPENMSI_STREAMS__WEB__TOKEN", TOKEN)
    monkeypatch.setenv("OPENMSI_STREAMS__WEB__PUBLIC_URL", server.url)
    assert status().return_value == 0


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--url", "http://127.0.0.1:9"], 1, "No worker answered at http://127.0.0.1:9"),
        (["--url", "file:///etc/passwd"], 2, "not a web address"),
        (["x", "--instrument"], 2, "not both"),
        (["--token-file", "none"], 2, "cannot be read"),
        (["--config", "none.toml"], 2, "does not exist"),
        (["--limit", "0"], 2, "limit"),
    ],
)
def test_failure_is_one_clear_line(
    arguments: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["status", *arguments])
    assert ended.value.code == code
    assert said in capsys.readouterr().err


def test_a_state_that_does_not_exist_is_wrong_usage(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    server = serve(FakeSource("lab"))
    with pytest.raises(SystemExit) as ended:
        main(["status", "--state", "lost", "--url", server.url])
    assert ended.value.code == 2 and "States:" in capsys.readouterr().err
