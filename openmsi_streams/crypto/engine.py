"""kafkacrypto's machine with its sharp edges covered. Imported only when a node is opened (it loads kafkacrypto).

* Its background thread stops for ever on an exception, holding the lock that every call needs: here the clients do not
  raise, the lock tells its waiters when the thread has died, and the thread's end is reported.
* It asks for a key once: here the wanted keys are asked for again from the same thread.
* It forgets to serve old keys until it encrypts: here it subscribes at once, without using up a new data key.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import msgspec
from confluent_kafka import KafkaException

from openmsi_streams.config import kafka
from openmsi_streams.config.settings import Settings
from openmsi_streams.crypto import library
from openmsi_streams.crypto.files import NodeFiles
from openmsi_streams.errors import CryptoError

library.load()

from kafkacrypto import KafkaConsumer, KafkaCrypto, KafkaProducer, TopicPartition  # noqa: E402
from kafkacrypto.cryptostore import CryptoStore  # noqa: E402
from kafkacrypto.keygenerator import KeyGenerator  # noqa: E402

log = logging.getLogger(__name__)

# The library's loop turns this often; an exchange takes three to five turns.
POLL_MS = 100
# Seconds until a request that nobody answered is sent again.
ASK_AGAIN = 10
# How long a producer answers for an old data key: longer than data waits in any log we plan.
KEEP_PRODUCER_KEYS = 90 * 86400
# Key indexes in one request: a request of 9 kB. The others have their turn in the next.
ASK_AT_ONCE = 256
# Topics that carry data keys; the library's own default, which no node file of ours changes.
KEYS_SUFFIX = ".keys"
# A flush inside the loop waits at most so long; librdkafka goes on sending by itself.
FLUSH_SECONDS = 0.3


class Guard:
    """A lock whose waiters are told when nobody will ever release it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.broken: BaseException | None = None

    def acquire(self) -> bool:
        """Take the lock. Raises CryptoError when the background thread has died."""
        while True:
            if self.broken is not None:
                raise CryptoError(
                    f"KafkaCrypto's background thread has stopped ({self.broken!r}). Start the process again; "
                    "its supervisor does that."
                )
            if self._lock.acquire(timeout=0.2):
                if self.broken is None:
                    return True
                self._lock.release()

    def release(self) -> None:
        """Give the lock back."""
        self._lock.release()

    def __enter__(self) -> Guard:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class QuietProducer(KafkaProducer):  # type: ignore[misc]
    """The producer of key messages: failures are logged, not raised, and closing is quick."""

    def __init__(self, **configs: Any) -> None:
        super().__init__(**configs)
        self.handed_over: set[tuple[str, bytes]] = set()
        """(topic, key index) of data keys that lie on the broker for somebody who may have them."""
        # The base class sets this on the instance, so a method of this class would not be found.
        self.flush = self._brief_flush

    def send(self, topic: str, *, key: bytes, value: bytes) -> None:
        """Send to partition 0, the only one that readers of key topics look at; failures are logged, and repeated."""

        def delivered(error: Any, _: Any) -> None:
            if error is not None:
                log.warning("A key message was not taken by the broker: %s", error)
            elif topic.endswith(KEYS_SUFFIX):
                self.handed_over.update((topic, index) for index in msgspec.msgpack.decode(key, type=list[bytes]))

        try:
            self.produce(topic, value=value, key=key, partition=0, on_delivery=delivered)
        except (BufferError, KafkaException) as error:
            log.warning("A key message could not be sent: %s", error)

    def _brief_flush(self, timeout: float | str | None = FLUSH_SECONDS, **_: Any) -> Any:
        # The library flushes twice in each turn of its loop.
        return self._flush_native(timeout=min(timeout, FLUSH_SECONDS) if isinstance(timeout, (int, float)) else 1.0)

    def close(self) -> None:
        """Send what is left for a second, then drop it."""
        self._flush_native(timeout=1.0)
        self.purge()
        # It refers to ourselves, and would keep the client and its threads until the collector comes by.
        self.__dict__.pop("flush", None)


class QuietConsumer(KafkaConsumer):  # type: ignore[misc]
    """The consumer of key messages; each poll also gives the node a turn in the library's thread."""

    turn: Callable[[], None] = staticmethod(lambda: None)

    def poll(self, timeout_ms: int = 0, max_records: int | None = None) -> Any:
        """Fetch messages, or none when the broker does not answer."""
        try:
            found = super().poll(timeout_ms=timeout_ms, max_records=max_records)
        except (KafkaException, RuntimeError) as error:
            log.warning("Key messages could not be fetched: %s", error)
            time.sleep(timeout_ms / 1000.0)
            found = {}
        self.turn()
        return found

    def assign_and_seek(self, partoffs: Any) -> Any:
        """Assign, or log why not; the library assigns again with its next topic."""
        try:
            return super().assign_and_seek(partoffs)
        except KafkaException as error:
            log.warning("Key topics could not be assigned: %s", error)
            return None

    def close(self) -> None:
        """Close the client for good; the library's own version leaves it open."""
        with contextlib.suppress(KafkaException, RuntimeError):
            super(KafkaConsumer, self).close()


class Machine(KafkaCrypto):  # type: ignore[misc]
    """KafkaCrypto that reports its end and repeats its requests."""

    failure: BaseException | None = None
    # Set by the library from the node file.
    CRYPTO_SUB_INTERVAL: float
    CRYPTO_MAX_PGEN_AGE: float

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.wanted: dict[str, dict[bytes, float]] = {}
        self.guard = Guard()
        super().__init__(*arguments, **options)

    # The base class puts a plain lock here before it starts its thread; ours takes its place from the first moment.
    @property
    def _lock(self) -> Guard:
        return self.guard

    @_lock.setter
    def _lock(self, _: object) -> None:
        pass

    def _process_mgmt_messages(self) -> None:
        try:
            self.MGMT_POLL_INTERVAL = POLL_MS
            self.CRYPTO_SUB_INTERVAL = min(self.CRYPTO_SUB_INTERVAL, ASK_AGAIN)
            self.CRYPTO_MAX_PGEN_AGE = max(self.CRYPTO_MAX_PGEN_AGE, KEEP_PRODUCER_KEYS)
            # Waiting happens in the log, never in a call.
            self.DESER_INITIAL_WAIT_INTERVALS = 0
            self._make_lists()
            self._kc.turn = self._turn
            super()._process_mgmt_messages()
        except BaseException as error:
            self.failure = error
            self.guard.broken = error
            if not self._mgmt_thread_stop:
                log.error("KafkaCrypto's background thread has stopped: %r", error)

    def _make_lists(self) -> None:
        # It keeps views of a dictionary, to which entries from the topics allowlist and denylist cannot be added.
        exchange = self._cryptoexchange
        for name in ("_CryptoExchange__allowlist", "_CryptoExchange__denylist"):
            setattr(exchange, name, list(getattr(exchange, name)))

    def alive(self) -> bool:
        """Say whether the background thread runs."""
        thread = self._mgmt_thread
        return self.failure is None and thread is not None and thread.is_alive()

    def serve(self, root: str) -> None:
        """Listen to requests for the keys of a root topic from now on."""
        topic = root + self.TOPIC_SUFFIX_REQS
        with self.guard:
            if topic not in self._tps:
                self._tps[topic] = TopicPartition(topic, 0)
                self._tps_offsets[topic] = 0
                self._tps_updated = True

    def is_stored(self) -> bool:
        """Say whether every data key made so far is on disk."""
        with self.guard:
            return not self._new_pgens

    def forget_current(self, root: str) -> bool:
        """Let the next encryption make a new data key, if the current one cannot encrypt; say whether that is so.

        The library refuses to use a data key that it already used before a restart (a seed restored from a backup),
        steps its ratchet on, and then stays where it is.
        """
        with self.guard:
            index = self._cur_pgens.get(root)
            if index is None or "value" in self._pgens.get(root, {}).get(index, {}):
                return False
            del self._cur_pgens[root]
            return True

    def secret(self, root: str, index: bytes) -> bytes | None:
        """Return a data key that was received, or is our own; None if neither."""
        for keys in (self._cgens, self._pgens):
            # The library fills the entry in steps, from its own thread; the secret comes last.
            found = keys.get(root, {}).get(index, {}).get("secret")
            if found is not None:
                return bytes(found)
        return None

    def received(self) -> dict[str, dict[bytes, bytes]]:
        """Return all data keys that were received; to be called in the library's thread."""
        return {
            root: {index: bytes(one["secret"]) for index, one in keys.items()} for root, keys in self._cgens.items()
        }

    def _turn(self) -> None:
        """Ask for what is wanted; runs in the library's thread, which does not hold the lock here."""
        for root, wanted in list(self.wanted.items()):
            for index in [one for one in list(wanted) if self.secret(root, one) is not None]:
                wanted.pop(index, None)
            if wanted:
                self._ask(root, wanted)
        self.on_turn()

    def _ask(self, root: str, wanted: dict[bytes, float]) -> None:
        window = list(wanted)[:ASK_AT_ONCE]
        with self.guard:
            asked = self._cwaits.setdefault(root, {})
            last = self._subs_last.get(root)
            if last is None or last[0] + self.CRYPTO_SUB_INTERVAL < time.time():
                # Next time it is the others' turn.
                for index in window if len(wanted) > ASK_AT_ONCE else ():
                    wanted[index] = wanted.pop(index, time.time())
                asked.clear()
                asked.update(dict.fromkeys(window, 0))
            topic = root + self.TOPIC_SUFFIX_KEYS
            if topic not in self._tps:
                self._tps[topic] = TopicPartition(topic, 0)
                self._tps_offsets[topic] = 0
                self._tps_updated = True
            elif root not in self._subs_needed:
                self._subs_needed.append(root)

    on_turn: Callable[[], None] = staticmethod(lambda: None)


def generators(secret: bytes) -> tuple[Any, Any]:
    """Return the library's key generators of a data key: for keys and for values of messages."""
    pair: tuple[Any, Any] = KeyGenerator.get_key_value_generators(secret)
    return pair


def build(settings: Settings, files: NodeFiles) -> tuple[CryptoStore, Machine]:
    """Return a node's store and its machine, running.

    Raises:
        CryptoError: the files cannot be used.
        ConfigurationError: the broker's options cannot.
    """
    # Connection errors are told by the clients that carry the data; these two are silent.
    common = {**kafka.client(settings), "client.id": f"{files.node_id}.kafkacrypto", "log_level": 0}
    producer = kafka.built(
        lambda options: QuietProducer(**options),
        # Requests are repeated, so an old one is worth nothing.
        {**common, "message.timeout.ms": 60_000},
    )
    consumer = kafka.built(
        lambda options: QuietConsumer(**options),
        {
            **common,
            "group.id": f"{files.node_id}.kafkacrypto",
            # With "latest" the first request or answer is missed, and the next comes a minute later.
            "auto.offset.reset": "earliest",
            "enable.auto.commit": True,
            "session.timeout.ms": 6000,
            # Topics of the exchange may be created after us.
            "topic.metadata.refresh.interval.ms": 10_000,
        },
    )
    try:
        store = CryptoStore(files.node_id, str(files.config))
        library.quiet()
        machine = Machine(
            *(files.node_id, producer, consumer), config=store, cryptokey=str(files.secret), seed=str(files.seed)
        )
    except Exception as error:
        consumer.close()
        raise CryptoError(
            f"The node {files.node_id} cannot be opened: {error!r}. Check it with `openmsi-streams crypto check "
            f"{files.config}`."
        ) from error
    return store, machine
