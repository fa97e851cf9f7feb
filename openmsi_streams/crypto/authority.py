"""The authority of a lab: the root of trust and the three keys that sign nodes.

By default the keys are random and stand in one protected file. Password roots give the same keys as upstream's
provisioning script from the same passwords; their public parts are on the broker, so a weak password can be guessed.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import msgspec

from openmsi_streams.crypto import chains, library
from openmsi_streams.crypto.files import write_secret
from openmsi_streams.errors import CryptoError

NodeRole = Literal["producer", "consumer", "both"]
FILE = "authority.json"
VAULT_KEY = "vault.key"

# kafkacrypto's usages of each role. "subscribe" asks through a controller, "request" asks a producer.
USAGES: dict[NodeRole, tuple[str, ...]] = {
    "producer": ("key-encrypt",),
    "consumer": ("key-encrypt-request", "key-encrypt-subscribe"),
    "both": ("key-encrypt", "key-encrypt-request", "key-encrypt-subscribe"),
}
# Upstream's name of the role that both produces and consumes.
_UPSTREAM: dict[NodeRole, str] = {"producer": "producer", "consumer": "consumer", "both": "prodcon"}
# Ed25519; the other type needs liboqs built by hand.
KEY_TYPE = 1


class Secrets(msgspec.Struct):
    """The content of the authority's file; secrets are empty for a password authority."""

    version: int
    created: str
    password: bool
    root_public: str
    root_secret: str
    role_public: dict[str, str]
    role_secret: dict[str, str]
    vault_public: str


class Authority:
    """Signs nodes."""

    def __init__(self, folder: Path, secrets: Secrets) -> None:
        """Take what `create` or `load` give."""
        self.folder = folder
        self.secrets = secrets

    @property
    def root(self) -> bytes:
        """The entry of trusted roots that nodes need: no expiry, no limits."""
        return chains.pack([0, b"\x90", bytes.fromhex(self.secrets.root_public)])

    @property
    def fingerprint(self) -> str:
        """The root's public key, to compare by eye."""
        return self.secrets.root_public

    @property
    def table_key(self) -> bytes:
        """The key of the workers' tables; it follows from the root, so that it is the same for all nodes."""
        root = bytes.fromhex(self.secrets.root_secret)
        return hashlib.blake2b(root, person=b"openmsi-tables", digest_size=32).digest()

    def chain(self, public: bytes, role: NodeRole, topics: Sequence[str], expires: datetime | None) -> bytes:
        """Return a certificate chain for a node's public key.

        Args:
            public: Ed25519 public key, 32 bytes.
            role: what the node may do.
            topics: topics; their roots are what is granted. A pattern begins with ``^``.
            expires: end of validity; None: never.
        """
        library.load()
        from kafkacrypto.keys import SignSecretKey

        usages = list(USAGES[role])
        root = SignSecretKey(bytes.fromhex(self.secrets.root_secret))
        signer = SignSecretKey(bytes.fromhex(self.secrets.role_secret[role]))
        intermediate = root.crypto_sign(
            chains.pack([0, chains.pack([["usages", usages]]), bytes.fromhex(self.secrets.role_public[role])])
        )
        limits = chains.pack([["usages", usages], ["topics", roots_of(topics)], ["pathlen", 1]])
        until = 0 if expires is None else int(expires.timestamp())
        made = chains.pack([intermediate, signer.crypto_sign(chains.pack([until, limits, public]))])
        # What cannot be read back must not reach a node.
        chains.read(made, [self.root])
        return made


def create(folder: Path, passwords: tuple[str, str] | None = None) -> Authority:
    """Make an authority and its vault key; nothing that exists is overwritten.

    Args:
        folder: where the files go; keep it off the broker and off the instruments.
        passwords: of the root and of the role keys, as for upstream's script; None: random keys.

    Raises:
        CryptoError: an authority is there already.
    """
    sodium = library.sodium()
    vault_secret = sodium.randombytes(32)
    secrets = _derive(passwords) if passwords else _random()
    secrets.vault_public = sodium.crypto_scalarmult_curve25519_base(vault_secret).hex()
    kept = msgspec.structs.replace(secrets, root_secret="", role_secret={}) if passwords else secrets
    write_secret(folder / FILE, msgspec.json.format(msgspec.json.encode(kept), indent=2), new=True)
    write_secret(folder / VAULT_KEY, vault_secret.hex().encode() + b"\n", new=True)
    return Authority(folder, secrets)


def load(folder: Path, passwords: tuple[str, str] | None = None, *, signing: bool = True) -> Authority:
    """Read an authority; without ``signing`` no password is needed.

    Raises:
        CryptoError: there is none, it needs its passwords, or they are wrong.
    """
    path = folder / FILE
    try:
        secrets = msgspec.json.decode(path.read_bytes(), type=Secrets)
    except FileNotFoundError:
        raise CryptoError(
            f"There is no authority in {folder}. Make one with `openmsi-streams crypto init-authority {folder}`."
        ) from None
    except (OSError, msgspec.DecodeError) as error:
        raise CryptoError(f"{path} cannot be read: {error}. Put it back from a copy.") from None
    if secrets.password and (signing or passwords):
        if passwords is None:
            raise CryptoError(f"The authority in {folder} is made from passwords; give them with --password-file.")
        derived = _derive(passwords)
        if derived.root_public != secrets.root_public or derived.role_public != secrets.role_public:
            raise CryptoError(f"These are not the passwords of the authority in {folder}.")
        secrets.root_secret, secrets.role_secret = derived.root_secret, derived.role_secret
    return Authority(folder, secrets)


def expiry(days: float) -> datetime | None:
    """Return the end of a validity of so many days from now; 0: never."""
    return datetime.now(UTC) + timedelta(days=days) if days > 0 else None


def roots_of(topics: Sequence[str]) -> list[str]:
    """Return the root topics of these topics, each once; patterns stay as they are."""
    return list(dict.fromkeys(one if one.startswith("^") else one.partition(".")[0] for one in topics))


def _secrets(root: Any, roles: dict[str, Any], password: bool) -> Secrets:
    from kafkacrypto.keys import SignPublicKey

    return Secrets(
        version=1,
        created=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        password=password,
        root_public=bytes(SignPublicKey(root)).hex(),
        root_secret=bytes(root).hex(),
        role_public={role: bytes(SignPublicKey(secret)).hex() for role, secret in roles.items()},
        role_secret={role: bytes(secret).hex() for role, secret in roles.items()},
        vault_public="",
    )


def _random() -> Secrets:
    library.load()
    from kafkacrypto.keys import SignSecretKey

    return _secrets(SignSecretKey(KEY_TYPE), {role: SignSecretKey(KEY_TYPE) for role in USAGES}, password=False)


def _derive(passwords: tuple[str, str]) -> Secrets:
    library.load()
    from kafkacrypto.provisioners import PasswordProvisioner, PasswordROT

    # They print salts.
    with contextlib.redirect_stdout(io.StringIO()):
        root = PasswordROT(passwords[0], KEY_TYPE)
        signers = PasswordProvisioner(passwords[1], root._pk, KEY_TYPE)
    return _secrets(root._sk, {role: signers._sk[name] for role, name in _UPSTREAM.items()}, password=True)
