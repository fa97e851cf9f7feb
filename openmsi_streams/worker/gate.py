"""The gate of an encrypted topic: opens messages before the engine sees them, and parks those whose key is not here.

A message without its data key holds up nobody: its place in the log is noted in the partition's table, and it is read
again when the key has come. What the worker writes is sealed on the way out.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from openmsi_streams.assembly.message import Message
from openmsi_streams.chunks.reasons import Reason, Unusable
from openmsi_streams.config.settings import MIB, Settings
from openmsi_streams.crypto.messages import Opener, Waiting, parse
from openmsi_streams.crypto.node import is_encrypted
from openmsi_streams.crypto.parking import ParkedRange, Parking
from openmsi_streams.errors import CryptoError
from openmsi_streams.worker.engine import Engine
from openmsi_streams.worker.lane import Lane
from openmsi_streams.worker.ports import Publisher, Rows
from openmsi_streams.worker.recover import Recovery

log = logging.getLogger(__name__)

PARK_PREFIX = b"\0park:"
# How often parked messages are looked at; a key that has come is used within this time.
LOOK_SECONDS = 0.5
# Decryption of a default chunk takes about a millisecond and lets other threads run.
THREADS = 2
# A default chunk is opened in a third of a millisecond (bench/crypto.py): less than handing it to a thread and back.
INLINE_BYTES = 1 * MIB
# Topics that only workers read are sealed with the table key, which all of them share: a worker must be able to go on
# with what another one left, and the data keys of one that is gone are gone with it.
INTERNAL = (".delivered",)
# Counts and addresses, no names of files; peers and monitors read them.
CLEAR = (".heartbeats", ".logs")


class Gate:
    """Opens what comes in; fulfils `engine.Gate`."""

    def __init__(self, settings: Settings, node: Any, cipher: Any) -> None:
        """Take an open node (`crypto.node.open_node`) and the cipher of tables (`crypto.tables.TableCipher`)."""
        self.node = node
        self.cipher = cipher
        self._settings = settings
        self._opener = Opener(node, settings.chunks.largest_chunk + MIB)
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="decrypt")
        self._parking: dict[Lane, Parking] = {}
        self._reading: set[tuple[str, int, int, bytes]] = set()

    def covers(self, topic: str) -> bool:
        """Say whether every message of this chunk topic must be encrypted."""
        return is_encrypted(self._settings, topic)

    async def open(self, engine: Engine, lane: Lane, message: Message) -> Message | None:
        """Return the message in the clear; None if it waits for its key.

        Raises:
            Unusable: if it is not encrypted, or was changed on its way.
        """
        if len(message.value or b"") <= INLINE_BYTES:
            opened = self._opener.open(message.topic, message.key, message.value)
            # Faust hands over what is in its buffer without a pause; thirty chunks at once would be 15 ms of work.
            await asyncio.sleep(0)
        else:
            loop = asyncio.get_running_loop()
            opened = await loop.run_in_executor(
                self._pool, self._opener.open, message.topic, message.key, message.value
            )
        if isinstance(opened, Waiting):
            parking = self.parking(engine, lane)
            if not parking.park(message.topic, lane.partition, message.offset, opened.root, opened.key_index):
                raise Unusable(Reason.KEY_NEVER_CAME, "Too many data keys are waited for already.")
            return None
        return Message(
            message.topic, message.partition, message.offset, message.timestamp, opened.key, opened.value,
            message.headers,
        )  # fmt: skip

    def open_now(self, topic: str, key: bytes | None, value: bytes | None) -> tuple[bytes | None, bytes | None] | None:
        """Return a small message in the clear, for views; None if its key is not here or it is damaged."""
        try:
            opened = self._opener.open(topic, key, value)
        except Unusable:
            return None
        return None if isinstance(opened, Waiting) else (opened.key, opened.value)

    def parking(self, engine: Engine, lane: Lane) -> Parking:
        """Return the parking of a partition."""
        found = self._parking.get(lane)
        if found is None:
            found = self._parking[lane] = Parking(_Slice(engine.tables[lane.topic], lane.partition), clock=engine.clock)
        return found

    async def run(self, engine: Engine, recovery: Recovery) -> None:
        """Read parked messages again when their keys have come, and give up those that waited too long."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if not self.node.alive():
                raise CryptoError(f"{self.node.failure()}. No key can be exchanged any more.")
            lanes = set(engine.lanes.values())
            for gone in set(self._parking) - lanes:
                del self._parking[gone]
            for lane in lanes:
                if self.covers(lane.topic):
                    self._look(engine, recovery, lane)

    def _look(self, engine: Engine, recovery: Recovery, lane: Lane) -> None:
        parking = self.parking(engine, lane)
        for one in parking.ready(self.node):
            self._again(engine, recovery, lane, one, given_up=False)
        for one in parking.expired(self._settings.crypto.wait_seconds):
            self._again(engine, recovery, lane, one, given_up=True)

    def _again(self, engine: Engine, recovery: Recovery, lane: Lane, one: ParkedRange, *, given_up: bool) -> None:
        name = (one.topic, one.partition, one.start, one.key_index)
        if name in self._reading:
            return
        self._reading.add(name)
        home = one.topic.endswith(".home")

        async def act(message: Message) -> None:
            envelope = parse(message.value)
            if envelope is None or envelope.key_index != one.key_index:
                return
            if given_up:
                await engine.quarantine_message(
                    lane.topic, message, Reason.KEY_NEVER_CAME, "The message's data key never came."
                )
            else:
                await engine.take(lane, message, home=home, refill=True)

        def done(completed: bool) -> None:
            self._reading.discard(name)
            if completed:
                self.parking(engine, lane).done(one)

        recovery.read_for(lane, home, one.start, one.end, act, done)

    def close(self) -> None:
        """End threads and the node."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self.node.close()


class SealingPublisher:
    """Seals what goes out beside encrypted topics; fulfils `worker.ports.Publisher`."""

    def __init__(self, inner: Publisher, gate: Gate, topics: list[str]) -> None:
        """Take the publisher below, the gate, and the chunk topics."""
        self._inner = inner
        self._gate = gate
        self._topics = [topic for topic in topics if gate.covers(topic)]

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
        """Send as the publisher below, with the value sealed unless it is ciphertext already."""
        if value is not None and self._seals(topic) and parse(value) is None:
            loop = asyncio.get_running_loop()
            seal = self._gate.cipher.seal if topic.endswith(INTERNAL) else partial(self._gate.node.seal_value, topic)
            value = await loop.run_in_executor(None, seal, value)
        return await self._inner.send(topic, key, value, partition=partition, headers=headers, timestamp=timestamp)

    def _seals(self, topic: str) -> bool:
        return not topic.endswith(CLEAR) and any(topic.startswith(f"{one}.") for one in self._topics)


class _Slice(MutableMapping[bytes, bytes]):
    """The parking rows of one partition's table."""

    def __init__(self, rows: Rows, partition: int) -> None:
        self._rows = rows
        self._partition = partition
        self._kept = {key[len(PARK_PREFIX) :]: value for key, value in rows.items(partition, PARK_PREFIX)}

    def __getitem__(self, key: bytes) -> bytes:
        return self._kept[key]

    def __setitem__(self, key: bytes, value: bytes) -> None:
        self._kept[key] = value
        self._rows.put(self._partition, PARK_PREFIX + key, value)

    def __delitem__(self, key: bytes) -> None:
        del self._kept[key]
        self._rows.delete(self._partition, PARK_PREFIX + key)

    def __iter__(self) -> Iterator[bytes]:
        return iter(dict(self._kept))

    def __len__(self) -> int:
        return len(self._kept)
