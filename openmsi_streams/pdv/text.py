"""Text records: LeCroy "ASCII, Spreadsheet", Keysight CSV with one or several channels, plain two-column CSV."""

from __future__ import annotations

import re
import warnings
from datetime import datetime

import numpy as np

from openmsi_streams.pdv.trace import FloatArray, Trace, TraceError, fit_time_axis

# A header is short: the longest seen is Keysight's 24 lines. Numbers must have started by then.
HEADER_LINES = 400
# Rows are parsed in blocks so that a file of hundreds of megabytes needs little more memory than its numbers.
BLOCK_BYTES = 8 << 20
# More broken rows than this share mean that the file as a whole cannot be trusted.
MAX_BROKEN_SHARE = 0.001

_KEYSIGHT_DATES = ("%d %b %Y %H:%M:%S.%f", "%d %b %Y %H:%M:%S")
_DELIMITERS = (",", ";", "\t", " ")


def read_text(data: bytes, channel: str = "") -> Trace:
    """Read a text record. ``channel`` chooses a column of a file with several, by name or number.

    Raises TraceError when there are no rows of numbers, or too many broken ones.
    """
    if data.startswith(b"\xef\xbb\xbf"):
        data = data[3:]
    if b"\0" in data[:4096]:
        raise TraceError("the file holds binary data that is no known record. Usual cause: not an oscilloscope file.")
    header, start, delimiter, columns = _find_rows(data)
    flags: list[str] = []
    notes: list[str] = []
    table, broken = _numbers(data, start, delimiter, columns)
    if broken:
        if broken > max(1.0, MAX_BROKEN_SHARE * len(table)):
            raise TraceError(f"{broken} of {len(table)} rows are broken. Usual cause: a damaged or foreign file.")
        flags.append("broken_rows")
        notes.append(f"{broken} broken row(s) bridged")
    first = header[0] if header else ""
    if first.upper().startswith("LECROY"):
        return _lecroy(header, table, flags, notes)
    if any(line.replace(",", "").strip().startswith(("Revision:", "XInc:", "Points:")) for line in header[:30]):
        return _keysight(header, table, channel, flags, notes)
    return _plain(header, table, channel, flags, notes)


def _find_rows(data: bytes) -> tuple[list[str], int, str, int]:
    """(header lines, byte offset of the first row of numbers, delimiter, columns)."""
    header: list[str] = []
    position = 0
    for _ in range(HEADER_LINES):
        end = data.find(b"\n", position)
        line = data[position : end if end >= 0 else len(data)].decode("latin-1").strip("\r")
        for delimiter in _DELIMITERS:
            fields = line.strip().split(delimiter) if delimiter != " " else line.split()
            if len(fields) >= 2 and all(_is_number(field) for field in fields):
                return header, position, delimiter, len(fields)
        header.append(line)
        if end < 0:
            break
        position = end + 1
    if not data.strip():
        raise TraceError("the file is empty. Usual cause: the save was interrupted, or the disk was full.")
    raise TraceError("no rows of numbers. Usual cause: only the header was saved, or this is not an oscilloscope file.")


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True


def _numbers(data: bytes, start: int, delimiter: str, columns: int) -> tuple[FloatArray, int]:
    """All rows as shape (rows, columns), and how many were broken (these are NaN)."""
    parts: list[FloatArray] = []
    broken = 0
    position = start
    while position < len(data):
        end = len(data)
        if end - position > BLOCK_BYTES:
            end = data.rfind(b"\n", position, position + BLOCK_BYTES) + 1
            if end <= position:
                raise TraceError("a line of more than 8 MB. Usual cause: not an oscilloscope file.")
        block = data[position:end]
        position = end
        part, bad = _parse_block(block, delimiter, columns)
        parts.append(part)
        broken += bad
    table = np.concatenate(parts) if len(parts) > 1 else parts[0]
    return table, broken


def _parse_block(block: bytes, delimiter: str, columns: int) -> tuple[FloatArray, int]:
    body = block.replace(b"\r", b"").strip()
    if not body:
        return np.empty((0, columns)), 0
    if delimiter != " ":
        flat = body.replace(b"\n", delimiter.encode())
        rows = body.count(b"\n") + 1
        with warnings.catch_warnings():
            # numpy tells of text that it cannot read by a warning; the count below finds it, and the slow way follows.
            warnings.simplefilter("ignore", DeprecationWarning)
            try:
                values = np.fromstring(flat.decode("latin-1"), dtype=np.float64, sep=delimiter)
            except ValueError:
                values = np.empty(0)
        if values.size == rows * columns:
            table = values.reshape(rows, columns)
            if _regular(table[:, 0]):
                return table, 0
    rows_out: list[list[float]] = []
    broken = 0
    for line in body.split(b"\n"):
        text = line.decode("latin-1").strip()
        if not text:
            continue
        fields = text.split(delimiter) if delimiter != " " else text.split()
        try:
            numbers = [float(field) for field in fields]
        except ValueError:
            numbers = []
        if len(numbers) != columns:
            # Headers of further segments are not rows of their own.
            if text.startswith("#") or text[:4].lower() == "time":
                continue
            broken += 1
            numbers = [float("nan")] * columns
        rows_out.append(numbers)
    return np.asarray(rows_out, dtype=np.float64).reshape(len(rows_out), columns), broken


def _regular(times: FloatArray) -> bool:
    """False when values have slipped between columns, as after a missing comma elsewhere in the block."""
    return bool(times.size < 3 or np.all(np.diff(times) > -0.5 * abs(times[-1] - times[0]) - 1.0))


def _axis(times: FloatArray, volts: FloatArray, flags: list[str], notes: list[str]) -> tuple[FloatArray, float, float]:
    """(volts on an even grid, first time, step); bridges broken rows and tells of gaps."""
    good = np.isfinite(times)
    if good.sum() < 2:
        raise TraceError("the time column holds no numbers. Usual cause: not an oscilloscope file.")
    if not good.all():
        index = np.arange(times.size, dtype=np.float64)
        slope, offset = np.polyfit(index[good], times[good], 1)
        times = np.where(good, times, slope * index + offset)
    first, step, worst = fit_time_axis(times)
    if worst > 0.6 * step and times.size > 2:
        steps = np.diff(times)
        usual = float(np.median(steps))
        if usual <= 0 or np.any(steps < 0):
            raise TraceError("times do not rise from row to row. Usual cause: not an oscilloscope record.")
        count = round((times[-1] - times[0]) / usual) + 1
        if count > 2 * times.size:
            raise TraceError("the time steps differ widely. Usual cause: not an oscilloscope record.")
        grid = times[0] + usual * np.arange(count)
        volts = np.interp(grid, times, volts)
        first, step, worst = fit_time_axis(grid)
        flags.append("uneven_time")
        notes.append("rows are missing or unevenly spaced; bridged by straight lines")
    return volts, first, step


def _lecroy(header: list[str], table: FloatArray, flags: list[str], notes: list[str]) -> Trace:
    parts = header[0].split(",")
    segments, size = 1, 0
    trigger = ""
    for line in header[1:]:
        if match := re.match(r"Segments,(\d+),SegmentSize,(\d+)", line):
            segments, size = int(match[1]), int(match[2])
        elif line.startswith("#1,"):
            trigger = _when(line.split(",")[1].strip(), "%d-%b-%Y %H:%M:%S")
    rows = len(table)
    if segments < 1 or segments > max(1, rows):
        raise TraceError(f"the header says {segments} segments for {rows} rows. Usual cause: a damaged header.")
    if size and rows < segments * size:
        flags.append("truncated")
        notes.append(f"{rows} of {segments * size} rows are there")
    if segments > 1:
        points = min(size, rows // segments) if size else rows // segments
        flags.append("sequence")
        notes.append(f"sequence of {segments} segments")
        starts, lines = [], []
        step = 0.0
        for k in range(segments):
            block = table[k * points : (k + 1) * points]
            volts, first, step = _axis(block[:, 0], block[:, 1], [], [])
            starts.append(first)
            lines.append(volts[:points])
        shortest = min(len(line) for line in lines)
        stack = np.stack([line[:shortest] for line in lines])
        start_times = np.asarray(starts)
    else:
        volts, first, step = _axis(table[:, 0], table[:, 1], flags, notes)
        stack, start_times = volts[None, :], np.array([first])
    return Trace(
        volts=stack, dt=step, starts=start_times, format="lecroy-text", scope=parts[0].strip(),
        serial=parts[1].strip() if len(parts) > 1 else "", trigger_time=trigger, flags=flags, notes=notes,
    )  # fmt: skip


def _keysight(header: list[str], table: FloatArray, channel: str, flags: list[str], notes: list[str]) -> Trace:
    keys: dict[str, list[str]] = {}
    names: list[str] = []
    for line in header:
        if line.startswith(",Channel"):
            names = [field.strip() for field in line.split(",")[1:]]
        key, colon, rest = line.partition(":")
        if colon:
            keys.setdefault(key.strip(), [field.strip() for field in rest.split(",") if field.strip()] or [""])
    labels = [field.strip() for field in header[-1].split(",")] if names and header else []
    columns = table.shape[1] - 1
    if not names:
        names = [f"Channel {k + 1}" for k in range(columns)] if columns > 1 else [""]
    if len(labels) == table.shape[1]:
        names = labels[1:]
    k = _choose(channel, names, columns, flags, notes)

    def value(key: str) -> str:
        # Where Date holds a comma-free text for each channel, the columns are in the channels' order.
        found = keys.get(key, [""])
        return found[k] if k < len(found) else found[0]

    volts, first, step = _axis(table[:, 0], table[:, k + 1], flags, notes)
    v_low = v_high = None
    try:
        span, origin = float(value("YDispRange")), float(value("YDispOrg"))
        v_low, v_high = origin - span / 2, origin + span / 2
    except ValueError:
        pass
    try:
        bandwidth = float(value("Max Bandwidth")) or None
    except ValueError:
        bandwidth = None
    try:
        points = int(value("Points"))
        if points > volts.size:
            flags.append("truncated")
            notes.append(f"{volts.size} of {points} rows are there")
    except ValueError:
        pass
    frame, _, serial = value("Frame").partition(":")
    return Trace(
        volts=volts[None, :], dt=step, starts=np.array([first]), format="keysight-csv", scope=frame, serial=serial,
        channel=names[k] if k < len(names) else "", channels=names if columns > 1 else [],
        trigger_time=_when(f"{value('Date')} {value('Time')}", *_KEYSIGHT_DATES), v_low=v_low, v_high=v_high,
        bandwidth=bandwidth, flags=flags, notes=notes,
    )  # fmt: skip


def _plain(header: list[str], table: FloatArray, channel: str, flags: list[str], notes: list[str]) -> Trace:
    columns = table.shape[1] - 1
    names = [field.strip() for field in header[-1].split(",")][1:] if header else []
    if len(names) != columns:
        names = [f"column {k + 2}" for k in range(columns)]
    k = _choose(channel, names, columns, flags, notes)
    volts, first, step = _axis(table[:, 0], table[:, k + 1], flags, notes)
    return Trace(
        volts=volts[None, :], dt=step, starts=np.array([first]), format="csv", channel=names[k],
        channels=names if columns > 1 else [], flags=flags, notes=notes,
    )  # fmt: skip


def _choose(channel: str, names: list[str], columns: int, flags: list[str], notes: list[str]) -> int:
    """Index of the column to take."""
    if channel:
        wanted = channel.strip().lower()
        for k, name in enumerate(names[:columns]):
            if name.lower() == wanted or re.sub(r"\D", "", name) == wanted.removeprefix("channel").lstrip(" c"):
                return k
        raise TraceError(f"no channel {channel!r}; the file has: {', '.join(names)}.")
    if columns > 1:
        flags.append("several_channels")
        notes.append(f"the file has {columns} channels; the first was taken")
    return 0


def _when(text: str, *patterns: str) -> str:
    for pattern in patterns:
        try:
            return datetime.strptime(text.strip(), pattern).isoformat()
        except ValueError:
            continue
    return ""
