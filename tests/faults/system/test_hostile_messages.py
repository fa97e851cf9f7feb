"""Messages repeated, out of order, cut short, with bits turned; and two producers that are the same one."""

from __future__ import annotations

import os
import random
import time
from hashlib import sha512
from pathlib import Path

import pytest

from openmsi_streams.chunks.keys import home_partition
from openmsi_streams.embedded import EmbeddedBroker
from tests.support.brokers import on_kafka
from tests.support.fault_table import Books
from tests.support.files import make_files, tree
from tests.support.kafka import make_topics, produce, read_all
from tests.support.programs import run_cli, spawn_cli
from tests.support.waiting import wait_until
from tests.support.workers import Worker, receipts, wait_delivered
from tests.support.world import World

pytestmark = pytest.mark.broker


@pytest.mark.parametrize(
    "files",
    [
        pytest.param(20, id="quick"),
        pytest.param(500, id="full", marks=[pytest.mark.faults, pytest.mark.timeout(600)]),
    ],
)
def test_messages_repeated_reordered_corrupted_and_truncated(
    broker: EmbeddedBroker, tmp_path: Path, files: int
) -> None:
    """Every good chunk comes twice, in any order, among broken copies of itself: bytes turned, ends cut off."""
    books = Books(
        "messages repeated, re-ordered, with a byte turned, cut short",
        "every file arrives; each unusable message is in quarantine with its reason",
    )
    topic = f"hostile{files}"
    make_topics(broker.bootstrap, topic)
    rng = random.Random(31)
    world = World(tmp_path / "unused")
    hashes: dict[str, str] = {}
    sent: dict[int, list[tuple[bytes | None, bytes | None]]] = {0: [], 1: [], 2: []}
    turned = cut = 0
    for number in range(files):
        path, data = f"run {number % 5}/scan_{number:04d}.dat", rng.randbytes(rng.randrange(1, 12_000))
        hashes[path] = sha512(data).hexdigest()
        place = sent[home_partition(path, 3)]
        for key, value, _ in world.chunks(path, data, chunk_bytes=2000):
            place += [(key, value), (key, value)]
            if rng.random() < 0.3:
                # In the payload, which stands behind the hashes and is most of the message.
                at = rng.randrange(200, len(value)) if len(value) > 260 else len(value) - 1
                place.append((key, value[:at] + bytes([value[at] ^ 0x20]) + value[at + 1 :]))
                turned += 1
            if rng.random() < 0.3:
                place.append((key, value[: rng.randrange(0, len(value) - 1)]))
                cut += 1
    with Worker(broker.bootstrap, topic, tmp_path, worker__stall_after=3).start() as worker:
        for partition, messages in sent.items():
            rng.shuffle(messages)
            produce(broker.bootstrap, topic, messages, partition=partition)
        said = wait_delivered(broker.bootstrap, topic, hashes, 90 if files < 100 else 300, worker)
        quarantined = len(read_all(broker.bootstrap, f"{topic}.quarantine"))
        assert quarantined >= cut
    books.settle(
        f"{turned} turned, {cut} cut short, all repeated",
        hashes,
        tree(tmp_path / "store" / topic),
        {(r.path, r.sha512) for r in said if r.state == "delivered"},
        notes=f"{quarantined} messages in quarantine",
        run="quick" if files < 100 else "full",
    )


def test_clocks_of_senders_are_wrong(broker: EmbeddedBroker, tmp_path: Path) -> None:
    """A day ahead, where Kafka refuses messages with their senders' dates; a year behind, past any retention."""
    books = Books("the clock of an instrument's computer is a day ahead, or a year behind", "files arrive all the same")
    topic = "clocks"
    make_topics(broker.bootstrap, topic)
    world = World(tmp_path / "unused")
    hashes: dict[str, str] = {}
    for name, seconds in (("ahead", 86400), ("behind", -365 * 86400)):
        for number in range(4):
            path, data = f"{name}/scan_{number}.dat", os.urandom(5000)
            hashes[path] = sha512(data).hexdigest()
            messages = [(key, value) for key, value, _ in world.chunks(path, data, chunk_bytes=2000)]
            produce(broker.bootstrap, topic, messages, home_partition(path, 3), timestamp=time.time() + seconds)
    if on_kafka():
        # Retention goes by these dates. The embedded broker keeps everything, whatever its date.
        ages = [time.time() - one.timestamp()[1] / 1000 for one in read_all(broker.bootstrap, topic)]
        assert ages and all(abs(age) < 3600 for age in ages)
    with Worker(broker.bootstrap, topic, tmp_path).start() as worker:
        said = wait_delivered(broker.bootstrap, topic, hashes, 90, worker)
    books.settle(
        "2 clocks",
        hashes,
        tree(tmp_path / "store" / topic),
        {(r.path, r.sha512) for r in said if r.state == "delivered"},
    )


@pytest.mark.faults
def test_two_producers_with_one_identity(broker: EmbeddedBroker, tmp_path: Path) -> None:
    """A cloned PC: the same names, the same topic; half of the files differ. Both contents of a name are versions."""
    books = Books(
        "two producers send the same paths to one topic, half of them with other contents",
        "contents never mix; the newest has the name, the older is kept as a version",
    )
    topic = "twins"
    make_topics(broker.bootstrap, topic)
    rng = random.Random(32)
    sent: dict[str, set[str]] = {}
    newest: dict[str, str] = {}
    now = time.time()
    for twin, age in (("a", 200.0), ("b", 100.0)):
        for number in range(16):
            path = tmp_path / twin / f"shot_{number:02d}.dat"
            path.parent.mkdir(exist_ok=True)
            data = random.Random(number).randbytes(300_000) if number % 2 else rng.randbytes(300_000)
            path.write_bytes(data)
            os.utime(path, (now - age, now - age))
            sent.setdefault(path.name, set()).add(sha512(data).hexdigest())
            newest[path.name] = sha512(data).hexdigest()
    with Worker(broker.bootstrap, topic, tmp_path, worker__stall_after=5, worker__versions="keep").start() as worker:
        both = [
            spawn_cli(
                *("upload", tmp_path / twin, "--topic", topic, "--broker", broker.bootstrap),
                *("--chunk-bytes", "16384", "--bandwidth", "2MB/s", "--state", tmp_path / f"state-{twin}"),
            )
            for twin in ("a", "b")
        ]
        with both[0], both[1]:
            assert [one.wait(120) for one in both] == [0, 0], both[0].text + both[1].text
        wanted = {(path, digest) for path, digests in sent.items() for digest in digests}

        def lacking() -> list[tuple[str, str]]:
            # "superseded": the older content was whole after the newer had the name; it is kept all the same.
            told = ("delivered", "superseded")
            done = {(r.path, r.sha512) for r in receipts(broker.bootstrap, topic) if r.state in told}
            return sorted(wanted - done)

        wait_until(
            lambda: not lacking(), 60, "every version has a receipt", lambda: f"{lacking()}\n{worker.text[-5000:]}"
        )
        wait_until(
            lambda: tree(tmp_path / "store" / topic) == newest,
            20,
            "the newest has the name",
            lambda: worker.text[-3000:],
        )
        said = receipts(broker.bootstrap, topic)
    kept = {digest for digests in sent.values() for digest in digests} - set(newest.values())
    versions = set(tree(tmp_path / "store", ignore=(".partial",)).values())
    assert kept <= versions, "the older content is kept"
    books.settle(
        "16 names",
        sent,
        tree(tmp_path / "store" / topic),
        {(r.path, r.sha512) for r in said if r.state == "delivered"},
        notes=f"{len(kept)} older versions kept, all equal",
    )


def test_a_second_producer_on_the_same_folder_is_refused(tmp_path: Path, broker: EmbeddedBroker) -> None:
    make_topics(broker.bootstrap, "one")
    make_files(tmp_path / "data", 2, 1000, 2000, seed=1)
    command = ("watch", tmp_path / "data", "--topic", "one", "--broker", broker.bootstrap, "--state", tmp_path / "s")
    with spawn_cli(*command) as first:
        first.wait_for("watching")
        code, text = run_cli(*command)
        assert code != 0 and "Traceback" not in text and len(text.strip().splitlines()) <= 2, text
