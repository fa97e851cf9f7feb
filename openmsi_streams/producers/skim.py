"""Sends only a window of LeCroy records, text or ``.trc``, as the ancestors' LecroyFileUploadDirectory did.

What cannot be cut (several segments, another format, a window outside the record) is sent whole, with a warning: a rule
must never lose a measurement. The name on the far side gets ``_skimmed``.
"""

from __future__ import annotations

import logging
import math
import struct
from collections.abc import Callable, Sequence
from typing import IO, Literal

import msgspec

from openmsi_streams.errors import ConfigurationError
from openmsi_streams.producers import system
from openmsi_streams.producers.content import Piece
from openmsi_streams.producers.filters import Pattern

log = logging.getLogger(__name__)

APPEND = "_skimmed"
# A LeCroy text header has five lines and some hundred bytes; user text may make it longer.
HEAD_BYTES = 4096
BLOCK = 1 << 20


class Window(msgspec.Struct, frozen=True):
    """What part of a record is sent."""

    pattern: str
    unit: Literal["rows", "seconds"]
    first: float
    """First row (0-based, without the header), or seconds relative to the trigger."""
    last: float
    """Number of rows, or seconds relative to the trigger."""


class Uncut(Exception):
    """This file is sent whole; the text says why."""


def parse(text: str) -> Window:
    """Read ``PATTERN rows FIRST COUNT`` or ``PATTERN seconds FROM TO``.

    Raises:
        ConfigurationError: it is neither.
    """
    try:
        pattern, unit, first, last = text.rsplit(None, 3)
        window = Window(pattern, msgspec.convert(unit, Literal["rows", "seconds"]), float(first), float(last))
        if (unit == "rows" and (window.first < 0 or window.last < 1)) or (
            unit == "seconds" and window.first >= window.last
        ):
            raise ValueError("the window is empty")
        Pattern(pattern)
    except (ValueError, msgspec.ValidationError) as error:
        raise ConfigurationError(
            f"The selection {text!r} is not understood ({error}). Write `PATTERN rows FIRST COUNT` or "
            "`PATTERN seconds FROM TO`, e.g. '*.trc seconds -0.2e-6 1.5e-6'."
        ) from None
    return window


def selector(texts: Sequence[str]) -> Callable[[str, IO[bytes], int], tuple[tuple[Piece, ...], str]] | None:
    """Return the function that chooses what is sent of each file; None without rules.

    Raises:
        ConfigurationError: a rule is not understood.
    """
    windows = [parse(text) for text in texts]
    patterns = [Pattern(window.pattern) for window in windows]
    if not windows:
        return None

    def select(path: str, file: IO[bytes], size: int) -> tuple[tuple[Piece, ...], str]:
        for window, pattern in zip(windows, patterns, strict=True):
            if pattern.matches(path, parents=False):
                try:
                    return cut(window, file, size), APPEND
                except Uncut as why:
                    log.warning("%s is sent whole: %s", path, why)
                    return (), ""
        return (), ""

    return select


def cut(window: Window, file: IO[bytes], size: int) -> tuple[Piece, ...]:
    """Return the pieces of a record that a window selects. Raises Uncut if it cannot be cut."""
    head = system.read_at(file, 0, min(size, HEAD_BYTES))
    if head.find(b"WAVEDESC", 0, 64) >= 0:
        return _cut_trc(window, head, size)
    return _cut_text(window, file, head, size)


# -- .trc: template LECROY_2_3, offsets from the start of WAVEDESC


def _cut_trc(window: Window, head: bytes, size: int) -> tuple[Piece, ...]:
    at = head.find(b"WAVEDESC", 0, 64)
    if len(head) < at + 346:
        raise Uncut("its header is not whole")
    order = "<" if head[at + 34] == 1 else ">"
    width = 2 if struct.unpack_from(f"{order}h", head, at + 32)[0] == 1 else 1
    lengths = struct.unpack_from(f"{order}8i", head, at + 36)
    segments = struct.unpack_from(f"{order}i", head, at + 144)[0]
    start = at + sum(lengths[:6])
    count = lengths[6] // width
    if segments > 1 or lengths[7] or lengths[0] != 346 or min(lengths) < 0 or start + lengths[6] > size:
        raise Uncut("it has several segments, or is not of the template LECROY_2_3")
    if start > HEAD_BYTES:
        raise Uncut(f"its header is longer than {HEAD_BYTES} bytes")
    interval = float(f"{struct.unpack_from(f'{order}f', head, at + 176)[0]:.6g}")
    offset = struct.unpack_from(f"{order}d", head, at + 180)[0]
    if window.unit == "seconds":
        if interval <= 0:
            raise Uncut("its header has no sample interval")
        # A sample within a millionth of an interval of the edge counts as on it.
        first = max(0, math.ceil((window.first - offset) / interval - 1e-6))
        last = min(count, math.floor((window.last - offset) / interval + 1e-6) + 1)
    else:
        first, last = int(window.first), min(count, int(window.first + window.last))
    if not 0 <= first < last:
        raise Uncut("the window lies outside the record")
    header = bytearray(head[:start])
    struct.pack_into(f"{order}i", header, at + 60, (last - first) * width)
    struct.pack_into(f"{order}i", header, at + 116, last - first)
    struct.pack_into(f"{order}2i", header, at + 124, 0, last - first - 1)
    struct.pack_into(f"{order}d", header, at + 180, offset + first * interval)
    if at >= 2 and header[:1] == b"#":
        # The IEEE 488 block before it counts the bytes that follow.
        digits = at - 2
        header[2:at] = f"{start - at + (last - first) * width:0{digits}d}".encode()
    return Piece(0, start, bytes(header)), Piece(start + first * width, start + last * width)


# -- text: header lines, then `time,volts` in rising time


def _cut_text(window: Window, file: IO[bytes], head: bytes, size: int) -> tuple[Piece, ...]:
    lines = head.split(b"\n")
    at = next((n for n, line in enumerate(lines[:-1]) if line.strip().lower().startswith(b"time,")), None)
    if at is None:
        raise Uncut("it has no line `Time,...` before its values")
    if any(line.startswith(b"#2,") for line in lines[:at]):
        raise Uncut("it has several segments")
    begin = sum(len(line) + 1 for line in lines[: at + 1])
    if window.unit == "rows":
        start = _row(file, begin, size, int(window.first))
        end = _row(file, start, size, int(window.last))
    else:
        start = _time(file, begin, size, window.first, False)
        end = _time(file, start, size, window.last, True)
    if start >= end:
        raise Uncut("the window lies outside the record")
    return Piece(0, begin), Piece(start, end)


def _row(file: IO[bytes], start: int, size: int, rows: int) -> int:
    """Return the offset behind ``rows`` more lines, or the end of the file."""
    place = start
    while rows > 0 and place < size:
        block = system.read_at(file, place, min(BLOCK, size - place))
        if not block:
            break
        have = block.count(b"\n")
        if have < rows:
            rows -= have
            place += len(block)
            continue
        at = -1
        for _ in range(rows):
            at = block.index(b"\n", at + 1)
        return place + at + 1
    return min(place, size) if rows > 0 else place


def _time(file: IO[bytes], start: int, size: int, seconds: float, inclusive: bool) -> int:
    """Return the offset of the first row whose time is not below ``seconds`` (not above, if ``inclusive``)."""
    low, high = start, size
    while low < high:
        middle = (low + high) // 2
        line, text = _line_at(file, start, middle)
        value = _seconds(text)
        if value < seconds or (inclusive and value == seconds):
            low = line + len(text)
        else:
            high = line
    return low


def _line_at(file: IO[bytes], start: int, place: int) -> tuple[int, bytes]:
    """Return offset and text (with its end) of the line that holds the byte at ``place``."""
    before = max(start, place - 200)
    block = system.read_at(file, before, place - before + 200)
    begin = block.rfind(b"\n", 0, place - before) + 1
    end = block.find(b"\n", place - before)
    return before + begin, block[begin:] if end < 0 else block[begin : end + 1]


def _seconds(text: bytes) -> float:
    try:
        return float(text.split(b",")[0])
    except ValueError:
        raise Uncut(f"a row is not `time,volts`: {text[:40]!r}") from None
