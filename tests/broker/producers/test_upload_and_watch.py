"""Files reach the topic whole, through both commands, with an embedded broker."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha512
from pathlib import Path

import pytest

from openmsi_streams.chunks.codec import decode
from openmsi_streams.chunks.keys import home_partition
from openmsi_streams.embedded import EmbeddedBroker
from tests.support.brokers import a_broker
from tests.support.files import make_files
from tests.support.programs import run_cli, spawn_cli
from tests.support.receiver import put
from tests.support.topic_reader import read_until, rebuilt

pytestmark = pytest.mark.broker


@pytest.fixture(scope="module")
def broker() -> Iterator[EmbeddedBroker]:
    with a_broker() as running:
        yield running


def test_upload_sends_a_tree_whole_and_each_path_to_its_home_partition(broker: EmbeddedBroker, tmp_path: Path) -> None:
    made = make_files(tmp_path / "data", 20, 3_000_000, 5_000_000, seed=4)
    code, text = run_cli("upload", tmp_path / "data", "--topic", "up1", "--broker", broker.bootstrap)
    assert code == 0, text
    wanted = {path: {digest} for path, digest in made.items()}
    messages = read_until(broker.bootstrap, "up1", lambda found: rebuilt(found) == wanted)
    for message in messages:
        _, path = decode(message.value(), largest_chunk=1 << 24, max_file_bytes=1 << 40)
        assert message.partition() == home_partition(path, 3)


def test_watch_sends_what_is_there_and_what_comes_and_remembers_it(broker: EmbeddedBroker, tmp_path: Path) -> None:
    data = tmp_path / "data"
    made = make_files(data, 5, 600_000, 900_000, seed=5)
    command = ("watch", data, "--topic", "w1", "--broker", broker.bootstrap, "--state", tmp_path / "state")
    env = {"XDG_DATA_HOME": str(tmp_path / "xdg")}
    with spawn_cli(*command, "--quiet-seconds", "0.3", env=env) as program:
        program.wait_for(lambda text: text.count("sent ") >= 5)
        put(data / "late.csv", b"1,2\n")
        program.wait_for("sent late.csv")
        assert program.terminate() == 0
    made["late.csv"] = sha512(b"1,2\n").hexdigest()
    wanted = {path: {digest} for path, digest in made.items()}
    first = read_until(broker.bootstrap, "w1", lambda found: rebuilt(found) == wanted)
    (data / "after.csv").write_bytes(b"3")
    with spawn_cli(*command, "--quiet-seconds", "0.3", env=env) as program:
        program.wait_for("sent after.csv")
        assert program.terminate() == 0
    wanted["after.csv"] = {sha512(b"3").hexdigest()}
    second = read_until(broker.bootstrap, "w1", lambda found: rebuilt(found) == wanted, settle=1.0)
    assert len(second) == len(first) + 1
