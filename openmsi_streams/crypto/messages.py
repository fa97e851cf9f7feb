"""Encrypted messages: a strict parse before anything reaches the library, and opening them in any thread.

A field (key or value) is ``0x01`` and a msgpack array of key index (32 bytes), salt (16 bytes) and box: the format of
kafkacrypto 0.9.11 with long key indexes. What is not exactly that is not ours: lenient parsing let a stranger feed the
library key indexes of 600 kB and stop it for good.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from openmsi_streams.chunks.reasons import Reason, Unusable
from openmsi_streams.crypto import compress

KEY_INDEX_BYTES = 32
SALT_BYTES = 16
MAC_BYTES = 16
# Format byte, msgpack array of 3, bin8 of 32.
_HEAD = b"\x01\x93\xc4\x20"
_SALT_HEAD = b"\xc4\x10"
_SALT_AT = len(_HEAD) + KEY_INDEX_BYTES
_BOX_AT = _SALT_AT + len(_SALT_HEAD) + SALT_BYTES
# msgpack writes the shortest of bin8, bin16 and bin32: marker -> (bytes of length, smallest length it may hold).
_BIN = {0xC4: (1, 0), 0xC5: (2, 1 << 8), 0xC6: (4, 1 << 16)}
# A plain value may be this large after decompression: the largest chunk that settings allow, and its other fields.
MAX_PLAIN = (64 << 20) + (1 << 16)


class Envelope(msgspec.Struct, frozen=True, gc=False):
    """An encrypted field, taken apart."""

    key_index: bytes
    salt: bytes
    box: memoryview
    """MAC and ciphertext; a view into the message."""


class Opened(msgspec.Struct, frozen=True, gc=False):
    """A message in the clear."""

    key: bytes | None
    value: bytes | None


class Waiting(msgspec.Struct, frozen=True, gc=False):
    """A message whose data key is not here yet."""

    root: str
    key_index: bytes


class Keys(Protocol):
    """What opening needs of a node."""

    def has_key(self, root: str, key_index: bytes) -> bool:
        """Say whether the data key is here."""

    def request(self, root: str, key_index: bytes) -> None:
        """Ask for the data key, again and again until it is here."""

    def decrypt(self, root: str, field: str, envelope: Envelope) -> bytes:
        """Return the plaintext of a ``key`` or ``value`` field. ValueError: it was changed on its way."""


def root_of(topic: str) -> str:
    """Return what stands before the first dot: topics that share it share data keys and permissions."""
    return topic.partition(".")[0]


def parse(value: bytes | memoryview | None) -> Envelope | None:
    """Return the parts of an encrypted field, or None if these bytes are not exactly one. Never raises."""
    if value is None or len(value) < _BOX_AT + 2 + MAC_BYTES:
        return None
    view = memoryview(value)
    if view[: len(_HEAD)] != _HEAD or view[_SALT_AT : _SALT_AT + 2] != _SALT_HEAD:
        return None
    kind = _BIN.get(view[_BOX_AT])
    if kind is None:
        return None
    width, least = kind
    start = _BOX_AT + 1 + width
    size = int.from_bytes(view[_BOX_AT + 1 : start], "big")
    if size < max(least, MAC_BYTES) or start + size != len(view):
        return None
    return Envelope(bytes(view[len(_HEAD) : _SALT_AT]), bytes(view[_SALT_AT + 2 : _BOX_AT]), view[start:])


class Opener:
    """Opens messages with the data keys of a node. Thread-safe; blocks for the time of a decryption only."""

    def __init__(self, node: Keys, max_plain: int = MAX_PLAIN) -> None:
        """Take a node, and the bytes that a value may have after decompression."""
        self._node = node
        self._max_plain = max_plain

    def open(self, topic: str, key: bytes | None, value: bytes | None) -> Opened | Waiting:
        """Return a message in the clear, or which key it waits for (that key is asked for).

        Raises:
            Unusable: NOT_ENCRYPTED for a message in the clear or in another format, UNDECRYPTABLE for one that was
                changed on its way or made with another data key than it says.
        """
        # A key may be in the clear (`replay` sends such): nothing rests on it, since a chunk names its file itself.
        envelope, key_envelope = self._envelope(topic, value), parse(key)
        root = root_of(topic)
        for one in (envelope, key_envelope):
            if one is not None and not self._node.has_key(root, one.key_index):
                self._node.request(root, one.key_index)
                return Waiting(root, one.key_index)
        plain_key = key if key_envelope is None else self._decrypt(topic, "key", key_envelope)
        if envelope is None:
            return Opened(plain_key, None)
        return Opened(plain_key, compress.unframe(self._decrypt(topic, "value", envelope), self._max_plain))

    def open_value(self, topic: str, value: bytes | None) -> bytes | Waiting | None:
        """Return the plain value of a message whose key was left in the clear (compacted topics); see `open`."""
        opened = self.open(topic, None, value)
        return opened if isinstance(opened, Waiting) else opened.value

    def _envelope(self, topic: str, data: bytes | None) -> Envelope | None:
        if data is None:
            return None
        envelope = parse(data)
        if envelope is None:
            raise Unusable(Reason.NOT_ENCRYPTED, f"A message on {topic} is not encrypted.")
        return envelope

    def _decrypt(self, topic: str, field: str, envelope: Envelope) -> bytes:
        try:
            return self._node.decrypt(root_of(topic), field, envelope)
        except ValueError:
            raise Unusable(
                Reason.UNDECRYPTABLE,
                f"The {field} of a message on {topic} was changed on its way, or is not of the producer it names.",
            ) from None
