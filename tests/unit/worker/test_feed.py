"""What the feed holds between broker and streams."""

from __future__ import annotations

from aiokafka.structs import ConsumerRecord

from openmsi_streams.worker.feed import RECORD_BYTES, Run


def record(offset: int, key: bytes | None, value: bytes | None) -> ConsumerRecord:
    sizes = (len(key) if key is not None else -1, len(value) if value is not None else -1)
    return ConsumerRecord("lab", 0, offset, None, None, key, value, None, *sizes, ())


def test_a_message_without_key_and_value_counts_too() -> None:
    run = Run(3)
    assert run.add(record(5, None, None)) == RECORD_BYTES
    assert run.add(record(9, b"key", b"value")) == RECORD_BYTES + 8
    assert run.bytes == 2 * RECORD_BYTES + 8
    assert run.end == 10


def test_records_are_handed_on_once_and_offsets_have_gaps() -> None:
    run = Run(3)
    for offset in (5, 9):
        run.add(record(offset, b"", b""))
    assert run.next_fetch_offset == 3
    assert [one.offset for one in run] == [5, 9]
    assert run.next_fetch_offset == 10
    assert list(run) == []
