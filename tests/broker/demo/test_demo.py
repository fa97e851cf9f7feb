"""The demo: every file on disk and in S3 with the right hash, and no process left, however it ends."""

from __future__ import annotations

import json
import signal
from hashlib import sha512
from pathlib import Path

import pytest

from tests.support.doc_blocks import ROOT, blocks, hold
from tests.support.programs import Program, run_cli, spawn_cli
from tests.support.waiting import wait_until

pytestmark = pytest.mark.broker


def descendants(pid: int) -> set[int]:
    """Process numbers of all that a process has started, and of what these have started."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] not in "ZX":
            parents.setdefault(int(fields[1]), []).append(int(entry.name))
    found: set[int] = set()
    ahead = [pid]
    while ahead:
        children = parents.get(ahead.pop(), [])
        found.update(children)
        ahead += children
    return found


def alive(pids: set[int]) -> dict[int, str]:
    found = {}
    for pid in pids:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            if state not in "ZX":
                found[pid] = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
        except OSError:
            continue
    return found


def test_the_demo_delivers_every_file_and_says_so_as_data(tmp_path: Path) -> None:
    target, folder = tmp_path / "demo.json", tmp_path / "kept"
    arguments = ("demo", "--json", target, "--folder", folder, "--camera-mb", "20")
    with spawn_cli(*arguments) as program:
        code = program.wait(280)
        assert code == 0, program.text
        assert "all equal" in program.text
    data = json.loads(target.read_text(encoding="utf-8"))
    totals = data["totals"]
    assert totals["mismatches"] == 0 and totals["files"] == len(data["files"]) >= 12
    assert totals["bytes"] == sum(file["bytes"] for file in data["files"])
    assert 0 < totals["worker_ready_s"] < totals["seconds"]
    assert 0 in {file["bytes"] for file in data["files"]}
    for file in data["files"]:
        source = folder / "instruments" / file["path"]
        for copy in (source, Path(file["disk_path"])):
            assert sha512(copy.read_bytes()).hexdigest() == file["sha512"], copy
        assert file["s3_url"].startswith("s3://lab/lab/") and file["s3_sha512"] == file["sha512"]
        assert file["seconds"] is not None and file["state"] == "delivered"
    (shown,) = blocks("json", page=ROOT / "docs/demo.md")
    hold(json.loads(shown.text), data)
    found = data["analyses"]
    shots = {shot["path"]: shot["class"] for shot in found["shots"]}
    assert set(shots) == {file["path"] for file in data["files"] if file["path"].startswith("oscilloscope/")}
    assert {"spall", "flyer"} <= set(shots.values()) and "unreadable" not in shots.values()
    assert found["records"] == totals["files"] and found["processed"] >= 1
    store = folder / "store" / "lab" / "oscilloscope"
    assert len(list(store.rglob("pdv_*_plots_*.png"))) == len(shots) == len(list(store.rglob("*.pdv.json")))


def started(program: Program) -> set[int]:
    """Wait until all four parts run, and return every process of the demo."""
    program.wait_for("instruments start to measure", 120)
    pids = descendants(program.pid)
    commands = " ".join(alive(pids).values())
    assert all(part in commands for part in ("tansu", "placed_s3", " worker ", " watch ")), commands
    return pids


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_of_a_stopped_demo_is_left(number: signal.Signals) -> None:
    with spawn_cli("demo", grace=60.0) as program:
        pids = started(program)
        program.signal(number)
        code = program.wait(120)
        assert code == (-number if number == signal.SIGKILL else 130), program.text
        assert "Traceback" not in program.text
        wait_until(lambda: not alive(pids), 60, "all processes of the demo are gone", lambda: alive(pids))


def test_in_a_terminal_the_demo_goes_on_until_ctrl_c(tmp_path: Path) -> None:
    with spawn_cli("demo", "--camera-mb", "1", env={"FORCE_COLOR": "1", "COLUMNS": "120"}, grace=60.0) as program:
        text = program.wait_for("Ctrl-C ends it", 240)
        assert "http://127.0.0.1:" in text and "Files on their way" in text
        pids = descendants(program.pid)
        assert program.interrupt(120) == 0, program.text
        wait_until(lambda: not alive(pids), 60, "all processes of the demo are gone", lambda: alive(pids))


def test_bad_arguments_end_at_once_with_one_line_and_code_2(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    for arguments in (("--json", tmp_path / "none" / "demo.json"), ("--folder", tmp_path / "full")):
        code, text = run_cli("demo", *arguments)
        assert code == 2
        assert text.startswith("error: ") and len(text.strip().splitlines()) == 1, text
