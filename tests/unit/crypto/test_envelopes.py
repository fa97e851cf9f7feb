"""Parsing, framing and opening of encrypted messages, without a broker or kafkacrypto."""

from __future__ import annotations

import random
import zlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openmsi_streams.chunks.reasons import Reason, Unusable
from openmsi_streams.crypto import compress
from openmsi_streams.crypto.messages import Envelope, Opened, Opener, Waiting, parse, root_of

INDEX, SALT = bytes(range(32)), bytes(range(100, 116))


def field(box: bytes, index: bytes = INDEX, salt: bytes = SALT) -> bytes:
    """Return an encrypted field as msgpack writes it."""
    return b"\x01" + msgspec.msgpack.encode([index, salt, box])


class FakeKeys:
    """A node whose ciphertext is a MAC of 16 letters M, then the plaintext."""

    def __init__(self, *indexes: bytes) -> None:
        self.indexes = set(indexes)
        self.requested: list[tuple[str, bytes]] = []

    def has_key(self, root: str, key_index: bytes) -> bool:
        return key_index in self.indexes

    def request(self, root: str, key_index: bytes) -> None:
        self.requested.append((root, key_index))

    def decrypt(self, root: str, field: str, envelope: Envelope) -> bytes:
        if bytes(envelope.box[:16]) != b"M" * 16:
            raise ValueError("changed")
        return bytes(envelope.box[16:])


def sealed(plain: bytes, index: bytes = INDEX) -> bytes:
    return field(b"M" * 16 + plain, index)


@pytest.mark.parametrize("size", [16, 17, 255, 256, 257, 65535, 65536, 600_000])
def test_parse_takes_a_field_apart_without_copying_the_box(size: int) -> None:
    box = random.Random(size).randbytes(size)
    envelope = parse(field(box))
    assert envelope is not None
    assert (envelope.key_index, envelope.salt, bytes(envelope.box)) == (INDEX, SALT, box)
    assert isinstance(envelope.box, memoryview)


@given(st.binary(max_size=300))
def test_parse_never_raises_and_takes_nothing_else(data: bytes) -> None:
    assert parse(data) is None or data.startswith(b"\x01\x93\xc4\x20")


@given(st.integers(0, 90), st.integers(1, 255), st.booleans())
def test_parse_takes_exactly_the_format(at: int, change: int, cut: bool) -> None:
    """A changed byte of the frame, a byte too few or too many, and it is not ours."""
    good = field(b"M" * 16 + b"plain text of forty bytes, more or less")
    assert parse(good[:at] if cut else good + bytes(change)) is None
    changed = good[:at] + bytes([good[at] ^ change]) + good[at + 1 :]
    envelope = parse(changed)
    content = set(range(4, 36)) | set(range(38, 54)) | set(range(56, len(good)))
    assert (envelope is not None) == (at in content)


@pytest.mark.parametrize(
    "data",
    [
        None,
        b"",
        b"\x01",
        b'{"path": "a.txt"}',
        b"\x9a\xa5a.txt" + bytes(200),
        field(b"M" * 15),
        field(b"M" * 40, index=bytes(31)),
        field(b"M" * 40, index=bytes(600_000)),
        field(b"M" * 40, salt=bytes(15)),
        # A length that the box does not have, and a length written longer than msgpack writes it.
        field(b"M" * 40)[:-41] + b"\xff" + b"M" * 40,
        b"\x01\x93\xc4\x20" + INDEX + b"\xc4\x10" + SALT + b"\xc5\x00\x28" + b"M" * 40,
        b"\x01" + msgspec.msgpack.encode([7, SALT, b"M" * 40]) + bytes(40),
        b"\x01" + msgspec.msgpack.encode([INDEX, SALT, b"M" * 40, b""]),
    ],
)
def test_other_formats_are_not_parsed(data: bytes | None) -> None:
    assert parse(data) is None


def test_the_root_is_what_stands_before_the_first_dot() -> None:
    assert [root_of(one) for one in ("lab", "lab.files", "lab.files.receipts")] == ["lab", "lab", "lab"]


def test_a_message_with_its_key_is_opened() -> None:
    opener = Opener(FakeKeys(INDEX))
    assert opener.open("lab.files", sealed(b"k"), sealed(b"v")) == Opened(b"k", b"v")
    assert opener.open("lab.files", None, sealed(b"v")) == Opened(None, b"v")
    assert opener.open("lab.files", sealed(b"k"), None) == Opened(b"k", None)
    # As `replay` sends it: the value is what counts.
    assert opener.open("lab.files", b"replay", sealed(b"v")) == Opened(b"replay", b"v")
    assert opener.open_value("lab.gemd", sealed(b"v")) == b"v"


def test_a_message_without_its_key_waits_and_asks() -> None:
    keys = FakeKeys(INDEX)
    other = bytes(32)
    assert Opener(keys).open("lab.files", sealed(b"k"), sealed(b"v", other)) == Waiting("lab", other)
    assert keys.requested == [("lab", other)]


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        (sealed(b"k"), b"\x9a plain", Reason.NOT_ENCRYPTED),
        (sealed(b"k"), b"", Reason.NOT_ENCRYPTED),
        (sealed(b"k"), sealed(b"v")[:-1], Reason.NOT_ENCRYPTED),
        (sealed(b"k"), field(b"X" * 20), Reason.UNDECRYPTABLE),
        (field(b"X" * 20), sealed(b"v"), Reason.UNDECRYPTABLE),
    ],
)
def test_what_can_never_be_opened_is_told_with_its_reason(key: bytes, value: bytes, reason: Reason) -> None:
    with pytest.raises(Unusable) as caught:
        Opener(FakeKeys(INDEX)).open("lab.files", key, value)
    assert caught.value.reason is reason


@given(st.binary(max_size=2000), st.sampled_from(["none", "zlib"]))
def test_a_framed_value_comes_back(value: bytes, method: str) -> None:
    framed = compress.frame(value, method)
    assert compress.unframe(framed, 1 << 20) == value
    # Never ambiguous: a frame begins with 0xC1, and what does not begin so is the value itself.
    assert framed[:1] == b"\xc1" or framed == value


@given(st.binary(min_size=1, max_size=60), st.integers(2, 50), st.sampled_from(["none", "zlib"]))
def test_a_value_that_looks_like_a_frame_comes_back(tail: bytes, repeat: int, method: str) -> None:
    for head in (b"\xc1", b"\xc1\x00", b"\xc1\x01", b"\xc1\x01" + zlib.compress(b"x" * 100)):
        value = head + tail * repeat
        assert compress.unframe(compress.frame(value, method), 1 << 20) == value


def test_text_gets_smaller_and_noise_stays_as_it_is() -> None:
    noise = b"\x9a" + random.Random(1).randbytes(5000)
    assert len(compress.frame(b"\x9a" + b"time,volt\n" * 500, "zlib")) < 500
    assert compress.frame(noise, "zlib") == noise
    assert compress.frame(b"\x9a" + b"time,volt\n" * 500, "none") == b"\x9a" + b"time,volt\n" * 500


def test_a_decompression_bomb_is_not_unpacked() -> None:
    bomb = b"\xc1\x01" + zlib.compress(bytes(1 << 20))
    assert compress.unframe(bomb, 1 << 16) == bomb
    assert compress.unframe(bomb, 1 << 20) == bytes(1 << 20)
    assert compress.unframe(b"\xc1\x01garbage", 100) == b"\xc1\x01garbage"
