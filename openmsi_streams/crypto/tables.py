"""Table rows, sealed: the changelog of a worker's table lies on the broker too, and rows hold paths.

All workers of a lab share one key, which `provision` puts beside each reading node: a worker that takes partitions over
must read the rows at once, also when the worker that wrote them is gone, so an exchange of keys would not do.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

from openmsi_streams.crypto import library
from openmsi_streams.crypto.files import NodeFiles, write_secret
from openmsi_streams.errors import CryptoError

log = logging.getLogger(__name__)

KEY_BYTES = 32
SHARED = "tables.key"
# 0xC1 begins neither msgpack nor JSON, so rows from before encryption was switched on are told apart.
_MARK = b"\xc1\x52"
_NONCE_BYTES = 24


class TableCipher:
    """Seals and opens row values. Thread-safe."""

    def __init__(self, key: bytes) -> None:
        """Take the lab's table key, 32 bytes."""
        self._key = key
        self._sodium = library.fast_box() or library.sodium()

    def seal(self, value: bytes) -> bytes:
        """Return a value sealed: 42 bytes longer, and different each time."""
        nonce: bytes = self._sodium.randombytes(_NONCE_BYTES)
        return _MARK + nonce + bytes(self._sodium.crypto_secretbox(value, nonce, self._key))

    def open(self, value: bytes) -> bytes:
        """Return a value in the clear; one that was never sealed is returned as it is.

        Raises:
            CryptoError: sealed with another key, or changed.
        """
        if value[:2] != _MARK:
            return value
        at = len(_MARK) + _NONCE_BYTES
        try:
            return bytes(self._sodium.crypto_secretbox_open(value[at:], value[len(_MARK) : at], self._key))
        except ValueError:
            raise CryptoError(
                "A row of the worker's table was sealed with another key. All workers of an application must be "
                f"provisioned by one authority, or have the same {SHARED} beside their node."
            ) from None


def table_cipher(node: Path) -> TableCipher:
    """Return the cipher of a node's tables: with the lab's key, or, for a node that our authority did not make, with
    a key made beside it, which all workers of the application must be given.

    Args:
        node: the node's ``.config`` file.

    Raises:
        CryptoError: the key cannot be read or made.
    """
    files = NodeFiles(node)
    if files.table_key.exists():
        try:
            key = bytes.fromhex(files.table_key.read_text(encoding="ascii"))
        except (OSError, ValueError):
            key = b""
        return TableCipher(_sized(key, files.table_key))
    path = files.config.parent / SHARED
    if not path.exists():
        log.warning("Made %s, the key of table rows. Other workers of this application need the same file.", path)
        write_secret(path, os.urandom(KEY_BYTES))
    try:
        return TableCipher(_sized(path.read_bytes(), path))
    except OSError as error:
        raise CryptoError(f"The key {path} cannot be read: {error.strerror}. Check its owner and mode.") from None


def _sized(key: bytes, path: Path) -> bytes:
    if len(key) != KEY_BYTES:
        raise CryptoError(f"{path} does not hold a key of {KEY_BYTES} bytes. Put it back from a copy.")
    return key
