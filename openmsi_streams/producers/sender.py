"""Puts chunks on the topic: one home partition per file, idempotent, bounded in bytes, each acknowledgement booked."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, Future
from concurrent.futures import wait as wait_for
from io import BytesIO
from typing import IO, TYPE_CHECKING, Any

from openmsi_streams.chunks import ranges
from openmsi_streams.chunks.codec import Chunk, Wire, envelope
from openmsi_streams.chunks.keys import chunk_key, file_id, home_partition
from openmsi_streams.chunks.paths import relative_path
from openmsi_streams.config import kafka, topics
from openmsi_streams.config.kafka import CHUNK_OVERHEAD
from openmsi_streams.errors import BrokerError, OpenMSIStreamsError, TopicError
from openmsi_streams.producers import content, system
from openmsi_streams.producers.content import Prepared

if TYPE_CHECKING:
    from openmsi_streams.config.settings import Settings

log = logging.getLogger(__name__)

Seal = Callable[[str, bytes, bytes], tuple[bytes, bytes]]
"""``(topic, key, value) -> (key, value)``, encrypted."""

NO_WORD = "the broker answers but acknowledges nothing"
# Reads of one large file ahead of sending; two threads work on them.
AHEAD = 4
# An idempotent producer has at most five requests on their way, of up to librdkafka's `batch.size` each. What is queued
# behind them gains nothing, and keeps librdkafka's thread spinning: it asks all the time whether the batch may go.
REQUESTS, BATCH_BYTES = 5, 1_000_000
# Small chunks are read so many bytes at a time.
READ_BYTES = 512 << 10
# A turn on one file is short, so that small files get their turn beside a huge one.
TURN_BYTES = 4 << 20


class NotSealed:
    """Why a message could not be encrypted, in the form of a delivery error."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def code(self) -> int:
        """No code of Kafka's."""
        return 0

    def fatal(self) -> bool:
        """The connection is all right."""
        return False

    def str(self) -> str:
        """The reason."""
        return self._reason


class Throttle:
    """A token bucket: at most ``rate`` bytes a second, with a burst of a quarter of a second; 0: no limit."""

    def __init__(self, rate: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._clock = rate, clock
        self._free = rate / 4
        self._last = clock()

    def wait(self) -> float:
        """Return the seconds until the next bytes may go."""
        if not self._rate:
            return 0.0
        now = self._clock()
        self._free = min(self._rate / 4, self._free + (now - self._last) * self._rate)
        self._last = now
        return max(0.0, -self._free / self._rate)

    def take(self, size: int) -> None:
        """Count bytes that went; a chunk larger than the burst is paid for afterwards."""
        self._free -= size


class Job:
    """One content on its way: which chunks are still to go, which are acknowledged."""

    def __init__(
        self,
        topic: str,
        path: str,
        prepared: Prepared,
        partitions: int,
        *,
        acked: ranges.Ranges = (),
        indexes: Iterable[int] | None = None,
    ) -> None:
        """``indexes``: the chunks to send (an answer to a request); None: all that are not acknowledged."""
        self.path = path
        """Path of the file below the watched folder: the registry's name for it."""
        self.subdir, _, self.filename = path.rpartition("/")
        self.prepared = prepared
        # The same check as the worker's: a name that it would refuse is not sent.
        self.far_path = relative_path(self.filename, self.subdir, prepared.append)
        self.file_id = file_id(topic, self.far_path, prepared.sha512.hex())
        self.partition = home_partition(self.far_path, partitions)
        self.answer = indexes is not None
        """This is an answer to a request: the file was sent before."""
        self.acked: ranges.Ranges = () if prepared.size == 0 else acked
        if indexes is None:
            indexes = [index for index in range(1, prepared.total + 1) if not self._has(index)]
        self.todo: deque[int] = deque(indexes)
        self.planned = len(self.todo)
        self.outstanding = 0
        self.error: Any = None
        """The first delivery error (a KafkaError)."""
        self.abandoned = False
        self.released = False
        """Its file and memory were let go: nothing more of it will be handed over."""
        self.file: IO[bytes] | None = None
        self.reading: deque[tuple[list[int], Future[list[bytes]]]] = deque()
        self.ready: deque[tuple[int, bytes]] = deque()
        """Chunks whose messages are made and not handed over: the first goes next."""
        # One more than are read ahead: the one that is being handed over.
        self._room = deque(BytesIO() for _ in range(AHEAD + 1))

    def span(self, index: int) -> tuple[int, int]:
        """Return the byte range of a chunk."""
        start = (index - 1) * self.prepared.chunk_bytes
        return start, min(start + self.prepared.chunk_bytes, self.prepared.size)

    def _has(self, index: int) -> bool:
        start, end = self.span(index)
        return end > start and ranges.covers(self.acked, start, end)

    @property
    def handed_over(self) -> bool:
        """Every chunk was given to the client library."""
        return not self.todo and not self.reading and not self.ready

    @property
    def left(self) -> int:
        """Chunks that are still to be handed over."""
        return len(self.todo) + sum(len(indexes) for indexes, _ in self.reading) + len(self.ready)

    @property
    def waiting(self) -> list[int]:
        """Those chunks."""
        reading = (index for indexes, _ in self.reading for index in indexes)
        return [*self.todo, *reading, *(index for index, _ in self.ready)]

    def envelope(self, index: int, wire: Wire) -> tuple[bytes, bytes]:
        """Return what stands before and behind a chunk's data in its message."""
        prepared = self.prepared
        start, end = self.span(index)
        fields = Chunk(
            filename=self.filename,
            file_hash=prepared.sha512,
            chunk_hash=prepared.digest(index),
            offset=start,
            index=index,
            total=prepared.total,
            subdir=self.subdir,
            append=prepared.append,
            data=memoryview(b""),
            mtime=prepared.mtime_ns / 1e9,
        )
        return envelope(fields, end - start, wire)

    def read(self, indexes: list[int], wire: Wire, *, cached: bool = False) -> list[bytes]:
        """Return the messages of chunks of a large file, read anew. Raises what `content.chunk` raises."""
        file, prepared = self.file, self.prepared
        assert file is not None
        room = self._room if len(indexes) == 1 else None
        return [content.chunk(file, prepared, one, *self.envelope(one, wire), room, cached=cached) for one in indexes]

    @property
    def done(self) -> bool:
        """Nothing is on its way any more."""
        return self.outstanding == 0 and (self.handed_over or self.abandoned or self.error is not None)

    def close(self, aside: Executor | None = None) -> None:
        """Let go of the file; ``aside``: where its pages are forgotten, which can take a second for a new file."""
        for _, future in self.reading:
            future.cancel()
        # A running read still uses the handle.
        wait_for([future for _, future in self.reading])
        self.reading.clear()
        self.ready.clear()
        self._room.clear()
        if self.file is not None:
            if aside is None:
                _let_go(self.file)
            else:
                aside.submit(_let_go, self.file)
            self.file = None
        self.prepared.data = None


def _let_go(file: IO[bytes]) -> None:
    system.forget_pages(file)
    file.close()


class Sender:
    """The connection to the chunk topic. Used from one thread; reads ahead in ``readers``."""

    def __init__(
        self,
        settings: Settings,
        topic: str,
        readers: Executor,
        *,
        seal: Seal | None = None,
        on_acknowledged: Callable[[Job], None] = lambda job: None,
    ) -> None:
        self.settings, self.topic, self.readers, self.seal = settings, topic, readers, seal
        self.on_acknowledged = on_acknowledged
        self.partitions = 0
        self.cluster = ""
        """The name that the cluster gave itself when it was made."""
        self.in_flight = 0
        """Bytes given to the client library and not acknowledged."""
        self.messages = self.bytes = 0
        """Acknowledged messages and bytes of their values, for heartbeats."""
        self.last_ack = time.monotonic()
        """When the broker last acknowledged something, or when something was first on its way after a pause."""
        self.down_since = 0.0
        """Since when no broker answers (time.time()); 0: all is well."""
        self.down_reason = ""
        self.fatal = ""
        """librdkafka gave up this connection: it must be made anew."""
        self.throttle = Throttle(settings.producer.bandwidth)
        self._limit = settings.producer.queue_bytes
        # A batch that is not full waits for `linger.ms`, so one chunk fills it where two would be too many.
        chunk_bytes = settings.chunks.chunk_bytes
        full = chunk_bytes if 2 * chunk_bytes > BATCH_BYTES else BATCH_BYTES
        given = settings.producer.options.get("batch.size", str(full))
        # librdkafka says what is wrong with it when the connection is made.
        self._batch_bytes = int(given) if given.isdecimal() and int(given) else full
        self._batch_option = given
        self._headers = [(key, value.encode()) for key, value in settings.producer.headers.items()] or None
        self._producer: Any = None

    # -- connection

    def connect(self) -> bool:
        """Find the topic, create it and its siblings if missing, and open the producer.

        Returns:
            Whether the chunk topic was made anew: then nothing that was sent before is there any more. (A broker that
            has forgotten everything shows by its `cluster`.)

        Raises:
            BrokerError: no broker answers. TopicError: the topic is not there and cannot be made.
        """
        from confluent_kafka import KafkaException

        client = topics.admin(self.settings)
        # Made and asked first: librdkafka looks every half second whether a broker is connected that gives it a
        # producer's id, and connects to none before it is needed.
        producer = self._new_producer()
        found = topics.read_broker(self.settings, client)
        try:
            self.cluster = producer.list_topics(timeout=self.settings.broker.connect_timeout).cluster_id or ""
        except KafkaException as error:
            raise kafka.no_broker(self.settings, kafka.cause(error)) from None
        is_new = self.topic not in found
        planned = [one for one in topics.plan(self.settings, [self.topic], found) if one.name not in found]
        if planned:
            mine = [one for one in planned if one.name == self.topic]
            made = topics.create(self.settings, mine, client)
            try:
                made += topics.create(self.settings, [one for one in planned if one.name != self.topic], client)
            except TopicError as error:
                # Files can go without them; only receipts, requests or views will be missing.
                log.warning("%s", error)
            if made:
                log.info("created the topics %s", ", ".join(made))
                found = topics.read_broker(self.settings, client)
        if self.topic not in found:
            raise TopicError(
                f"The topic {self.topic} is not on the broker although it was created. Try again in a moment, or "
                "create it with `openmsi-streams topics apply`."
            )
        self.partitions = found[self.topic].partitions
        self.close()
        self.fatal = ""
        self.in_flight = 0
        self._producer = producer
        return is_new

    def _new_producer(self) -> Any:
        from confluent_kafka import Producer

        return kafka.built(
            Producer,
            kafka.producer(
                self.settings,
                **{
                    # An outage may last for days: messages wait, and what is waiting is bounded by our own count.
                    "message.timeout.ms": 0,
                    "queue.buffering.max.kbytes": max(1 << 20, 2 * self._limit >> 10),
                    "compression.type": self.settings.producer.compression,
                    "batch.size": self._batch_option,
                    # Gathers small files into one request; nobody notices 10 ms on a file.
                    "linger.ms": 10,
                    "reconnect.backoff.max.ms": 5000,
                    "error_cb": self._on_error,
                    # For the names of topics that were made a moment ago.
                    "topic.metadata.propagation.max.ms": 10000,
                },
            ),
        )

    def why_silent(self) -> str:
        """Ask why nothing is acknowledged; empty if the broker does not answer. Safe in any thread."""
        from confluent_kafka import KafkaException

        try:
            found = topics.admin(self.settings).list_topics(timeout=self.settings.broker.connect_timeout)
        except KafkaException:
            return ""
        if found.cluster_id != self.cluster:
            return "another broker answers at this address, or it has forgotten everything"
        known = found.topics.get(self.topic)
        if known is None or known.error is not None:
            return f"the topic {self.topic} is gone from the broker"
        if len(known.partitions) != self.partitions:
            return f"the topic {self.topic} has {len(known.partitions)} partitions now, not {self.partitions}"
        return NO_WORD

    def _on_error(self, error: Any) -> None:
        from confluent_kafka import KafkaError

        if error.fatal():
            self.fatal = kafka.cause(Exception(error))
        elif error.code() in (KafkaError._ALL_BROKERS_DOWN, KafkaError._AUTHENTICATION, KafkaError._RESOLVE):
            if not self.down_since:
                self.down_since = time.time()
                log.warning(
                    "no broker answers at %s (%s); files wait and are sent when it is back",
                    self.settings.broker.bootstrap,
                    error.str(),
                )
            self.down_reason = error.str()

    def close(self) -> None:
        """Drop the connection and what is still queued in it."""
        if self._producer is not None:
            from confluent_kafka import KafkaException

            try:
                self._producer.purge()
            except KafkaException as error:
                log.debug("purge: %s", error)
            self._producer.poll(0)
            self._producer = None

    # -- sending

    def room(self) -> bool:
        """Say whether more bytes may be queued."""
        return self.in_flight < self._limit and not self.fatal and self.throttle.wait() <= 0.0

    def takes(self, job: Job) -> bool:
        """Say whether more of a job may be queued: of a large file no more than goes out at a time."""
        if not self.room():
            return False
        in_one_request = max(1, self._batch_bytes // (job.prepared.chunk_bytes + CHUNK_OVERHEAD))
        return job.prepared.data is not None or job.outstanding < REQUESTS * in_one_request

    def step(self, job: Job) -> bool:
        """Send the next chunks of a job, for one short turn; say whether any went.

        Raises:
            Changed: the file's bytes are not those that were hashed; nothing of the difference was sent.
            OSError: it cannot be read any more.
        """
        sent = 0
        while sent < TURN_BYTES and self.takes(job):
            taken = self._next(job)
            if taken is None:
                break
            index, value = taken
            if not self._produce(job, index, value):
                break
            sent += len(value)
        return sent > 0

    def _next(self, job: Job) -> tuple[int, bytes] | None:
        """Return the next message that is read, and keep the readers at work."""
        prepared, wire = job.prepared, self.settings.producer.wire
        if job.ready:
            return job.ready.popleft()
        if prepared.data is not None:
            if not job.todo:
                return None
            index = job.todo.popleft()
            start, end = job.span(index)
            head, tail = job.envelope(index, wire)
            return index, b"".join((head, memoryview(prepared.data)[start:end], tail))
        if job.file is None and job.todo:
            job.file = system.open_shared(prepared.source)
        while job.todo and len(job.reading) < AHEAD:
            together = max(1, READ_BYTES // prepared.chunk_bytes)
            indexes = [job.todo.popleft() for _ in range(min(together, len(job.todo)))]
            if not job.reading:
                # Just hashed, it is mostly in memory still: no thread need hand it over. Once one has to, all are read
                # by threads, ahead.
                try:
                    job.ready.extend(zip(indexes, job.read(indexes, wire, cached=True), strict=True))
                    return job.ready.popleft()
                except system.NotCached:
                    pass
            job.reading.append((indexes, self.readers.submit(job.read, indexes, wire)))
        if not job.reading or not job.reading[0][1].done():
            return None
        indexes, future = job.reading.popleft()
        job.ready.extend(zip(indexes, future.result(), strict=True))
        return job.ready.popleft()

    def wait_for_reader(self, job: Job, seconds: float) -> None:
        """Wait until the next chunk of a large file is read."""
        if job.reading:
            wait_for([job.reading[0][1]], timeout=seconds)

    def _produce(self, job: Job, index: int, value: bytes) -> bool:
        from confluent_kafka import KafkaException

        plain = value
        key = chunk_key(job.filename, job.subdir, index, job.prepared.total)
        if self.seal is not None:
            try:
                key, value = self.seal(self.topic, key, value)
            except OpenMSIStreamsError as error:
                # E.g. a chain that expired: the file waits and is tried again, the program goes on.
                job.ready.appendleft((index, plain))
                job.error = NotSealed(str(error))
                return False
        size = len(value)

        def acknowledged(error: Any, message: Any) -> None:
            self.in_flight -= size
            job.outstanding -= 1
            if error is not None:
                job.error = job.error or error
            else:
                self.last_ack = time.monotonic()
                self.down_since = 0.0
                self.messages += 1
                self.bytes += size
                job.acked = ranges.add(job.acked, *job.span(index))
            self.on_acknowledged(job)

        try:
            more = {"headers": self._headers} if self._headers else {}
            self._producer.produce(self.topic, value, key, partition=job.partition, on_delivery=acknowledged, **more)
        except BufferError:
            # The library's own queue is full: the chunk goes first next time.
            job.ready.appendleft((index, plain))
            return False
        except KafkaException as error:
            job.error = error.args[0]
            return False
        if not self.in_flight:
            self.last_ack = time.monotonic()
        self.in_flight += size
        job.outstanding += 1
        self.throttle.take(size)
        self._producer.poll(0)
        return True

    def poll(self, seconds: float) -> None:
        """Let acknowledgements in, waiting up to ``seconds`` for one."""
        if self._producer is not None:
            self._producer.poll(seconds)

    def flush(self, seconds: float) -> int:
        """Wait until all is acknowledged; return the number of messages that are not."""
        if self._producer is None:
            return 0
        deadline = time.monotonic() + seconds
        left = int(self._producer.flush(max(0.0, min(0.2, seconds))))
        while left and time.monotonic() < deadline and not self.fatal:
            left = int(self._producer.flush(0.2))
        return left

    def publish(self, topic: str, key: bytes, value: bytes) -> None:
        """Send a small message beside the chunks (heartbeats, logs); it may be lost if the queue is full."""
        from confluent_kafka import KafkaException

        if self._producer is None or self.fatal:
            return
        try:
            if self.seal is not None:
                key, value = self.seal(topic, key, value)
            self._producer.produce(topic, value, key)
        except (BufferError, KafkaException, OpenMSIStreamsError) as error:
            log.debug("%s not sent: %s", topic, error)


def explain(settings: Settings, topic: str, error: Any) -> str:
    """Return a delivery error in words: what happened, the usual cause, the cure."""
    from confluent_kafka import KafkaError

    code = error.code()
    if code == KafkaError.MSG_SIZE_TOO_LARGE:
        return (
            f"a chunk of {settings.chunks.chunk_bytes} bytes is larger than the topic {topic} takes; lower "
            "`chunks.chunk_bytes` (--chunk-bytes) here, or raise `max.message.bytes` of the topic and "
            "`message.max.bytes` of the broker"
        )
    if code in (KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED):
        return f"this user may not write to {topic}; ask the broker's administrator for the right to write"
    if code in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION):
        return f"the topic {topic} is not on the broker any more; it is created again at the next attempt"
    if code == KafkaError.INVALID_TIMESTAMP:
        return f"{kafka.CLOCK}; `openmsi-streams topics apply` has the broker date what comes to {topic}"
    return str(error.str())


def no_progress(settings: Settings, sender: Sender) -> BrokerError:
    """Return the error of a command that gives up waiting."""
    return kafka.no_broker(settings, sender.down_reason)
