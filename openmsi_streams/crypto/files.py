"""A node's files: ``ID.config`` (settings, chains, trusted roots), ``ID.crypto`` (secret keys), ``ID.seed`` (ratchet).

The layout is kafkacrypto's. Reading needs neither kafkacrypto nor a lock, so that `crypto show` and `config check` work
on a node that runs.
"""

from __future__ import annotations

import base64
import binascii
import configparser
import os
import stat
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from openmsi_streams.errors import CryptoError

if os.name == "nt":  # pragma: no cover
    import msvcrt
else:
    import fcntl

# A trusted root that kafkacrypto puts into every configuration it makes. Its secret key is printed in the library's
# source: with this entry a stranger reads the node's data.
TEMPORARY = "temporary"


class NodeFiles:
    """The configuration of one node, as it is on disk."""

    def __init__(self, path: str | Path) -> None:
        """Read a node's ``.config`` file.

        Raises:
            CryptoError: it is not there, or is not such a file.
        """
        self.config = Path(path).expanduser().absolute()
        if not self.config.is_file():
            raise CryptoError(
                f"The node file {self.config} does not exist. Make a node with `openmsi-streams crypto provision`, or "
                "mend `crypto.node`."
            )
        self._parser = parser()
        try:
            self._parser.read_string(self.config.read_text(encoding="utf-8"))
        except (configparser.Error, UnicodeDecodeError) as error:
            raise CryptoError(f"{self.config} is not a node file of KafkaCrypto: {error}") from None
        except OSError as error:
            raise CryptoError(f"{self.config} cannot be read: {error.strerror}. Check its owner and mode.") from None
        self.node_id = self._parser.defaults().get("node_id", "")
        if not self.node_id:
            raise CryptoError(f"{self.config} names no node_id in [DEFAULT]; it is not a node file of KafkaCrypto.")

    def values(self, section: str = "") -> dict[str, Any]:
        """Return a section's own entries, decoded; the empty name is the node's own section."""
        name = f"{self.node_id}-{section}" if section else self.node_id
        if not self._parser.has_section(name):
            return {}
        defaults = self._parser.defaults()
        return {
            key: _decode(text)
            for key, text in self._parser[name].items()
            if key not in defaults or text != defaults[key]
        }

    def beside(self, name: str, suffix: str) -> Path:
        """Return the path of the secret or seed file: as configured, else beside the configuration."""
        given = str(self.values().get(name) or "").removeprefix("file#")
        default = self.config.with_name(f"{self.node_id}{suffix}")
        if not given:
            return default
        path = Path(given)
        # Upstream writes names relative to the folder that its script ran in; we look beside the configuration.
        return path if path.is_absolute() else self.config.parent / path

    @property
    def secret(self) -> Path:
        """The file with the secret keys."""
        return self.beside("cryptokey", ".crypto")

    @property
    def seed(self) -> Path:
        """The file with the ratchet."""
        return self.beside("ratchet", ".seed")

    @property
    def keyring(self) -> Path:
        """The file with data keys that were received."""
        return self.config.with_name(f"{self.node_id}.keyring")

    @property
    def table_key(self) -> Path:
        """The file with the key of the workers' tables."""
        return self.config.with_name(f"{self.node_id}.table")

    @property
    def chains(self) -> list[bytes]:
        """The certificate chains of the node's own keys."""
        return [one for one in self.values("chains").values() if isinstance(one, bytes)]

    @property
    def roots(self) -> dict[str, bytes]:
        """Trusted roots by entry name."""
        return {name: one for name, one in self.values("allowlist").items() if isinstance(one, bytes)}

    @property
    def denied(self) -> list[bytes]:
        """Keys that are not trusted any more."""
        return [one for one in self.values("denylist").values() if isinstance(one, bytes)]

    def require(self) -> None:
        """Check that the node can be opened safely.

        Raises:
            CryptoError: a file is missing, or the well-known temporary root is trusted.
        """
        self.require_except_trust()
        if TEMPORARY in self.roots:
            raise CryptoError(
                f"{self.config} trusts KafkaCrypto's temporary root, whose secret key everybody knows. Remove the "
                f"entry {TEMPORARY!r} with `openmsi-streams crypto check {self.config} --repair`."
            )
        if not self.roots or not self.chains:
            raise CryptoError(
                f"{self.config} has no {'trusted root' if not self.roots else 'certificate chain'}: the node was never "
                "provisioned. Run `openmsi-streams crypto provision`."
            )

    def require_except_trust(self) -> None:
        """Check that the secret files are there. Raises CryptoError with what is missing."""
        for what, path in (("secret keys", self.secret), ("ratchet", self.seed)):
            if not path.is_file():
                raise CryptoError(
                    f"The {what} of node {self.node_id} are missing ({path}). Put the file back; a new one would make "
                    "the node a stranger to the others. If it is lost, provision a new node under another name."
                )

    def loose_modes(self) -> list[Path]:
        """Return the files that others than the owner may read; always empty on Windows."""
        if os.name == "nt":
            return []
        files = (self.config, self.secret, self.seed, self.keyring, self.table_key)
        return [one for one in files if one.exists() and stat.S_IMODE(one.stat().st_mode) & 0o077]


def parser() -> configparser.ConfigParser:
    """Return a parser of kafkacrypto's dialect: ``:`` between name and value, ``;`` for comments, names as they are."""
    made = configparser.ConfigParser(delimiters=(":",), comment_prefixes=(";",), interpolation=None)
    made.optionxform = str  # type: ignore[assignment,method-assign]
    return made


def encode(value: object) -> str:
    """Return a value as kafkacrypto writes it in a node file."""
    if isinstance(value, bytes):
        return "base64#" + base64.b64encode(value).decode("ascii")
    return str(value)


def _decode(text: str) -> object:
    if text.startswith("base64#"):
        try:
            return base64.b64decode(text[7:], validate=True)
        except binascii.Error:
            return None
    return text


def write_secret(path: Path, data: bytes, *, new: bool = False) -> None:
    """Write a file that only its owner may read, whole or not at all.

    Args:
        path: where; its folder is made.
        data: the content.
        new: refuse to replace a file.

    Raises:
        CryptoError: the file exists and ``new`` was asked, or the disk refuses.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if new and path.exists():
            raise CryptoError(f"{path} exists already and is not overwritten: what it holds cannot be made again.")
        temporary = path.with_name(f"{path.name}.{os.getpid()}.new")
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0), 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        if os.name != "nt":
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    except OSError as error:
        raise CryptoError(f"{path} cannot be written: {error.strerror}. Check the folder's owner and space.") from None


class Claim:
    """The right to use a node: one process at a time.

    kafkacrypto's own lock on the configuration is a POSIX record lock, which any other open and close of the file in
    the same process gives up. This one belongs to its own handle on its own file.
    """

    def __init__(self, files: NodeFiles) -> None:
        """Take the node.

        Raises:
            CryptoError: another process, or another part of this one, has it.
        """
        path = files.config.with_name(f"{files.node_id}.lock")
        try:
            self._handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise CryptoError(f"{path} cannot be written: {error.strerror}. Check the folder's owner.") from None
        try:
            if os.name == "nt":  # pragma: no cover
                msvcrt.locking(self._handle, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
            else:
                fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._handle)
            raise CryptoError(
                f"The node {files.node_id} is in use by another process ({files.config}). One node is one process: "
                "stop the other, or provision a node for each."
            ) from None

    def release(self) -> None:
        """Give the node back."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1


class Certificate(msgspec.Struct, frozen=True):
    """What a node's chain allows."""

    expires: datetime | None
    """None: never."""
    topics: tuple[str, ...]
    """Root topics; a pattern begins with ``^``; empty: all."""
    usages: tuple[str, ...]

    @property
    def may_write(self) -> bool:
        """May hand out data keys, which is what makes a producer."""
        return "key-encrypt" in self.usages

    @property
    def may_read(self) -> bool:
        """May ask for data keys."""
        return "key-encrypt-request" in self.usages or "key-encrypt-subscribe" in self.usages

    @property
    def role(self) -> str:
        """``producer``, ``consumer``, ``both`` or ``none``."""
        names = {(True, True): "both", (True, False): "producer", (False, True): "consumer"}
        return names.get((self.may_write, self.may_read), "none")


def text_of(value: object) -> str:
    """Return a name of a certificate as text; kafkacrypto unpacks them as bytes."""
    return value.decode("utf-8", "replace") if isinstance(value, (bytes, bytearray)) else str(value)
