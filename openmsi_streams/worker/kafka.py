"""The worker's producer: one idempotent librdkafka client for everything that a worker writes.

Not Faust's own: librdkafka is idempotent without transactions, keeps batching and retries off the event loop, and its
batches are read right by every broker tried (docs/decisions.md, "One producer").
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer

from openmsi_streams.config import kafka
from openmsi_streams.config.settings import Settings
from openmsi_streams.errors import BrokerError
from openmsi_streams.worker.bridge import Bridge

log = logging.getLogger(__name__)

# Receipts and rows go out at once when it is quiet and in batches when it is not.
LINGER_MS = 2
# How long a message may wait for a broker that is away before the worker stops: an outage longer than this ends it,
# and its service manager starts it again.
TIMEOUT_MS = 600_000
# Bytes that may wait; forwarded chunks are the large ones.
QUEUE_KBYTES = 64 * 1024
# How long `send` waits before it looks again for room in the queue.
FULL_SECONDS = 0.05

# Tansu 0.6 calls the last batch's first offset plus one the end of a partition (tried: 680 messages in batches were
# said to end at 647, or at 1), so Faust's recovery of a table would miss a batch's other rows. One message a batch is
# counted right; without idempotence that costs nothing on the loopback, and one request in flight keeps the order.
EMBEDDED = {"batch.num.messages": 1, "enable.idempotence": False, "max.in.flight.requests.per.connection": 1}

Sent = Callable[[int, int], None]
"""Called with partition and offset, in the producer's thread."""


class ClientPublisher:
    """Sends messages and changelog records; fulfils `worker.ports.Publisher`."""

    def __init__(self, settings: Settings, on_lost: Callable[[BaseException], None]) -> None:
        """Start the client. ``on_lost`` is called, in its thread, when a record of `put` was not taken in time."""
        self._on_lost = on_lost
        self._producer = Producer(
            kafka.producer(
                settings,
                **{
                    "linger.ms": LINGER_MS,
                    "error_cb": lambda error: log.warning("broker: %s", error.str()),
                    "message.timeout.ms": TIMEOUT_MS,
                    "queue.buffering.max.kbytes": QUEUE_KBYTES,
                    "queue.buffering.max.messages": 1_000_000,
                    "message.max.bytes": settings.chunks.largest_chunk + (1 << 20),
                    **(EMBEDDED if settings.worker.profile == "embedded" else {}),
                },
            )
        )
        self._ended = False
        self._bridge: Bridge | None = None
        self._thread = threading.Thread(target=self._poll, name="producer-events", daemon=True)
        self._thread.start()

    def _poll(self) -> None:
        while not self._ended:
            self._producer.poll(0.2)

    async def send(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        *,
        partition: int | None = None,
        headers: dict[str, bytes] | None = None,
        timestamp: float | None = None,
    ) -> Any:
        """Send a message and return its offset when all in-sync replicas have it.

        Raises:
            BrokerError: when the broker did not take it.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[int] = loop.create_future()

        if self._bridge is None:
            self._bridge = Bridge(loop)
        bridge = self._bridge

        def done(error: Any, message: Any) -> None:
            bridge.call(partial(_resolve, future, topic, error, -1 if message is None else message.offset()))

        options: dict[str, Any] = {}
        if partition is not None:
            options["partition"] = partition
        if headers:
            options["headers"] = list(headers.items())
        if timestamp is not None and timestamp > 0:
            options["timestamp"] = int(timestamp * 1000)
        while True:
            try:
                self._producer.produce(topic, value, key, on_delivery=done, **options)
                break
            except BufferError:
                await asyncio.sleep(FULL_SECONDS)
            except KafkaException as error:
                raise BrokerError(f"A message cannot be sent to {topic}: {kafka.cause(error)}.") from None
        return await future

    def put(self, topic: str, partition: int, key: bytes, value: bytes | None, sent: Sent) -> None:
        """Send a changelog record without waiting; ``sent`` is called when the broker has it."""

        def done(error: Any, message: Any) -> None:
            if error is not None:
                self._on_lost(_refused("a row", topic, error))
            else:
                sent(partition, message.offset())

        while True:
            try:
                self._producer.produce(topic, value, key, partition=partition, on_delivery=done)
                return
            except BufferError:
                # A million rows wait for a broker that is away: nothing else is left to do than to wait with them.
                self._producer.poll(FULL_SECONDS)

    def flush(self, seconds: float) -> int:
        """Wait until everything is sent; return how many messages are not."""
        return int(self._producer.flush(seconds))

    def close(self) -> None:
        """Send what waits, for a few seconds at most, and end the thread."""
        self.flush(5.0)
        self._ended = True
        self._thread.join(2.0)


def _resolve(future: asyncio.Future[int], topic: str, error: Any, offset: int) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(offset)
    else:
        future.set_exception(_refused("a message", topic, error))


def _refused(what: str, topic: str, error: Any) -> BrokerError:
    why = kafka.CLOCK if error.code() == KafkaError.INVALID_TIMESTAMP else error.str()
    return BrokerError(f"The broker did not take {what} for {topic}: {why}.")
