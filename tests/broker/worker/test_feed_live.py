"""What comes through librdkafka is what aiokafka would have fetched, whatever is sought, paused or left alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiokafka
import pytest
from aiokafka.structs import TopicPartition
from confluent_kafka import Producer

from openmsi_streams.config import kafka, load
from openmsi_streams.worker.feed import Feed
from tests.support.brokers import a_broker
from tests.support.kafka import make_topics

pytestmark = pytest.mark.broker
TOPIC = "fed"
COUNT = 60
SIZE = 100_000
BUDGET = 2 << 20


def fill(bootstrap: str) -> None:
    """Send some messages that have everything, and some that have nothing."""
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 5})
    for partition in range(3):
        for number in range(COUNT):
            if number % 7 == 3:
                producer.produce(TOPIC, None, None, partition=partition)
            else:
                value = bytes([partition, number]) * (SIZE // 2)
                headers = [("a", b"1"), ("b", b"")] if number % 2 else None
                producer.produce(TOPIC, value, b"k%d" % number, partition=partition, headers=headers, timestamp=1000)
    assert producer.flush(30) == 0


@asynccontextmanager
async def consumer(bootstrap: str, *, fed: bool) -> AsyncIterator[Any]:
    """Give a consumer of aiokafka that has its partitions, and its feed if it has one."""
    made = aiokafka.AIOKafkaConsumer(
        TOPIC, bootstrap_servers=bootstrap, group_id=f"fed-{fed}", auto_offset_reset="earliest",
        enable_auto_commit=False, session_timeout_ms=6000, heartbeat_interval_ms=1000,
    )  # fmt: skip
    faults: list[BaseException] = []
    await made.start()
    settings = load(flags={"broker.bootstrap": bootstrap, "worker.id": "fed"}, environment={})
    loop = asyncio.get_running_loop()
    feed = Feed(made._fetcher, loop, kafka.consumer(settings), BUDGET, faults.append) if fed else None
    try:
        yield made, feed
    finally:
        if feed is not None:
            await loop.run_in_executor(None, feed.close)
        await made.stop()
    assert not faults


def plain(record: Any) -> tuple[Any, ...]:
    """Return all of a record that Faust hands on."""
    return (
        record.offset, record.timestamp, record.timestamp_type, record.key, record.value, tuple(record.headers),
        record.serialized_key_size, record.serialized_value_size,
    )  # fmt: skip


def reading(feed: Feed) -> set[int]:
    """Return the partitions that librdkafka reads."""
    return {tp.partition for tp in list(feed._reading)}


async def take(made: Any, want: int, partitions: list[TopicPartition] | None = None) -> dict[int, list[Any]]:
    """Return that many records, by partition."""
    found: dict[int, list[Any]] = {}

    async def all_of_them() -> None:
        while sum(map(len, found.values())) < want:
            for tp, records in (await made._fetcher.fetched_records(partitions, 0.1)).items():
                found.setdefault(tp.partition, []).extend(map(plain, records))
            # The fetcher takes a turn for many reasons; what nobody takes must be parked all the same.
            made._fetcher._notify(made._fetcher._wait_consume_future)

    await asyncio.wait_for(all_of_them(), 60)
    return found


def test_the_feed_gives_what_aiokafka_gives() -> None:
    async def compare(bootstrap: str) -> None:
        places = [TopicPartition(TOPIC, number) for number in range(3)]
        async with consumer(bootstrap, fed=False) as (made, _):
            expected = await take(made, 3 * COUNT)
        async with consumer(bootstrap, fed=True) as (made, _):
            # One partition is read while nobody takes the others, which have more than may wait.
            assert (await take(made, COUNT, places[:1]))[0] == expected[0]
            found = await take(made, 2 * COUNT)
            assert {number: found[number] for number in (1, 2)} == {number: expected[number] for number in (1, 2)}
            # Sought back, one while its messages are waiting to be taken.
            made.seek(places[1], 10)
            assert (await take(made, 1))[1][0] == expected[1][10]
            made.seek(places[1], 5)
            made.seek(places[2], COUNT - 3)
            found = await take(made, COUNT - 5 + 3)
            assert found == {1: expected[1][5:], 2: expected[2][-3:]}
            await made.seek_to_beginning(places[0])
            made.pause(places[1])
            made.seek(places[1], 0)
            assert (await take(made, COUNT)) == {0: expected[0]}
            made.resume(places[1])
            assert (await take(made, COUNT)) == {1: expected[1]}
            assert [made.highwater(place) for place in places[:2]] == [COUNT, COUNT]
            assert await made.position(places[1]) == COUNT

    with a_broker() as broker:
        make_topics(broker.bootstrap, TOPIC, partitions=3)
        fill(broker.bootstrap)
        asyncio.run(compare(broker.bootstrap))


def test_nothing_is_read_that_nobody_takes() -> None:
    async def compare(bootstrap: str) -> None:
        places = [TopicPartition(TOPIC, number) for number in range(3)]
        async with consumer(bootstrap, fed=True) as (made, feed):
            feed.want(set(places[:1]))
            assert set(await take(made, COUNT, places[:1])) == {0}
            assert reading(feed) == {0}
            # Faust complains of a partition whose end is unknown.
            assert [made.highwater(place) for place in places] == [COUNT, 0, 0]
            # Wanted, left alone half way, and wanted again: on from the first that was not taken.
            feed.want(set(places))
            first = await take(made, 10, places[1:2])
            feed.want(set(places[:1]))
            async with asyncio.timeout(30):
                while reading(feed) != {0}:
                    await take(made, 0)
                    await asyncio.sleep(0.01)
            feed.want(None)
            rest = await take(made, 2 * COUNT - len(first[1]))
            assert [record[0] for record in first[1] + rest[1]] == list(range(COUNT))
            assert [record[0] for record in rest[2]] == list(range(COUNT))
            assert 0 not in rest

    with a_broker() as broker:
        make_topics(broker.bootstrap, TOPIC, partitions=3)
        fill(broker.bootstrap)
        asyncio.run(compare(broker.bootstrap))


def test_a_partition_whose_stream_was_full_is_taken_up_while_a_fetch_waits_for_others() -> None:
    async def compare(bootstrap: str) -> None:
        full, other = TopicPartition(TOPIC, 0), TopicPartition(TOPIC, 1)
        async with consumer(bootstrap, fed=True) as (made, feed):
            await take(made, COUNT, [other])
            fetcher = made._fetcher
            async with asyncio.timeout(30):
                while full not in fetcher._records:
                    await asyncio.sleep(0.01)
            active = {other}
            fetch = asyncio.ensure_future(fetcher.fetched_records(active, timeout=3600))
            async with asyncio.timeout(30):
                while not fetcher._fetch_waiters:
                    await asyncio.sleep(0)
            active.add(full)
            feed.look_again()
            assert set(await asyncio.wait_for(fetch, 30)) == {full}

    with a_broker() as broker:
        make_topics(broker.bootstrap, TOPIC, partitions=3)
        fill(broker.bootstrap)
        asyncio.run(compare(broker.bootstrap))
