"""Two nodes and a broker: keys come, come again, or never come, and nothing blocks meanwhile."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("kafkacrypto", reason="the crypto extra is not installed")

from openmsi_streams.chunks.reasons import Reason, Unusable
from openmsi_streams.crypto import authority as authorities
from openmsi_streams.crypto import chains, files
from openmsi_streams.crypto import provision as provisioning
from openmsi_streams.crypto.messages import Opened, Opener, Waiting, parse
from openmsi_streams.crypto.node import Node, open_node
from openmsi_streams.embedded import EmbeddedBroker
from openmsi_streams.errors import CryptoError
from tests.support.crypto_nodes import Lab
from tests.support.kafka import produce, read_all
from tests.support.proxy import ProxiedBroker
from tests.support.waiting import wait_until

pytestmark = pytest.mark.broker

# An exchange takes half a second; on a machine with other work, and with topics that are made meanwhile, longer.
PATIENCE = 60.0
Message = tuple[bytes | None, bytes | None]


@pytest.fixture(autouse=True)
def _asks_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests are repeated after two seconds instead of ten, so that tests need not wait for them."""
    monkeypatch.setattr("openmsi_streams.crypto.engine.ASK_AGAIN", 2)


@pytest.fixture
def lab(tmp_path: Path, own_broker: EmbeddedBroker) -> Lab:
    return Lab(tmp_path, own_broker.bootstrap)


@pytest.fixture
def opened() -> Iterator[Callable[..., Node]]:
    """Open nodes that are closed at the end."""
    with ExitStack() as stack:
        yield lambda settings, role: stack.enter_context(open_node(settings, role))


def comes(node: Node, message: Message, topic: str = "lab.files") -> Opened:
    """Wait until a message can be opened."""
    opener = Opener(node)

    def attempt() -> Opened | None:
        found = opener.open(topic, *message)
        return found if isinstance(found, Opened) else None

    return wait_until(attempt, PATIENCE, "the data key has come", node.failure)


def index_of(message: Message) -> bytes:
    envelope = parse(message[1])
    assert envelope is not None
    return envelope.key_index


def test_a_message_waits_for_its_key_and_is_then_open(lab: Lab, opened: Callable[..., Node]) -> None:
    maker = opened(lab.node_settings("maker", "producer"), "producer")
    reader = opened(lab.node_settings("reader", "consumer"), "reader")
    message = maker.seal("lab.files", b"a.txt", b"content")
    assert b"a.txt" not in message[0] + message[1] and b"content" not in message[1]  # type: ignore[operator]
    assert Opener(reader).open("lab.files", *message) == Waiting("lab", index_of(message))
    assert comes(reader, message) == Opened(b"a.txt", b"content")
    # Topics beside share root and key.
    beside = maker.seal("lab.files.receipts", b"r", b"receipt")
    assert Opener(reader).open("lab.files.receipts", *beside) == Opened(b"r", b"receipt")
    assert reader.alive() and maker.alive() and reader.failure() == ""


def test_a_node_reads_what_it_wrote_itself_at_once(lab: Lab, opened: Callable[..., Node]) -> None:
    node = opened(lab.node_settings("node1"), "worker")
    assert node.open("lab.files.receipts", node.seal_value("lab.files.receipts", b"receipt")) == b"receipt"


def test_receipts_are_opened_when_their_key_has_come(lab: Lab, opened: Callable[..., Node]) -> None:
    maker = opened(lab.node_settings("maker"), "producer")
    worker = opened(lab.node_settings("worker"), "worker")
    receipt = worker.seal_value("lab.files.receipts", b"delivered")
    assert maker.open("lab.files.receipts", receipt, patience=0) is None
    assert maker.open("lab.files.receipts", receipt, patience=PATIENCE) == b"delivered"


def test_receipts_of_a_worker_that_is_gone_are_waited_for_once(lab: Lab, opened: Callable[..., Node]) -> None:
    """The second does not wait at all (a day would end the test); when the key comes after all, they open."""
    settings = lab.node_settings("worker")
    with open_node(settings, "worker") as worker:
        receipts = [worker.seal_value("lab.files.receipts", b"%d" % number) for number in range(2)]
    maker = opened(lab.node_settings("maker"), "producer")
    assert maker.open("lab.files.receipts", receipts[0], patience=0.2) is None
    assert maker.open("lab.files.receipts", receipts[1], patience=86400) is None
    opened(settings, "worker")
    wait_until(
        lambda: [maker.open("lab.files.receipts", one, patience=0) for one in receipts] == [b"0", b"1"],
        *(PATIENCE, "the key has come"),
    )


def test_nothing_is_concluded_from_a_receipt_that_is_not_authentic(lab: Lab, opened: Callable[..., Node]) -> None:
    maker = opened(lab.node_settings("maker"), "producer")
    receipt = maker.seal_value("lab.files.receipts", b"delivered")
    assert maker.open("lab.files.receipts", b'{"state": "delivered"}') is None
    assert maker.open("lab.files.receipts", receipt[:-1] + bytes([receipt[-1] ^ 1])) is None
    writer = opened(lab.node_settings("writer", "producer"), "producer")
    with pytest.raises(CryptoError, match="not as consumer"):
        writer.open("lab.files.receipts", receipt)


def test_every_changed_byte_is_found(lab: Lab, opened: Callable[..., Node]) -> None:
    node = opened(lab.node_settings("node1"), "worker")
    key, value = node.seal("lab.files", b"k", b"some content")
    assert key is not None and value is not None
    opener = Opener(node)
    for at in range(len(value)):
        changed = value[:at] + bytes([value[at] ^ 1]) + value[at + 1 :]
        if 4 <= at < 36:
            # Another key index: as good as a key that is not here yet.
            assert isinstance(opener.open("lab.files", key, changed), Waiting)
            continue
        expected = Reason.UNDECRYPTABLE if 38 <= at < 54 or at >= 56 else Reason.NOT_ENCRYPTED
        with pytest.raises(Unusable) as caught:
            opener.open("lab.files", key, changed)
        assert caught.value.reason is expected, at
    # The value of another topic root, the key in the place of the value.
    with pytest.raises(Unusable):
        opener.open("lab.files", value, key)


def test_equal_messages_differ_and_compression_is_undone(lab: Lab, opened: Callable[..., Node]) -> None:
    settings = lab.node_settings("node1")
    settings.crypto.compression = "zlib"
    node = opened(settings, "worker")
    text = b"\x9a" + b"time,volt\n" * 5000
    one, two = node.seal("lab.files", b"k", text), node.seal("lab.files", b"k", text)
    assert one[0] != two[0] and one[1] != two[1]
    assert len(one[1] or b"") < len(text) // 10
    assert Opener(node).open("lab.files", *one) == Opener(node).open("lab.files", *two) == Opened(b"k", text)


def test_keys_of_ten_producers_all_come(lab: Lab, opened: Callable[..., Node]) -> None:
    """An answer uses a request up, so that there must be ten rounds; the node asks them by itself."""
    reader = opened(lab.node_settings("reader", "consumer"), "reader")
    messages = []
    for number in range(10):
        maker = opened(lab.node_settings(f"maker{number}", "producer"), "producer")
        messages.append(maker.seal("lab.files", b"k", b"from %d" % number))
    opener = Opener(reader)
    for message in messages:
        opener.open("lab.files", *message)
    for number, message in enumerate(messages):
        assert comes(reader, message).value == b"from %d" % number


def test_a_restarted_producer_serves_its_old_keys_without_sending(lab: Lab, opened: Callable[..., Node]) -> None:
    settings = lab.node_settings("maker", "producer")
    with open_node(settings, "producer") as first:
        message = first.seal("lab.files", b"k", b"before the restart")
    opened(settings, "producer")
    reader = opened(lab.node_settings("reader", "consumer"), "reader")
    assert comes(reader, message).value == b"before the restart"


def test_a_restarted_reader_needs_no_producer(lab: Lab) -> None:
    """Received keys are on disk, sealed with the reader's own key."""
    with open_node(lab.node_settings("maker", "producer"), "producer") as maker:
        message = maker.seal("lab.files", b"k", b"v")
        with open_node(lab.node_settings("reader", "consumer"), "reader") as reader:
            comes(reader, message)
            wait_until(lambda: len(reader.keyring), PATIENCE, "the key is on disk")
    ring = (lab.folder / "reader" / "reader.keyring").read_bytes()
    with open_node(lab.node_settings("reader", "consumer"), "reader") as again:
        assert Opener(again).open("lab.files", *message) == Opened(b"k", b"v")
        secret = again.keyring.get("lab", index_of(message))
    assert secret is not None and secret not in ring


def test_a_sender_that_ends_waits_until_its_key_is_handed_over(lab: Lab, opened: Callable[..., Node]) -> None:
    maker = opened(lab.node_settings("maker", "producer"), "producer")
    assert maker.linger(0), "nothing was sealed yet"
    message = maker.seal("lab.files", b"k", b"v")
    assert not maker.linger(0) and not maker.linger(PATIENCE, stopping=lambda: True)
    reader = opened(lab.node_settings("reader", "consumer"), "reader")
    assert isinstance(Opener(reader).open("lab.files", *message), Waiting)
    assert maker.linger(PATIENCE)
    assert read_all(lab.bootstrap, "lab.keys")
    assert comes(reader, message).value == b"v"


def test_a_late_producer_answers_a_request_made_before(lab: Lab, opened: Callable[..., Node]) -> None:
    settings = lab.node_settings("maker", "producer")
    with open_node(settings, "producer") as maker:
        message = maker.seal("lab.files", b"k", b"v")
    reader = opened(lab.node_settings("reader", "consumer"), "reader")
    Opener(reader).open("lab.files", *message)
    wait_until(lambda: read_all(lab.bootstrap, "lab.reqs"), PATIENCE, "the request is on the broker")
    assert isinstance(Opener(reader).open("lab.files", *message), Waiting)
    opened(settings, "producer")
    assert comes(reader, message).value == b"v"


def test_a_new_data_key_in_the_middle_is_no_matter(lab: Lab, opened: Callable[..., Node]) -> None:
    made = lab.provision("maker", "producer")
    parser = files.parser()
    parser.read_string(made.config.read_text())
    parser["maker"]["crypto_ratchet_interval"] = "1"
    with made.config.open("w") as file:
        parser.write(file)
    maker = opened(lab.settings(made.config), "producer")
    reader = opened(lab.node_settings("reader", "consumer"), "reader")
    messages: list[Message] = []

    def three_keys() -> bool:
        messages.append(maker.seal("lab.files", b"k", b"%d" % len(messages)))
        return len({index_of(one) for one in messages}) == 3

    wait_until(three_keys, PATIENCE, "the data key has changed twice")
    for number, message in enumerate(messages):
        assert comes(reader, message).value == b"%d" % number


def test_a_stranger_cannot_answer_nor_ask(lab: Lab, opened: Callable[..., Node], tmp_path: Path) -> None:
    """Nodes of another authority: their keys are not taken, and their requests not answered."""
    stranger = authorities.create(tmp_path / "stranger")
    rogue_maker = opened(lab.node_settings("rogue1", "producer", signer=stranger), "producer")
    rogue_reader = opened(lab.node_settings("rogue2", "consumer", signer=stranger), "reader")
    maker = opened(lab.node_settings("maker", "producer"), "producer")
    forged = rogue_maker.seal("lab.files", b"k", b"forged")
    true = maker.seal("lab.files", b"k", b"true")
    Opener(rogue_reader).open("lab.files", *true)
    wait_until(lambda: read_all(lab.bootstrap, "lab.reqs"), PATIENCE, "the rogue has asked")
    reader = opened(lab.node_settings("reader", "consumer"), "reader")
    Opener(reader).open("lab.files", *forged)
    rogue = index_of(forged)
    # The rogue cannot answer a request that its own authority does not cover.
    comes(reader, true)
    second = opened(lab.node_settings("maker2", "producer"), "producer").seal("lab.files", b"k", b"second")
    # Answers come in order on one partition: whatever the rogues sent was seen before this one.
    comes(reader, second)
    assert not reader.has_key("lab", rogue)
    assert not rogue_reader.has_key("lab", index_of(true))
    assert isinstance(Opener(reader).open("lab.files", *forged), Waiting)


def test_a_node_of_another_topic_gets_no_keys_of_this_one(lab: Lab, opened: Callable[..., Node]) -> None:
    maker = opened(lab.node_settings("maker", "producer"), "producer")
    message = maker.seal("lab.files", b"k", b"v")
    outsider = opened(lab.node_settings("outsider", "consumer", ["other.files"]), "reader")
    Opener(outsider).open("lab.files", *message)
    wait_until(lambda: read_all(lab.bootstrap, "lab.reqs"), PATIENCE, "the outsider has asked")
    comes(opened(lab.node_settings("reader", "consumer"), "reader"), message)
    assert not outsider.has_key("lab", index_of(message))
    with pytest.raises(CryptoError, match=r"may not write to lab\.files"):
        opened(lab.node_settings("other", "both", ["other.files"]), "producer").seal("lab.files", b"k", b"v")


def test_an_expired_chain_stops_sending_and_a_renewed_one_starts_it(lab: Lab, opened: Callable[..., Node]) -> None:
    settings = lab.node_settings("maker", "producer")
    maker = opened(settings, "producer")
    yesterday = datetime.now(UTC) - timedelta(days=1)
    expired = lab.authority.chain(provisioning.public_key(maker.files), "producer", ["lab.files"], yesterday)
    maker._store.store_value("chain0", expired, section="chains")
    maker._is_expired(reread=True)

    def refused() -> bool:
        try:
            maker.seal("lab.files", b"k", b"v")
        except CryptoError as error:
            return "expired" in str(error)
        return False

    assert refused()
    public, chain = provisioning.renew(lab.authority, Path(settings.crypto.node), days=10, write=False)
    provisioning.publish(settings, public, chain)
    wait_until(lambda: not refused(), PATIENCE, "the renewed chain has come over the air")
    assert (maker.expiry() - chains.read(chain, [lab.authority.root]).expires).total_seconds() == 0  # type: ignore[operator]
    reader = opened(lab.node_settings("reader", "consumer"), "reader")
    comes(reader, maker.seal("lab.files", b"k", b"after"))


@pytest.mark.parametrize("role", ["producer", "worker"])
def test_a_node_that_starts_expired_is_refused_unless_its_new_chain_lies_on_the_broker(
    lab: Lab, opened: Callable[..., Node], role: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = lab.node_settings("node1", days=0.001 / 86400)
    monkeypatch.setattr("openmsi_streams.crypto.node.RENEWAL_SECONDS", 0.2)
    with pytest.raises(CryptoError, match="expired on"):
        open_node(settings, role)
    public, chain = provisioning.renew(lab.authority, Path(settings.crypto.node), days=10, write=False)
    provisioning.publish(settings, public, chain)
    monkeypatch.setattr("openmsi_streams.crypto.node.RENEWAL_SECONDS", PATIENCE)
    opened(settings, role)


def test_a_key_that_is_denied_on_the_broker_is_not_trusted_any_more(lab: Lab, opened: Callable[..., Node]) -> None:
    from kafkacrypto.keys import SignSecretKey

    maker = opened(lab.node_settings("maker", "producer"), "producer")
    reader = opened(lab.node_settings("reader", "consumer"), "reader")
    public = provisioning.public_key(maker.files)
    root = SignSecretKey(bytes.fromhex(lab.authority.secrets.root_secret))
    limits = chains.pack([["usages", ["key-denylist"]]])
    denied = root.crypto_sign(chains.pack([0, limits, public, chains.pack([0, b"\x90", public])]))
    produce(lab.bootstrap, "denylist", [(b"maker", chains.pack([denied]))], partition=0)
    wait_until(lambda: files.NodeFiles(reader.files.config).denied, PATIENCE, "the reader has taken the denial")
    refused = maker.seal("lab.files", b"k", b"of the denied node")
    Opener(reader).open("lab.files", *refused)
    wait_until(lambda: read_all(lab.bootstrap, "lab.keys"), PATIENCE, "the denied producer has answered")
    other = opened(lab.node_settings("maker2", "producer"), "producer").seal("lab.files", b"k", b"good")
    comes(reader, other)
    assert not reader.has_key("lab", index_of(refused))


def test_garbage_on_the_topics_of_the_exchange_does_no_harm(lab: Lab, opened: Callable[..., Node]) -> None:
    rng = random.Random(8)
    garbage = [(rng.randbytes(rng.randrange(0, 300)), rng.randbytes(rng.randrange(0, 900))) for _ in range(60)]
    for topic in ("lab.reqs", "lab.keys", "lab.subs", "chains", "allowlist", "denylist"):
        produce(lab.bootstrap, topic, [*garbage, (None, b"\xc4"), (b"\x93", b"")], partition=0)
    maker = opened(lab.node_settings("maker", "producer"), "producer")
    reader = opened(lab.node_settings("reader", "consumer"), "reader")
    comes(reader, maker.seal("lab.files", b"k", b"v"))


def test_invented_key_indexes_neither_stop_the_node_nor_starve_the_others(
    lab: Lab, opened: Callable[..., Node]
) -> None:
    """2000 keys that nobody has are asked for in turns; an honest producer's comes all the same."""
    maker = opened(lab.node_settings("maker", "producer"), "producer")
    reader = opened(lab.node_settings("reader", "consumer"), "reader")
    reader._machine.CRYPTO_SUB_INTERVAL = 0.2
    for number in range(2000):
        reader.request("lab", number.to_bytes(32, "big"))
    comes(reader, maker.seal("lab.files", b"k", b"v"))
    for number in range(2000):
        reader.forget("lab", number.to_bytes(32, "big"))
    wait_until(lambda: not any(reader._machine.wanted.values()), PATIENCE, "nothing is asked for any more")
    largest = max(len(one.key() or b"") for one in read_all(lab.bootstrap, "lab.reqs"))
    assert largest < 10_000


def test_a_broker_that_is_away_holds_up_nothing_that_needs_no_broker(
    tmp_path: Path, proxied_broker: ProxiedBroker, opened: Callable[..., Node]
) -> None:
    lab = Lab(tmp_path, proxied_broker.bootstrap)
    maker = opened(lab.node_settings("maker", "producer"), "producer")
    reader = opened(lab.node_settings("reader", "consumer"), "reader")
    comes(reader, maker.seal("lab.files", b"k", b"v"))
    proxied_broker.proxy.cut()
    while_away = maker.seal("lab.files", b"k", b"sealed without a broker")
    assert Opener(reader).open("lab.files", *while_away) == Opened(b"k", b"sealed without a broker")
    late = opened(lab.node_settings("late", "producer"), "producer").seal("lab.files", b"k", b"new key")
    assert isinstance(Opener(reader).open("lab.files", *late), Waiting)
    proxied_broker.proxy.mend()
    assert comes(reader, late).value == b"new key"


def test_closing_ends_also_when_the_broker_is_away(tmp_path: Path, proxied_broker: ProxiedBroker) -> None:
    lab = Lab(tmp_path, proxied_broker.bootstrap)
    reader = open_node(lab.node_settings("reader"), "worker")
    reader.request("lab", bytes(32))
    wait_until(lambda: read_all(lab.bootstrap, "lab.reqs"), PATIENCE, "the node is at work")
    proxied_broker.proxy.silence()
    reader.close()
    reader.close()
    assert not reader.alive() and reader.failure() == "the node is closed"
    # The node is free for the next process.
    with open_node(lab.settings(reader.files.config), "worker"):
        pass


def test_a_dead_background_thread_is_seen_and_never_waited_for(lab: Lab, opened: Callable[..., Node]) -> None:
    """The disk refuses a new data key: kafkacrypto's thread dies of that, with its lock held."""
    maker = opened(lab.node_settings("maker", "producer", ["lab.files", "other.files"]), "producer")
    message = maker.seal("lab.files", b"k", b"v")

    def refuse(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    maker._store.store_opaque_value = refuse
    with pytest.raises(CryptoError):
        maker.seal("other.files", b"k", b"the key of this one cannot be stored")
    wait_until(lambda: not maker.alive(), PATIENCE, "the end of the thread is seen")
    assert "No space left" in maker.failure()
    with pytest.raises(CryptoError, match="background thread has stopped"):
        maker.seal("lab.files", b"k", b"v")
    # What needs no exchange goes on.
    assert Opener(maker).open("lab.files", *message) == Opened(b"k", b"v")


def test_a_seed_from_a_backup_is_stepped_on(lab: Lab) -> None:
    """kafkacrypto refuses to use a data key twice and then stays stuck; the node steps over it."""
    settings = lab.node_settings("maker")
    seed = Path(settings.crypto.node).with_suffix(".seed")
    old = seed.read_bytes()
    used: set[bytes] = set()
    for _ in range(3):
        with open_node(settings, "producer") as maker:
            used.add(index_of(maker.seal("lab.files", b"k", b"v")))
    seed.write_bytes(old)
    with open_node(settings, "producer") as maker:
        message = maker.seal("lab.files", b"k", b"after the backup")
        assert index_of(message) not in used
        assert maker.open("lab.files", message[1] or b"") == b"after the backup"
