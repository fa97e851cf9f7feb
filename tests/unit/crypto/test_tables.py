"""Rows of a worker's table are sealed with a key that all workers of the lab share."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("kafkacrypto", reason="the crypto extra is not installed")

from openmsi_streams.crypto.tables import TableCipher, table_cipher
from openmsi_streams.errors import CryptoError
from tests.support.crypto_nodes import Lab

ROW = b"\x93 row with shots/secret.dat"


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


def test_all_workers_of_a_lab_open_the_rows_of_each_other(lab: Lab) -> None:
    one, two = (table_cipher(lab.provision(name).config) for name in ("worker1", "worker2"))
    sealed = one.seal(ROW)
    assert b"secret" not in sealed and one.seal(ROW) != sealed
    assert two.open(sealed) == ROW


def test_rows_from_before_encryption_are_read(lab: Lab) -> None:
    cipher = table_cipher(lab.provision("worker1").config)
    for row in (ROW, b'{"json": 1}', b""):
        assert cipher.open(row) == row


def test_rows_of_another_lab_or_changed_rows_are_refused() -> None:
    cipher = TableCipher(bytes(32))
    sealed = cipher.seal(ROW)
    for changed in (TableCipher(b"\x01" * 32).seal(ROW), sealed[:-1], sealed[:30] + b"\x00" + sealed[31:], sealed[:9]):
        if changed != sealed:
            with pytest.raises(CryptoError, match="another key"):
                cipher.open(changed)


def test_a_node_of_upstream_makes_a_key_that_can_be_copied(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    one, two = lab.provision("worker1"), lab.provision("worker2")
    for made in (one, two):
        made.table_key.unlink()
    sealed = table_cipher(one.config).seal(ROW)
    assert "Other workers of this application need the same file" in caplog.text
    shared = one.config.with_name("tables.key")
    assert table_cipher(one.config).open(sealed) == ROW
    with pytest.raises(CryptoError, match="another key"):
        table_cipher(two.config).open(sealed)
    two.config.with_name("tables.key").write_bytes(shared.read_bytes())
    assert table_cipher(two.config).open(sealed) == ROW


def test_provisioning_gives_the_lab_key_to_readers_only(lab: Lab) -> None:
    made = lab.provision("worker1")
    key = made.table_key.read_bytes()
    made.table_key.unlink()
    assert lab.provision("worker1").table_key.read_bytes() == key
    assert not lab.provision("maker", "producer").table_key.exists()


def test_a_damaged_key_is_named(lab: Lab) -> None:
    made = lab.provision("worker1")
    made.table_key.write_text("00")
    with pytest.raises(CryptoError, match=r"worker1\.table does not hold a key"):
        table_cipher(made.config)
