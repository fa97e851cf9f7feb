"""A changelog read in batches gives the table that Faust's recovery would give, however often it is interrupted."""

from __future__ import annotations

import random

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from openmsi_streams.config import kafka, load
from openmsi_streams.tables import catchup
from openmsi_streams.tables.catchup import Turn, catch_up
from tests.support.brokers import a_broker
from tests.support.kafka import make_topics

pytestmark = pytest.mark.broker
TOPIC, PARTITIONS = "rows-changelog", 3


class Table:
    """Partitions as dictionaries."""

    changelog = TOPIC

    def __init__(self) -> None:
        self.rows: dict[int, dict[bytes, bytes]] = {number: {} for number in range(PARTITIONS)}
        self.offsets = dict.fromkeys(range(PARTITIONS), -1)
        self.calls = 0

    def read_to(self, partition: int) -> int:
        return self.offsets[partition]

    def apply(self, partition: int, records: list[tuple[bytes, bytes | None]], offset: int) -> None:
        assert offset > self.offsets[partition]
        for key, value in records:
            if value is None:
                self.rows[partition].pop(key, None)
            else:
                self.rows[partition][key] = value
        self.offsets[partition] = offset
        self.calls += 1


def test_a_changelog_is_read_to_its_end_in_batches_and_gone_on_with(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(11)
    with a_broker() as broker:
        make_topics(broker.bootstrap, TOPIC, partitions=PARTITIONS, also_internal=False)
        client = kafka.consumer(load(flags={"broker.bootstrap": broker.bootstrap}, environment={}))
        # The embedded broker counts batches of one message right.
        producer = Producer({"bootstrap.servers": broker.bootstrap, "batch.num.messages": 1})
        expected: dict[int, dict[bytes, bytes]] = {number: {} for number in range(PARTITIONS)}
        table = Table()
        everything = [(table, number) for number in range(PARTITIONS)]
        for part in range(2):
            for number in range(1500):
                partition, key = rng.randrange(PARTITIONS), b"%d" % rng.randrange(200)
                value = None if rng.random() < 0.2 else b"%d.%d" % (part, number)
                producer.produce(TOPIC, value, key, partition=partition)
                if value is None:
                    expected[partition].pop(key, None)
                else:
                    expected[partition][key] = value
            assert producer.flush(60) == 0
            assert catch_up(client, everything, 0.0) == 0, "no time: nothing is read, nothing is lost"
            assert catch_up(client, everything, 60.0, Turn(lambda: True)) == 0, "to end: nothing is written"
            assert catch_up(client, everything, 60.0) == 1500
            assert table.rows == expected
        assert table.calls < 300, "rows are written in batches"
        read: list[int] = []

        class Noting(Consumer):
            def assign(self, places: list[TopicPartition]) -> None:
                read.extend(place.partition for place in places)
                super().assign(places)

        monkeypatch.setattr(catchup, "Consumer", Noting)
        assert catch_up(client, everything, 60.0) == 0
        assert not read, "what is read to its end is not asked for again"
        producer.produce(TOPIC, b"new", b"key", partition=1)
        assert producer.flush(60) == 0
        assert catch_up(client, everything, 60.0) == 1
        assert read == [1]
        assert catch_up(client, [], 60.0) == 0
        assert catch_up({**client, "bootstrap.servers": "127.0.0.1:1"}, everything, 1.0) == 0, "Faust's to wait for"
