"""Every file format gives the same record: volts, time axis, instrument; bad files give a plain reason."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from openmsi_streams.pdv import synthetic
from openmsi_streams.pdv.readers import SNIFF_BYTES, read_trace, sniff
from openmsi_streams.pdv.trace import TraceError, fit_time_axis, snap_step
from openmsi_streams.pdv.trc import build_trc

SAMPLES = Path(os.environ.get("OPENMSI_STREAMS_SAMPLES") or Path(__file__).parents[4] / "shared" / "samples")


@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize("dtype", [np.int8, np.int16])
@pytest.mark.parametrize("segments", [1, 3])
def test_trc_gives_back_codes_and_times(big_endian: bool, dtype: type, segments: int) -> None:
    codes = (np.arange(segments * 500) % 200 - 100).astype(dtype).reshape(segments, 500)
    offsets = np.array([-1e-6, -1.1e-6, -1.2e-6])[:segments]
    data = build_trc(
        codes if segments > 1 else codes[0],
        gain=0.002,
        offset=0.1,
        interval=1.25e-11,
        first=-1e-6,
        big_endian=big_endian,
        segment_offsets=offsets,
    )
    trace = read_trace(data)
    assert trace.volts.shape == (segments, 500)
    assert np.allclose(trace.volts, 0.002 * codes.astype(float) - 0.1, atol=1e-8)
    assert trace.dt == 1.25e-11
    assert np.allclose(trace.starts, offsets, atol=0)
    assert trace.trigger_time == "2026-06-30T13:57:59.000000000"


def test_text_and_trc_of_a_shot_agree(tmp_path: Path) -> None:
    made = synthetic.write_trc(tmp_path / "a.trc", synthetic.shot(points=20_000))
    synthetic.write_lecroy_text(tmp_path / "a.txt", made)
    os.chmod(tmp_path / "a.trc", 0o444)
    binary, text = read_trace(tmp_path / "a.trc"), read_trace(tmp_path / "a.txt")
    assert np.allclose(binary.volts, text.volts, atol=1e-6)
    assert binary.dt == text.dt == 1.25e-11
    assert abs(binary.starts[0] - text.starts[0]) < 1e-14
    for name in ("a.trc", "a.txt"):
        assert sniff((tmp_path / name).read_bytes()[:SNIFF_BYTES], name)


def test_sequence_text_has_segments() -> None:
    rows = [f"{1e-9 * k:.8g},{k % 7}" for k in range(50)]
    head = "LECROYX,1,Waveform\nSegments,2,SegmentSize,50\nSegment,TrigTime,TimeSinceSegment1\n"
    head += "#1,30-Jun-2026 13:57:59,0\n#2,30-Jun-2026 13:57:59,0.001\nTime,Ampl\n"
    trace = read_trace((head + "\n".join(rows + rows) + "\n").encode())
    assert trace.volts.shape == (2, 50)
    assert "sequence" in trace.flags


def test_keysight_channels_are_chosen_by_name() -> None:
    head = ",Channel 1,Channel 3\nPoints: ,4,4\nXInc: ,1e-11,1e-11\nFrame: ,UXR:MY1,UXR:MY1\n"
    head += "Date: ,18 SEP 2026,18 SEP 2026\nTime: ,21:19:04,21:19:04\nTime Tags (Channel 1),Channel 1,Channel 3\n"
    data = (head + "".join(f"{k}E-11, {k}, {-k}\n" for k in range(4))).encode()
    assert read_trace(data, "Channel 3").volts[0, 3] == -3
    assert read_trace(data, "3").channel == "Channel 3"
    first = read_trace(data)
    assert "several_channels" in first.flags
    assert first.trigger_time == "2026-09-18T21:19:04"
    with pytest.raises(TraceError, match="no channel"):
        read_trace(data, "7")


def test_step_comes_from_all_rows_and_snaps_to_the_nominal_rate() -> None:
    exact = -5e-7 + np.arange(2000) / 80e9
    written = np.array([float(f"{t:.8g}") for t in exact])
    first, step, worst = fit_time_axis(written)
    assert step == 1.25e-11
    assert abs(first + 5e-7) < 1e-14
    assert worst < 1e-13
    assert snap_step(1.25000001668929e-11) == 1.25e-11
    assert snap_step(1.2511e-11) == 1.2511e-11 or abs(snap_step(1.2511e-11) / 1.2511e-11 - 1) < 1e-6


def test_broken_row_is_bridged_and_flagged() -> None:
    rows = [f"{1e-10 * k:.8g},{k % 9 / 10}" for k in range(3000)]
    rows[1500] = "garbage"
    trace = read_trace(("Time,Ampl\n" + "\n".join(rows) + "\n").encode())
    assert "broken_rows" in trace.flags
    assert trace.points == 3000
    assert np.isfinite(trace.volts).all()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"LECROYX,1,Waveform\nSegments,1,SegmentSize,10\nTime,Ampl\n", "no rows"),
        (b"just some prose\nabout nothing\n", "no rows"),
        (os.urandom(16) + b"\0" * 5000, "binary"),
        (b"#9000000000WAVEDESC" + bytes(10), "cut off"),
        (b"1,2\n1,3\n1,4\n", "not rise"),
    ],
)
def test_bad_files_give_a_plain_reason(data: bytes, reason: str) -> None:
    with pytest.raises(TraceError, match=reason):
        read_trace(data)


def test_truncated_and_foreign_trc_are_refused() -> None:
    data = build_trc(np.zeros(500, np.int8), gain=1, offset=0, interval=1e-9, first=0)
    with pytest.raises(TraceError, match="cut off"):
        read_trace(data[:-10])
    with pytest.raises(TraceError, match="template"):
        read_trace(data.replace(b"LECROY_2_3", b"LECROY_9_9"))


def test_ordinary_tables_are_not_taken_for_shots() -> None:
    assert not sniff(b"Time,Temperature\n0,20\n1,21\n2,22\n", "log.csv")
    assert not sniff(b"\x89PNG\r\n", "a.png")
    assert not sniff(b"hello\n", "a.txt")


@pytest.mark.skipif(not (SAMPLES / "lecroy").is_dir(), reason="the sample files are not here")
def test_real_lecroy_files_have_their_known_values() -> None:
    pulse = read_trace(SAMPLES / "lecroy" / "pulse.trc")
    assert pulse.points == 502
    assert pulse.volts[0, :100].mean() == pytest.approx(0.0057997690, abs=1e-10)
    assert pulse.times()[pulse.volts[0].argmax()] == pytest.approx(4.254989847e-09, abs=1e-14)
    assert read_trace(SAMPLES / "lecroy" / "pulse_sequence.trc").volts.shape == (20, 502)
    long = read_trace(SAMPLES / "lecroy" / "issue_1.trc")
    assert (long.points, long.bits, long.dt) == (100002, 14, 1e-7)
    with pytest.raises(TraceError, match="no samples"):
        read_trace(SAMPLES / "lecroy" / "header.trc")


@pytest.mark.skipif(not (SAMPLES / "headers").is_dir(), reason="the sample files are not here")
def test_real_text_headers_are_understood() -> None:
    for path in (SAMPLES / "headers").iterdir():
        trace = read_trace(path)
        assert sniff(path.read_bytes(), path.name)
        assert trace.scope
        assert trace.trigger_time.startswith("2026")
