"""Which topics a deployment needs, and what is done about those that exist."""

from __future__ import annotations

import pytest

from openmsi_streams.chunks.topics import SUFFIXES, table_names
from openmsi_streams.config import Settings, load
from openmsi_streams.config import topics as t
from openmsi_streams.errors import TopicError


def settings(**flags: object) -> Settings:
    return load(flags={"worker.topics": ["lab"], **flags}, environment={})


def by_name(planned: list[t.Planned]) -> dict[str, t.Planned]:
    return {one.name: one for one in planned}


def test_every_sibling_of_a_chunk_topic_is_planned() -> None:
    names = by_name(t.plan(settings()))
    changelogs = {f"openmsi-streams-{table}-changelog" for table in table_names("lab")}
    assert set(names) == {"lab", *(f"lab.{suffix}" for suffix in SUFFIXES), *changelogs}


def test_topics_that_feed_tables_have_the_partitions_of_the_chunk_topic() -> None:
    planned = by_name(t.plan(settings(**{"topic.partitions": 7}), tables=["files"]))
    for suffix in t.COPARTITIONED:
        if suffix in SUFFIXES:
            assert planned[f"lab.{suffix}"].partitions == 7
    assert planned["openmsi-streams-files-changelog"].partitions == 7
    assert planned["openmsi-streams-files-changelog"].config["cleanup.policy"] == "compact"


def test_siblings_follow_a_chunk_topic_that_exists_with_another_partition_count() -> None:
    planned = by_name(t.plan(settings(), existing={"lab": t.Found(12)}, tables=["files"]))
    assert planned["lab"].partitions == planned["lab.home"].partitions == 12
    assert planned["openmsi-streams-files-changelog"].partitions == 12


def test_records_are_compacted_and_chunks_are_deleted_by_age() -> None:
    planned = by_name(t.plan(settings(**{"topic.retention_hours": 2})))
    assert planned["lab"].config["cleanup.policy"] == "delete"
    assert planned["lab"].config["retention.ms"] == str(2 * 3_600_000)
    assert planned["lab.gemd"].policy == planned["lab.history"].policy == "compact"


def test_the_broker_dates_messages_except_forwarded_chunks() -> None:
    planned = by_name(t.plan(settings(), tables=["files"]))
    dated = {name for name, one in planned.items() if one.config.get("message.timestamp.type") == "LogAppendTime"}
    assert dated == set(planned) - {"lab.home"}


def test_a_topic_with_its_senders_dates_is_mended() -> None:
    planned = t.plan(settings(), tables=[])
    config = {one.name: dict(one.config) | {"message.timestamp.type": "CreateTime"} for one in planned}
    found = {one.name: t.Found(one.partitions, config=config[one.name]) for one in planned}
    findings = {finding.topic: finding for finding in t.compare(planned, found)}
    assert findings["lab"].config == {"message.timestamp.type": "LogAppendTime"} and "clock" in findings["lab"].why
    assert findings["lab.home"].action == "ok"


def test_message_size_follows_chunk_bytes() -> None:
    size = 4 << 20
    planned = by_name(t.plan(settings(**{"chunks.chunk_bytes": size})))
    for name in ("lab", "lab.home", "lab.quarantine"):
        assert int(planned[name].config["max.message.bytes"]) > size


def test_key_exchange_topics_belong_to_the_part_before_the_first_dot() -> None:
    planned = by_name(t.plan(settings(**{"worker.topics": ["mbe.chunks", "mbe.more"], "crypto.node": "node.config"})))
    assert {"mbe.keys", "mbe.reqs", "mbe.subs", "chains", "allowlist", "denylist"} <= set(planned)


def test_no_chunk_topic_is_an_error_that_names_the_setting() -> None:
    with pytest.raises(TopicError, match=r"worker\.topics"):
        t.plan(settings(**{"worker.topics": []}))


def as_found(planned: list[t.Planned]) -> dict[str, t.Found]:
    return {one.name: t.Found(one.partitions, 1, dict(one.config)) for one in planned}


def test_a_broker_that_follows_the_plan_needs_nothing() -> None:
    planned = t.plan(settings(), tables=["files"])
    assert {finding.action for finding in t.compare(planned, as_found(planned))} == {"ok"}


@pytest.mark.parametrize("name", ["lab.home", "lab.delivered", "openmsi-streams-files-changelog"])
def test_another_partition_count_below_the_tables_is_refused(name: str) -> None:
    planned = t.plan(settings(), tables=["files"])
    found = as_found(planned)
    found[name] = t.Found(1, 1, found[name].config)
    (bad,) = [finding for finding in t.compare(planned, found) if finding.action != "ok"]
    assert (bad.topic, bad.action) == (name, "refuse")
    with pytest.raises(TopicError, match="topics apply"):
        t.refuse([bad])


def test_compaction_of_a_chunk_topic_is_mended_because_it_would_remove_chunks() -> None:
    planned = t.plan(settings())
    found = as_found(planned)
    found["lab"] = t.Found(3, 1, {**found["lab"].config, "cleanup.policy": "compact"})
    (bad,) = [finding for finding in t.compare(planned, found) if finding.action != "ok"]
    assert (bad.topic, bad.action, bad.config) == ("lab", "set", {"cleanup.policy": "delete"})


def test_retention_and_size_are_raised_but_never_lowered() -> None:
    planned = t.plan(settings())
    found = as_found(planned)
    found["lab"] = t.Found(3, 1, {"retention.ms": "1", "max.message.bytes": "999999999"})
    found["lab.home"] = t.Found(3, 1, {"retention.ms": "-1", "max.message.bytes": "1000"})
    changes = {finding.topic: finding.config for finding in t.compare(planned, found) if finding.action == "set"}
    assert set(changes["lab"]) == {"retention.ms"}
    assert set(changes["lab.home"]) == {"max.message.bytes"}
