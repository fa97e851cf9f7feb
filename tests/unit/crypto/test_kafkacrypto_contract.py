"""What we use of kafkacrypto's inside is there and means what we think; a new release that changes it fails here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("kafkacrypto", reason="the crypto extra is not installed")

from openmsi_streams.crypto import library
from openmsi_streams.crypto.messages import Opened, Opener, parse
from openmsi_streams.crypto.node import Node, open_node
from tests.support.crypto_nodes import Lab


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with open_node(Lab(tmp_path).node_settings("node1"), "worker") as opened:
        yield opened


def test_the_version_is_one_that_was_tested() -> None:
    assert library.is_known_version()


def test_private_attributes_are_what_we_take_them_for(node: Node) -> None:
    machine = node._machine
    key, value = node.seal("lab.files", b"k", b"v")
    envelope = parse(value)
    assert envelope is not None and parse(key) is not None
    # The current data key by root; it can encrypt, has a secret of 32 bytes, and is stored by now.
    assert machine._cur_pgens == {"lab": envelope.key_index}
    own = machine._pgens["lab"][envelope.key_index]
    assert {"key", "value", "secret", "birth"} <= own.keys() and len(own["secret"]) == 32
    assert machine._new_pgens is False and node.files.config.read_text().count("oldkeys") == 1
    # Received keys, waits, subscriptions.
    assert machine._cgens == {} and machine._cwaits == {} and machine._subs_last == {} and machine._subs_needed == []
    assert "lab.reqs" in machine._tps and "lab.reqs" in machine._tps_offsets
    assert machine._mgmt_thread.is_alive() and machine._lock is machine.guard
    for name in ("_CryptoExchange__allowlist", "_CryptoExchange__denylist"):
        assert isinstance(getattr(machine._cryptoexchange, name), list)
    assert (machine.TOPIC_SUFFIX_KEYS, machine.TOPIC_SUFFIX_REQS) == (".keys", ".reqs")
    assert machine._cryptokey.unwrap_opaque(machine._cryptokey.wrap_opaque(b"x")) == b"x"


def test_the_library_itself_reads_what_we_open_and_we_read_what_it_seals(node: Node) -> None:
    machine = node._machine
    key, value = node.seal("lab.files", b"k", b"v" * 100_000)
    envelope = parse(value)
    assert envelope is not None
    machine._cgens["lab"] = dict(machine._pgens["lab"])
    assert machine.getKeyDeserializer().deserialize("lab.files", key).getMessage() == b"k"
    assert machine.getValueDeserializer().deserialize("lab.files", value).getMessage() == b"v" * 100_000
    sealed = [one.serialize("lab.files", b"x") for one in (machine.getKeySerializer(), machine.getValueSerializer())]
    assert Opener(node).open("lab.files", *sealed) == Opened(b"x", b"x")
