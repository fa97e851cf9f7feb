"""Message keys as the ancestors write them, and the partition a path belongs to."""

from __future__ import annotations

from functools import lru_cache
from hashlib import sha256

# Constants of MurmurHash2 with the seed that Kafka's Java client uses (Kafka's Utils.murmur2).
_SEED, _M, _R, _MASK = 0x9747B28C, 0x5BD1E995, 24, 0xFFFFFFFF


def murmur2(data: bytes) -> int:
    """Return Kafka's 32-bit MurmurHash2 of ``data``, unsigned."""
    length = len(data)
    hashed = (_SEED ^ length) & _MASK
    for place in range(0, length - length % 4, 4):
        k = int.from_bytes(data[place : place + 4], "little") * _M & _MASK
        k = (k ^ (k >> _R)) * _M & _MASK
        hashed = (hashed * _M & _MASK) ^ k
    tail = data[length - length % 4 :]
    if tail:
        hashed = (hashed ^ int.from_bytes(tail, "little")) * _M & _MASK
    hashed = (hashed ^ (hashed >> 13)) * _M & _MASK
    return hashed ^ (hashed >> 15)


# A file of 100 GB is 200,000 chunks of one path: the hash in pure Python is worth remembering, for as many files as
# come in turns. More would be a small leak: a watching producer names each path once.
@lru_cache(maxsize=1024)
def home_partition(path: str, partitions: int) -> int:
    """Return the home partition of a path, as Kafka's default partitioner places that key."""
    return (murmur2(path.encode("utf-8")) & 0x7FFFFFFF) % partitions


def chunk_key(filename: str, subdir: str, index: int, total: int, *, legacy_root: bool = False) -> bytes:
    """Return a chunk's key as OpenMSIStream >= 1.4 writes it.

    ``legacy_root=True`` gives the form of openmsipython and OpenMSIStream before 1.4, where a file in the root
    folder has no leading underscore.
    """
    prefix = subdir.replace("/", "_")
    if prefix or not legacy_root:
        prefix += "_"
    return f"{prefix}{filename}_chunk_{index}_of_{total}".encode()


def file_id(topic: str, path: str, sha512: str) -> str:
    """Return the identity of a file version: 32 hex digits of SHA-256 over topic, path and sha512."""
    # The hash is taken in hex, and NUL, which no name can hold, stands between the three.
    return sha256(f"{topic}\0{path}\0{sha512}".encode()).hexdigest()[:32]
