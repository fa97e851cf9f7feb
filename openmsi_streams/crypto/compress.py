"""Compression before encryption: ciphertext cannot be compressed, so a broker's or client's compression gains nothing.

A framed value begins with ``0xC1``, the one byte that neither msgpack nor UTF-8 ever begins with, so that a frame is
never taken for a value nor a value for a frame. A value that is sent as it is has no frame and upstream's programs
read it; framed ones need our reader.
"""

from __future__ import annotations

import zlib

MARK = 0xC1
_STORED = b"\xc1\x00"
_ZLIB = b"\xc1\x01"
# Level 1: instrument PCs are slow, and higher levels gain a few percent on text at three times the time.
_LEVEL = 1
# Below this a frame does not pay.
_LEAST = 64


def frame(value: bytes, method: str) -> bytes:
    """Return what is to be encrypted for a value.

    Args:
        value: any bytes.
        method: ``zlib`` or ``none``; with ``none`` the value is passed on, unless its first byte looks like a frame.
    """
    if method == "zlib" and len(value) >= _LEAST:
        small = zlib.compress(value, _LEVEL)
        if len(small) + len(_ZLIB) < len(value):
            return _ZLIB + small
    return _STORED + value if value[:1] == b"\xc1" else value


def unframe(plain: bytes, limit: int) -> bytes:
    """Return the value that `frame` was given.

    What begins like a frame but is none, or would become larger than ``limit`` bytes, is returned as it is: it is
    no chunk and no message of ours, and the reader of the topic says so with its own reason.
    """
    if plain[:2] == _STORED:
        return plain[2:]
    if plain[:2] != _ZLIB:
        return plain
    reader = zlib.decompressobj()
    try:
        # One more than allowed, so that the end of a value of exactly the limit is seen.
        value = reader.decompress(plain[2:], limit + 1)
    except zlib.error:
        return plain
    return value if reader.eof and not reader.unused_data and len(value) <= limit else plain
