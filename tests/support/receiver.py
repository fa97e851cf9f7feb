"""A stand-in for the worker: it gathers chunks and writes a receipt when a file version is whole."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter, defaultdict
from hashlib import sha512
from pathlib import Path
from types import TracebackType
from typing import Self

from confluent_kafka import Consumer, Producer, TopicPartition

from openmsi_streams.chunks.codec import decode
from openmsi_streams.chunks.keys import file_id
from openmsi_streams.chunks.messages import Delivery, Receipt, Request, to_json
from openmsi_streams.chunks.topics import beside
from tests.support.kafka import make_topics


def put(path: Path, data: bytes) -> None:
    """Write a file at one stroke: a watcher sees the old content or the new, however slow this machine is."""
    aside = path.with_name(f".{path.name}.aside")
    aside.write_bytes(data)
    os.replace(aside, path)


def receipt_for(
    topic: str, path: str, digest: str, size: int, *, state: str = "delivered", stored: str = ""
) -> Receipt:
    """Return a receipt; ``stored``: another hash that the store is said to hold."""
    now = time.time()
    return Receipt(
        file_id=file_id(topic, path, digest),
        topic=topic,
        path=path,
        sha512=digest,
        bytes=size,
        state=state,  # type: ignore[arg-type]
        deliveries=(Delivery("disk", "main", f"file:///store/{path}", stored or digest, size, now),),
        time=now,
    )


def request_for(topic: str, path: str, digest: str, *missing: tuple[int, int]) -> Request:
    """Return a request for byte ranges."""
    identity = file_id(topic, path, digest)
    return Request(file_id=identity, topic=topic, path=path, sha512=digest, missing=missing, time=time.time())


class Receiver:
    """Reads a chunk topic from its beginning; ``whole`` has the complete versions as path -> hashes in order."""

    def __init__(self, bootstrap: str, topic: str, *, answer: bool = True) -> None:
        self.topic, self._answer = topic, answer
        self.whole: dict[str, list[str]] = defaultdict(list)
        self.deliveries: Counter[tuple[str, str]] = Counter()
        self.messages = 0
        self.repeated = 0
        """Messages whose chunk had come before."""
        make_topics(bootstrap, topic)
        quiet = {"bootstrap.servers": bootstrap, "log_level": 0}
        self._producer = Producer({**quiet, "enable.idempotence": True})
        self._consumer = Consumer(
            {**quiet, "group.id": "receiver", "auto.offset.reset": "earliest", "enable.auto.commit": False}
        )
        self._consumer.assign([TopicPartition(topic, partition, 0) for partition in range(3)])
        self._parts: dict[tuple[str, bytes], dict[int, bytes]] = defaultdict(dict)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.failure: BaseException | None = None

    def send(self, message: Receipt | Request) -> None:
        """Put a receipt or request on its topic and wait for the broker."""
        suffix = "receipts" if isinstance(message, Receipt) else "requests"
        self._producer.produce(beside(self.topic, suffix), to_json(message), message.file_id)
        assert self._producer.flush(60.0) == 0

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                for message in self._consumer.consume(200, timeout=0.1):
                    if message.error() is None:
                        self._take(message.value())
        except BaseException as error:
            self.failure = error

    def _take(self, value: bytes) -> None:
        chunk, path = decode(value, largest_chunk=1 << 24, max_file_bytes=1 << 40)
        self.messages += 1
        parts = self._parts[path, chunk.file_hash]
        if chunk.index in parts:
            self.repeated += 1
            return
        parts[chunk.index] = bytes(chunk.data)
        if len(parts) < chunk.total:
            return
        content = b"".join(parts[index] for index in sorted(parts))
        assert sha512(content).digest() == chunk.file_hash, f"{path}: all chunks, but another content"
        digest = chunk.file_hash.hex()
        self.whole[path].append(digest)
        self.deliveries[path, digest] += 1
        if self._answer:
            self.send(receipt_for(self.topic, path, digest, len(content)))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(30.0)
        self._consumer.close()
        if kind is None and self.failure is not None:
            raise self.failure
