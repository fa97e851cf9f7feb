"""Files are cleaned after a true receipt and never otherwise; requests are answered with what is missing."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Callable, Iterator
from hashlib import sha512
from pathlib import Path

import pytest

from openmsi_streams.chunks.codec import decode
from openmsi_streams.embedded import EmbeddedBroker
from tests.support.brokers import a_broker
from tests.support.programs import Program, run_cli, spawn_cli
from tests.support.receiver import Receiver, put, receipt_for, request_for
from tests.support.topic_reader import read_until
from tests.support.waiting import wait_until

pytestmark = pytest.mark.broker


@pytest.fixture(scope="module")
def broker() -> Iterator[EmbeddedBroker]:
    with a_broker() as running:
        yield running


Watch = Callable[..., Program]


@pytest.fixture
def watch(broker: EmbeddedBroker, tmp_path: Path) -> Watch:
    (tmp_path / "data").mkdir()

    def start(topic: str, *options: str) -> Program:
        return spawn_cli(
            *("watch", tmp_path / "data", "--topic", topic, "--broker", broker.bootstrap),
            *("--state", tmp_path / "state", "--quiet-seconds", "0.2", "--grace-seconds", "0"),
            *options,
            env={"XDG_DATA_HOME": str(tmp_path / "xdg")},
        )

    return start


def digest(data: bytes) -> str:
    return sha512(data).hexdigest()


def states(tmp_path: Path, topic: str) -> dict[str, str]:
    code, text = run_cli(
        *("watch", tmp_path / "data", "--topic", topic, "--state", tmp_path / "state", "--json"),
        env={"XDG_DATA_HOME": str(tmp_path / "xdg")},
    )
    assert code == 0, text
    return {row["path"]: row["state"] for row in json.loads(text)["files"]}


@pytest.mark.parametrize("early", [True, False], ids=["since it was seen", "from before"])
def test_a_receipt_that_comes_before_the_file_is_hashed_counts(
    broker: EmbeddedBroker, tmp_path: Path, watch: Watch, early: bool
) -> None:
    """A run before this one was killed after it had sent the file; no other receipt need come."""
    topic = f"early-{early}"
    with Receiver(broker.bootstrap, topic, answer=False) as receiver:
        with watch(topic) as program:
            # A registry that has a history: without one, the producer asks the receipts before it sends anything.
            program.wait_for("watching")
            registry = next((tmp_path / "state").glob("*/registry.sqlite3"))

            def found(query: str) -> bool:
                with contextlib.closing(sqlite3.connect(registry)) as db:
                    return db.execute(query).fetchone() is not None

            wait_until(lambda: found("SELECT 1 FROM meta WHERE key='walked'"), 30.0, "the folder is known")
            assert program.terminate() == 0
        if not early:
            receiver.send(receipt_for(topic, "a.dat", digest(b"measured"), 8))
        with watch(topic, "--quiet-seconds", "2") as program:
            program.wait_for("watching")
            put(tmp_path / "data" / "a.dat", b"measured")
            wait_until(lambda: found("SELECT 1 FROM files"), 30.0, "the file is seen")
            if early:
                receiver.send(receipt_for(topic, "a.dat", digest(b"measured"), 8))
            wait_until(lambda: found("SELECT 1 FROM receipts"), 30.0, "the receipt is kept")
            wait_until(lambda: found("SELECT 1 FROM files WHERE state in ('sent', 'delivered')"), 30.0, "it is sent")
            assert program.terminate() == 0
    assert states(tmp_path, topic) == {"a.dat": "delivered" if early else "sent"}


def test_a_true_receipt_marks_delivered_and_lets_delete(broker: EmbeddedBroker, tmp_path: Path, watch: Watch) -> None:
    with Receiver(broker.bootstrap, "d1"), watch("d1", "--when-delivered", "delete") as program:
        (tmp_path / "data" / "sub").mkdir()
        put(tmp_path / "data" / "sub" / "a.dat", b"measured")
        put(tmp_path / "data" / "empty.dat", b"")
        program.wait_for(lambda text: text.count("cleaned ") == 2)
        assert program.terminate() == 0
    assert not list((tmp_path / "data").rglob("*.dat"))
    assert states(tmp_path, "d1") == {"sub/a.dat": "cleaned", "empty.dat": "cleaned"}


def test_an_archive_gets_the_file_and_keep_leaves_it(broker: EmbeddedBroker, tmp_path: Path, watch: Watch) -> None:
    file = tmp_path / "data" / "a.dat"
    file.write_bytes(b"measured")
    with Receiver(broker.bootstrap, "d2"):
        with watch("d2") as program:
            program.wait_for("delivered a.dat")
            assert program.terminate() == 0
        assert file.exists()
        with watch("d2", "--when-delivered", f"archive:{tmp_path / 'archive'}") as program:
            program.wait_for("cleaned a.dat")
            assert program.terminate() == 0
    assert not file.exists()
    assert (tmp_path / "archive" / "a.dat").read_bytes() == b"measured"


@pytest.mark.parametrize("case", ["receiver off", "another version stored", "another hash reported", "superseded"])
def test_nothing_is_deleted_without_proof_for_this_very_content(
    broker: EmbeddedBroker, tmp_path: Path, watch: Watch, case: str
) -> None:
    topic = "d3-" + case.replace(" ", "-")
    kept, gone = tmp_path / "data" / "kept.dat", tmp_path / "data" / "gone.dat"
    kept.write_bytes(b"content")
    gone.write_bytes(b"other")
    with Receiver(broker.bootstrap, topic, answer=False) as receiver:
        with watch(topic, "--when-delivered", "delete") as program:
            program.wait_for(lambda text: "sent kept.dat" in text and "sent gone.dat" in text)
            if case == "another version stored":
                receiver.send(receipt_for(topic, "kept.dat", digest(b"older"), 5))
            elif case == "another hash reported":
                receiver.send(receipt_for(topic, "kept.dat", digest(b"content"), 7, stored=digest(b"rotten")))
            elif case == "superseded":
                receiver.send(receipt_for(topic, "kept.dat", digest(b"content"), 7, state="superseded"))
            # Same key space, sent later: when this one is cleaned, the other was seen or will never come.
            for _ in range(3):
                receiver.send(receipt_for(topic, "gone.dat", digest(b"other"), 5))
            program.wait_for("cleaned gone.dat")
            assert program.terminate() == 0
    assert kept.read_bytes() == b"content"
    assert states(tmp_path, topic) == {"kept.dat": "sent", "gone.dat": "cleaned"}


def test_a_file_that_changed_after_it_was_sent_is_kept_and_sent_anew(
    broker: EmbeddedBroker, tmp_path: Path, watch: Watch
) -> None:
    file = tmp_path / "data" / "a.dat"
    file.write_bytes(b"first")
    with Receiver(broker.bootstrap, "d4", answer=False) as receiver:
        with watch("d4", "--when-delivered", "delete", "--grace-seconds", "1") as program:
            program.wait_for("sent a.dat")
            put(file, b"second, longer")
            receiver.send(receipt_for("d4", "a.dat", digest(b"first"), 5))
            wait_until(lambda: len(receiver.whole["a.dat"]) == 2, 60.0, "the second version is sent")
            assert file.read_bytes() == b"second, longer"
            receiver.send(receipt_for("d4", "a.dat", digest(b"second, longer"), 14))
            program.wait_for("cleaned a.dat")
            assert program.terminate() == 0
    assert receiver.whole["a.dat"] == [digest(b"first"), digest(b"second, longer")]


def test_a_request_is_answered_with_exactly_the_missing_chunks(
    broker: EmbeddedBroker, tmp_path: Path, watch: Watch
) -> None:
    data = bytes(range(256)) * 18  # 4608 bytes: five chunks of 1024
    (tmp_path / "data" / "a.dat").write_bytes(data)
    with Receiver(broker.bootstrap, "d5", answer=False) as receiver:
        with watch("d5", "--chunk-bytes", "1024") as program:
            program.wait_for("sent a.dat")
            receiver.send(request_for("d5", "a.dat", digest(data), (1024, 2048), (4096, -1)))
            receiver.send(request_for("d5", "a.dat", digest(b"an older version"), (0, -1)))
            receiver.send(request_for("d5", "unknown.dat", digest(data), (0, -1)))
            found = read_until(broker.bootstrap, "d5", lambda found: len(found) >= 7, settle=1.5)
            assert program.terminate() == 0
        # The settings have other chunks now: the answer is still cut as the version was.
        with watch("d5", "--chunk-bytes", "2048") as program:
            program.wait_for("watching")
            receiver.send(request_for("d5", "a.dat", digest(data), (0, 10)))
            later = read_until(broker.bootstrap, "d5", lambda found: len(found) >= 8, settle=1.0)
            assert program.terminate() == 0
    indexes = [decode(m.value(), largest_chunk=1 << 20, max_file_bytes=1 << 30)[0].index for m in found]
    assert sorted(indexes) == [1, 2, 2, 3, 4, 5, 5]
    last = decode(later[-1].value(), largest_chunk=1 << 20, max_file_bytes=1 << 30)[0]
    assert (last.index, last.total, len(last.data)) == (1, 5, 1024)
    assert len(later) == 8


def test_a_lost_registry_is_built_again_from_folder_and_receipts(
    broker: EmbeddedBroker, tmp_path: Path, watch: Watch
) -> None:
    (tmp_path / "data" / "a.dat").write_bytes(b"1")
    with Receiver(broker.bootstrap, "d6") as receiver:
        with watch("d6") as program:
            program.wait_for("delivered a.dat")
            assert program.terminate() == 0
        [registry] = (tmp_path / "state").rglob("registry.sqlite3")
        registry.write_bytes(b"not a database" * 400)
        (tmp_path / "data" / "b.dat").write_bytes(b"2")
        with watch("d6") as program:
            program.wait_for(lambda text: "delivered a.dat" in text and "delivered b.dat" in text)
            assert program.terminate() == 0
            assert "damaged" in program.text
        assert receiver.messages == 2


def test_a_file_that_the_receiver_refuses_is_shown_as_failed_with_its_reason(
    broker: EmbeddedBroker, tmp_path: Path, watch: Watch
) -> None:
    (tmp_path / "data" / "a.dat").write_bytes(b"1")
    with Receiver(broker.bootstrap, "d7", answer=False) as receiver:
        with watch("d7", "--when-delivered", "delete") as program:
            program.wait_for("sent a.dat")
            receiver.send(receipt_for("d7", "a.dat", digest(b"1"), 1, state="quarantined"))
            program.wait_for("failed a.dat")
            assert program.terminate() == 0
    assert (tmp_path / "data" / "a.dat").exists()
    assert states(tmp_path, "d7") == {"a.dat": "failed"}


def test_upload_waits_for_receipts_and_says_when_none_came(broker: EmbeddedBroker, tmp_path: Path) -> None:
    file = tmp_path / "x.dat"
    file.write_bytes(b"123")
    with Receiver(broker.bootstrap, "d8"):
        command = ("upload", file, "--topic", "d8", "--broker", broker.bootstrap)
        code, text = run_cli(*command, "--wait-for-receipts", "60")
        assert code == 0 and "1 of 1 files delivered" in text, text
    with Receiver(broker.bootstrap, "d9", answer=False):
        code, text = run_cli("upload", file, "--topic", "d9", "--broker", broker.bootstrap, "--wait-for-receipts", "1")
        assert code == 1 and "no receipt came" in text, text
