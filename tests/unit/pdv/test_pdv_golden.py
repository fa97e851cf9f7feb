"""Records put together field by field from the published layouts, not by our own writer, with values known beforehand.

The instruments, block lengths, scales and times are those of real kinds of files; the samples are simple, so that every
expected number can be worked out by hand.
"""

from __future__ import annotations

import struct

import numpy as np
import pytest

from openmsi_streams.pdv.readers import SNIFF_BYTES, read_trace, sniff
from openmsi_streams.pdv.trace import TraceError

# Offset in WAVEDESC, struct code, of the fields of template LECROY_2_3.
FIELDS = {
    "comm_type": (32, "h"), "comm_order": (34, "h"), "wave_descriptor": (36, "i"), "user_text": (40, "i"),
    "res_desc1": (44, "i"), "trigtime_array": (48, "i"), "ris_time_array": (52, "i"), "res_array1": (56, "i"),
    "wave_array_1": (60, "i"), "wave_array_2": (64, "i"), "instrument_number": (92, "i"),
    "wave_array_count": (116, "i"), "pnts_per_screen": (120, "i"), "last_valid_pnt": (128, "i"),
    "sparsing_factor": (136, "i"), "subarray_count": (144, "i"), "sweeps_per_acq": (148, "i"),
    "vertical_gain": (156, "f"), "vertical_offset": (160, "f"), "max_value": (164, "f"), "min_value": (168, "f"),
    "nominal_bits": (172, "h"), "nom_subarray_count": (174, "h"), "horiz_interval": (176, "f"),
    "horiz_offset": (180, "d"), "pixel_offset": (188, "d"), "record_type": (316, "h"), "wave_source": (344, "h"),
}  # fmt: skip


def descriptor(order: str, instrument: str, trigger: tuple[float, int, int, int, int, int], **fields: float) -> bytes:
    """A 346-byte WAVEDESC with these fields."""
    block = bytearray(346)
    block[0:8], block[16:26] = b"WAVEDESC", b"LECROY_2_3"
    block[76 : 76 + len(instrument)] = instrument.encode()
    block[196:197], block[244:245] = b"V", b"S"
    for name, value in fields.items():
        offset, code = FIELDS[name]
        struct.pack_into(order + code, block, offset, value)
    struct.pack_into(order + "dBBBBh", block, 296, *trigger)
    return bytes(block)


def block(body: bytes, echo: bytes = b"") -> bytes:
    """An IEEE 488 block of a definite length, after what an instrument may echo."""
    return echo + b"#9" + f"{len(body):09d}".encode() + body


def test_eight_bit_single_sweep_of_a_waverunner() -> None:
    """502 samples, 1 GS/s; the time axis has N - 1 steps (two public readers stretch it by N / (N - 1))."""
    codes = bytes((k % 251) - 125 & 0xFF for k in range(502))
    head = descriptor(
        "<", "LECROYWR64Xi-A", (46.78, 59, 4, 16, 11, 2016), comm_type=0, comm_order=1, wave_descriptor=346,
        wave_array_1=502, instrument_number=50577, wave_array_count=502, last_valid_pnt=501, subarray_count=1,
        vertical_gain=0.0025, vertical_offset=-0.01, max_value=127.0, min_value=-128.0, nominal_bits=8,
        horiz_interval=1e-9, horiz_offset=-2.5e-10, wave_source=2,
    )  # fmt: skip
    trace = read_trace(block(head + codes))
    assert (trace.points, trace.segments, trace.bits, trace.dt) == (502, 1, 8, 1e-9)
    assert (trace.scope, trace.serial, trace.channel) == ("LECROYWR64Xi-A", "50577", "C3")
    assert trace.trigger_time == "2016-11-16T04:59:46.780000000"
    # V = gain * code - offset: code -125 is 0.0025 * -125 + 0.01 V.
    assert trace.volts[0, [0, 125, 250, 251]] == pytest.approx([-0.3025, 0.01, 0.3225, -0.3025], abs=1e-8)
    times = trace.times()
    assert times[0] == pytest.approx(-2.5e-10, abs=1e-20)
    assert times[-1] - times[0] == pytest.approx(501e-9, rel=1e-12)


def test_sixteen_bit_big_endian_with_user_text_and_echo() -> None:
    """Every block length before the samples counts, not only the first; 14 bits stand in 16, left-justified."""
    codes = (np.arange(1000) - 500) * 4
    head = descriptor(
        ">", "WP254HD-MS", (1.5, 2, 3, 4, 5, 2022), comm_type=1, comm_order=0, wave_descriptor=346, user_text=160,
        res_array1=24, wave_array_1=2000, wave_array_count=1000, subarray_count=1, vertical_gain=1e-4,
        vertical_offset=0.0, max_value=32764.0, min_value=-32768.0, nominal_bits=14, horiz_interval=1e-7,
        horiz_offset=-5e-5,
    )  # fmt: skip
    body = head + b"remark".ljust(160, b"\0") + bytes(24) + codes.astype(">i2").tobytes()
    trace = read_trace(block(body, b"C1:WF ALL,"))
    assert (trace.points, trace.bits, trace.dt) == (1000, 14, 1e-7)
    assert trace.volts[0, [0, 500, 999]] == pytest.approx([-0.2, 0.0, 0.1996], abs=1e-8)
    assert (trace.v_low, trace.v_high) == pytest.approx((-3.2768, 3.2764))
    assert trace.times()[0] == -5e-5


def test_sequence_of_twenty_segments_has_its_own_times() -> None:
    """Each segment's first sample lies at its own trigger offset."""
    codes = np.arange(20 * 502) % 200 - 100
    pairs = b"".join(struct.pack("<dd", 1e-3 * k, -1e-8 - 1e-11 * k) for k in range(20))
    head = descriptor(
        "<", "LECROYWR64Xi-A", (0.0, 0, 0, 1, 1, 2020), comm_type=0, comm_order=1, wave_descriptor=346,
        trigtime_array=320, wave_array_1=10040, wave_array_count=10040, subarray_count=20, vertical_gain=0.001,
        horiz_interval=1.0000000133514319e-10, horiz_offset=-1e-8, nominal_bits=8,
    )  # fmt: skip
    trace = read_trace(block(head + pairs + codes.astype("i1").tobytes()))
    assert trace.volts.shape == (20, 502)
    assert trace.dt == 1e-10
    assert trace.starts[[0, 1, 19]] == pytest.approx([-1e-8, -1.001e-8, -1.019e-8], abs=1e-20)
    assert trace.volts[3, 0] == pytest.approx(0.001 * (3 * 502 % 200 - 100), abs=1e-9)
    assert "sequence" in trace.flags


def test_a_header_alone_is_refused() -> None:
    head = descriptor(
        "<", "LECROYWR64Xi-A", (0.0, 0, 0, 1, 1, 2020), comm_type=1, comm_order=1, wave_descriptor=346,
        wave_array_1=804000, wave_array_count=402000, subarray_count=1, vertical_gain=1.0, horiz_interval=1e-9,
    )  # fmt: skip
    with pytest.raises(TraceError, match="no samples"):
        read_trace(b"#9000804346" + head)


LECROY = """LECROYWM820Zi-B,12345,Waveform
Segments,1,SegmentSize,12
Segment,TrigTime,TimeSinceSegment1
#1,02-Mar-2026 08:09:10,0
Time,Ampl
"""
KEYSIGHT = """Revision:           0
Type:               interpolation
Points:             12
XInc:               1.0E-11
XOrg:               -1.0E-09
YUnits:             Volt
YDispRange:         4.00000E-01
YDispOrg:           1.0E-01
Frame:              UXR0104A:MY1
Date:               03 MAR 2026
Time:               08:09:10.500
Max Bandwidth:      10000000000
Data: 
"""  # noqa: W291
TWO_CHANNELS = """,Channel 1,Channel 4
Revision:           ,0,0
Points:             ,12,12
XInc:               ,1.0E-11,1.0E-11
YDispRange:         ,8.0E-01,2.0E-01
YDispOrg:           ,0.0E+00,0.0E+00
Frame:              ,UXR0134A:MY2,UXR0134A:MY2
Date:               ,04 APR 2026,04 APR 2026
Time:               ,08:09:10,08:09:10
Time Tags (Channel 1),Channel 1,Channel 4
"""


def rows(columns: int, newline: str = "\n") -> str:
    """Twelve rows 10 ps apart from -1 ns on: the first column of volts is k / 100, the second its negative."""
    lines = []
    for k in range(12):
        volts = [f"{k / 100:.6E}", f" {-k / 100:.6E}"][:columns]
        lines.append(f"{-1e-9 + 1e-11 * k:.8E}," + ",".join(volts))
    return newline.join(lines) + newline


@pytest.mark.parametrize(
    ("text", "channel", "scope", "when", "sign"),
    [
        (LECROY + rows(1), "", "LECROYWM820Zi-B", "2026-03-02T08:09:10", 1),
        ((LECROY + rows(1)).replace("\n", "\r\n"), "", "LECROYWM820Zi-B", "2026-03-02T08:09:10", 1),
        (KEYSIGHT + rows(1), "", "UXR0104A", "2026-03-03T08:09:10.500000", 1),
        (TWO_CHANNELS + rows(2), "Channel 4", "UXR0134A", "2026-04-04T08:09:10", -1),
    ],
)
def test_text_exports_of_three_scopes(text: str, channel: str, scope: str, when: str, sign: int) -> None:
    data = text.encode()
    assert sniff(data[:SNIFF_BYTES], "shot.csv" if not scope.startswith("LECROY") else "shot.txt")
    trace = read_trace(data, channel)
    assert (trace.scope, trace.trigger_time, trace.points) == (scope, when, 12)
    assert trace.dt == 1e-11
    assert trace.times()[0] == pytest.approx(-1e-9, abs=1e-15)
    assert trace.volts[0] == pytest.approx(sign * np.arange(12) / 100)
    if scope == "UXR0104A":
        assert (trace.v_low, trace.v_high, trace.bandwidth) == pytest.approx((-0.1, 0.3, 1e10))
    if channel:
        assert (trace.channel, trace.v_high) == ("Channel 4", pytest.approx(0.1))
