"""Reading a topic until a condition holds, without trusting the broker's end offsets.

The embedded broker (Tansu 0.6) reports the end of a partition too low by the number of records in the last batch less
one; the records are there and are handed out. So a test that knows what must come waits for that.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from hashlib import sha512

from confluent_kafka import Consumer, Message, TopicPartition

from openmsi_streams.chunks.codec import decode


def read_until(
    bootstrap: str,
    topic: str,
    enough: Callable[[list[Message]], bool],
    what: str = "enough messages",
    timeout: float = 60.0,
    settle: float = 0.0,
) -> list[Message]:
    """Read all partitions from the beginning until ``enough(messages)``; fail after ``timeout`` seconds.

    ``settle``: go on until nothing more came for so long, to see what ought not to be there.
    """
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "tests-read-until",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "fetch.message.max.bytes": 20_000_000,
        }
    )
    messages: list[Message] = []
    deadline = time.monotonic() + timeout
    try:
        while True:
            known = consumer.list_topics(topic, timeout=timeout).topics[topic]
            if known.error is None and known.partitions:
                break
            assert time.monotonic() < deadline, f"the topic {topic} did not appear in {timeout:g} s"
            time.sleep(0.05)
        consumer.assign([TopicPartition(topic, partition, 0) for partition in known.partitions])
        last = time.monotonic()
        while True:
            for message in consumer.consume(500, timeout=0.2):
                if message.error() is None:
                    messages.append(message)
                    last = time.monotonic()
            if enough(messages) and time.monotonic() - last >= settle:
                return messages
            assert time.monotonic() < deadline, f"{topic}: {len(messages)} messages in {timeout:g} s, not {what}"
    finally:
        consumer.close()


def rebuilt(messages: list[Message]) -> dict[str, set[str]]:
    """Return path -> hex hashes of every version of which all bytes are there, each checked against its hash."""
    parts: dict[tuple[str, bytes], dict[int, bytes]] = defaultdict(dict)
    totals: dict[tuple[str, bytes], int] = {}
    for message in messages:
        chunk, path = decode(message.value(), largest_chunk=1 << 24, max_file_bytes=1 << 40)
        parts[path, chunk.file_hash][chunk.offset] = bytes(chunk.data)
        totals[path, chunk.file_hash] = chunk.total
    found: dict[str, set[str]] = defaultdict(set)
    for (path, digest), pieces in parts.items():
        if len(pieces) == totals[path, digest]:
            content = b"".join(pieces[offset] for offset in sorted(pieces))
            assert sha512(content).digest() == digest, f"{path}: all chunks are there, but not its content"
            found[path].add(digest.hex())
    return dict(found)
