"""What a worker keeps is damaged, lost or has no room: tables, changelog, disk, S3 server, clock."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from confluent_kafka.admin import AdminClient

from openmsi_streams.embedded import EmbeddedBroker, EmbeddedS3
from openmsi_streams.embedded.child import Child
from openmsi_streams.embedded.s3 import remove_leftovers
from tests.support.fault_table import Books
from tests.support.files import make_files, sha512_of, tree
from tests.support.kafka import make_topics
from tests.support.programs import run_cli, spawn_cli
from tests.support.waiting import wait_until
from tests.support.workers import Worker, receipts, wait_delivered

pytestmark = pytest.mark.broker

MB = 1_000_000


def upload(broker: EmbeddedBroker, topic: str, source: Path, *more: str) -> None:
    code, text = run_cli("upload", source, "--topic", topic, "--broker", broker.bootstrap, *more, timeout=240.0)
    assert code == 0, text


def said_delivered(broker: EmbeddedBroker, topic: str) -> set[tuple[str, str]]:
    return {(r.path, r.sha512) for r in receipts(broker.bootstrap, topic) if r.state == "delivered"}


def overwrite(path: Path) -> None:
    """Turn bytes all over a file."""
    data = bytearray(path.read_bytes())
    rng = random.Random(len(data))
    for _ in range(max(1, len(data) // 20)):
        if data:
            data[rng.randrange(len(data))] ^= 0xFF
    path.write_bytes(data)


def damage(folder: Path, how: str) -> int:
    """Damage a worker's RocksDB files; return how many files were hit."""
    kinds = {
        "cut short": ("*.sst", "*.log", "MANIFEST*"),
        "bytes turned": ("*.sst", "*.log", "MANIFEST*"),
        "CURRENT removed": ("CURRENT",),
        "folder is a file": ("*.db",),
    }
    hit = 0
    for pattern in kinds[how]:
        for path in sorted(folder.rglob(pattern)):
            if how == "folder is a file":
                shutil.rmtree(path)
                path.write_bytes(b"not a folder")
            elif path.is_file() and how == "cut short":
                os.truncate(path, path.stat().st_size // 2)
            elif path.is_file() and how == "bytes turned":
                overwrite(path)
            elif path.is_file():
                path.unlink()
            hit += 1
    return hit


@pytest.mark.parametrize(
    "how",
    [
        "bytes turned",
        pytest.param("cut short", marks=pytest.mark.faults),
        pytest.param("CURRENT removed", marks=pytest.mark.faults),
        pytest.param("folder is a file", marks=pytest.mark.faults),
    ],
)
@pytest.mark.timeout(300)
def test_rocksdb_files_are_damaged(broker: EmbeddedBroker, tmp_path: Path, how: str) -> None:
    """The worker recovers from the changelog by itself, or ends with one line that names the folder to remove."""
    books = Books(
        f"RocksDB files of a killed worker damaged: {how}",
        "it goes on, if need be after the folder that it names was removed",
    )
    topic = "rocks-" + how.replace(" ", "-").lower()
    make_topics(broker.bootstrap, topic)
    hashes = make_files(tmp_path / "source", 12, MB, 2 * MB, seed=51)
    with Worker(broker.bootstrap, topic, tmp_path, worker__stall_after=3, worker__id=topic).start() as worker:
        upload(broker, topic, tmp_path / "source")
        wait_delivered(broker.bootstrap, topic, hashes, 60, worker)
        worker.kill9()
        hit = damage(worker.data / "faust", how)
        assert hit
        worker.start(wait=False)
        program = worker.program
        assert program is not None
        wait_until(
            lambda: "worker ready" in program.text or program.poll() is not None,
            60,
            "it starts or ends",
            lambda: worker.text,
        )
        by_itself = "worker ready" in program.text
        if not by_itself:
            line = next((line for line in program.lines if line.startswith("error: ")), "")
            assert str(worker.data) in line and "Traceback" not in program.text, program.text
            shutil.rmtree(worker.data / "faust")
            worker._over()
            worker.start()
        again = make_files(tmp_path / "more", 6, MB, 2 * MB, seed=52)
        upload(broker, topic, tmp_path / "more")
        newest = {**hashes, **again}
        wait_delivered(broker.bootstrap, topic, newest, 60, worker)
        wait_until(lambda: tree(tmp_path / "store" / topic) == newest, 20, "all is equal", lambda: worker.text[-3000:])
        # The rows of before are known again.
        assert {item["path"] for item in worker.get("/api/v1/files?limit=500")["items"]} >= set(newest)
        books.settle(
            f"1 time, {hit} files",
            {path: {one[path] for one in (hashes, again) if path in one} for path in newest},
            tree(tmp_path / "store" / topic),
            said_delivered(broker, topic),
            notes="recovered by itself" if by_itself else "ended with one line, went on after the folder was removed",
            run="quick",
        )


@pytest.mark.faults
@pytest.mark.parametrize("local", ["tables kept", "tables lost too"])
@pytest.mark.timeout(300)
def test_the_changelog_is_deleted(broker: EmbeddedBroker, tmp_path: Path, local: str) -> None:
    """Someone deletes the changelog topics while the worker is off, with files half sent."""
    books = Books(
        f"changelog topics of the tables deleted while the worker is off; its {local}",
        "nothing is lost; what is lacking is read from the log again",
    )
    topic = "changelog-" + local.replace(" ", "-")
    make_topics(broker.bootstrap, topic)
    hashes = make_files(tmp_path / "source", 12, 2 * MB, 4 * MB, seed=53)
    with Worker(broker.bootstrap, topic, tmp_path, worker__stall_after=3, worker__id=topic).start() as worker:
        half = spawn_cli(
            *("upload", tmp_path / "source", "--topic", topic, "--broker", broker.bootstrap, "--bandwidth", "1MB/s"),
            *("--chunk-bytes", "65536"),
        )
        with half:
            wait_until(lambda: said_delivered(broker, topic), 60, "something is delivered", lambda: half.text)
            worker.kill9()
            admin = AdminClient({"bootstrap.servers": broker.bootstrap})
            names = [name for name in admin.list_topics(timeout=20).topics if name.startswith(f"{topic}-")]
            names = [name for name in names if name.endswith("changelog")]
            assert names
            for future in admin.delete_topics(names).values():
                future.result(30)
            wait_until(
                lambda: not set(names) & set(admin.list_topics(timeout=20).topics), 30, "the changelogs are gone", str
            )
            if local == "tables lost too":
                shutil.rmtree(worker.data)
            worker.start()
            assert half.wait(120) == 0, half.text
        wait_delivered(broker.bootstrap, topic, hashes, 60, worker)
        wait_until(lambda: tree(tmp_path / "store" / topic) == hashes, 20, "all is equal", lambda: worker.text[-3000:])
        # Another one, with nothing on its disk, has only the changelog and the log.
        assert worker.stop() == 0
        shutil.rmtree(worker.data)
        worker.start()
        again = make_files(tmp_path / "more", 6, MB, 2 * MB, seed=54)
        upload(broker, topic, tmp_path / "more")
        newest = {**hashes, **again}
        wait_delivered(broker.bootstrap, topic, newest, 60, worker)
        wait_until(lambda: tree(tmp_path / "store" / topic) == newest, 20, "all is equal", lambda: worker.text[-3000:])
        books.settle(
            f"1 time, {len(names)} topics",
            {path: {one[path] for one in (hashes, again) if path in one} for path in newest},
            tree(tmp_path / "store" / topic),
            said_delivered(broker, topic),
            run="quick",
        )


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 12 MB; tests that need it are skipped where none can be mounted."""
    place = tmp_path / "small"
    place.mkdir()
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("a small file system can only be mounted by root on Linux")
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", place], capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {done.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


@pytest.mark.faults
@pytest.mark.parametrize("floor", ["3000000", "0"], ids=["floor", "no floor"])
@pytest.mark.timeout(300)
def test_the_stores_disk_is_full(own_broker: EmbeddedBroker, small_disk: Path, tmp_path: Path, floor: str) -> None:
    """30 MB for a disk of 12 MB: the worker waits and says so; with room it goes on, without a restart."""
    broker = own_broker
    books = Books(
        f"the store's disk is full ({'disk.free_floor above 0' if floor != '0' else 'disk.free_floor = 0'})",
        "intake waits and says so; with room it goes on",
    )
    topic = "full"
    make_topics(broker.bootstrap, topic)
    hashes = make_files(tmp_path / "source", 20, 4 * MB, 30 * MB, seed=55)
    settings = {"disk__root": str(small_disk), "disk__free_floor": floor}
    with Worker(broker.bootstrap, topic, tmp_path, worker__stall_after=5, **settings).start() as worker:
        upload(broker, topic, tmp_path / "source")
        wait_until(
            lambda: "free" in worker.text or "full" in worker.text or "No space" in worker.text,
            90,
            "it says that the disk is full",
            lambda: worker.text[-3000:],
        )
        time.sleep(3)  # a while on a full disk
        stored = tree(small_disk / topic)
        assert all(hashes[path] == digest for path, digest in stored.items())
        at_full = len(stored)
        program = worker.program
        assert program is not None and program.poll() is None, worker.text[-3000:]
        subprocess.run(["mount", "-o", "remount,size=100m", small_disk], check=True)
        wait_delivered(broker.bootstrap, topic, hashes, 150, worker)
        books.settle(
            "1 time",
            hashes,
            tree(small_disk / topic),
            said_delivered(broker, topic),
            notes=f"{at_full} files fitted; the rest followed without a restart",
            run="full",
        )
        assert worker.stop() == 0


@pytest.mark.faults
@pytest.mark.timeout(300)
def test_the_s3_server_is_killed_and_comes_back(own_broker: EmbeddedBroker, tmp_path: Path) -> None:
    broker = own_broker
    books = Books("kill -9 of the S3 server in the middle of uploads", "uploads wait and go on")
    topic, bucket = "s3kill", "lab"
    make_topics(broker.bootstrap, topic)
    hashes = make_files(tmp_path / "source", 12, 30 * MB, 50 * MB, seed=56)
    s3 = EmbeddedS3(data=tmp_path / "buckets").start()
    try:
        s3.make_bucket(bucket)
        settings = {
            "s3__main__bucket": bucket, "s3__main__endpoint": s3.endpoint, "s3__main__access_key_id": s3.access_key,
            "s3__main__secret_access_key": s3.secret_key, "disk__root": "",
        }  # fmt: skip
        with Worker(broker.bootstrap, topic, tmp_path, worker__stall_after=8, **settings).start() as worker:
            with spawn_cli(
                *("upload", tmp_path / "source", "--topic", topic, "--broker", broker.bootstrap),
                *("--bandwidth", "6MB/s"),
            ) as sending:
                for number in range(3):
                    goal = 8 * (number + 1)
                    wait_until(
                        lambda: len(list((tmp_path / "buckets").rglob("*"))) > goal,  # noqa: B023
                        60,
                        "something is stored",
                        lambda: worker.text[-3000:],
                    )
                    assert s3.child is not None
                    command, environment, port = s3.child.command, s3.environment(), s3.port
                    s3.child.signal(signal.SIGKILL)
                    s3.child.wait(20)
                    s3.child.end()
                    time.sleep(2)  # the length of the outage
                    remove_leftovers(s3.data)
                    s3.child = Child(command, name="S3", env=environment, grace=2.0)
                    s3.port = port
                    wait_until(s3.answers, 30, "the S3 server answers again", lambda: s3.child and s3.child.text)
                assert sending.wait(120) == 0, sending.text
            wait_delivered(broker.bootstrap, topic, hashes, 180, worker)
            client = boto3.client(
                "s3", endpoint_url=s3.endpoint, aws_access_key_id=s3.access_key,
                aws_secret_access_key=s3.secret_key, region_name="us-east-1",
            )  # fmt: skip
            back: dict[str, str] = {}
            for one in receipts(broker.bootstrap, topic):
                if one.state == "delivered":
                    key = one.deliveries[0].url.removeprefix(f"s3://{bucket}/")
                    client.download_file(bucket, key, str(tmp_path / "back"))
                    back[one.path] = sha512_of(tmp_path / "back")
            books.settle("3 kills", hashes, back, said_delivered(broker, topic), run="full")
    finally:
        s3.stop()


FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1")


@pytest.mark.faults
@pytest.mark.timeout(300)
def test_the_workers_clock_steps(own_broker: EmbeddedBroker, tmp_path: Path) -> None:
    """Two hours ahead, a day back, and right again, in the middle of files."""
    broker = own_broker
    if not FAKETIME.exists():
        pytest.skip("libfaketime is not installed")
    books = Books("the worker's clock steps: 2 hours ahead, a day back, right again", "files arrive all the same")
    topic = "clock"
    make_topics(broker.bootstrap, topic)
    hashes = make_files(tmp_path / "source", 24, 2 * MB, 12 * MB, seed=57)
    steps = tmp_path / "offset"
    steps.write_text("+0\n")
    worker = Worker(broker.bootstrap, topic, tmp_path, worker__stall_after=8)
    worker.env |= {
        "LD_PRELOAD": str(FAKETIME), "FAKETIME_TIMESTAMP_FILE": str(steps), "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }  # fmt: skip
    with worker.start():
        with spawn_cli(
            *("upload", tmp_path / "source", "--topic", topic, "--broker", broker.bootstrap, "--bandwidth", "1MB/s"),
            *("--chunk-bytes", "65536"),
        ) as sending:
            for number, step in enumerate(("+7200\n", "-86400\n", "+0\n")):
                wait_until(
                    lambda: len(said_delivered(broker, topic)) > 3 * number,  # noqa: B023
                    90,
                    "files are delivered",
                    lambda: worker.text[-3000:],
                )
                steps.write_text(step)
            assert sending.wait(120) == 0, sending.text
        said = wait_delivered(broker.bootstrap, topic, hashes, 90, worker)
        assert worker.stop() == 0
    shifts = sorted({round((r.time - time.time()) / 3600) for r in said})
    books.settle(
        "3 steps",
        hashes,
        tree(tmp_path / "store" / topic),
        said_delivered(broker, topic),
        notes=f"receipts are dated by the worker's clock, {shifts} hours off",
        run="full",
    )
