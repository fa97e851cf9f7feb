"""The writer threads: a file's operations keep their order, failures stay with it, pending bytes are counted."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path

from openmsi_streams.assembly import writer as module
from openmsi_streams.assembly.partial import PartialFile
from openmsi_streams.assembly.writer import Writer


def result_of(writer: Writer, lane: int, partial: PartialFile, size: int) -> object:
    done = threading.Event()
    found: list[object] = []

    def keep(result: object) -> None:
        found.append(result)
        done.set()

    writer.call(lane, partial, lambda: partial.finish(size), keep)
    assert done.wait(10)
    return found[0]


def test_many_files_at_once_with_few_handles(tmp_path: Path, monkeypatch: object) -> None:
    writer = Writer(2, lambda: None)
    files = {n: PartialFile(tmp_path / str(n)) for n in range(600)}
    for block in range(3):
        for number, partial in files.items():
            writer.write(number, partial, block * 4, memoryview(f"{number % 1000:04d}".encode()))
    for number, partial in files.items():
        assert result_of(writer, number, partial, 12) == hashlib.sha512(f"{number:04d}".encode() * 3).digest()
    assert sum(partial.fd >= 0 for partial in files.values()) <= module.MAX_OPEN
    assert writer.pending == 0
    writer.close()
    assert all(partial.fd < 0 for partial in files.values())


def test_a_failure_stays_with_its_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    writer = Writer(1, lambda: None)
    bad, good = PartialFile(tmp_path / "file" / "below"), PartialFile(tmp_path / "good")
    writer.write(0, bad, 0, memoryview(b"x"))
    writer.write(0, good, 0, memoryview(b"x"))
    assert result_of(writer, 0, good, 1) == hashlib.sha512(b"x").digest()
    assert isinstance(bad.error, OSError) and good.error is None
    writer.close()


def test_draining_is_told_once(tmp_path: Path) -> None:
    drained = threading.Event()
    writer = Writer(1, drained.set)
    gate = threading.Event()
    partial = PartialFile(tmp_path / "x")
    writer.call(0, partial, lambda: gate.wait(10), lambda _: None)
    writer.write(0, partial, 0, memoryview(bytes(100)))
    assert writer.pending == 100 and writer.notify_below(50)
    assert not drained.is_set()
    gate.set()
    assert drained.wait(10)
    assert not writer.notify_below(50), "nothing waits any more"
    writer.close()
