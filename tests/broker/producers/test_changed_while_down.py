"""Defect U4 of OpenMSIStream 1.8.8: a file that changed while the program was down was never sent again."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from openmsi_streams.chunks.codec import decode
from openmsi_streams.embedded import EmbeddedBroker
from tests.support.kafka import make_topics, read_all
from tests.support.programs import spawn_cli
from tests.support.waiting import wait_until

pytestmark = pytest.mark.broker


def sent_hashes(bootstrap: str, topic: str) -> set[bytes]:
    found = read_all(bootstrap, topic)
    return {decode(m.value(), largest_chunk=1 << 24, max_file_bytes=1 << 40)[0].file_hash for m in found}


def test_new_content_is_sent_after_a_restart_and_old_content_is_not(broker: EmbeddedBroker, tmp_path: Path) -> None:
    topic = "down"
    make_topics(broker.bootstrap, topic)
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "same.dat").write_bytes(b"stays as it is")
    (folder / "x.dat").write_bytes(b"old")
    options = ("--topic", topic, "--broker", broker.bootstrap, "--state", tmp_path / "state", "--quiet-seconds", "0.2")

    def run_until(expected: set[bytes]) -> None:
        with spawn_cli("watch", folder, *options) as program:
            wait_until(
                lambda: expected <= sent_hashes(broker.bootstrap, topic), 60, "it is sent", lambda: program.text[-2000:]
            )
            assert program.terminate() == 0

    same, old, new = (hashlib.sha512(data).digest() for data in (b"stays as it is", b"old", b"new content"))
    run_until({same, old})
    (folder / "x.dat").write_bytes(b"new content")
    run_until({same, old, new})
    assert len(read_all(broker.bootstrap, topic)) == 3, "what was sent is not sent again"
