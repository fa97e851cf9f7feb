"""The vault: what is needed to read a producer's data when the producer is gone.

Every data key of a producer follows from its first seed and its public key. The vault holds both, sealed for a key
that stays offline: adding needs no secret, reading needs ``vault.key``. Whoever has that key reads everything, past
and future.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from openmsi_streams.crypto import library
from openmsi_streams.crypto.files import write_secret
from openmsi_streams.errors import CryptoError

if TYPE_CHECKING:
    from openmsi_streams.crypto.authority import Authority

FILE = "vault.json"
# One step for each start and each day of a producer; ten years of daily starts.
STEPS = 8000


class Entry(msgspec.Struct):
    """One producer in the vault."""

    node: str
    public: str
    """Hexadecimal public key."""
    topics: list[str]
    added: str
    sealed: bytes
    """Seed file content, sealed for the vault key."""


_decoder = msgspec.json.Decoder(list[Entry])


def entries(folder: Path) -> list[Entry]:
    """Return the vault's entries, still sealed.

    Raises:
        CryptoError: the file is damaged.
    """
    path = folder / FILE
    try:
        return _decoder.decode(path.read_bytes())
    except FileNotFoundError:
        return []
    except (OSError, msgspec.DecodeError) as error:
        raise CryptoError(f"The vault {path} cannot be read: {error}. Put it back from a copy.") from None


def add(authority: Authority, node: str, public: bytes, seed: bytes, topics: Sequence[str]) -> Entry:
    """Add a producer's seed; entries are only ever added, and data from that seed on can be read.

    Args:
        authority: whose vault.
        node: the producer's name.
        public: its public key.
        seed: the content of its seed file.
        topics: its root topics, for the list.
    """
    sodium = library.sodium()
    sealed = sodium.crypto_box_seal(seed, bytes.fromhex(authority.secrets.vault_public))
    entry = Entry(node, public.hex(), list(topics), f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}", sealed)
    held = [*entries(authority.folder), entry]
    write_secret(authority.folder / FILE, msgspec.json.format(msgspec.json.encode(held), indent=2))
    return entry


def read_key(path: Path) -> bytes:
    """Return the vault's secret key.

    Raises:
        CryptoError: the file is missing or is not such a key.
    """
    try:
        key = bytes.fromhex(path.read_text(encoding="ascii").strip())
    except OSError as error:
        raise CryptoError(
            f"The vault key {path} cannot be read: {error.strerror}. Bring it from where it is kept."
        ) from None
    except ValueError:
        key = b""
    if len(key) != 32:
        raise CryptoError(f"{path} is not a vault key (64 hexadecimal digits).")
    return key


def unseal(entry: Entry, key: bytes) -> bytes:
    """Return the seed file content of an entry.

    Raises:
        CryptoError: the key is of another vault.
    """
    sodium = library.sodium()
    try:
        seed: bytes = sodium.crypto_box_seal_open(entry.sealed, sodium.crypto_scalarmult_curve25519_base(key), key)
        return seed
    except ValueError:
        raise CryptoError(
            f"This key does not open the vault's entry of {entry.node}. Take the key of this vault."
        ) from None


def data_keys(seed: bytes, public: bytes, root: str, steps: int = STEPS) -> Iterator[tuple[bytes, bytes]]:
    """Yield (key index, data key) of each generation, from the seed's own on.

    Args:
        seed: content of a seed file.
        public: the producer's public key.
        root: root topic.
        steps: generations.
    """
    library.load()
    from kafkacrypto.ratchet import Ratchet

    # Making a Ratchet steps it once, and every step gives one generation.
    ratchet = Ratchet(file=io.BytesIO(seed))
    for _ in range(steps):
        index, secret, _, _ = ratchet.get_key_value_generators(root, node=public)
        yield bytes(index), bytes(secret)
        ratchet.increment()


def find(
    vault: Iterable[Entry], key: bytes, wanted: dict[str, set[bytes]], steps: int = STEPS
) -> dict[str, dict[bytes, bytes]]:
    """Return the data keys of these key indexes, by root topic, as far as the vault's producers made them."""
    found: dict[str, dict[bytes, bytes]] = {root: {} for root in wanted}
    for entry in vault:
        seed = unseal(entry, key)
        for root, indexes in wanted.items():
            missing = indexes - found[root].keys()
            if not missing:
                continue
            for index, secret in data_keys(seed, bytes.fromhex(entry.public), root, steps):
                if index in missing:
                    found[root][index] = secret
                    missing.discard(index)
                    if not missing:
                        break
    return found
