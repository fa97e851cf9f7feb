"""Collect records from where they are kept: a folder, a bucket, or a compacted topic."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openmsi_streams.errors import BrokerError, ExtraMissing, StoreError, TopicError, UsageError

if TYPE_CHECKING:
    from openmsi_streams.config.settings import S3Settings, Settings

SUFFIX = ".gemd.json"
GEMD_TOPIC = ".gemd"


def documents(source: str, settings: Settings, *, idle_seconds: float = 30.0) -> Iterator[bytes]:
    """Give the record documents of a source.

    Args:
        source: a file or folder, ``s3://BUCKET/PREFIX``, or ``topic:NAME`` (the chunk topic's name or that of its
            record topic).
        settings: broker address and options, and the credentials of a configured store with that bucket.
        idle_seconds: how long a broker may say nothing.

    Raises:
        UsageError: there is no such folder.
        BrokerError: the broker cannot be reached or falls silent; TopicError: there is no such topic.
        StoreError: the bucket cannot be read.
    """
    if source.startswith("s3://"):
        bucket, _, prefix = source[5:].partition("/")
        yield from _from_bucket(bucket, prefix, settings)
    elif source.startswith("topic:"):
        yield from from_topic(source[6:], settings, idle_seconds=idle_seconds)
    else:
        path = Path(source)
        if not path.exists():
            raise UsageError(f"{source} does not exist. Give a file, a folder, s3://BUCKET/PREFIX or topic:NAME.")
        yield from _from_folder(path)


def _from_folder(path: Path) -> Iterator[bytes]:
    if path.is_file():
        found = [path]
    else:
        found = sorted(path.rglob("*" + SUFFIX)) or sorted([*path.rglob("*.json"), *path.rglob("*.jsonl")])
    for file in found:
        data = file.read_bytes()
        if file.suffix == ".jsonl":
            yield from (line for line in data.splitlines() if line.strip())
        else:
            yield data


def from_topic(topic: str, settings: Settings, *, idle_seconds: float = 30.0) -> Iterator[bytes]:
    """Give the last document of each key on a record topic, read from its beginning to its present end.

    No consumer group is used and nothing is committed, so it may be run at any time beside the workers.
    """
    try:
        import confluent_kafka as ck
    except ModuleNotFoundError as error:  # pragma: no cover - a base dependency
        raise ExtraMissing("Reading a topic", "server", "confluent-kafka") from error
    from openmsi_streams.config import kafka

    name = topic if topic.endswith(GEMD_TOPIC) else topic + GEMD_TOPIC
    options = kafka.consumer(settings, **{"group.id": "openmsi-streams-gemd-reader", "enable.partition.eof": True})
    consumer = kafka.built(ck.Consumer, options)
    try:
        try:
            known = consumer.list_topics(name, timeout=settings.broker.connect_timeout).topics[name]
        except ck.KafkaException as error:
            raise kafka.no_broker(settings, kafka.cause(error)) from error
        if known.error is not None or not known.partitions:
            raise TopicError(f"There is no topic {name!r}. Records are written there when a worker delivers files.")
        consumer.assign([ck.TopicPartition(name, number, ck.OFFSET_BEGINNING) for number in known.partitions])
        yield from _to_the_end(consumer, set(known.partitions), name, idle_seconds)
    finally:
        consumer.close()


def _to_the_end(consumer: Any, partitions: set[int], name: str, idle_seconds: float) -> Iterator[bytes]:
    import confluent_kafka as ck

    last: dict[bytes, bytes] = {}
    waiting = set(partitions)
    quiet_since = time.monotonic()
    while True:
        # Once all partitions have said that they are at their end, half a second of silence confirms it: a broker may
        # say so too early, between two batches.
        messages = consumer.consume(500, timeout=0.5)
        if not messages and not waiting:
            break
        for message in messages:
            quiet_since = time.monotonic()
            error = message.error()
            if error is not None:
                if error.code() == ck.KafkaError._PARTITION_EOF:
                    waiting.discard(message.partition())
                elif not error.retriable():
                    raise BrokerError(f"Reading {name!r} failed: {error.str()}.")
                continue
            waiting.add(message.partition())
            key = message.key() or b""
            # A later message of a key replaces the earlier, as compaction would; an empty one removes it.
            last.pop(key, None)
            if message.value():
                last[key] = message.value()
        if waiting and time.monotonic() - quiet_since > idle_seconds:
            raise BrokerError(
                f"The broker said nothing for {idle_seconds:.0f} s while {name!r} was read; "
                f"partitions {sorted(waiting)} are not at their end. Check the broker and try again."
            )
    yield from last.values()


def _from_bucket(bucket: str, prefix: str, settings: Settings) -> Iterator[bytes]:
    try:
        import boto3
        import botocore.exceptions
    except ModuleNotFoundError as error:
        raise ExtraMissing("Reading a bucket", "server", "boto3") from error
    client = _client(boto3, _store_of(bucket, settings))
    try:
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        for page in pages:
            for item in page.get("Contents", []):
                if item["Key"].endswith(SUFFIX):
                    yield client.get_object(Bucket=bucket, Key=item["Key"])["Body"].read()
    except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError) as error:
        raise StoreError(
            f"The bucket {bucket!r} cannot be read: {error}. Check its name, --endpoint-url and the credentials "
            "(a configured [s3.NAME] with this bucket, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY)."
        ) from error


def _store_of(bucket: str, settings: Settings) -> S3Settings | None:
    return next((store for store in settings.s3.values() if store.bucket == bucket), None)


def _client(boto3: Any, store: S3Settings | None) -> Any:
    from botocore.config import Config

    if store is None:
        return boto3.client("s3")
    # With a server of one's own, the bucket belongs in the path: its host has no names for buckets.
    config = Config(s3={"addressing_style": "path" if store.path_style else "auto"})
    session = boto3.Session(
        aws_access_key_id=store.access_key_id or None,
        aws_secret_access_key=store.secret_access_key or None,
        aws_session_token=store.session_token or None,
        profile_name=store.profile or None if not store.access_key_id else None,
        region_name=store.region or None,
    )
    return session.client("s3", endpoint_url=store.endpoint or None, verify=store.ca or None, config=config)
