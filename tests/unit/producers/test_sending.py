"""Which chunks go, how fast, and what is asked for again."""

from __future__ import annotations

import errno
import gc
import os
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha512
from pathlib import Path

import msgspec
import pytest

from openmsi_streams.chunks.codec import decode
from openmsi_streams.chunks.keys import file_id, home_partition
from openmsi_streams.chunks.messages import Request
from openmsi_streams.chunks.reasons import Unusable
from openmsi_streams.config import load
from openmsi_streams.producers import options
from openmsi_streams.producers.aftercare import chunks_of
from openmsi_streams.producers.content import SMALL, Prepared, prepare
from openmsi_streams.producers.sender import Job, Sender, Throttle, explain


def prepared(size: int, append: str = "") -> Prepared:
    return Prepared(Path("x"), size, 0, size, sha512(b"").digest(), b"", [], 1000, b"", (), append)


def test_a_new_file_sends_all_chunks_and_an_empty_one_its_single_chunk() -> None:
    assert list(Job("t", "a/b.dat", prepared(2500), 3).todo) == [1, 2, 3]
    assert list(Job("t", "a/b.dat", prepared(0), 3).todo) == [1]


def test_after_a_restart_only_what_is_not_acknowledged_goes() -> None:
    assert list(Job("t", "b.dat", prepared(4500), 3, acked=(0, 1000, 2000, 4000)).todo) == [2, 5]
    assert list(Job("t", "b.dat", prepared(2000), 3, acked=(0, 2000)).todo) == []


def test_identity_and_home_partition_are_those_of_the_path_on_the_far_side() -> None:
    job = Job("t", "a/b.txt", prepared(10, "_skimmed"), 7)
    assert job.far_path == "a/b_skimmed.txt"
    assert job.partition == home_partition("a/b_skimmed.txt", 7)
    assert job.file_id == file_id("t", "a/b_skimmed.txt", job.prepared.sha512.hex())


def test_what_was_sent_leaves_nothing_in_memory() -> None:
    def make(first: int) -> int:
        for number in range(first, first + 4000):
            Job("t", f"run_{number % 40}/scan_{number:06d}.dat", prepared(2500), 3)
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        before = make(0)
        # A watching producer names a million paths a year. One kept would be 70 bytes and more.
        assert (make(4000) - before) / 4000 < 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("chunk_bytes", "options", "most"),
    [(524_288, {}, 5), (16_384, {}, 240), (4_000_000, {}, 5), (16_384, {"batch.size": "200000"}, 45)],
)
def test_of_a_large_file_no_more_is_queued_than_five_requests_hold(
    chunk_bytes: int, options: dict[str, str], most: int
) -> None:
    """What waits behind them keeps librdkafka's thread spinning, and a small file waiting."""
    settings = load(None, {"chunks.chunk_bytes": chunk_bytes, "producer.options": options}, {})
    sender = Sender(settings, "t", ThreadPoolExecutor(1))
    large = msgspec.structs.replace(prepared(10**9), data=None, chunk_bytes=chunk_bytes)
    job = Job("t", "a.dat", large, 3)
    job.outstanding = most - 1
    assert sender.takes(job)
    job.outstanding = most
    assert not sender.takes(job)
    assert sender.takes(Job("t", "small.dat", prepared(10), 3))


@pytest.mark.skipif(not hasattr(os, "RWF_NOWAIT"), reason="only Linux tells what is in its page cache")
@pytest.mark.parametrize("chunk_bytes", [65_536, 1_000_000])
@pytest.mark.parametrize("cold_from", [0, 3, 10**9])
def test_a_large_file_is_read_whole_and_in_order_wherever_its_pages_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk_bytes: int, cold_from: int
) -> None:
    data = os.urandom(SMALL + 3_000_000)
    (tmp_path / "x").write_bytes(data)
    real, asked = os.preadv, {True: 0, False: 0}

    def preadv(fd: int, buffers: list[memoryview], offset: int, flags: int = 0) -> int:
        asked[bool(flags)] += 1
        if flags and asked[True] > cold_from:
            raise BlockingIOError(errno.EAGAIN, "would have to wait")
        return real(fd, buffers, offset)

    with ThreadPoolExecutor(2) as pool:
        hashed = prepare(tmp_path / "x", chunk_bytes, pool)
        monkeypatch.setattr(os, "preadv", preadv)
        sender = Sender(load(None, {"chunks.chunk_bytes": chunk_bytes}, {}), "t", pool)
        job = Job("t", "x", hashed, 3)
        found: list[tuple[int, bytes]] = []
        while not job.handed_over:
            taken = sender._next(job)
            if taken is None:
                sender.wait_for_reader(job, 10.0)
            else:
                found.append(taken)
        job.close()
    assert [index for index, _ in found] == list(range(1, hashed.total + 1))
    assert b"".join(decode(value, largest_chunk=1 << 20, max_file_bytes=1 << 30)[0].data for _, value in found) == data
    assert (asked[False] == 0) == (cold_from > 3), "what is in memory is read at once, the rest by threads"


@pytest.mark.parametrize("path", ["a/../b", "a/b:c.dat", "COM1.txt", "ends with dot."])
def test_a_name_that_the_worker_would_refuse_is_not_sent(path: str) -> None:
    with pytest.raises(Unusable):
        Job("t", path, prepared(1), 3)


@pytest.mark.parametrize(
    ("missing", "size", "expected"),
    [
        (((0, 1000),), 4500, [1]),
        (((999, 1001),), 4500, [1, 2]),
        (((1000, 2000), (4000, 4500)), 4500, [2, 5]),
        (((3000, -1),), 4500, [4, 5]),
        (((0, -1),), 4500, [1, 2, 3, 4, 5]),
        (((4000, 99_000),), 4500, [5]),
        (((0, -1),), 0, [1]),
        (((9000, 10_000),), 4500, []),
    ],
)
def test_a_request_is_answered_with_the_chunks_that_cover_it(
    missing: tuple[tuple[int, int], ...], size: int, expected: list[int]
) -> None:
    request = Request(file_id="f", topic="t", path="p", sha512="s", missing=missing)
    assert chunks_of(request, size, 1000) == expected


def test_the_throttle_lets_the_rate_through_and_no_more() -> None:
    now = [0.0]
    throttle = Throttle(1000, lambda: now[0])
    sent = 0
    while now[0] < 10.0:
        if throttle.wait() <= 0:
            throttle.take(100)
            sent += 100
        else:
            now[0] += max(throttle.wait(), 0.001)
    assert 10_000 <= sent <= 10_000 + 250 + 200


def test_a_chunk_larger_than_the_burst_is_paid_for_afterwards() -> None:
    now = [0.0]
    throttle = Throttle(1000, lambda: now[0])
    assert throttle.wait() == 0.0
    throttle.take(5000)
    assert throttle.wait() == pytest.approx(4.75)
    assert Throttle(0).wait() == 0.0


@pytest.mark.parametrize(
    ("text", "expected"),
    [("20MB/s", 20_000_000), ("512KiB", 524_288), ("1000", 1000), ("1.5 GB", 1_500_000_000), ("524288", 524_288),
     ("8k", 8000), (None, None)],
)  # fmt: skip
def test_bytes_are_read_as_people_write_them(text: str | None, expected: int | None) -> None:
    assert options.bytes_of(text) == expected


@pytest.mark.parametrize("text", ["fast", "20 apples", "", "MB", "inf"])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(options.UsageError):
        options.bytes_of(text)


def test_a_message_of_a_wrong_clock_is_explained() -> None:
    from confluent_kafka import KafkaError

    text = explain(load(None, {}, {}), "lab", KafkaError(KafkaError.INVALID_TIMESTAMP))
    assert "clock" in text and "topics apply" in text and "lab" in text


def test_a_message_that_is_too_large_names_the_setting_on_each_side() -> None:
    from confluent_kafka import KafkaError

    text = explain(load(None, {}, {}), "lab", KafkaError(KafkaError.MSG_SIZE_TOO_LARGE))
    for name in ("chunks.chunk_bytes", "max.message.bytes", "message.max.bytes", "lab"):
        assert name in text
