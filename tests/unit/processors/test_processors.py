"""What a lab's function may do, and what happens when it does what it may not."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from openmsi_streams.config import load
from openmsi_streams.errors import ConfigurationError, OpenMSIStreamsError
from openmsi_streams.processors import (
    DeliveredFile,
    Outcome,
    Processor,
    Result,
    Runner,
    RunnerClosed,
    decide,
    load_processors,
    processor,
)
from openmsi_streams.processors.api import message
from openmsi_streams.processors.testing import check_repeats, delivered, try_processor

sys.path.insert(0, str(Path(__file__).parent))
import misbehaving as lab

MIB = 1 << 20
TIME, MEMORY = 60.0, 1024 * MIB


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    """A runner with one process that all tests of this file share; what one leaves behind must not harm the next."""
    with Runner(1, work=tmp_path_factory.mktemp("work")) as shared:
        yield shared


@pytest.fixture
def file(tmp_path: Path) -> DeliveredFile:
    return delivered(b"1,2\n", name="run/scan.csv", topic="lab", folder=tmp_path)


def run(runner: Runner, by: Processor, file: DeliveredFile, time_limit: float = TIME, memory: int = MEMORY) -> Outcome:
    return runner.run(by, file, time_limit=time_limit, memory_limit=memory)


# -- which files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("topic", "relative", "wanted"),
    [
        ("lab", "a.csv", True),
        ("lab", "deep/down/A.CSV", True),
        ("lab", "a.csv.part", False),
        ("other", "a.csv", False),
    ],
)
def test_topic_and_pattern_say_which_files_a_processor_is_for(topic: str, relative: str, wanted: bool) -> None:
    assert lab.good.wants(topic, relative) is wanted


def test_a_pattern_with_a_slash_is_compared_with_the_whole_path() -> None:
    made = processor(match="run_*/raw/*.dat", topic=("a", "b*"))(lab.not_a_processor)
    assert made.wants("beam", "run_7/raw/x.dat")
    assert not made.wants("beam", "run_7/x.dat") and not made.wants("c", "run_7/raw/x.dat")


def test_a_function_that_no_other_process_can_find_is_refused_at_once() -> None:
    with pytest.raises(ConfigurationError, match="top level"):

        @processor()
        def inner(file: DeliveredFile) -> None:
            pass


# -- results ---------------------------------------------------------------------------------------------------------


def test_files_json_and_record_come_back_and_what_it_printed(runner: Runner, file: DeliveredFile) -> None:
    with run(runner, lab.good, file) as outcome:
        assert outcome.ok and outcome.error == ""
        (made,) = outcome.produced.files
        assert (made.name, made.read(), made.content_type) == ("scan.csv.count.txt", b"4", "text/plain")
        assert json.loads(outcome.produced.json) == {"bytes": 4} == outcome.produced.record
        assert outcome.output == "working on scan.csv\n"
    assert not Path(made.path).exists()


def test_a_message_is_keyed_by_file_and_processor_and_repeats_are_equal(runner: Runner, file: DeliveredFile) -> None:
    values = []
    for _ in range(2):
        with run(runner, lab.good, file) as outcome:
            topic, key, value = message(lab.good, file, outcome.produced)
            values.append(value)
    assert topic == "lab.results" and key == f"{file.file_id}.good".encode()
    assert values[0] == values[1]
    assert json.loads(values[0])["result"] == {"bytes": 4} and json.loads(values[0])["version"] == "3"


def test_processes_stay_warm_between_files(runner: Runner, file: DeliveredFile) -> None:
    first, second = (json.loads(run(runner, lab.warm, file).produced.json) for _ in range(2))
    assert first["pid"] == second["pid"] != os.getpid()
    assert second["calls"] == first["calls"] + 1


def test_any_function_with_plain_arguments_goes_through_the_same_door(runner: Runner) -> None:
    outcome = runner.call("misbehaving:adds", {"a": 2, "b": 3}, time_limit=TIME, memory_limit=MEMORY)
    assert outcome.ok and outcome.value == {"sum": 5}


# -- misbehaviour ----------------------------------------------------------------------------------------------------


def test_one_that_hangs_is_ended_and_the_next_file_is_processed(runner: Runner, file: DeliveredFile) -> None:
    outcome = run(runner, lab.hangs, file, time_limit=0.5)
    assert outcome.status == "time" and "0.5 s" in outcome.error and outcome.error.startswith("hangs: ")
    assert outcome.output == "before the hang\n"
    assert run(runner, lab.good, file).ok


def test_a_limit_of_its_own_goes_before_the_general_one(runner: Runner, file: DeliveredFile) -> None:
    assert run(runner, lab.impatient, file).status == "time"


@pytest.mark.skipif(sys.platform == "win32", reason="process groups are POSIX")
def test_what_a_function_started_is_ended_with_it(runner: Runner, file: DeliveredFile) -> None:
    # Its own child has to be there before the limit is reached; how long that takes is the machine's affair.
    outcome = run(runner, lab.hangs_with_a_child, file, time_limit=3.0)
    assert outcome.status == "time"
    pid = int((file.path.parent / "child.pid").read_text())
    deadline = time.monotonic() + 10
    while _is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not _is_alive(pid)


def _is_alive(pid: int) -> bool:
    with contextlib.suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


@pytest.mark.skipif(sys.platform != "linux", reason="memory is watched on Linux")
@pytest.mark.parametrize("by", [lab.grows, lab.wants_everything], ids=["in steps", "at once"])
def test_one_that_takes_too_much_memory_is_ended(runner: Runner, file: DeliveredFile, by: Processor) -> None:
    outcome = run(runner, by, file, memory=256 * MIB)
    assert outcome.status == "memory" and by.name in outcome.error
    assert run(runner, lab.good, file).ok


def test_an_exception_comes_back_with_the_labs_own_lines(runner: Runner, file: DeliveredFile) -> None:
    outcome = run(runner, lab.raises, file)
    assert outcome.status == "failed" and outcome.error == "raises: ValueError: the sample was upside down"
    assert "misbehaving.py" in outcome.traceback and 'raise ValueError("the sample' in outcome.traceback
    assert "the last words" in outcome.output


def test_sys_exit_is_a_failure_not_the_end_of_the_process(runner: Runner, file: DeliveredFile) -> None:
    before = json.loads(run(runner, lab.warm, file).produced.json)["pid"]
    assert run(runner, lab.exits, file).status == "failed"
    assert json.loads(run(runner, lab.warm, file).produced.json)["pid"] == before


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")
def test_a_fault_in_c_code_is_named_and_a_new_process_goes_on(runner: Runner, file: DeliveredFile) -> None:
    outcome = run(runner, lab.crashes, file)
    assert outcome.status == "crashed" and "SIGSEGV" in outcome.error and "going down" in outcome.output
    assert "exit code 7" in run(runner, lab.leaves, file).error
    assert run(runner, lab.good, file).ok


def test_writing_to_stdout_does_no_harm_and_is_kept_bounded(runner: Runner, file: DeliveredFile) -> None:
    outcome = run(runner, lab.chatters, file)
    assert outcome.ok and len(outcome.output) < 20_000
    assert "and from C" in outcome.output and "noise on stderr" in outcome.output


def test_standard_input_is_empty_not_our_channel(runner: Runner, file: DeliveredFile) -> None:
    assert json.loads(run(runner, lab.reads_stdin, file).produced.json) == {"read": ""}


@pytest.mark.parametrize(
    "by",
    [
        lab.returns_nonsense,
        lab.returns_no_json,
        lab.returns_a_path_elsewhere,
        lab.takes_the_place_of_the_original,
        lab.climbs_out,
    ],
    ids=lambda by: by.name,
)
def test_nonsense_is_named_and_not_tried_again(runner: Runner, file: DeliveredFile, by: Processor) -> None:
    outcome = run(runner, by, file)
    assert outcome.status == "nonsense" and outcome.error.startswith(f"{by.name}: ")
    assert decide(outcome, attempt=1, retries=5).action == "quarantine"


def test_secrets_of_the_worker_are_not_in_its_environment(
    tmp_path: Path, file: DeliveredFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENMSI_STREAMS__WEB__TOKEN", "t0p-secret")
    with Runner(1, work=tmp_path) as own:
        assert json.loads(run(own, lab.tells_secrets, file).produced.json) == {}


# -- the runner ------------------------------------------------------------------------------------------------------


def test_as_many_run_at_the_same_time_as_there_are_processes(tmp_path: Path, file: DeliveredFile) -> None:
    """Two that hang and a third that waits: the third gets its turn when one is ended."""
    outcomes: list[str] = []
    with Runner(2, work=tmp_path) as own:

        def one(by: Processor, limit: float) -> None:
            outcomes.append(run(own, by, file, time_limit=limit).status)

        threads = [threading.Thread(target=one, args=(lab.hangs, 0.5)) for _ in range(2)]
        threads.append(threading.Thread(target=one, args=(lab.good, TIME)))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(outcomes) == ["ok", "time", "time"]


def test_closing_ends_what_runs_and_what_waits(tmp_path: Path, file: DeliveredFile) -> None:
    own = Runner(1, work=tmp_path)
    ended: list[type[BaseException]] = []

    def one() -> None:
        try:
            run(own, lab.hangs, file)
        except RunnerClosed as error:
            ended.append(type(error))

    threads = [threading.Thread(target=one) for _ in range(3)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 60
    while not own._busy and time.monotonic() < deadline:
        time.sleep(0.01)
    own.close()
    for thread in threads:
        thread.join(timeout=30)
    assert ended == [RunnerClosed] * 3
    assert list(tmp_path.glob("processors-*")) == []
    with pytest.raises(RunnerClosed):
        run(own, lab.good, file)


# -- decisions -------------------------------------------------------------------------------------------------------


def test_success_is_done() -> None:
    assert decide(Outcome("ok"), 1, 3).action == "done"


@pytest.mark.parametrize("status", ["failed", "time", "memory", "crashed", "not_now"])
def test_failures_are_tried_again_with_growing_waits_then_quarantined(status: str) -> None:
    outcome = Outcome(status, error="x: broke", traceback="Traceback", output="said")  # type: ignore[arg-type]
    decisions = [decide(outcome, attempt, retries=3) for attempt in range(1, 5)]
    assert [one.action for one in decisions] == ["retry", "retry", "retry", "quarantine"]
    waits = [one.wait for one in decisions[:3]]
    assert waits == sorted(waits) and waits[0] < waits[2] <= 300
    assert "Traceback" in decisions[3].message and "said" in decisions[3].message and "try 4" in decisions[3].message


def test_a_rejected_file_is_quarantined_at_once(runner: Runner, file: DeliveredFile) -> None:
    outcome = run(runner, lab.rejects, file)
    assert outcome.status == "rejected" and "not a scan of ours" in outcome.error
    assert decide(outcome, 1, 5).action == "quarantine"
    assert decide(run(runner, lab.waits_for_a_share, file), 1, 5).action == "retry"


# -- finding them ----------------------------------------------------------------------------------------------------


def test_processors_are_found_by_name_and_by_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = importlib.metadata.EntryPoint("raises", "misbehaving:raises", "openmsi_streams.processors")
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [entry])
    settings = load(flags={"processors.load": ["misbehaving:good", "misbehaving:raises"]})
    assert [one.name for one in load_processors(settings)] == ["raises", "good"]


@pytest.mark.parametrize(
    ("reference", "says"),
    [
        ("nolab.xrd:plot", "nolab"),
        ("misbehaving:absent", "absent"),
        ("misbehaving:not_a_processor", "@processor"),
    ],
)
def test_what_cannot_be_loaded_is_named_before_the_worker_starts(reference: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        load_processors(load(flags={"processors.load": [reference]}))


# -- the helper for a lab's own tests --------------------------------------------------------------------------------


def test_a_lab_tries_its_processor_without_kafka(tmp_path: Path) -> None:
    for isolated in (False, True):
        tried = try_processor(lab.good, b"1,2\n", name="a.csv", topic="lab", folder=tmp_path, isolated=isolated)
        assert tried.files == {"a.csv.count.txt": b"4"} and tried.json == {"bytes": 4}
    with pytest.raises(ValueError, match="upside down"):
        try_processor(lab.raises, b"x", name="a.csv", folder=tmp_path)
    with pytest.raises(OpenMSIStreamsError, match=r"\*\.csv on lab"):
        try_processor(lab.good, b"x", name="a.txt", topic="lab", folder=tmp_path)


def test_a_processor_that_gives_another_result_the_second_time_is_found(tmp_path: Path) -> None:
    check_repeats(lab.good, b"1", name="a.csv", topic="lab", folder=tmp_path)
    with pytest.raises(AssertionError, match="json"):
        check_repeats(lab.warm, b"1", name="a.csv", folder=tmp_path)


def test_results_may_be_given_in_several_forms(tmp_path: Path) -> None:
    from openmsi_streams.processors.api import settle

    (tmp_path / "a.txt").write_text("a")
    assert settle(None, tmp_path, "x").files == ()
    assert [one.name for one in settle([tmp_path / "a.txt"], tmp_path, "x").files] == ["a.txt"]
    assert [one.name for one in settle(Result(files=[Path("a.txt")]), tmp_path, "x").files] == ["a.txt"]
    assert settle(Result(files={"b.txt": "text"}), tmp_path, "x").files[0].read() == b"text"
    assert settle({"b": 1, "a": 2}, tmp_path, "x").json == '{"a":2,"b":1}'
