"""Home partitions are those of Kafka's Java client; file ids tell versions apart; topic names are Kafka's."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openmsi_streams.chunks.keys import file_id, home_partition, murmur2
from openmsi_streams.chunks.topics import MAX_TOPIC, SUFFIXES, beside, check_topic
from openmsi_streams.errors import TopicError


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        # From the tests of Kafka's own Java client (UtilsTest.testMurmur2), as signed 32-bit numbers.
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_murmur2_is_that_of_kafkas_java_client(data: bytes, expected: int) -> None:
    assert murmur2(data) == expected & 0xFFFFFFFF


@given(st.binary(max_size=80))
def test_murmur2_is_that_of_aiokafka(data: bytes) -> None:
    """Faust places by this one; ours must agree or a row would live on another partition than its chunks."""
    partitioner = pytest.importorskip("aiokafka.partitioner")
    assert murmur2(data) == partitioner.murmur2(data) & 0xFFFFFFFF


@given(st.text(max_size=40), st.integers(1, 100))
def test_a_path_has_one_home(path: str, partitions: int) -> None:
    assert 0 <= home_partition(path, partitions) < partitions
    assert home_partition(path, partitions) == (murmur2(path.encode()) & 0x7FFFFFFF) % partitions


def test_homes_are_spread_over_the_partitions() -> None:
    homes = [home_partition(f"run_{number:04d}/scan.dat", 3) for number in range(300)]
    assert all(homes.count(partition) > 60 for partition in range(3))


def test_a_file_id_is_the_first_half_of_a_sha256_over_topic_path_and_hash() -> None:
    digest = "ab" * 64
    assert file_id("t", "a/b.dat", digest) == hashlib.sha256(f"t\0a/b.dat\0{digest}".encode()).hexdigest()[:32]
    assert len({file_id("t", "ab", digest), file_id("ta", "b", digest), file_id("t", "ab", "cd" * 64)}) == 3


@pytest.mark.parametrize("name", ["lab", "paradim-mbe-data.chunks", "a_b.C-9", "x" * MAX_TOPIC])
def test_names_that_kafka_takes_pass(name: str) -> None:
    assert check_topic(name) == name
    assert all(len(beside(name, suffix)) <= 249 for suffix in SUFFIXES)


@pytest.mark.parametrize("name", ["", ".", "..", "a b", "a/b", "é", "a\n", "x" * (MAX_TOPIC + 1)])
def test_names_that_kafka_refuses_are_refused_at_once(name: str) -> None:
    with pytest.raises(TopicError):
        check_topic(name)
