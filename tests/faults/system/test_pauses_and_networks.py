"""A worker that stands still, a network that breaks or crawls: files arrive, whole, when it is over."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.support.brokers import a_broker
from tests.support.fault_table import Books
from tests.support.files import make_files, tree
from tests.support.kafka import make_topics
from tests.support.programs import run_cli, spawn_cli
from tests.support.proxy import ProxiedBroker
from tests.support.waiting import wait_until
from tests.support.workers import Worker, receipts, wait_delivered

pytestmark = pytest.mark.broker

TOPIC = "lab"
MB = 1_000_000


@pytest.mark.parametrize(
    ("files", "total", "seconds"),
    [
        pytest.param(12, 8 * MB, 0.0, id="short", marks=[pytest.mark.faults, pytest.mark.timeout(300)]),
        pytest.param(60, 60 * MB, 60.0, id="full", marks=[pytest.mark.faults, pytest.mark.timeout(900)]),
    ],
)
def test_a_worker_stands_still_while_another_takes_over(tmp_path: Path, files: int, total: int, seconds: float) -> None:
    """SIGSTOP in the middle of files, as a paused virtual machine; later it goes on and believes it still owns them."""
    books = Books(
        "SIGSTOP of a worker in the middle of files, SIGCONT after another took over",
        "the other delivers; the sleeper harms nothing when it wakes",
    )
    hashes = make_files(tmp_path / "source", files, 2 * MB, total, seed=21)
    with a_broker() as broker:
        make_topics(broker.bootstrap, TOPIC)
        sleeper = Worker(broker.bootstrap, TOPIC, tmp_path, "w0", worker__stall_after=8)
        other = Worker(broker.bootstrap, TOPIC, tmp_path, "w1", worker__stall_after=8)
        with sleeper.start(), other:
            upload = spawn_cli(
                *("upload", tmp_path / "source", "--topic", TOPIC, "--broker", broker.bootstrap),
                *("--bandwidth", "2MB/s", "--state", tmp_path / "state"),
            )
            with upload:
                wait_until(lambda: receipts(broker.bootstrap, TOPIC), 60, "something is delivered", lambda: upload.text)
                assert sleeper.program is not None
                sleeper.program.freeze()
                stopped = time.monotonic()
                other.start(wait=False)
                assert upload.wait(200) == 0, upload.text
            # The sleeper cannot have done it.
            wait_delivered(broker.bootstrap, TOPIC, hashes, 200, other)
            # A longer sleep is the point of the long run; nothing is waited for.
            time.sleep(max(0.0, seconds - (time.monotonic() - stopped)))
            sleeper.program.thaw()
            again = make_files(tmp_path / "more", 6, MB, 2 * MB, seed=22)
            code, text = run_cli("upload", tmp_path / "more", "--topic", TOPIC, "--broker", broker.bootstrap)
            assert code == 0, text
            # A path may have come again with another content.
            newest = {**hashes, **again}
            said = wait_delivered(broker.bootstrap, TOPIC, newest, 120, sleeper, other)
            wait_until(lambda: tree(tmp_path / "store" / TOPIC) == newest, 20, "all is equal", lambda: sleeper.text)
            books.settle(
                f"1 time, {time.monotonic() - stopped:.0f} s",
                {path: {one[path] for one in (hashes, again) if path in one} for path in newest},
                tree(tmp_path / "store" / TOPIC),
                {(r.path, r.sha512) for r in said if r.state == "delivered"},
                notes=f"receipts beyond one a file: {len(said) - len(hashes) - len(again)}",
                run="full" if seconds else "quick",
            )


@pytest.mark.parametrize(
    ("cuts", "silences", "seconds", "files", "total"),
    [
        pytest.param(2, 0, 1.0, 12, 6 * MB, id="quick", marks=pytest.mark.timeout(300)),
        pytest.param(6, 3, 15.0, 60, 60 * MB, id="full", marks=[pytest.mark.faults, pytest.mark.timeout(1200)]),
    ],
)
def test_the_network_to_the_broker_is_cut(
    tmp_path: Path, cuts: int, silences: int, seconds: float, files: int, total: int
) -> None:
    """For producer and worker at once: connections reset and refused, or open and silent as behind a bad firewall."""
    books = Books(
        "network between broker and all clients cut (connections reset, then refused) or silent (packets dropped)",
        "all go on by themselves",
    )
    hashes = make_files(tmp_path / "source", files, 2 * MB, total, seed=23)
    with ProxiedBroker() as broker:
        make_topics(broker.bootstrap, TOPIC)
        worker = Worker(broker.bootstrap, TOPIC, tmp_path, worker__stall_after=8)
        with worker.start():
            upload = spawn_cli(
                *("upload", tmp_path / "source", "--topic", TOPIC, "--broker", broker.bootstrap, "--give-up", "300"),
                *("--bandwidth", "2MB/s", "--state", tmp_path / "state"),
            )
            with upload:
                for blow in ["cut"] * cuts + ["silence"] * silences:
                    passed = broker.proxy.passed
                    wait_until(
                        lambda: broker.proxy.passed > passed + 400_000 or upload.poll() is not None,  # noqa: B023
                        90,
                        "something travels",
                        lambda: worker.text[-3000:],
                    )
                    getattr(broker.proxy, blow)()
                    time.sleep(seconds)  # the length of the outage
                    broker.proxy.mend()
                assert upload.wait(400) == 0, upload.text
            said = wait_delivered(broker.bootstrap, TOPIC, hashes, 300, worker)
            assert worker.program is not None and worker.program.poll() is None, worker.text[-3000:]
        books.settle(
            f"{cuts} cuts, {silences} silences of {seconds:g} s",
            hashes,
            tree(tmp_path / "store" / TOPIC),
            {(r.path, r.sha512) for r in said if r.state == "delivered"},
            notes=f"receipts beyond one a file: {len(said) - len(hashes)}",
            run="full" if silences else "quick",
        )


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_the_network_to_the_broker_is_slow(tmp_path: Path) -> None:
    """A satellite line: 250 ms each way and 1 MB/s a connection."""
    books = Books("slow network between broker and all clients: 250 ms each way, 1 MB/s", "slower, and nothing else")
    hashes = make_files(tmp_path / "source", 30, 4 * MB, 12 * MB, seed=24)
    with ProxiedBroker() as broker:
        make_topics(broker.bootstrap, TOPIC)
        with Worker(broker.bootstrap, TOPIC, tmp_path, worker__stall_after=8) as worker:
            worker.start()
            broker.proxy.delay, broker.proxy.rate = 0.25, 1_000_000.0
            code, text = run_cli(
                *("upload", tmp_path / "source", "--topic", TOPIC, "--broker", broker.bootstrap, "--give-up", "120"),
                timeout=300.0,
            )
            assert code == 0, text
            wait_until(
                lambda: len(tree(tmp_path / "store" / TOPIC)) == len(hashes),
                240,
                "all files are there",
                lambda: worker.text[-3000:],
            )
            broker.proxy.mend()
            said = wait_delivered(broker.bootstrap, TOPIC, hashes, 120, worker)
        books.settle(
            "the whole transfer",
            hashes,
            tree(tmp_path / "store" / TOPIC),
            {(r.path, r.sha512) for r in said if r.state == "delivered"},
            run="full",
        )
