"""A laboratory's `.config` file, as it is and converted, carries a file from producer to disk and S3."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from click.testing import CliRunner

from openmsi_streams.cli import cli
from openmsi_streams.embedded import EmbeddedBroker, EmbeddedS3
from tests.support.programs import spawn_cli
from tests.support.workers import Worker, wait_delivered

pytestmark = pytest.mark.broker

LEGACY = """
[broker]
bootstrap.servers = $KAFKA_TEST_CLUSTER_BOOTSTRAP_SERVERS
socket.keepalive.enable = true
[producer]
batch.size = 200000
linger.ms = 100
compression.type = lz4
key.serializer = StringSerializer
value.serializer = DataFileChunkSerializer
[consumer]
group.id = create_new
auto.offset.reset = earliest
enable.auto.commit = False
fetch.min.bytes = 1
session.timeout.ms = 6000
key.deserializer = StringDeserializer
value.deserializer = DataFileChunkDeserializer
[s3]
access_key_id = $ACCESS_KEY_ID
secret_key_id = $SECRET_KEY_ID
endpoint_url = $ENDPOINT_URL
region = us-east-1
"""


@pytest.mark.parametrize("form", ["as it is", "converted"])
def test_a_file_travels_by_a_legacy_settings_file(
    broker: EmbeddedBroker, s3: EmbeddedS3, tmp_path: Path, form: str
) -> None:
    path = tmp_path / "lab.config"
    path.write_text(LEGACY)
    if form == "converted":
        target = tmp_path / "lab.toml"
        result = CliRunner().invoke(cli, ["config", "convert", str(path), str(target)], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        path = target
    bucket = f"legacy-{form.split()[0]}"
    s3.make_bucket(bucket)
    topic = f"legacy.{form.split()[0]}"
    environment = {
        "KAFKA_TEST_CLUSTER_BOOTSTRAP_SERVERS": broker.bootstrap,
        "ACCESS_KEY_ID": s3.access_key,
        "SECRET_KEY_ID": s3.secret_key,
        "ENDPOINT_URL": s3.endpoint,
        "OPENMSI_STREAMS_CONFIG": str(path),
    }
    content = b"0,1\n" * 300_000
    (tmp_path / "scan.csv").write_bytes(content)
    with Worker(broker.bootstrap, topic, tmp_path, worker__id=f"id-{topic}") as worker:
        # The address comes from the file, not from the environment that the helper sets.
        del worker.env["OPENMSI_STREAMS__BROKER__BOOTSTRAP"]
        worker.env = {**worker.env, **environment, "OPENMSI_STREAMS__S3__MAIN__BUCKET": bucket}
        worker.start()
        # The instrument PC knows no keys of S3: the same file must do there.
        light = {key: value for key, value in environment.items() if "KEY_ID" not in key and key != "ENDPOINT_URL"}
        with spawn_cli("upload", str(tmp_path / "scan.csv"), "--topic_name", topic, env=light) as upload:
            assert upload.wait(60) == 0, upload.text
        hashes = {"scan.csv": hashlib.sha512(content).hexdigest()}
        found = wait_delivered(broker.bootstrap, topic, hashes, 60.0, worker)
        assert {delivery.kind for one in found for delivery in one.deliveries} == {"disk", "s3"}
        assert worker.stop() == 0, worker.text
