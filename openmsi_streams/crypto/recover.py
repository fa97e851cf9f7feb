"""Reading the data of a producer that is gone, with its vault entry."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from openmsi_streams.chunks.codec import Chunk, decode
from openmsi_streams.chunks.reasons import Unusable
from openmsi_streams.config import kafka
from openmsi_streams.crypto import chains, library
from openmsi_streams.crypto.files import NodeFiles
from openmsi_streams.crypto.keyring import Keyring
from openmsi_streams.crypto.messages import MAX_PLAIN, Envelope, Opened, Opener, parse
from openmsi_streams.errors import BrokerError, CryptoError

if TYPE_CHECKING:
    from openmsi_streams.config.settings import Settings

# How long a broker may be silent in the middle of a read.
PATIENCE = 30.0
# How long no message comes at the end of a partition, and how long later ones are taken along.
QUIET = 0.5
STILL_COMING = 5.0


class Scan(msgspec.Struct):
    """Which data keys the messages of a topic need."""

    messages: int = 0
    plain: int = 0
    """Messages that are not encrypted."""
    indexes: dict[bytes, int] = {}
    """Key index -> how many values use it."""


def scan(settings: Settings, topic: str) -> Scan:
    """Read a topic's log and count its key indexes; nothing is decrypted.

    Raises:
        BrokerError: the broker does not answer.
    """
    found = Scan()
    for key, value in read(settings, topic):
        found.messages += 1
        envelopes = [one for one in (parse(key), parse(value)) if one is not None]
        found.plain += not envelopes
        for envelope in envelopes[-1:]:
            found.indexes[envelope.key_index] = found.indexes.get(envelope.key_index, 0) + 1
        for envelope in envelopes[:-1]:
            found.indexes.setdefault(envelope.key_index, 0)
    return found


def read(settings: Settings, topic: str) -> Iterator[tuple[bytes | None, bytes | None]]:
    """Yield key and value of every message that the log holds now, in offset order of each partition.

    Raises:
        BrokerError: the broker does not answer, or has no such topic.
    """
    from confluent_kafka import Consumer, KafkaException, TopicPartition

    consumer = kafka.built(Consumer, {**kafka.consumer(settings), "enable.partition.eof": True})
    try:
        known = consumer.list_topics(topic, timeout=settings.broker.connect_timeout).topics[topic]
        if known.error is not None:
            raise BrokerError(f"The topic {topic} cannot be read: {known.error}. Check its name.")
        for partition in sorted(known.partitions):
            low, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=PATIENCE)
            if low >= high:
                continue
            consumer.assign([TopicPartition(topic, partition, low)])
            yield from _to_the_end(consumer, f"{topic}[{partition}]")
    except KafkaException as error:
        raise kafka.no_broker(settings, kafka.cause(error)) from None
    finally:
        consumer.close()


def _to_the_end(consumer: Any, where: str) -> Iterator[tuple[bytes | None, bytes | None]]:
    """Yield messages until a fetch finds no more, and stays so for a moment.

    The end that a broker tells is not asked: the embedded broker's is that of its last batch's first message.
    """
    from confluent_kafka import KafkaError

    heard = time.monotonic()
    ended = 0.0
    while True:
        message = consumer.poll(QUIET if ended else 1.0)
        if message is None:
            if ended:
                return
            if time.monotonic() - heard > PATIENCE:
                raise BrokerError(f"The broker was silent while {where} was read.")
            continue
        heard = time.monotonic()
        error = message.error()
        if error is None:
            yield message.key(), message.value()
            # A topic that is written to all the time has no quiet end.
            if ended and heard - ended > STILL_COMING:
                return
        elif error.code() == KafkaError._PARTITION_EOF:
            ended = ended or heard
        else:
            raise BrokerError(f"{where} cannot be read: {error}.")


class KnownKeys:
    """Data keys in memory, for an `Opener`."""

    def __init__(self, keys: dict[str, dict[bytes, bytes]]) -> None:
        """Take data keys by root topic and key index."""
        library.load()
        from kafkacrypto.keygenerator import KeyGenerator

        self._pairs = {
            (root, index): KeyGenerator.get_key_value_generators(secret)
            for root, held in keys.items()
            for index, secret in held.items()
        }

    def has_key(self, root: str, key_index: bytes) -> bool:
        """Say whether the data key is here."""
        return (root, key_index) in self._pairs

    def request(self, root: str, key_index: bytes) -> None:
        """Nobody is asked."""

    def decrypt(self, root: str, field: str, envelope: Envelope) -> bytes:
        """Return the plaintext. ValueError: it was changed."""
        pair = self._pairs[root, envelope.key_index]
        key, nonce = pair[0 if field == "key" else 1].generate(salt=envelope.salt)
        plain: bytes = library.sodium().crypto_secretbox_open(bytes(envelope.box), nonce, key)
        return plain


def into_node(path: Path, keys: dict[str, dict[bytes, bytes]]) -> int:
    """Put data keys into a node's ring, also while the node runs: it looks every second. Returns how many are new."""
    library.load()
    from kafkacrypto.cryptokey import CryptoKey

    found = NodeFiles(path)
    found.require()
    secret = CryptoKey(str(found.secret))
    ring = Keyring(found.keyring, secret.wrap_opaque, secret.unwrap_opaque)
    return sum(ring.add(root, held) for root, held in keys.items())


class Recovered(msgspec.Struct):
    """What `to_folder` did."""

    files: dict[str, str] = {}
    """Relative path -> ``whole``, ``incomplete`` or ``damaged``."""
    waiting: int = 0
    """Messages whose data key is in no vault entry."""
    unusable: dict[str, int] = {}
    """Reason -> messages that could not be used."""


def to_folder(
    settings: Settings,
    topic: str,
    keys: dict[str, dict[bytes, bytes]],
    folder: Path,
    report: Callable[[str], Any] = lambda _: None,
) -> Recovered:
    """Decrypt a topic's chunks and rebuild its files, each checked against its SHA-512.

    A newer version of a path replaces an older one when it is whole. Files appear under their names only when whole.

    Args:
        settings: broker and size limits.
        topic: the chunk topic.
        keys: data keys, see `vault.find`.
        folder: where to.
        report: is told each file that is done.
    """
    opener = Opener(KnownKeys(keys), MAX_PLAIN)
    result = Recovered()
    parts = folder / ".recovering"
    parts.mkdir(parents=True, exist_ok=True)
    have: dict[tuple[str, bytes], set[int]] = {}
    for key, value in read(settings, topic):
        try:
            opened = opener.open(topic, key, value)
            if not isinstance(opened, Opened):
                result.waiting += 1
                continue
            chunk, relative = decode(
                opened.value,
                largest_chunk=settings.chunks.largest_chunk,
                max_file_bytes=settings.chunks.max_file_bytes,
            )
        except Unusable as error:
            result.unusable[error.reason] = result.unusable.get(error.reason, 0) + 1
            continue
        seen = have.setdefault((relative, chunk.file_hash), set())
        if chunk.index in seen:
            continue
        part = parts / hashlib.sha256(relative.encode() + b"\0" + chunk.file_hash).hexdigest()
        _write(part, chunk)
        seen.add(chunk.index)
        if len(seen) < chunk.total:
            result.files.setdefault(relative, "incomplete")
            continue
        with part.open("rb") as file:
            whole = hashlib.file_digest(file, "sha512").digest() == chunk.file_hash
        if whole:
            target = folder / relative
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(part, target)
        result.files[relative] = "whole" if whole else "damaged"
        report(f"{result.files[relative]}: {relative}")
    return result


def _write(part: Path, chunk: Chunk) -> None:
    with part.open("r+b" if part.exists() else "w+b") as file:
        file.seek(chunk.offset)
        file.write(chunk.data)


def seed_of(path: Path) -> tuple[str, bytes, bytes, Sequence[str]]:
    """Return node id, public key, seed content and root topics of a producer that is still there, for the vault.

    Raises:
        CryptoError: its files are not there.
    """
    from openmsi_streams.crypto.provision import public_key

    found = NodeFiles(path)
    found.require_except_trust()
    try:
        seed = found.seed.read_bytes()
    except OSError as error:
        raise CryptoError(f"{found.seed} cannot be read: {error.strerror}.") from None
    return found.node_id, public_key(found), seed, chains.best(found).topics
