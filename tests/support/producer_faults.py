"""Kills, stops and broken connections while a producer works: the same run small in every test and large on request."""

from __future__ import annotations

import contextlib
import json
import random
import time
from collections import Counter
from collections.abc import Callable
from hashlib import sha512
from pathlib import Path

from tests.support.fault_table import Books
from tests.support.files import tree
from tests.support.programs import Program, run_cli, spawn_cli
from tests.support.proxy import ProxiedBroker
from tests.support.receiver import Receiver, put
from tests.support.waiting import wait_until
from tests.support.workers import Worker


def moving(receiver: Receiver, wanted: dict[str, str]) -> Callable[[], bool]:
    """Return the condition that a message has come since now, or that all files are there."""
    before = receiver.messages
    return lambda: receiver.messages > before or len(receiver.deliveries) >= len(wanted)


def torture(
    tmp_path: Path,
    *,
    files: int,
    kills: int,
    terms: int,
    cuts: int,
    cut_seconds: float,
    seed: int,
    worker: bool = False,
) -> str:
    """Write files while the producer is killed and stopped and the broker is cut off; return the figures as a line.

    Asserts that each file is delivered with its content, booked as delivered, and that nothing else came. The receipts
    are a real worker's, which stores on disk, or a stand-in's.
    """
    books = Books(
        "producer killed (kill -9), ended (SIGTERM) and cut off from the broker while files are written",
        "each file arrives once, whole, and is booked as delivered",
    )
    rng = random.Random(seed)
    data = tmp_path / "data"
    data.mkdir()
    env = {"XDG_DATA_HOME": str(tmp_path / "xdg")}
    blows = ["kill"] * kills + ["term"] * terms + ["cut"] * cuts
    rng.shuffle(blows)
    wanted: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        broker = stack.enter_context(ProxiedBroker())
        receiver = stack.enter_context(Receiver(broker.bootstrap, "lab", answer=not worker))
        if worker:
            stack.enter_context(Worker(broker.bootstrap, "lab", tmp_path)).start()
        command = ("watch", data, "--topic", "lab", "--broker", broker.bootstrap, "--state", tmp_path / "state")
        # Slow enough that blows fall into the middle of files.
        options = ("--quiet-seconds", "0.2", "--bandwidth", "4MB/s", "--chunk-bytes", "65536")

        def start() -> Program:
            program = spawn_cli(*command, *options, env=env)
            program.wait_for("watching")
            return program

        def write(number: int) -> None:
            path = data / f"run {number % 7}" / f"scan_{number:04d}.dat"
            path.parent.mkdir(exist_ok=True)
            content = rng.randbytes(rng.choice([0, 100, 30_000, 200_000, 700_000]))
            put(path, content)
            wanted[path.relative_to(data).as_posix()] = sha512(content).hexdigest()

        program = start()
        number = 0
        for blow, share in zip(blows, range(1, len(blows) + 1), strict=True):
            until = files * share // len(blows)
            while number < until:
                write(number)
                number += 1
            # The blow falls while something is on its way, unless this machine was so slow that all has arrived.
            wait_until(moving(receiver, wanted), 90.0, "something is sent", lambda: "see the producer's log")
            time.sleep(rng.random() * 0.2)
            if blow == "cut":
                broker.proxy.cut()
                time.sleep(cut_seconds)
                broker.proxy.mend()
                continue
            if blow == "kill":
                program.kill9()
            else:
                assert program.terminate() == 0
            program.__exit__(None, None, None)
            # Written while nobody watches.
            if number < files:
                write(number)
                number += 1
            program = start()
        with program:
            while number < files:
                write(number)
                number += 1

            def arrived() -> bool:
                return set(receiver.deliveries) == set(wanted.items())

            wait_until(arrived, 300.0, "every file is there", lambda: f"{len(receiver.deliveries)} of {files}")
            state = next((tmp_path / "state").glob("*/state.json"))
            wait_until(
                lambda: json.loads(state.read_text())["files"] == {"delivered": files},
                120.0,
                "every file is booked as delivered",
                lambda: state.read_text(),
            )
            assert program.terminate() == 0
        assert Counter(receiver.deliveries.values()) == {1: files}
        code, text = run_cli(*command[:1], data, "--topic", "lab", "--state", tmp_path / "state", "--json", env=env)
        assert code == 0
        rows = json.loads(text)["files"]
        assert {row["path"]: row["sha512"] for row in rows} == wanted
        assert {row["state"] for row in rows} == {"delivered"}
        books.settle(
            f"{kills} kills, {terms} SIGTERM, {cuts} cuts of {cut_seconds:g} s",
            wanted,
            dict(receiver.deliveries.keys()),
            set(receiver.deliveries),
            notes=f"{receiver.messages} messages, {receiver.repeated} of them sent again",
            run="full" if files > 100 else "quick",
        )
        if worker:
            assert tree(tmp_path / "store" / "lab") == wanted
        return (
            f"{files} files, {kills} kills, {terms} SIGTERM, {cuts} cuts of {cut_seconds:g} s: all delivered once; "
            f"{receiver.messages} messages, {receiver.repeated} of them sent again"
        )
