"""Data keys that a node has received, kept on disk, sealed with the node's own key.

kafkacrypto keeps them in memory only: a reader that restarts while a producer is switched off could read nothing of it
until it is back. Whoever holds this file *and* the node's secret file can read what the node could read.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from openmsi_streams.crypto.files import write_secret
from openmsi_streams.errors import CryptoError

log = logging.getLogger(__name__)

# A producer makes one key a day and start; ten thousand last a lab for years. The oldest go first.
MAX_KEYS = 10_000
DATA_KEY_BYTES = 32


class _Key(msgspec.Struct, array_like=True):
    root: str
    index: bytes
    secret: bytes
    since: float


_decoder = msgspec.msgpack.Decoder(list[_Key])


class Keyring:
    """A file of data keys by root topic and key index. Thread-safe."""

    def __init__(self, path: Path, seal: Callable[[bytes], bytes], unseal: Callable[[bytes], bytes | None]) -> None:
        """Take the file's path and the functions that seal its content; read it if it is there.

        A file that cannot be unsealed is left alone and never overwritten; the ring then lives in memory.
        """
        self._path = path
        self._seal = seal
        self._unseal = unseal
        self._lock = threading.Lock()
        self._keys: dict[tuple[str, bytes], _Key] = {}
        self._stamp = -1
        self._writable = True
        self.refresh()

    def get(self, root: str, index: bytes) -> bytes | None:
        """Return a data key, or None."""
        found = self._keys.get((root, index))
        return None if found is None else found.secret

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, root: str, keys: Mapping[bytes, bytes]) -> int:
        """Keep these data keys; returns how many are new. A disk that refuses is reported and survived."""
        # Another process may have added keys; writing must not lose them.
        self.refresh()
        with self._lock:
            new = {(root, index): secret for index, secret in keys.items() if (root, index) not in self._keys}
            new = {name: secret for name, secret in new.items() if len(secret) == DATA_KEY_BYTES}
            if not new:
                return 0
            now = time.time()
            self._keys.update({name: _Key(*name, secret, now) for name, secret in new.items()})
            surplus = len(self._keys) - MAX_KEYS
            for name in sorted(self._keys, key=lambda one: self._keys[one].since)[: max(0, surplus)]:
                del self._keys[name]
            self._write()
            return len(new)

    def refresh(self) -> None:
        """Read the file again if it has changed: `crypto recover` adds keys to it while a worker runs."""
        with self._lock:
            try:
                stamp = os.stat(self._path).st_mtime_ns
            except OSError:
                return
            if stamp == self._stamp:
                return
            self._stamp = stamp
            try:
                plain = self._unseal(self._path.read_bytes())
                read = _decoder.decode(plain or b"\xff")
            except (OSError, msgspec.DecodeError, ValueError):
                log.error("%s cannot be read with this node's key; it is left as it is.", self._path)
                self._writable = False
                return
            self._writable = True
            for one in read:
                self._keys.setdefault((one.root, one.index), one)

    def _write(self) -> None:
        if not self._writable:
            return
        try:
            write_secret(self._path, self._seal(msgspec.msgpack.encode(list(self._keys.values()))))
            self._stamp = os.stat(self._path).st_mtime_ns
        except (CryptoError, OSError) as error:
            log.warning("Received keys are in memory only: %s", error)
