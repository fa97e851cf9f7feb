"""The published OpenMSIStream 1.8.8 and ours, each on either end of a topic."""

from __future__ import annotations

from pathlib import Path

import pytest

from openmsi_streams.embedded import EmbeddedBroker, EmbeddedS3
from tests.support.files import sha512_of, tree
from tests.support.kafka import make_topics
from tests.support.peer import config, run_peer
from tests.support.programs import run_cli
from tests.support.waiting import wait_until
from tests.support.workers import Worker, wait_delivered

pytestmark = [pytest.mark.interop, pytest.mark.timeout(600)]

FILES = {
    "root.dat": b"in the root\n",
    "run_07/raw/scan_001.dat": bytes(range(256)) * 10_000,
    "run_07/échantillon 2.csv": "2θ,counts\n20.0,17\n".encode(),
    "deep/er/and/deeper/one byte.bin": b"x",
    "shots/F2--20210529--00013.txt": b"LECROY,,Waveform\n" * 50_000,
}


def make(folder: Path) -> dict[str, str]:
    for name, data in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return tree(folder)


@pytest.mark.parametrize("partitions", [1, 3])
def test_its_uploader_feeds_our_worker(broker: EmbeddedBroker, tmp_path: Path, partitions: int) -> None:
    """lz4, chunks scattered over partitions, nested and accented names, files in the root."""
    topic = f"theirs{partitions}"
    make_topics(broker.bootstrap, topic, partitions=partitions)
    hashes = make(tmp_path / "source")
    settings = config(tmp_path / "plain.config", broker.bootstrap)
    with Worker(broker.bootstrap, topic, tmp_path).start() as worker:
        uploader = run_peer(
            *("DataFileUploadDirectory", tmp_path / "source", "--config", settings, "--topic_name", topic),
            *("--chunk_size", "65536", "--upload_existing", "--watchdog_lag_time", "1"),
        )
        with uploader:
            wait_delivered(broker.bootstrap, topic, hashes, 180, worker)
        assert tree(tmp_path / "store" / topic) == hashes
        assert (worker.metric("openmsi_streams_forwarded_chunks_total") > 0) == (partitions > 1)


def test_our_producer_feeds_its_download_directory(broker: EmbeddedBroker, tmp_path: Path) -> None:
    topic = "ours"
    make_topics(broker.bootstrap, topic)
    hashes = make(tmp_path / "source")
    settings = config(tmp_path / "plain.config", broker.bootstrap)
    reader = run_peer(
        *("DataFileDownloadDirectory", tmp_path / "out", "--config", settings, "--topic_name", topic),
        *("--consumer_group_id", "theirs", "--n_threads", "1"),
    )
    with reader:
        code, text = run_cli("upload", tmp_path / "source", "--topic", topic, "--broker", broker.bootstrap)
        assert code == 0, text
        found: dict[str, str] = {}

        def look() -> bool:
            found.clear()
            found.update({n: h for n, h in tree(tmp_path / "out").items() if n in hashes})
            return found == hashes

        wait_until(look, 180, "its reader has every file", lambda: f"{found}\n{reader.text[-2000:]}")


def test_our_producer_feeds_its_s3_transfer(broker: EmbeddedBroker, s3: EmbeddedS3, tmp_path: Path) -> None:
    """Keys are <topic>/<subdir>/<name>, or <topic>/<name> in the root; its own client reads them back equal."""
    import boto3

    topic = "ours-s3"
    make_topics(broker.bootstrap, topic)
    s3.make_bucket("theirs")
    hashes = make(tmp_path / "source")
    settings = config(tmp_path / "s3.config", broker.bootstrap, s3.endpoint, (s3.access_key, s3.secret_key))
    client = boto3.client(
        "s3",
        endpoint_url=s3.endpoint,
        aws_access_key_id=s3.access_key,
        aws_secret_access_key=s3.secret_key,
        region_name="us-east-1",
    )
    transfer = run_peer(
        *("S3TransferStreamProcessor", "theirs", "--config", settings, "--topic_name", topic),
        *("--consumer_group_id", "theirs-s3", "--n_threads", "1", "--output_dir", tmp_path / "work"),
    )
    with transfer:
        code, text = run_cli("upload", tmp_path / "source", "--topic", topic, "--broker", broker.bootstrap)
        assert code == 0, text
        found: dict[str, str] = {}

        def look() -> bool:
            found.clear()
            for one in client.list_objects_v2(Bucket="theirs").get("Contents", []):
                target = tmp_path / "object"
                client.download_file("theirs", one["Key"], str(target))
                found[one["Key"]] = sha512_of(target)
            return found == {f"{topic}/{name}": digest for name, digest in hashes.items()}

        wait_until(look, 180, "its bucket has every file", lambda: f"{sorted(found)}\n{transfer.text[-2000:]}")
