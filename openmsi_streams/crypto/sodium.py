"""A stand-in for the module ``pysodium`` on PyNaCl's wheels, for systems without a libsodium that pysodium finds.

PyNaCl carries libsodium inside its wheels for Linux, macOS and Windows, so that an instrument PC needs no system
library. The names and argument orders are pysodium's, as far as kafkacrypto calls them; results are byte for byte the
same (tests compare both). Wrong arguments and failed checks raise ``ValueError``, as there.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from typing import Any

from nacl import bindings
from nacl.exceptions import CryptoError as NaClError
from nacl.pwhash import scrypt

crypto_secretbox_KEYBYTES = bindings.crypto_secretbox_KEYBYTES
crypto_secretbox_NONCEBYTES = bindings.crypto_secretbox_NONCEBYTES
crypto_sign_SEEDBYTES = bindings.crypto_sign_SEEDBYTES
crypto_sign_BYTES = bindings.crypto_sign_BYTES
crypto_scalarmult_curve25519_BYTES = bindings.crypto_scalarmult_BYTES
crypto_pwhash_scryptsalsa208sha256_SALTBYTES = scrypt.SALTBYTES
crypto_pwhash_scryptsalsa208sha256_OPSLIMIT_INTERACTIVE = scrypt.OPSLIMIT_INTERACTIVE
crypto_pwhash_scryptsalsa208sha256_MEMLIMIT_INTERACTIVE = scrypt.MEMLIMIT_INTERACTIVE
# libsodium's crypto_generichash_BYTES: a hash of 32 bytes unless another length is asked for.
_HASH_BYTES = 32

_MAC_BYTES = 16
_LARGE = 64 << 10

randombytes = os.urandom

# PyNaCl's own functions pad, zero and copy each message three times, which for chunks of half a megabyte takes five
# times as long as the cipher. Where its inner module is as we know it, buffers are passed as they are.


def _inner() -> tuple[Any, Any]:
    try:
        from nacl._sodium import ffi, lib
    except ImportError:
        return None, None
    known = hasattr(lib, "crypto_secretbox_open_easy") and hasattr(lib, "crypto_secretbox_easy")
    return (ffi, lib) if known else (None, None)


_ffi, _lib = _inner()


def _checked(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a binding of PyNaCl; its errors become the ValueError that kafkacrypto expects."""
    try:
        return function(*arguments)
    except (NaClError, TypeError) as error:
        raise ValueError(str(error) or type(error).__name__) from None


def crypto_secretbox(msg: bytes | memoryview, nonce: bytes, k: bytes) -> bytes | bytearray:
    """Encrypt with XSalsa20-Poly1305; the MAC stands before the ciphertext."""
    _require_sizes(nonce, k)
    if _ffi is None:
        return bytes(_checked(bindings.crypto_secretbox, bytes(msg), bytes(nonce), bytes(k)))
    out = bytearray(len(msg) + _MAC_BYTES)
    _lib.crypto_secretbox_easy(_ffi.from_buffer(out), _ffi.from_buffer(msg), len(msg), bytes(nonce), bytes(k))
    return _slim(out)


def crypto_secretbox_open(c: bytes | memoryview, nonce: bytes, k: bytes) -> bytes | bytearray:
    """Check and decrypt; ValueError if the MAC does not fit."""
    _require_sizes(nonce, k)
    if len(c) < _MAC_BYTES:
        raise ValueError("truncated box")
    if _ffi is None:
        return bytes(_checked(bindings.crypto_secretbox_open, bytes(c), bytes(nonce), bytes(k)))
    out = bytearray(len(c) - _MAC_BYTES)
    if _lib.crypto_secretbox_open_easy(_ffi.from_buffer(out), _ffi.from_buffer(c), len(c), bytes(nonce), bytes(k)):
        raise ValueError("the message was changed, or has another key")
    return _slim(out)


def _require_sizes(nonce: bytes, k: bytes) -> None:
    if len(k) != crypto_secretbox_KEYBYTES or len(nonce) != crypto_secretbox_NONCEBYTES:
        raise ValueError("key or nonce has another size")


def _slim(out: bytearray) -> bytes | bytearray:
    # Half a megabyte is not copied once more only to make it read-only.
    return bytes(out) if len(out) < _LARGE else out


def crypto_sign_keypair() -> tuple[bytes, bytes]:
    """Return a random Ed25519 key pair: public 32 bytes, secret 64."""
    done: tuple[bytes, bytes] = bindings.crypto_sign_keypair()
    return done


def crypto_sign_seed_keypair(seed: bytes) -> tuple[bytes, bytes]:
    """Return the Ed25519 key pair of a seed of 32 bytes."""
    done: tuple[bytes, bytes] = _checked(bindings.crypto_sign_seed_keypair, bytes(seed))
    return done


def crypto_sign_sk_to_pk(sk: bytes) -> bytes:
    """Return the public key that belongs to an Ed25519 secret key."""
    if sk is None or len(sk) != bindings.crypto_sign_SECRETKEYBYTES:
        raise ValueError("not an Ed25519 secret key")
    done: bytes = _checked(bindings.crypto_sign_ed25519_sk_to_pk, bytes(sk))
    return done


def crypto_sign(m: bytes, sk: bytes) -> bytes:
    """Return signature and message in one."""
    if len(sk) != bindings.crypto_sign_SECRETKEYBYTES:
        raise ValueError("not an Ed25519 secret key")
    done: bytes = _checked(bindings.crypto_sign, bytes(m), bytes(sk))
    return done


def crypto_sign_open(sm: bytes, pk: bytes) -> bytes:
    """Check a signed message and return the message; ValueError if the signature does not fit."""
    if len(pk) != bindings.crypto_sign_PUBLICKEYBYTES or len(sm) < crypto_sign_BYTES:
        raise ValueError("truncated key or message")
    done: bytes = _checked(bindings.crypto_sign_open, bytes(sm), bytes(pk))
    return done


def crypto_hash_sha256(message: bytes) -> bytes:
    """Return the SHA-256 of a message."""
    return hashlib.sha256(message).digest()


def crypto_generichash(m: bytes, k: bytes = b"", outlen: int = _HASH_BYTES) -> bytes:
    """Return the BLAKE2b hash, with a key if one is given."""
    return hashlib.blake2b(bytes(m), key=bytes(k), digest_size=outlen).digest()


def crypto_generichash_blake2b_salt_personal(
    message: bytes, outlen: int = _HASH_BYTES, key: bytes = b"", salt: bytes = b"", personal: bytes = b""
) -> bytes:
    """Return the BLAKE2b hash with key, salt and personalisation (each up to 16 bytes, padded with zeros)."""
    return hashlib.blake2b(
        bytes(message), key=bytes(key), salt=bytes(salt), person=bytes(personal), digest_size=outlen
    ).digest()


def crypto_scalarmult_curve25519(n: bytes, p: bytes) -> bytes:
    """Return the X25519 shared secret of a secret and a public key."""
    done: bytes = _checked(bindings.crypto_scalarmult, bytes(n), bytes(p))
    return done


def crypto_scalarmult_curve25519_base(n: bytes) -> bytes:
    """Return the X25519 public key of a secret key."""
    done: bytes = _checked(bindings.crypto_scalarmult_base, bytes(n))
    return done


def crypto_box_seal(msg: bytes, k: bytes) -> bytes:
    """Encrypt for the holder of an X25519 key, from nobody in particular."""
    done: bytes = _checked(bindings.crypto_box_seal, bytes(msg), bytes(k))
    return done


def crypto_box_seal_open(c: bytes, pk: bytes, sk: bytes) -> bytes:
    """Decrypt what `crypto_box_seal` made for this key pair."""
    done: bytes = _checked(bindings.crypto_box_seal_open, bytes(c), bytes(pk), bytes(sk))
    return done


def crypto_pwhash_scryptsalsa208sha256(outlen: int, passwd: bytes, salt: bytes, opslimit: int, memlimit: int) -> bytes:
    """Derive a key from a password with scrypt."""
    done: bytes = _checked(scrypt.kdf, outlen, bytes(passwd), bytes(salt), opslimit, memlimit)
    return done
