"""Checksums as servers state them: compared where there is something to compare, never taken for granted."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

import pytest

from openmsi_streams.errors import StoreError
from openmsi_streams.storage import SourceGone
from openmsi_streams.storage import checksums as cs

DATA = b"some bytes"
MD5 = hashlib.md5(DATA).digest()
SHA = hashlib.sha256(DATA).digest()


def b64(digest: bytes) -> str:
    return base64.b64encode(digest).decode()


@pytest.mark.parametrize(
    ("kind", "answer", "expected"),
    [
        ("md5", {"ETag": f'"{MD5.hex()}"'}, True),
        ("md5", {"ETag": f'"{"0" * 32}"'}, False),
        ("md5", {"ETag": f'"{MD5.hex()}-2"'}, None),
        ("md5", {"ETag": '"encrypted-by-the-server"'}, None),
        ("md5", {}, None),
        ("sha256", {"ChecksumSHA256": b64(SHA)}, True),
        ("sha256", {"ChecksumSHA256": b64(MD5)}, False),
        ("sha256", {"ETag": f'"{MD5.hex()}"'}, True),
        ("sha256", {"ETag": f'"{"0" * 32}"'}, False),
        ("sha256", {}, None),
    ],
)
def test_bytes_are_compared_with_an_answer(kind: cs.Kind, answer: dict[str, str], expected: bool | None) -> None:
    assert cs.data_agrees(kind, DATA, answer) is expected


def test_an_object_of_parts_is_compared_by_the_checksum_of_its_checksums() -> None:
    md5s, shas = [MD5, hashlib.md5(b"x").digest()], [SHA, hashlib.sha256(b"x").digest()]
    etag = hashlib.md5(b"".join(md5s)).hexdigest()
    whole = b64(hashlib.sha256(b"".join(shas)).digest())
    assert cs.composite_agrees("md5", md5s, {"ETag": f'"{etag}-2"'}) is True
    assert cs.composite_agrees("md5", md5s, {"ETag": f'"{etag}-3"'}) is False
    assert cs.composite_agrees("md5", md5s, {"ETag": '"something"'}) is None
    assert cs.composite_agrees("sha256", shas, {"ChecksumSHA256": f"{whole}-2"}) is True
    assert cs.composite_agrees("sha256", shas, {"ChecksumSHA256": whole}) is True
    assert cs.composite_agrees("sha256", shas, {"ChecksumSHA256": f"{b64(SHA)}-2"}) is False
    assert cs.composite_agrees("sha256", shas, {"ChecksumSHA256": b64(SHA)}) is None
    assert cs.composite_agrees("sha256", shas, {}) is None


def test_a_range_of_a_file_has_the_checksum_of_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(DATA * 1000)
    for kind in cs.CHEAP:
        assert cs.digest_of_range(kind, path, 3, 9000) == cs.digest_of(kind, (DATA * 1000)[3:9000])
    with pytest.raises(SourceGone):
        cs.digest_of_range("md5", path, 0, 10_001)
    with pytest.raises(SourceGone):
        cs.digest_of_range("md5", tmp_path / "b", 0, 1)


def test_crc64nvme_is_that_of_the_nvme_standard_or_says_what_to_install() -> None:
    try:
        assert cs.digest_of("crc64nvme", b"123456789").hex() == "ae8b14860a799888"
    except StoreError as error:
        assert "pip install awscrt" in str(error)


def test_a_window_is_a_range_of_a_file_and_counts_only_what_is_sent(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(bytes(range(200)))
    throttle = cs.Throttle(0)
    taken: list[int] = []
    throttle.take = taken.append  # type: ignore[method-assign,assignment]
    with cs.Window(path, 10, 110, throttle) as window:
        assert len(window) == 100
        assert window.read() == bytes(range(10, 110))
        assert window.read(5) == b""
        assert taken == []
        window.seek(0)
        window.sending = True
        assert window.read(30) + window.read(500) == bytes(range(10, 110))
        assert taken == [30, 70]
        assert window.seek(-10, 2) == 90
        assert window.tell() == 90
        assert window.read(3) == bytes(range(100, 103))


def test_a_throttle_lets_bytes_through_at_its_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    now, slept = [100.0], []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    monkeypatch.setattr(cs.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(cs.time, "sleep", sleep)
    throttle = cs.Throttle(1000)
    for _ in range(5):
        throttle.take(500)
    assert sum(slept) == pytest.approx(2.5)
    now[0] += 60.0
    throttle.take(100)
    assert slept[-1] == pytest.approx(0.1), "an idle time is not made up for"
