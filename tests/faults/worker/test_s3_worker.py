"""Files into S3 through a worker: streamed while they arrive, gone on with after kills, equal, no upload left over."""

from __future__ import annotations

import hashlib
import os
import random
import re
import time
from pathlib import Path
from typing import Any

import boto3
import pytest

from openmsi_streams.config.settings import S3Settings
from openmsi_streams.embedded import EmbeddedS3
from openmsi_streams.storage.parts import Plan
from openmsi_streams.storage.s3 import S3Store
from tests.support.brokers import a_broker
from tests.support.files import make_files
from tests.support.kafka import make_topics
from tests.support.programs import spawn_cli
from tests.support.s3_proxy import S3Proxy
from tests.support.waiting import wait_until
from tests.support.workers import Worker, receipts, wait_delivered

TOPIC = "lab"
BUCKET = "lab"
MB = 1_000_000


def client_of(s3: EmbeddedS3) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=s3.endpoint,
        aws_access_key_id=s3.access_key,
        aws_secret_access_key=s3.secret_key,
        region_name="us-east-1",
    )


def s3_settings(s3: EmbeddedS3) -> dict[str, str]:
    return {
        "s3__main__bucket": BUCKET,
        "s3__main__endpoint": s3.endpoint,
        "s3__main__access_key_id": s3.access_key,
        "s3__main__secret_access_key": s3.secret_key,
        # Without a disk store the partial files lie below the worker's own folder.
        "disk__root": "",
    }


def store_of(s3: EmbeddedS3) -> S3Store:
    return S3Store(
        "main",
        S3Settings(
            bucket=BUCKET, endpoint=s3.endpoint, access_key_id=s3.access_key, secret_access_key=s3.secret_key,
            orphan_hours=1e-6,
        ),
    )  # fmt: skip


def hash_object(client: Any, key: str) -> str:
    digest = hashlib.sha512()
    for piece in client.get_object(Bucket=BUCKET, Key=key)["Body"].iter_chunks(1 << 20):
        digest.update(piece)
    return digest.hexdigest()


def peak_mb(pid: int) -> float:
    line = next(x for x in Path(f"/proc/{pid}/status").read_text().splitlines() if x.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def end_of_large(text: str, size: int) -> str:
    """Say how long a file's end took, from the worker's log: all in all, and the server's own completion of it."""
    path, whole = re.findall(rf"delivered (.+) \({size} bytes, ([\d.]+) s after its last chunk", text)[-1]
    server = re.findall(r"completed \S+: (\d+) parts in ([\d.]+) s", text)
    parts, took = max(server, key=lambda one: int(one[0]))
    return f"{path}, {parts} parts, delivered {whole} s after its last chunk, {took} s of it the server's completion"


SMALL = {"count": 40, "largest": 30 * MB, "total": 40 * MB}
FULL = {"count": 1000, "largest": 4000 * MB, "total": 5000 * MB}


@pytest.mark.broker
@pytest.mark.parametrize(
    "size",
    [
        pytest.param(SMALL, id="small"),
        pytest.param(FULL, id="full", marks=[pytest.mark.faults, pytest.mark.timeout(1800)]),
    ],
)
def test_mixed_files_arrive_in_s3_equal(tmp_path: Path, size: dict[str, int]) -> None:
    """Every object is read back; the large one is complete soon after its last chunk."""
    hashes = make_files(tmp_path / "source", **size, seed=5)
    with a_broker() as broker, EmbeddedS3() as s3:
        s3.make_bucket(BUCKET)
        make_topics(broker.bootstrap, TOPIC)
        with Worker(broker.bootstrap, TOPIC, tmp_path, **s3_settings(s3)).start() as worker:
            with spawn_cli("upload", tmp_path / "source", "--topic", TOPIC, "--broker", broker.bootstrap) as upload:
                assert upload.wait(1200) == 0, upload.text
                sent = time.time()
                found = wait_delivered(broker.bootstrap, TOPIC, hashes, 900, worker)
            assert worker.program is not None
            rss = peak_mb(worker.program.pid)
        client, store = client_of(s3), store_of(s3)
        last = max(r.time for r in found)
        for path, digest in hashes.items():
            described = store.describe(TOPIC, path)
            assert described is not None and described.sha512 == digest
        keys = [one["Key"] for page in client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
                for one in page.get("Contents", [])]  # fmt: skip
        assert sorted(hash_object(client, key) for key in keys) == sorted(hashes.values())
        assert not client.list_multipart_uploads(Bucket=BUCKET).get("Uploads")
        print(f"{len(hashes)} files, peak RSS {rss:.0f} MB, last receipt {last - sent:.1f} s after the upload's end")
        print(f"the large one: {end_of_large(worker.text, size['largest'])}; load {os.getloadavg()[0]:.1f}")
        assert rss < 400


@pytest.mark.broker
@pytest.mark.parametrize(
    ("size", "kills", "rate"),
    [
        pytest.param(60 * MB, 2, "8MB/s", id="small"),
        pytest.param(2000 * MB, 5, "40MB/s", id="full", marks=[pytest.mark.faults, pytest.mark.timeout(900)]),
    ],
)
def test_a_killed_worker_goes_on_with_its_upload(tmp_path: Path, size: int, kills: int, rate: str) -> None:
    """Parts that are there are not sent again; one object, no upload left after the sweep."""
    rng = random.Random(3)
    hashes = make_files(tmp_path / "source", 2, size, size, seed=6)
    large = next(path for path in hashes if (tmp_path / "source" / path).stat().st_size)
    with a_broker() as broker, EmbeddedS3() as s3, S3Proxy(s3.endpoint) as proxy:
        s3.make_bucket(BUCKET)
        make_topics(broker.bootstrap, TOPIC)
        client, store = client_of(s3), store_of(s3)
        settings = {**s3_settings(s3), "s3__main__endpoint": proxy.endpoint}
        worker = Worker(broker.bootstrap, TOPIC, tmp_path, worker__stall_after=10, **settings)
        with worker.start():
            upload = spawn_cli(
                *("upload", tmp_path / "source", "--topic", TOPIC, "--broker", broker.bootstrap, "--bandwidth", rate)
            )
            with upload:

                def uploads() -> list[Any]:
                    return list(client.list_multipart_uploads(Bucket=BUCKET).get("Uploads", []))

                begun = wait_until(uploads, 60, "an upload begins", lambda: worker.text[-3000:])
                for _ in range(kills):
                    time.sleep(rng.uniform(0.3, 1.5))  # the moment of the kill is random, nothing is waited for
                    worker.kill9()
                    worker.start()
                assert upload.wait(600) == 0, upload.text
                wait_delivered(broker.bootstrap, TOPIC, hashes, 300, worker)
        assert {r.path for r in receipts(broker.bootstrap, TOPIC)} == set(hashes)
        described = store.describe(TOPIC, large)
        assert described is not None and described.size == size
        key = next(one["Key"] for one in client.list_objects_v2(Bucket=BUCKET)["Contents"] if one["Size"] == size)
        assert hash_object(client, key) == hashes[large]
        store.sweep(set())
        assert not uploads(), "no orphaned upload is left"
        assert begun[0]["Key"] == key
        sent = [re.findall(r"partNumber=(\d+)", request.target)[0] for request in proxy.seen if request.is_part]
        needed, again = len(set(sent)), len(sent) - len(set(sent))
        print(f"{needed} parts of {size} bytes, {again} sent again in {kills} kills; load {os.getloadavg()[0]:.1f}")
        # Those on their way when the worker was killed.
        assert needed == Plan(store.settings.part_bytes).count(size) and again <= kills * store.settings.parallel
