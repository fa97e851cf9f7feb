"""LeCroy binary records (`.trc`, template LECROY_2_3): bytes in, voltage and time out.

The layout is the one that the instruments describe themselves (remote command ``TEMPLATE?``): a 346-byte WAVEDESC
block, then user text, the trigger times of a sequence, and the samples. Needs numpy alone.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from openmsi_streams.pdv.trace import FloatArray, Trace, TraceError, snap_step

WAVEDESC_BYTES = 346
TEMPLATE = "LECROY_2_3"
# The descriptor follows an optional IEEE 488 block header such as "#9000804346"; instruments also put a few bytes of
# a command echo before it.
SEARCH_BYTES = 64

_SOURCES = {0: "C1", 1: "C2", 2: "C3", 3: "C4", 9: "unknown"}
_RECORD_TYPES = ("single_sweep", "interleaved", "histogram", "graph", "filter_coefficient", "complex", "extrema",
                 "sequence_obsolete", "centered_RIS", "peak_detect")  # fmt: skip


def is_trc(head: bytes) -> bool:
    """Whether the first bytes of a file are those of a LeCroy binary record."""
    return head.find(b"WAVEDESC", 0, SEARCH_BYTES + 8) >= 0


def read_trc(data: bytes | memoryview) -> Trace:
    """Read a LeCroy binary record, 8 or 16 bit, either byte order, single or sequence.

    V = VERTICAL_GAIN * code - VERTICAL_OFFSET, t_i = i * HORIZ_INTERVAL + HORIZ_OFFSET (for a sequence the offset of
    each segment's trigger). The float32 interval is snapped to the nominal rate.

    Raises TraceError for another template, a header without samples, or fewer samples than the header says.
    """
    view = memoryview(data)
    start = bytes(view[: SEARCH_BYTES + 8]).find(b"WAVEDESC")
    if start < 0:
        raise TraceError("no WAVEDESC block at the start. Usual cause: this is not a LeCroy .trc file.")
    desc = bytes(view[start : start + WAVEDESC_BYTES])
    if len(desc) < WAVEDESC_BYTES:
        raise TraceError(
            f"the WAVEDESC header is cut off after {len(desc)} of {WAVEDESC_BYTES} bytes. Save or send the file again."
        )
    template = _text(desc, 16, 16)
    if template != TEMPLATE:
        raise TraceError(f"template {template!r} is not {TEMPLATE}. Save the trace in the LECROY_2_3 format.")
    # COMM_ORDER is an enum of two bytes, 0 = high byte first; a big-endian 1 cannot occur, a little-endian 1 is "1 0".
    order = "<" if desc[34:36] == b"\x01\x00" else ">"

    def get(code: str, offset: int) -> Any:
        return struct.unpack_from(order + code, desc, offset)[0]

    comm_type = get("h", 32)
    if comm_type not in (0, 1):
        raise TraceError(f"COMM_TYPE {comm_type} is neither 8 nor 16 bit. Usual cause: a damaged header.")
    lengths = [get("i", offset) for offset in (36, 40, 44, 48, 52, 56)]
    wave_bytes = get("i", 60)
    if any(length < 0 for length in lengths) or wave_bytes < 0:
        raise TraceError("a block length in the header is negative. Usual cause: a damaged header.")
    itemsize = 2 if comm_type == 1 else 1
    data_start = start + sum(lengths)
    count = wave_bytes // itemsize
    available = max(0, len(view) - data_start)
    if count == 0 or available == 0:
        raise TraceError(
            f"the file holds a header but no samples ({available} bytes of {wave_bytes}). "
            "Usual cause: the save was interrupted. Save the trace again."
        )
    if available < wave_bytes:
        raise TraceError(
            f"the file is cut off: {available} of {wave_bytes} bytes of samples are there. "
            "Usual cause: a copy that was interrupted. Send the file again."
        )
    codes = np.frombuffer(view, dtype=np.dtype(order + ("i2" if itemsize == 2 else "i1")), count=count,
                          offset=data_start)  # fmt: skip
    gain, offset = float(get("f", 156)), float(get("f", 160))
    interval, first = float(get("f", 176)), float(get("d", 180))
    if not (np.isfinite(interval) and interval > 0 and np.isfinite(first) and np.isfinite([gain, offset]).all()):
        raise TraceError("the header's scales are not numbers. Usual cause: a damaged header.")
    segments = max(1, get("i", 144))
    points = count // segments
    if points < 1 or points * segments != count:
        raise TraceError(f"{count} samples do not divide into {segments} segments. Usual cause: a damaged header.")
    volts = gain * codes.astype(np.float64) - offset
    starts = _segment_starts(view, start + sum(lengths[:3]), lengths[3], segments, first, order)
    flags, notes = [], []
    low, high = float(get("f", 168)), float(get("f", 164))
    limits = sorted((gain * low - offset, gain * high - offset))
    bits = int(get("h", 172))
    if segments > 1:
        flags.append("sequence")
        notes.append(f"sequence of {segments} segments")
    return Trace(
        volts=volts.reshape(segments, points), dt=snap_step(interval), starts=starts, format="lecroy-trc",
        scope=_text(desc, 76, 16), serial=str(get("i", 92)), channel=_SOURCES.get(get("h", 344), str(get("h", 344))),
        trigger_time=_trigger_time(desc, order), v_low=limits[0] if high > low else None,
        v_high=limits[1] if high > low else None, bits=bits if 1 <= bits <= 24 else None, flags=flags, notes=notes,
    )  # fmt: skip


def _segment_starts(view: memoryview, at: int, length: int, segments: int, first: float, order: str) -> FloatArray:
    """Time of the first sample of each segment, relative to its own trigger, in seconds."""
    starts = np.full(segments, first)
    if segments > 1 and length >= 16 * segments:
        pairs = np.frombuffer(view, dtype=order + "f8", count=2 * segments, offset=at).reshape(segments, 2)
        offsets = np.asarray(pairs[:, 1], dtype=np.float64)
        if np.isfinite(offsets).all():
            starts = offsets.copy()
    return starts


def _text(block: bytes, offset: int, length: int) -> str:
    return block[offset : offset + length].split(b"\0")[0].decode("latin-1").strip()


def _trigger_time(desc: bytes, order: str) -> str:
    seconds, minute, hour, day, month, year = struct.unpack_from(order + "dBBBBh", desc, 296)
    if not (1 <= month <= 12 and 1 <= day <= 31 and hour < 24 and minute < 60 and 0 <= seconds < 60 and year > 0):
        return ""
    return f"{year:04d}-{month:02d}-{day:02d}T{hour:02d}:{minute:02d}:{seconds:012.9f}"


def build_trc(
    codes: np.ndarray[Any, np.dtype[Any]], *, gain: float, offset: float, interval: float, first: float,
    big_endian: bool = False, bits: int = 8, scope: str = "LECROYWM816Zi-B", serial: int = 75473, channel: int = 1,
    trigger: tuple[float, int, int, int, int, int] = (59.0, 57, 13, 30, 6, 2026),
    segment_offsets: FloatArray | None = None,
) -> bytes:  # fmt: skip
    """A LECROY_2_3 file from sample codes (int8 or int16, shape (points,) or (segments, points)).

    ``trigger`` is (seconds, minute, hour, day, month, year). Used for synthetic shots and tests.
    """
    if codes.dtype.itemsize not in (1, 2):
        raise TraceError("codes must be int8 or int16")
    order = ">" if big_endian else "<"
    segments = codes.shape[0] if codes.ndim == 2 else 1
    wave = codes.astype(order + f"i{codes.dtype.itemsize}").tobytes()
    trigtime = b""
    if segments > 1:
        offsets = segment_offsets if segment_offsets is not None else np.full(segments, first)
        trigtime = np.column_stack([np.arange(segments) * 1e-3, offsets]).astype(order + "f8").tobytes()
    desc = bytearray(WAVEDESC_BYTES)

    def put(code: str, at: int, *values: Any) -> None:
        struct.pack_into(order + code, desc, at, *values)

    desc[0:8] = b"WAVEDESC"
    desc[16:26] = TEMPLATE.encode()
    put("h", 32, codes.dtype.itemsize - 1)
    put("h", 34, 0 if big_endian else 1)
    put("6i", 36, WAVEDESC_BYTES, 0, 0, len(trigtime), 0, 0)
    put("i", 60, len(wave))
    desc[76 : 76 + len(scope)] = scope.encode()[:16]
    put("i", 92, serial)
    put("i", 116, codes.size)
    put("ii", 124, 0, codes.size - 1)
    put("i", 136, 1)
    put("i", 144, segments)
    put("i", 148, 1)
    limit = float(np.iinfo(codes.dtype).max)
    put("ffff", 156, gain, offset, limit, -limit - 1)
    put("h", 172, bits)
    put("f", 176, interval)
    put("dd", 180, first, first)
    desc[196:197], desc[244:245] = b"V", b"S"
    put("dBBBBh", 296, *trigger)
    put("h", 344, channel)
    body = bytes(desc) + trigtime + wave
    return f"#9{len(body):09d}".encode() + body
