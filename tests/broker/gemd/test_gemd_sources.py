"""Records are read back from a live topic and from a live bucket."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import boto3
import pytest
from click.testing import CliRunner

from openmsi_streams.config.settings import BrokerSettings, S3Settings, Settings
from openmsi_streams.embedded import EmbeddedBroker, EmbeddedS3
from openmsi_streams.errors import BrokerError, StoreError, TopicError
from openmsi_streams.gemd import lint, read
from openmsi_streams.gemd.collect import documents
from openmsi_streams.gemd.commands import gemd
from openmsi_streams.gemd.emit import FileFacts, RecordSet, StoreLink, records_for_file
from openmsi_streams.gemd.mapping import Mapping
from tests.support.kafka import make_topics, produce
from tests.support.stores import new_topic, s3_settings

pytestmark = pytest.mark.broker


@pytest.fixture(scope="module")
def plain() -> Mapping:
    return Mapping.load(None)


def shot(mapping: Mapping, number: int) -> RecordSet:
    file = FileFacts(
        file_id=f"{number:032x}",
        topic="pdv",
        path=f"shot{number}.trc",
        filename=f"shot{number}.trc",
        sha512=f"{number:0128x}",
        size=number,
        mtime=1.7e9,
    )
    result: dict[str, Any] = {
        "schema": "openmsi_streams.pdv/1",
        "class": "spall",
        "quantities": {"peak_velocity": {"value": 500.0 + number, "unit": "m/s", "sigma": 1.0}},
    }
    return records_for_file(mapping, file, [StoreLink("s3", f"s3://b/{number}")], result, headers={"igsn": "S1"})


def test_a_topic_is_read_to_its_end_with_the_last_of_each_key(
    broker: EmbeddedBroker, plain: Mapping, tmp_path: Path
) -> None:
    topic = new_topic()
    make_topics(broker.bootstrap, topic)
    messages = [pair for number in range(20) for pair in shot(plain, number).messages]
    gone = messages[0][0]
    stale = [(messages[1][0], b'{"context":[],"object":null}')]
    produce(broker.bootstrap, f"{topic}.gemd", [*stale, *messages, *messages[10:20], (gone, None)])
    settings = Settings(broker=BrokerSettings(bootstrap=broker.bootstrap))
    found = list(documents(f"topic:{topic}", settings))
    assert sorted(found) == sorted(value for key, value in messages if key != gone)
    assert lint.lint(read.merge(read.iter_records(found))) == []
    out = tmp_path / "shots.csv"
    done = CliRunner().invoke(gemd, ["export", f"topic:{topic}", str(out), "--bootstrap", broker.bootstrap])
    assert done.exit_code == 0 and "20 rows" in done.output, done.output
    assert "Peak velocity [m/s]" in out.read_text()


def test_an_empty_topic_ends_and_a_missing_one_is_named(broker: EmbeddedBroker) -> None:
    topic = new_topic()
    make_topics(broker.bootstrap, topic)
    settings = Settings(broker=BrokerSettings(bootstrap=broker.bootstrap))
    assert list(documents(f"topic:{topic}.gemd", settings)) == []
    with pytest.raises(TopicError, match=r"nothing-here\.gemd"):
        list(documents("topic:nothing-here", settings))


def test_a_broker_that_is_not_there_is_said() -> None:
    settings = Settings(broker=BrokerSettings(bootstrap="127.0.0.1:1", connect_timeout=1.0))
    with pytest.raises(BrokerError):
        list(documents("topic:x", settings))


def test_a_bucket_is_read_with_the_credentials_of_the_configured_store(
    s3: EmbeddedS3, plain: Mapping, tmp_path: Path
) -> None:
    store: S3Settings = s3_settings(s3)
    client = boto3.client(
        "s3",
        endpoint_url=store.endpoint,
        aws_access_key_id=store.access_key_id,
        aws_secret_access_key=store.secret_access_key,
        region_name="us-east-1",
    )
    prefix = new_topic()
    for number in range(3):
        key = f"{prefix}/shot {number}.trc"
        client.put_object(Bucket=store.bucket, Key=key, Body=b"raw")
        client.put_object(Bucket=store.bucket, Key=f"{key}.gemd.json", Body=shot(plain, number).document)
    settings = Settings(s3={"main": store})
    found = list(documents(f"s3://{store.bucket}/{prefix}/", settings))
    assert sorted(found) == sorted(shot(plain, number).document for number in range(3))
    config = tmp_path / "settings.toml"
    config.write_text(
        f'[s3.main]\nbucket = "{store.bucket}"\nendpoint = "{store.endpoint}"\n'
        f'access_key_id = "{store.access_key_id}"\nsecret_access_key = "{store.secret_access_key}"\n'
    )
    out = tmp_path / "all.json"
    done = CliRunner().invoke(gemd, ["export", f"s3://{store.bucket}/{prefix}", str(out), "--config", str(config)])
    assert done.exit_code == 0, done.output
    assert len(json.loads(out.read_text())["object"]) == 6


def test_a_bucket_that_cannot_be_read_is_said(s3: EmbeddedS3) -> None:
    wrong = S3Settings(bucket="no-such-bucket", endpoint=s3.endpoint, access_key_id="x", secret_access_key="y")
    with pytest.raises(StoreError, match="no-such-bucket"):
        list(documents("s3://no-such-bucket/", Settings(s3={"main": wrong})))
