"""Messages between the worker and its processor processes: a length of four bytes, then msgpack."""

from __future__ import annotations

import struct
from typing import IO, Any

import msgspec

_LENGTH = struct.Struct("<I")
_encode = msgspec.msgpack.Encoder(enc_hook=str).encode
_decode = msgspec.msgpack.Decoder().decode


def write(stream: IO[bytes], message: dict[str, Any]) -> None:
    """Write one message. Raises OSError when the other side is gone."""
    data = _encode(message)
    stream.write(_LENGTH.pack(len(data)) + data)
    stream.flush()


def read(stream: IO[bytes]) -> dict[str, Any] | None:
    """Return the next message, or None when the other side is gone."""
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    data = stream.read(_LENGTH.unpack(head)[0])
    if len(data) < _LENGTH.unpack(head)[0]:
        return None
    message: dict[str, Any] = _decode(data)
    return message
