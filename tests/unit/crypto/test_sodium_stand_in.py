"""The stand-in for pysodium gives the same bytes as libsodium, and the same errors."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("nacl", reason="the crypto extra is not installed")
pytest.importorskip("kafkacrypto", reason="the crypto extra is not installed")

from openmsi_streams.crypto import sodium

SEED = 8


@pytest.fixture(scope="module")
def real() -> ModuleType:
    """pysodium on the system's libsodium."""
    try:
        import pysodium
    except (ImportError, ValueError, OSError) as error:
        pytest.skip(f"no libsodium that pysodium can load on this system: {error}")
    if pysodium is sodium:
        pytest.skip("no libsodium that pysodium can load on this system: the stand-in is in use")
    return pysodium


def test_every_function_that_kafkacrypto_calls_is_there() -> None:
    folder = Path(sys.modules["kafkacrypto"].__file__ or "").parent
    used = {name for file in folder.glob("*.py") for name in re.findall(r"\bpysodium\.(\w+)", file.read_text())}
    assert used and {name for name in used if not hasattr(sodium, name)} == set()


def test_deterministic_functions_give_the_bytes_of_libsodium(real: ModuleType) -> None:
    rng = random.Random(SEED)
    for size in (0, 1, 15, 16, 63, 64, 1000, 70_000):
        message, key, nonce, salt = rng.randbytes(size), rng.randbytes(32), rng.randbytes(24), rng.randbytes(16)
        public, secret = real.crypto_sign_seed_keypair(key)
        assert sodium.crypto_sign_seed_keypair(key) == (public, secret)
        assert sodium.crypto_sign_sk_to_pk(secret) == real.crypto_sign_sk_to_pk(secret) == public
        assert sodium.crypto_sign(message, secret) == real.crypto_sign(message, secret)
        assert sodium.crypto_sign_open(real.crypto_sign(message, secret), public) == message
        box = real.crypto_secretbox(message, nonce, key)
        assert sodium.crypto_secretbox(message, nonce, key) == box
        assert sodium.crypto_secretbox_open(box, nonce, key) == message
        assert sodium.crypto_hash_sha256(message) == real.crypto_hash_sha256(message)
        assert sodium.crypto_generichash(message) == real.crypto_generichash(message)
        for person in (b"key" + bytes(13), b"short"):
            assert sodium.crypto_generichash_blake2b_salt_personal(
                message, key=key, salt=salt, personal=person, outlen=56
            ) == real.crypto_generichash_blake2b_salt_personal(message, key=key, salt=salt, personal=person, outlen=56)
        point = real.crypto_scalarmult_curve25519_base(key)
        assert sodium.crypto_scalarmult_curve25519_base(key) == point
        other = rng.randbytes(32)
        assert sodium.crypto_scalarmult_curve25519(other, point) == real.crypto_scalarmult_curve25519(other, point)


def test_sealed_boxes_open_across_the_two(real: ModuleType) -> None:
    secret = random.Random(SEED).randbytes(32)
    public = real.crypto_scalarmult_curve25519_base(secret)
    assert sodium.crypto_box_seal_open(real.crypto_box_seal(b"seed", public), public, secret) == b"seed"
    assert real.crypto_box_seal_open(sodium.crypto_box_seal(b"seed", public), public, secret) == b"seed"


def test_passwords_give_the_same_keys(real: ModuleType) -> None:
    name = "crypto_pwhash_scryptsalsa208sha256"
    for limit in ("OPSLIMIT_INTERACTIVE", "MEMLIMIT_INTERACTIVE", "SALTBYTES"):
        assert getattr(sodium, f"{name}_{limit}") == getattr(real, f"{name}_{limit}")
    arguments = (32, b"correct horse", bytes(range(32)), 1 << 15, 1 << 24)
    assert sodium.crypto_pwhash_scryptsalsa208sha256(*arguments) == real.crypto_pwhash_scryptsalsa208sha256(*arguments)


def test_constants_are_those_of_libsodium(real: ModuleType) -> None:
    names = [name for name in dir(sodium) if name.startswith("crypto_") and isinstance(getattr(sodium, name), int)]
    assert names
    assert {name: getattr(sodium, name) for name in names} == {name: getattr(real, name) for name in names}


def test_what_fails_raises_value_error() -> None:
    public, secret = sodium.crypto_sign_keypair()
    box = sodium.crypto_secretbox(b"x", bytes(24), bytes(32))
    calls = [
        lambda: sodium.crypto_secretbox_open(box, bytes(24), b"\x01" * 32),
        lambda: sodium.crypto_secretbox_open(b"", bytes(24), bytes(32)),
        lambda: sodium.crypto_secretbox(b"x", bytes(23), bytes(32)),
        lambda: sodium.crypto_sign_open(b"short", public),
        lambda: sodium.crypto_sign_open(b"\x00" + sodium.crypto_sign(b"x", secret)[1:], public),
        lambda: sodium.crypto_sign_open(sodium.crypto_sign(b"x", secret), b"short"),
        lambda: sodium.crypto_sign(b"x", b"short"),
        lambda: sodium.crypto_sign_sk_to_pk(b"short"),
        lambda: sodium.crypto_sign_seed_keypair(b"short"),
        lambda: sodium.crypto_box_seal(b"x", b"short"),
        lambda: sodium.crypto_box_seal_open(bytes(60), bytes(32), bytes(32)),
        lambda: sodium.crypto_scalarmult_curve25519(b"short", bytes(32)),
        lambda: sodium.crypto_generichash_blake2b_salt_personal(b"", key=bytes(65)),
    ]
    for call in calls:
        with pytest.raises(ValueError):
            call()


@pytest.mark.parametrize("size", [0, 1, 100, 70_000])
def test_boxes_are_the_same_without_the_inner_module_of_pynacl(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(SEED)
    message, key, nonce = rng.randbytes(size), rng.randbytes(32), rng.randbytes(24)
    box = sodium.crypto_secretbox(message, nonce, key)
    monkeypatch.setattr(sodium, "_ffi", None)
    assert sodium.crypto_secretbox(message, nonce, key) == box
    assert sodium.crypto_secretbox_open(memoryview(b"...." + box)[4:], nonce, key) == message
    with pytest.raises(ValueError):
        sodium.crypto_secretbox_open(b"\x00" + box[1:] if box[0] else b"\x01" + box[1:], nonce, key)


def test_random_bytes_are_of_the_size_asked_for() -> None:
    assert len(sodium.randombytes(32)) == 32


WITHOUT_LIBSODIUM = """
import ctypes.util, sys
ctypes.util.find_library = lambda name: None
from openmsi_streams.crypto import library
print(library.backend())
library.load()
assert sys.modules["pysodium"].__name__ == "openmsi_streams.crypto.sodium"
from pathlib import Path
from openmsi_streams.config import Settings
from openmsi_streams.crypto import authority, provision
folder = Path(sys.argv[1])
lab = authority.create(folder / "authority")
made = provision.provision(lab, "node1", "both", ["lab.files"], folder / "node1", Settings())
assert provision.findings(made.config) == ([], []), provision.findings(made.config)
"""


def test_without_libsodium_everything_runs_on_pynacl(tmp_path: Path) -> None:
    """The system library is hidden from a fresh interpreter; nodes are made and checked there."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_LIBSODIUM, str(tmp_path)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("PyNaCl")
