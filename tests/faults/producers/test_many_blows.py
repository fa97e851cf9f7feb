"""The long run: hundreds of files under kills, stops and broken connections."""

from __future__ import annotations

import os
import threading
import time
from hashlib import sha512
from pathlib import Path

import pytest

from openmsi_streams.embedded import EmbeddedBroker
from tests.support.producer_faults import torture
from tests.support.programs import spawn_cli
from tests.support.receiver import Receiver
from tests.support.topic_reader import read_until, rebuilt

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1200)]


@pytest.mark.parametrize("worker", [False, True], ids=["stand-in", "worker"])
def test_300_files_survive_ten_kills_three_stops_and_three_cuts(tmp_path: Path, worker: bool) -> None:
    print(torture(tmp_path, files=300, kills=10, terms=3, cuts=3, cut_seconds=10.0, seed=1, worker=worker))


def test_a_file_that_grows_for_20_seconds_arrives_once_when_it_is_whole(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    path = data / "long.dat"

    def write() -> None:
        end = time.monotonic() + 20.0
        with path.open("wb", buffering=0) as file:
            while time.monotonic() < end:
                file.write(os.urandom(50_000))
                time.sleep(0.1)

    with EmbeddedBroker() as broker, Receiver(broker.bootstrap, "grow"):
        command = ("watch", data, "--topic", "grow", "--broker", broker.bootstrap, "--state", tmp_path / "state")
        with spawn_cli(*command, "--quiet-seconds", "10", env={"XDG_DATA_HOME": str(tmp_path / "xdg")}) as program:
            program.wait_for("watching")
            writer = threading.Thread(target=write)
            writer.start()
            writer.join()
            program.wait_for("delivered long.dat", 120.0)
            assert program.terminate() == 0
        final = {"long.dat": {sha512(path.read_bytes()).hexdigest()}}
        found = read_until(broker.bootstrap, "grow", lambda found: rebuilt(found) == final, settle=1.0)
        # One version and no message of any other.
        assert len(found) == -(-path.stat().st_size // 524288)
