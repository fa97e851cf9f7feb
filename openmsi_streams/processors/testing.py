"""Try a processor on a file without Kafka, in a lab's own tests.

from openmsi_streams.processors.testing import try_processor

def test_lines_are_counted(tmp_path):
    tried = try_processor(lines, b"a\\nb\\n", name="scan.csv", topic="xrd", folder=tmp_path)
    assert tried.json == {"lines": 2}
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from openmsi_streams.errors import OpenMSIStreamsError
from openmsi_streams.processors.api import DeliveredFile, Processor, Produced, message, settle
from openmsi_streams.processors.runner import Outcome, Runner


@dataclass
class Tried:
    """What a processor made of a file."""

    files: dict[str, bytes] = field(default_factory=dict)
    """Name -> content, as they would be stored beside the original."""
    json: Any = None
    """As a reader of the topic would get it."""
    record: dict[str, Any] | None = None
    topic: str = ""
    key: bytes = b""
    value: bytes = b""
    outcome: Outcome | None = None
    """With ``isolated``: how it ended, what it printed."""


def delivered(
    source: Path | bytes,
    *,
    name: str = "",
    topic: str = "test",
    headers: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> DeliveredFile:
    """Return a file as a processor sees it.

    Args:
        source: a file, or the bytes of one.
        name: its path below the instrument's folder; needed for bytes.
        topic: the chunk topic that it came by.
        headers: what the producer put on it.
        folder: where bytes and results are put; None: a new folder for temporary files.
    """
    where = Path(tempfile.mkdtemp(prefix="processor-", dir=folder))
    out = where / "out"
    out.mkdir()
    if isinstance(source, bytes):
        relative = name or "file.dat"
        path = where / "in" / relative
        path.parent.mkdir(parents=True)
        path.write_bytes(source)
    else:
        path, relative = source, name or source.name
    sha512 = hashlib.sha512(path.read_bytes()).hexdigest()
    identity = hashlib.sha256("\0".join((topic, relative, sha512)).encode()).hexdigest()[:32]
    return DeliveredFile(
        path, topic, relative, sha512, path.stat().st_size, identity, path.stat().st_mtime, dict(headers or {}), (), out
    )


def try_processor(
    by: Processor,
    source: Path | bytes,
    *,
    name: str = "",
    topic: str = "test",
    headers: Mapping[str, str] | None = None,
    folder: Path | None = None,
    isolated: bool = False,
    time_limit: float = 60.0,
    memory_limit: int = 4 << 30,
) -> Tried:
    """Run a processor on one file, check what it returns as the worker does, and give it back.

    Args:
        by: the processor.
        source: a file, or the bytes of one; ``name``, ``topic``, ``headers``, ``folder``: see `delivered`.
        isolated: run it in a process of its own with the limits, as the worker does. Without, it runs here, so that a
            debugger stops in it and its exceptions are the test's.
        time_limit: seconds, with ``isolated``.
        memory_limit: bytes, with ``isolated``.

    Raises:
        OpenMSIStreamsError: the processor is not for such a file, or returned what is not a result.
        Exception: whatever the function raises, without ``isolated``.
    """
    file = delivered(source, name=name, topic=topic, headers=headers, folder=folder)
    if not by.wants(topic, file.relative):
        raise OpenMSIStreamsError(
            f"The processor {by.name} is not for {file.relative!r} on the topic {topic!r}: it wants "
            f"{', '.join(by.match)} on {', '.join(by.topics) or 'any topic'}. Mend @processor(...) or the test."
        )
    if not isolated:
        return _tried(by, file, settle(by(file), file.out, file.name), None)
    with Runner(1) as runner, runner.run(by, file, time_limit=time_limit, memory_limit=memory_limit) as outcome:
        return _tried(by, file, outcome.produced, outcome)


def _tried(by: Processor, file: DeliveredFile, produced: Produced, outcome: Outcome | None) -> Tried:
    topic, key, value = message(by, file, produced)
    return Tried(
        {one.name: one.read() for one in produced.files},
        msgspec.json.decode(produced.json) if produced.json else None,
        produced.record,
        topic,
        key,
        value,
        outcome,
    )


def check_repeats(by: Processor, source: Path | bytes, **more: Any) -> Tried:
    """Run a processor twice and return the first try.

    Files come again: after a kill, by a replay. The second result takes the place of the first, so it must be equal.

    Raises:
        AssertionError: the second run gave something else; named is what.
    """
    first, second = try_processor(by, source, **more), try_processor(by, source, **more)
    differs = [
        name for name in first.files.keys() | second.files.keys() if first.files.get(name) != second.files.get(name)
    ]
    if first.value != second.value:
        differs.append("json")
    if first.record != second.record:
        differs.append("record")
    assert not differs, (
        f"{by.name} gives another result the second time: {', '.join(sorted(differs))}. Is there a date in it?"
    )
    return first
