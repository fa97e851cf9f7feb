"""A producer that is killed at the worst moment loses no data key."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("kafkacrypto", reason="the crypto extra is not installed")

from openmsi_streams.crypto.messages import Opened, Opener
from openmsi_streams.crypto.node import open_node
from openmsi_streams.embedded import EmbeddedBroker
from tests.support.crypto_nodes import Lab
from tests.support.kafka import make_topics, read_all
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.broker, pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX")]

SCRIPT = Path(__file__).with_name("seal_and_send.py")
TOPIC = "killed.files"


def kill_rounds(lab: Lab, rounds: int) -> None:
    """Start, let one message of a new data key reach the broker, kill -9; then read every message."""
    make_topics(lab.bootstrap, TOPIC, 1, also_internal=False)
    maker = lab.provision("maker", "producer", [TOPIC])
    for number in range(rounds):
        done = subprocess.run(
            [sys.executable, str(SCRIPT), str(maker.config), lab.bootstrap, TOPIC, f"message {number}", "first"],
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == -signal.SIGKILL, done.stderr
    found = read_all(lab.bootstrap, TOPIC)
    assert len(found) == rounds
    with open_node(lab.settings(maker.config), "producer"):
        with open_node(lab.node_settings("reader", "consumer", [TOPIC]), "reader") as reader:
            opener = Opener(reader)
            texts = []
            for message in found:

                def opened(message: object = message) -> Opened | None:
                    result = opener.open(TOPIC, message.key(), message.value())  # type: ignore[attr-defined]
                    return result if isinstance(result, Opened) else None

                texts.append(wait_until(opened, 60.0, "the killed producer's data key has come").key)
    assert texts == [b"message %d" % number for number in range(rounds)]


def test_a_producer_killed_at_its_first_message_loses_no_key(tmp_path: Path, broker: EmbeddedBroker) -> None:
    kill_rounds(Lab(tmp_path, broker.bootstrap), 2)


@pytest.mark.faults
def test_twenty_producers_killed_at_their_first_message_lose_no_key(tmp_path: Path, own_broker: EmbeddedBroker) -> None:
    kill_rounds(Lab(tmp_path, own_broker.bootstrap), 20)
