"""The one place that loads kafkacrypto: quietly, with a libsodium on every system, and only when it is needed."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import logging
import sys
import warnings
from types import ModuleType

from openmsi_streams.errors import ExtraMissing

log = logging.getLogger(__name__)

STAND_IN = "openmsi_streams.crypto.sodium"
# The versions whose private attributes `engine` was written against and tests hold.
KNOWN_VERSIONS = ("0.9.11",)


@functools.cache
def sodium() -> ModuleType:
    """Return pysodium on the system's libsodium, or our stand-in on PyNaCl, and put that in place for kafkacrypto.

    Raises:
        ExtraMissing: neither is there.
    """
    if "kafkacrypto" not in sys.modules:
        try:
            found = importlib.import_module("pysodium")
            # pysodium loads some functions late; a libsodium that lacks one must not fail in the middle of a message.
            found.crypto_generichash_blake2b_salt_personal(b"", outlen=56, key=bytes(32), salt=bytes(16))
            return found
        except (ImportError, ValueError, OSError, AttributeError) as error:
            log.info("libsodium cannot be loaded (%s); using PyNaCl's.", error)
    elif "pysodium" in sys.modules:
        return sys.modules["pysodium"]
    try:
        found = importlib.import_module(STAND_IN)
    except ImportError as error:
        raise ExtraMissing("Message encryption", "crypto", error.name or "PyNaCl") from None
    sys.modules["pysodium"] = found
    return found


def backend() -> str:
    """Say which libsodium is in use, for `crypto check` and bug reports."""
    module = sodium()
    inside = ""
    if fast_box() is not None:
        import nacl

        inside = f"PyNaCl {nacl.__version__} (its own libsodium)"
    if module.__name__ == STAND_IN:
        return inside
    version: bytes = module.sodium.sodium_version_string()
    return f"pysodium on libsodium {version.decode()}{f', messages with {inside}' if inside else ''}"


@functools.cache
def fast_box() -> ModuleType | None:
    """Return the stand-in, whose boxes copy less, or None where PyNaCl is not installed."""
    try:
        return importlib.import_module(STAND_IN)
    except ImportError:
        return None


@functools.cache
def load() -> ModuleType:
    """Return the package kafkacrypto.

    Raises:
        ExtraMissing: it is not installed.
    """
    sodium()
    if importlib.util.find_spec("kafkacrypto") is None:
        raise ExtraMissing("Message encryption", "crypto", "kafkacrypto")
    with warnings.catch_warnings():
        # It announces its versions as warnings.
        warnings.simplefilter("ignore", RuntimeWarning)
        module = importlib.import_module("kafkacrypto")
    fast = fast_box()
    if fast is not None:
        # Sealing half a megabyte takes 2 ms through ctypes and 0.4 ms so; the results are the same.
        importlib.import_module("kafkacrypto.crypto").pysodium = fast  # type: ignore[attr-defined]
    quiet()
    return module


def quiet() -> None:
    """Keep kafkacrypto's log to errors: in normal work it warns with whole certificate chains."""
    level = logging.DEBUG if log.isEnabledFor(logging.DEBUG) else logging.ERROR
    logging.getLogger("kafkacrypto").setLevel(level)


def is_known_version() -> bool:
    """Say whether the kafkacrypto that is installed is one that our tests ran with."""
    from importlib.metadata import version

    return version("kafkacrypto").startswith(KNOWN_VERSIONS)
