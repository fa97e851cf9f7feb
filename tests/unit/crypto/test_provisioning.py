"""Authority, nodes and vault: made without questions, safe by default, never overwritten."""

from __future__ import annotations

import os
import stat
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

pytest.importorskip("kafkacrypto", reason="the crypto extra is not installed")

from openmsi_streams.crypto import authority as authorities
from openmsi_streams.crypto import chains, files, vault
from openmsi_streams.crypto import provision as provisioning
from openmsi_streams.crypto.node import is_encrypted, open_node
from openmsi_streams.errors import CryptoError
from tests.support.crypto_nodes import Lab

posix = pytest.mark.skipif(sys.platform == "win32", reason="modes are POSIX")


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


@pytest.mark.parametrize("role", ["producer", "consumer", "both"])
def test_a_new_node_has_the_role_topics_and_expiry_that_were_asked_for(lab: Lab, role: authorities.NodeRole) -> None:
    made = lab.provision("node1", role, ["lab.files", "other.files", "lab.more"], days=10)
    certificate = chains.best(made)
    assert certificate.role == role
    assert certificate.topics == ("lab", "other")
    assert certificate.expires is not None
    assert abs(certificate.expires - datetime.now(UTC) - timedelta(days=10)) < timedelta(minutes=5)
    made.require()


@posix
def test_secret_files_are_for_their_owner_only_also_after_the_library_wrote_them(lab: Lab) -> None:
    made = lab.provision("node1")
    with open_node(lab.settings(made.config), "producer") as node:
        node.seal("lab.files", b"k", b"v")
    paths = [*made.config.parent.iterdir(), *lab.authority.folder.iterdir()]
    assert len(paths) >= 6
    assert {str(path): stat.S_IMODE(path.stat().st_mode) & 0o077 for path in paths} == {str(path): 0 for path in paths}


def test_no_temporary_root_is_left(lab: Lab) -> None:
    made = lab.provision("node1")
    assert list(made.roots) == ["rot0"]
    with open_node(lab.settings(made.config), "worker"):
        pass
    assert list(files.NodeFiles(made.config).roots) == ["rot0"]


def test_paths_in_a_node_file_are_absolute(lab: Lab, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    made = provisioning.provision(lab.authority, "node1", "both", ["lab"], Path("here"), lab.settings())
    assert made.values()["cryptokey"] == f"file#{tmp_path}/here/node1.crypto"
    assert made.values()["ratchet"] == f"file#{tmp_path}/here/node1.seed"


def test_provisioning_again_keeps_keys_seed_and_old_data_keys(lab: Lab) -> None:
    made = lab.provision("node1", days=1)
    with open_node(lab.settings(made.config), "producer") as node:
        node.seal("lab.files", b"k", b"v")
    before = {path.name: path.read_bytes() for path in (made.secret, made.seed)}
    old_keys = files.NodeFiles(made.config).values("crypto")["oldkeys"]
    assert old_keys
    again = lab.provision("node1", topics=["lab.files", "new.files"], days=100)
    assert {path.name: path.read_bytes() for path in (made.secret, made.seed)} == before
    assert again.values("crypto")["oldkeys"] == old_keys
    assert chains.best(again).topics == ("lab", "new")
    assert len(again.chains) == 1


@pytest.mark.parametrize("left", [".seed", ".crypto"])
def test_a_seed_or_key_without_its_configuration_is_never_overwritten(lab: Lab, left: str) -> None:
    made = lab.provision("node1")
    made.config.unlink()
    for suffix in {".seed", ".crypto"} - {left}:
        made.config.with_suffix(suffix).unlink()
    kept = made.config.with_suffix(left).read_bytes()
    with pytest.raises(CryptoError, match="never overwritten"):
        lab.provision("node1")
    assert made.config.with_suffix(left).read_bytes() == kept


def test_an_authority_is_never_overwritten(lab: Lab) -> None:
    before = (lab.authority.folder / authorities.FILE).read_bytes()
    with pytest.raises(CryptoError, match="not overwritten"):
        authorities.create(lab.authority.folder)
    assert (lab.authority.folder / authorities.FILE).read_bytes() == before
    assert authorities.load(lab.authority.folder).fingerprint == lab.authority.fingerprint


@pytest.mark.parametrize("name", ["", "12345", "1e5", "true", "a/b", "../x", "a%b", "-x", "base64#x", "n" * 200])
def test_names_that_kafkacrypto_would_read_as_something_else_are_refused(lab: Lab, name: str) -> None:
    with pytest.raises(CryptoError, match="cannot be a node's name"):
        lab.provision(name)


def test_a_folder_with_a_percent_sign_is_refused(lab: Lab, tmp_path: Path) -> None:
    with pytest.raises(CryptoError, match="'%'"):
        provisioning.provision(lab.authority, "node1", "both", ["lab"], tmp_path / "50%", lab.settings())


def test_a_chain_of_another_authority_is_not_valid(lab: Lab, tmp_path: Path) -> None:
    stranger = authorities.create(tmp_path / "stranger")
    made = lab.provision("node1", signer=stranger)
    with pytest.raises(CryptoError, match="no trusted root"):
        chains.read(made.chains[0], [lab.authority.root])


def test_expiry_is_checked_when_asked_for(lab: Lab) -> None:
    made = lab.provision("node1", days=1)
    in_two_days = (datetime.now(UTC) + timedelta(days=2)).timestamp()
    chains.read(made.chains[0], made.roots.values(), at=datetime.now(UTC).timestamp())
    with pytest.raises(CryptoError, match="expired"):
        chains.read(made.chains[0], made.roots.values(), at=in_two_days)


def test_password_authorities_give_the_same_root_everywhere(tmp_path: Path) -> None:
    """The root of upstream's PasswordROT with these words, so that its nodes and ours trust each other."""
    import contextlib
    import io

    from kafkacrypto.provisioners import PasswordProvisioner, PasswordROT

    words = ("correct horse battery", "staple and stapler")
    one = authorities.create(tmp_path / "one", words)
    with contextlib.redirect_stdout(io.StringIO()):
        root = PasswordROT(words[0], 1)
        signers = PasswordProvisioner(words[1], root._pk, 1)
    assert one.fingerprint == bytes(root._pk).hex()
    assert one.secrets.role_public["both"] == bytes(signers._pk["prodcon"]).hex()
    on_disk = (tmp_path / "one" / authorities.FILE).read_text()
    assert one.secrets.root_secret not in on_disk and "correct" not in on_disk
    with pytest.raises(CryptoError, match="password"):
        authorities.load(tmp_path / "one")
    with pytest.raises(CryptoError, match="not the passwords"):
        authorities.load(tmp_path / "one", (words[0], "wrong"))
    again = authorities.load(tmp_path / "one", words)
    made = provisioning.provision(again, "node1", "both", ["lab"], tmp_path / "node1", Lab(tmp_path).settings())
    assert chains.read(made.chains[0], [one.root]).role == "both"


def test_renewal_keeps_role_and_topics(lab: Lab) -> None:
    made = lab.provision("node1", "producer", ["lab.files"], days=1)
    provisioning.renew(lab.authority, made.config, days=50)
    renewed = chains.best(files.NodeFiles(made.config))
    assert (renewed.role, renewed.topics) == ("producer", ("lab",))
    assert renewed.expires is not None and renewed.expires > datetime.now(UTC) + timedelta(days=49)


def test_a_node_that_runs_is_not_rewritten(lab: Lab) -> None:
    made = lab.provision("node1")
    with open_node(lab.settings(made.config), "worker"):
        with pytest.raises(CryptoError, match="in use"):
            provisioning.renew(lab.authority, made.config)
    provisioning.renew(lab.authority, made.config)


def test_check_finds_and_repairs_what_is_unsafe(lab: Lab) -> None:
    made = lab.provision("node1")
    assert provisioning.findings(made.config) == ([], [])
    parser = files.parser()
    parser.read_string(made.config.read_text())
    parser["node1-allowlist"]["temporary"] = parser["node1-allowlist"]["rot0"]
    parser["node1"]["cryptokey"] = "file#node1.crypto"
    with made.config.open("w") as file:
        parser.write(file)
    os.chmod(made.secret, 0o644)
    problems, _ = provisioning.findings(made.config)
    expected = ["temporary root", "cryptokey"] + (["mode"] if os.name != "nt" else [])
    assert [word for word in expected if not any(word in line for line in problems)] == []
    with pytest.raises(CryptoError, match="temporary root"):
        open_node(lab.settings(made.config), "worker")
    problems, repaired = provisioning.findings(made.config, repair=True)
    assert problems == [] and len(repaired) == len(expected)


def test_check_warns_thirty_days_ahead(lab: Lab) -> None:
    made = lab.provision("node1", days=29)
    assert ["28 days" in line for line in provisioning.findings(made.config)[0]] == [True]
    lab.provision("node1", days=31)
    assert provisioning.findings(made.config)[0] == []


def test_opening_a_node_that_expires_soon_warns(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    settings = lab.node_settings("node1", days=5)
    with open_node(settings, "producer"):
        pass
    assert "expires in 4 days" in caplog.text


def test_the_wrong_role_is_refused_with_the_cure(lab: Lab) -> None:
    with pytest.raises(CryptoError, match="provisioned as consumer, not as producer"):
        open_node(lab.node_settings("reader", "consumer"), "producer")
    with pytest.raises(CryptoError, match="provisioned as producer, not as consumer"):
        open_node(lab.node_settings("writer", "producer"), "reader")
    with pytest.raises(CryptoError, match="consumer, not as both"):
        open_node(lab.node_settings("reader", "consumer"), "worker")


def test_missing_files_are_named(lab: Lab, tmp_path: Path) -> None:
    with pytest.raises(CryptoError, match="does not exist"):
        open_node(lab.settings(tmp_path / "none.config"), "producer")
    made = lab.provision("node1")
    made.seed.unlink()
    with pytest.raises(CryptoError, match="ratchet of node node1 are missing"):
        open_node(lab.settings(made.config), "producer")
    assert not made.seed.exists()


def test_one_node_is_one_process(lab: Lab) -> None:
    settings = lab.node_settings("node1")
    with open_node(settings, "worker"):
        with pytest.raises(CryptoError, match="in use by another process"):
            open_node(settings, "worker")
        # Reading the files in the same process must not give the claim up (POSIX record locks would).
        files.NodeFiles(settings.crypto.node)
        with pytest.raises(CryptoError, match="in use by another process"):
            open_node(settings, "worker")
    with open_node(settings, "worker"):
        pass


def test_which_topics_must_be_encrypted() -> None:
    settings = Lab.settings.__get__(type("L", (), {"bootstrap": "x"})())("")
    assert not is_encrypted(settings, "lab.files")
    settings.crypto.node = "node.config"
    assert is_encrypted(settings, "lab.files")
    settings.crypto.topics = ["secret.files"]
    assert is_encrypted(settings, "secret.files.receipts")
    assert not is_encrypted(settings, "lab.files")


def test_the_vault_holds_each_new_producer_sealed(lab: Lab) -> None:
    lab.provision("maker", "producer")
    lab.provision("reader", "consumer")
    lab.provision("maker", "producer", days=20)
    assert [entry.node for entry in vault.entries(lab.authority.folder)] == ["maker"]
    (entry,) = vault.entries(lab.authority.folder)
    key = vault.read_key(lab.authority.folder / authorities.VAULT_KEY)
    seed = vault.unseal(entry, key)
    assert msgspec.msgpack.decode(seed)[0] == 0
    assert msgspec.msgpack.decode(seed)[1] not in (lab.authority.folder / vault.FILE).read_bytes()
    with pytest.raises(CryptoError, match="does not open"):
        vault.unseal(entry, bytes(32))


def test_the_vault_gives_every_data_key_a_producer_made(lab: Lab) -> None:
    from openmsi_streams.crypto.messages import parse

    settings = lab.node_settings("maker", "producer", ["lab.files", "other.files"])
    wanted: dict[str, set[bytes]] = {"lab": set(), "other": set()}
    for _ in range(3):
        with open_node(settings, "producer") as node:
            for topic in ("lab.files", "other.files"):
                _, value = node.seal(topic, b"k", b"v")
                envelope = parse(value)
                assert envelope is not None
                wanted[topic.partition(".")[0]].add(envelope.key_index)
    assert all(len(indexes) == 3 for indexes in wanted.values())
    key = vault.read_key(lab.authority.folder / authorities.VAULT_KEY)
    found = vault.find(vault.entries(lab.authority.folder), key, wanted, steps=20)
    assert {root: set(keys) for root, keys in found.items()} == wanted
