"""Files that change at the worst moments, driven step by step in this process."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from hashlib import sha512
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient, NewTopic

from openmsi_streams.chunks.codec import decode
from openmsi_streams.config import load
from openmsi_streams.embedded import EmbeddedBroker
from openmsi_streams.errors import CryptoError
from openmsi_streams.producers import content, readiness
from openmsi_streams.producers.engine import FLUSH_SECONDS, Engine
from openmsi_streams.producers.registry import Registry
from tests.support.brokers import a_broker
from tests.support.topic_reader import read_until, rebuilt

pytestmark = pytest.mark.broker

LARGE = content.SMALL + 2_000_000


@pytest.fixture(scope="module")
def broker() -> Iterator[EmbeddedBroker]:
    with a_broker() as running:
        yield running


class Bench:
    """One engine on one folder; `send` runs it until nothing is left to do."""

    def __init__(self, broker: EmbeddedBroker, folder: Path, topic: str, flags: dict[str, Any], **more: Any) -> None:
        self.folder, self.topic, self.bootstrap = folder, topic, broker.bootstrap
        settings = load(None, {"broker.bootstrap": broker.bootstrap, "producer.quiet_seconds": 0.2, **flags}, {})
        self.said: list[tuple[str, str, str]] = []
        self.engine = Engine(
            settings, topic, Registry(None), lambda path: folder / path, rules=[readiness.quiet(0.2)],
            on_change=lambda row: self.said.append((row.state, row.path, row.reason)), **more,
        )  # fmt: skip
        self.engine.connect()

    def look(self, *names: str) -> None:
        found = [(name, (self.folder / name).stat()) for name in names]
        self.engine.look_at([(name, stat.st_size, stat.st_mtime_ns) for name, stat in found])

    def run(self, timeout: float = 60.0) -> None:
        deadline = time.monotonic() + timeout
        while self.engine.busy:
            self.engine.turn(0.1)
            assert time.monotonic() < deadline, self.said

    def send(self, *names: str) -> None:
        self.look(*names)
        self.run()

    def whole(self, wanted: dict[str, set[str]]) -> None:
        read_until(self.bootstrap, self.topic, lambda found: rebuilt(found) == wanted, f"exactly {wanted}")


@pytest.fixture
def bench(broker: EmbeddedBroker, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
    made: list[Bench] = []

    def make(flags: dict[str, Any] | None = None, **more: Any) -> Bench:
        topic = "c" + sha512(request.node.name.encode()).hexdigest()[:12]
        made.append(Bench(broker, tmp_path, topic, flags or {}, **more))
        return made[-1]

    yield make
    for one in made:
        one.engine.close()


def write(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    return sha512(data).hexdigest()


@pytest.mark.parametrize("change", ["rewritten", "truncated", "replaced"])
def test_a_file_that_changes_while_it_is_sent_arrives_once_with_its_final_content(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    one = bench()
    path = tmp_path / "a.dat"
    first = write(path, os.urandom(LARGE))
    final = os.urandom(LARGE if change != "truncated" else 1_000_000)
    original, done = content.chunk, threading.Event()

    def chunk(file: Any, prepared: Any, index: int, *more: Any, **options: Any) -> bytes:
        if index == 5 and not done.is_set():
            done.set()
            if change == "replaced":
                write(tmp_path / "aside", final)
                os.replace(tmp_path / "aside", path)
            else:
                with open(path, "r+b") as writer:
                    writer.truncate(len(final))
                    writer.write(final)
        return original(file, prepared, index, *more, **options)

    monkeypatch.setattr(content, "chunk", chunk)
    one.send("a.dat")
    assert done.is_set()
    # A file that was replaced as a whole is still there in its old content for whoever has it open.
    wanted = {first, sha512(final).hexdigest()} if change == "replaced" else {sha512(final).hexdigest()}
    one.whole({"a.dat": wanted})
    row = one.engine.registry.get("a.dat")
    assert row.state == "sent" and row.sha512 == sha512(final).hexdigest() and row.versions == 2


@pytest.mark.parametrize("change", ["none", "rewritten", "deleted"])
def test_a_large_file_is_hashed_before_there_is_a_connection_and_sent_as_it_is_then(
    bench: Any, tmp_path: Path, change: str
) -> None:
    one = bench({"chunks.chunk_bytes": 16_384})
    data = os.urandom(LARGE)
    path = tmp_path / "a.dat"
    digest = write(path, data)
    one.engine._connected, one.engine._reconnect_at = False, time.monotonic() + 3600
    one.look("a.dat")
    while not one.engine._parked:
        one.engine.turn(0.02)
    assert one.engine.registry.get("a.dat").state == "ready" and one.engine.sender.in_flight == 0
    if change == "rewritten":
        digest = write(path, data[::-1] + b"more")
    elif change == "deleted":
        path.unlink()
    one.engine._reconnect_at = 0.0
    one.run()
    row = one.engine.registry.get("a.dat")
    if change == "deleted":
        assert (row.state, row.reason) == ("failed", "deleted before it could be sent")
        return
    one.whole({"a.dat": {digest}})
    assert row.state == "sent" and row.sha512 == digest and row.versions == 1


def test_a_file_that_grows_waits_and_arrives_once_when_it_is_whole(bench: Any, tmp_path: Path) -> None:
    one = bench()
    path = tmp_path / "a.dat"
    path.write_bytes(b"")
    one.look("a.dat")
    for _ in range(20):
        # The writer runs in the same thread as the engine: no load of the machine can come between.
        with path.open("ab") as file:
            file.write(os.urandom(1000))
        one.engine.turn(0.02)
    assert one.engine.registry.get("a.dat").state == "seen"
    one.run()
    one.whole({"a.dat": {sha512(path.read_bytes()).hexdigest()}})


def test_a_change_right_after_sending_is_a_new_version_and_a_touch_is_none(bench: Any, tmp_path: Path) -> None:
    one = bench()
    first = write(tmp_path / "a.dat", b"first")
    one.send("a.dat")
    second = write(tmp_path / "a.dat", b"second")
    one.send("a.dat")
    one.whole({"a.dat": {first, second}})
    sent = one.engine.sender.messages
    os.utime(tmp_path / "a.dat", (1.0, 1.0))
    one.send("a.dat")
    assert one.engine.sender.messages == sent
    assert one.engine.registry.get("a.dat").state == "sent"


def test_a_file_deleted_while_it_waits_or_unreadable_stops_no_other(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = bench()
    good = write(tmp_path / "good.dat", b"good")
    write(tmp_path / "gone.dat", b"gone")
    write(tmp_path / "locked.dat", b"locked")
    original = content.prepare

    def prepare(source: Path, *args: Any) -> Any:
        if source.name == "locked.dat":
            raise PermissionError(13, "Permission denied")
        return original(source, *args)

    monkeypatch.setattr(content, "prepare", prepare)
    one.look("good.dat", "gone.dat", "locked.dat")
    (tmp_path / "gone.dat").unlink()
    one.run()
    one.whole({"good.dat": {good}})
    assert one.engine.registry.get("gone.dat").reason == "deleted before it could be sent"
    assert one.engine.registry.get("locked.dat").reason == "cannot be read: Permission denied"
    # It is tried again when its time has come.
    monkeypatch.setattr(content, "prepare", original)
    one.engine._retry = [(0.0, path) for _, path in one.engine._retry]
    one.engine.turn(0.0)
    one.run()
    assert one.engine.registry.get("locked.dat").state == "sent"


def test_a_name_that_is_not_unicode_or_not_storable_is_a_failed_row_with_a_cure(bench: Any, tmp_path: Path) -> None:
    one = bench()
    bad = os.fsdecode(b"bad\xff.dat")
    write(tmp_path / bad, b"1")
    write(tmp_path / "a:b.dat", b"1")
    good = write(tmp_path / "good.dat", b"good")
    one.send(bad, "a:b.dat", "good.dat")
    one.whole({"good.dat": {good}})
    reasons = {path: reason for state, path, reason in one.said if state == "failed"}
    assert "rename" in reasons["bad\\udcff.dat"] and "Rename" in reasons["a:b.dat"]
    # Seen again at the next walk, it is not told again.
    told = len(one.said)
    one.send(bad, "a:b.dat")
    assert len(one.said) == told


def test_only_what_is_missing_is_sent_after_a_break(bench: Any, tmp_path: Path) -> None:
    one = bench({"chunks.chunk_bytes": 100_000})
    data = os.urandom(LARGE)
    digest = write(tmp_path / "a.dat", data)
    one.look("a.dat")
    row = one.engine.registry.get("a.dat")
    row.sha512, row.chunk_bytes, row.acked = digest, 200_000, "0,2000000,2200000,6000000"
    one.engine.registry.put(row)
    one.engine.rows.clear()
    one.run()
    found = read_until(one.bootstrap, one.topic, lambda found: len(found) >= 2, settle=0.5)
    chunks = [decode(m.value(), largest_chunk=1 << 20, max_file_bytes=1 << 40)[0] for m in found]
    # Cut as the version was begun, whatever the settings say now.
    assert [(chunk.index, chunk.offset) for chunk in chunks] == [(11, 2_000_000), (31, 6_000_000)]


def test_wire_9_headers_and_the_sealed_form_are_what_goes_out(bench: Any, tmp_path: Path) -> None:
    def seal(topic: str, key: bytes, value: bytes) -> tuple[bytes, bytes]:
        return key[::-1], value[::-1]

    one = bench({"producer.wire": 9, "producer.headers": {"igsn": "JHAMAL00016"}}, seal=seal)
    write(tmp_path / "a.dat", b"1")
    one.send("a.dat")
    [message] = read_until(one.bootstrap, one.topic, lambda found: len(found) == 1)
    assert message.value()[::-1][0] == 0x99
    assert message.key()[::-1] == b"_a.dat_chunk_1_of_1"
    assert message.headers() == [("igsn", b"JHAMAL00016")]


def test_a_message_that_cannot_be_encrypted_fails_its_file_and_not_the_program(bench: Any, tmp_path: Path) -> None:
    def seal(topic: str, key: bytes, value: bytes) -> tuple[bytes, bytes]:
        if b"bad" in key:
            raise CryptoError("The chain expired. Renew it.")
        return key, value

    one = bench(seal=seal)
    write(tmp_path / "bad.dat", b"1")
    good = write(tmp_path / "good.dat", b"2")
    one.send("bad.dat", "good.dat")
    one.whole({"good.dat": {good}})
    assert one.engine.registry.get("bad.dat").reason == "The chain expired. Renew it."


def test_small_files_are_not_starved_by_a_huge_one(bench: Any, tmp_path: Path) -> None:
    one = bench({"producer.bandwidth": 4_000_000})
    write(tmp_path / "huge.dat", os.urandom(LARGE))
    names = [f"small{n}.dat" for n in range(20)]
    one.look("huge.dat")
    for name in names:
        write(tmp_path / name, b"1")
    one.look(*names)
    one.run()
    order = [path for state, path, _ in one.said if state == "sent"]
    assert order[-1] == "huge.dat"


def test_a_selection_is_sent_under_a_name_of_its_own_and_never_cleaned(bench: Any, tmp_path: Path) -> None:
    from openmsi_streams.producers import skim
    from openmsi_streams.producers.cleaning import Policy

    rule = "F2*.txt rows 2 3"
    one = bench(select=skim.selector([rule]), selected=rule, policy=Policy("delete"))
    rows = [b"%d,%d" % (n, n) for n in range(10)]
    head = [b"LECROY", b"Segments,1", b"Segment", b"#1", b"Time,Ampl"]
    write(tmp_path / "F2--1.txt", b"\n".join(head + rows) + b"\n")
    one.send("F2--1.txt")
    one.whole({"F2--1_skimmed.txt": {sha512(b"\n".join(head + rows[2:5]) + b"\n").hexdigest()}})
    assert one.engine.registry.get("F2--1.txt").selected == rule


def test_a_message_that_the_topic_refuses_says_which_setting_on_which_side(
    bench: Any, broker: EmbeddedBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from openmsi_streams.config import kafka

    one = bench()
    # The client's own limit stands for the broker's: the embedded broker takes any size.
    original = kafka.producer
    monkeypatch.setattr(kafka, "producer", lambda s, **more: {**original(s, **more), "message.max.bytes": 100_000})
    one.engine.sender.connect()
    write(tmp_path / "a.dat", os.urandom(200_000))
    good = write(tmp_path / "good.dat", b"1")
    one.send("a.dat", "good.dat")
    one.whole({"good.dat": {good}})
    reason = one.engine.registry.get("a.dat").reason
    assert "chunks.chunk_bytes" in reason and "max.message.bytes" in reason


def test_a_topic_that_exists_keeps_its_partitions(bench: Any, broker: EmbeddedBroker, tmp_path: Path) -> None:
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})
    for future in admin.create_topics([NewTopic("five", 5, 1)]).values():
        future.result()
    one = Bench(broker, tmp_path, "five", {})
    try:
        assert one.engine.sender.partitions == 5
        found = admin.list_topics(timeout=30.0).topics
        assert len(found["five"].partitions) == 5 and "five.receipts" in found and "five.requests" in found
    finally:
        one.engine.close()


def test_a_broker_that_forgot_everything_gets_all_that_is_not_delivered_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from openmsi_streams.producers import engine

    monkeypatch.setattr(engine, "PROBE_SECONDS", 0.5)
    with EmbeddedBroker() as first:
        port = first.port
        one = Bench(first, tmp_path, "forgotten", {"broker.connect_timeout": 5.0})
        one.engine.begin()
        wanted = {"a.dat": {write(tmp_path / "a.dat", b"first")}}
        one.send("a.dat")
        assert one.engine.registry.get("a.dat").state == "sent"
    with EmbeddedBroker(port=port):
        wanted["b.dat"] = {write(tmp_path / "b.dat", b"second")}
        one.send("b.dat")
        one.whole(wanted)
        one.engine.close()


def test_memory_goes_back_once_large_files_are_through(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[bool] = []
    one = bench()
    monkeypatch.setattr("openmsi_streams.producers.engine.give_back", lambda: given.append(one.engine.busy))

    def settle() -> None:
        one.run()
        deadline = time.monotonic() + 2 * FLUSH_SECONDS
        while not given and time.monotonic() < deadline:
            one.engine.turn(0.05)

    write(tmp_path / "small.dat", b"small")
    one.look("small.dat")
    settle()
    assert given == []
    for name in ("a.dat", "b.dat"):
        write(tmp_path / name, os.urandom(LARGE))
    one.look("a.dat", "b.dat")
    settle()
    assert given == [False]
