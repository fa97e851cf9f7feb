"""Topics are created, checked and mended on a live broker."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from openmsi_streams.cli import cli
from openmsi_streams.config import Settings, load
from openmsi_streams.config import topics as t
from openmsi_streams.config.broker_checks import broker_problems
from openmsi_streams.embedded import EmbeddedBroker, EmbeddedS3
from openmsi_streams.errors import BrokerError, ConfigurationError, TopicError

pytestmark = pytest.mark.broker


def settings(broker: EmbeddedBroker, topic: str, **flags: object) -> Settings:
    return load(flags={"broker.bootstrap": broker.bootstrap, "worker.topics": [topic], **flags}, environment={})


def run(broker: EmbeddedBroker, *words: str) -> Result:
    return CliRunner().invoke(cli, ["topics", *words, "--bootstrap", broker.bootstrap])


def test_missing_topics_are_created_once_with_their_partitions(broker: EmbeddedBroker) -> None:
    own = settings(broker, "once", **{"topic.partitions": 2, "worker.id": "w1"})
    created = t.ensure_topics(own, tables=("files",))
    assert set(created) == {one.name for one in t.plan(own, tables=("files",))}
    assert t.ensure_topics(own, tables=("files",)) == []
    found = t.read_broker(own)
    assert found["once"].partitions == found["once.home"].partitions == found["w1-files-changelog"].partitions == 2
    assert found["once.heartbeats"].partitions == 1


def test_siblings_of_a_topic_that_is_there_get_its_partition_count(broker: EmbeddedBroker) -> None:
    own = settings(broker, "wide")
    t.create(own, [t.Planned("wide", 5, 1, {}, "")])
    t.ensure_topics(own)
    assert t.read_broker(own)["wide.delivered"].partitions == 5


def test_a_sibling_with_other_partitions_stops_before_anything_is_made(broker: EmbeddedBroker) -> None:
    own = settings(broker, "bad")
    t.create(own, [t.Planned("bad", 3, 1, {}, ""), t.Planned("bad.home", 1, 1, {}, "")])
    with pytest.raises(TopicError, match=r"bad\.home has 1 partitions but bad has 3"):
        t.ensure_topics(own)
    assert "bad.receipts" not in t.read_broker(own)
    result = run(broker, "check", "bad")
    assert result.exit_code == 1 and "WRONG: bad.home" in result.output


def test_apply_creates_then_has_nothing_to_do_and_check_agrees(broker: EmbeddedBroker) -> None:
    assert run(broker, "check", "twice").exit_code == 1
    assert "created twice.gemd" in run(broker, "apply", "twice").output
    again = run(broker, "apply", "twice")
    assert again.exit_code == 0 and again.output.startswith("0 created, 0 changed")
    assert run(broker, "check", "twice").exit_code == 0


def test_apply_mends_a_compacted_chunk_topic_and_a_short_retention(broker: EmbeddedBroker) -> None:
    own = settings(broker, "mend")
    t.create(own, [t.Planned("mend", 3, 1, {"cleanup.policy": "compact", "retention.ms": "1000"}, "")])
    result = run(broker, "apply", "mend")
    assert "changed mend" in result.output, result.output
    config = t.read_broker(own, names=["mend"])["mend"].config
    assert config["cleanup.policy"] == "delete" and config["retention.ms"] == "604800000"


def test_connecting_checks_name_missing_topics(broker: EmbeddedBroker) -> None:
    found = broker_problems(settings(broker, "absent"))
    assert any("topics are missing" in problem.cause for problem in found)


def test_a_broker_that_is_not_there_is_one_error_with_its_address() -> None:
    own = load(flags={"broker.bootstrap": "127.0.0.1:1", "broker.connect_timeout": 1, "worker.topics": ["x"]})
    with pytest.raises(BrokerError, match=r"127\.0\.0\.1:1"):
        t.ensure_topics(own)


def test_an_option_that_librdkafka_refuses_is_a_configuration_error(broker: EmbeddedBroker) -> None:
    own = settings(broker, "x", **{"broker.options.no.such.option": "1"})
    with pytest.raises(ConfigurationError, match=r"no\.such\.option"):
        t.ensure_topics(own)


def test_config_check_asks_broker_and_stores(broker: EmbeddedBroker, s3: EmbeddedS3, tmp_path: Path) -> None:
    s3.make_bucket("asked")
    text = f'''
[broker]
bootstrap = "{broker.bootstrap}"
[worker]
topics = ["asked"]
[disk]
root = "{tmp_path}/store"
[s3.main]
bucket = "asked"
endpoint = "{s3.endpoint}"
access_key_id = "{s3.access_key}"
secret_access_key = "$SECRET"
'''
    path = tmp_path / "a.toml"
    path.write_text(text)
    call = ["config", "check", "--connect", "--config", str(path)]
    right = CliRunner().invoke(cli, call, env={"SECRET": s3.secret_key})
    assert right.exit_code == 0, right.output
    wrong = CliRunner().invoke(cli, call, env={"SECRET": "wrong"})
    assert wrong.exit_code == 1 and "error: s3.main" in wrong.output, wrong.output
    path.write_text(text.replace(broker.bootstrap, "127.0.0.1:1").replace("[worker]", "connect_timeout = 1\n[worker]"))
    gone = CliRunner().invoke(cli, call, env={"SECRET": s3.secret_key})
    assert gone.exit_code == 1 and "error: broker.bootstrap = '127.0.0.1:1'" in gone.output, gone.output
