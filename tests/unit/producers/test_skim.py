"""Windows of LeCroy records."""

from __future__ import annotations

import logging
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from openmsi_streams.errors import ConfigurationError
from openmsi_streams.producers import content, skim
from openmsi_streams.producers.readiness import lecroy_bytes

HEADER = (
    b"LECROYWM816Zi-B,75473,Waveform\nSegments,1,SegmentSize,1000\nSegment,TrigTime,TimeSinceSegment1\n"
    b"#1,30-Jun-2026 13:57:59,0                 \nTime,Ampl\n"
)


def text_record(rows: int, end: bytes = b"\n") -> bytes:
    """Rows at 0.1 us from -50 us, so the trigger is at row 500."""
    lines = [b"%.7e,%.6f" % ((n - 500) * 1e-7, n / 1000) for n in range(rows)]
    return HEADER.replace(b"\n", end) + end.join(lines) + end


def trc_record(samples: int, order: str = "<", segments: int = 1) -> bytes:
    """16-bit samples 0, 1, 2... at 25 ps from -1 ns, with 20 bytes of user text."""
    head = bytearray(346)
    head[:8] = b"WAVEDESC"
    head[16:26] = b"LECROY_2_3"
    struct.pack_into(f"{order}2f", head, 156, 0.5, 0.0)
    struct.pack_into(f"{order}2h", head, 32, 1, 1 if order == "<" else 0)
    struct.pack_into(f"{order}8i", head, 36, 346, 20, 0, 0, 0, 0, 2 * samples, 0)
    struct.pack_into(f"{order}i", head, 116, samples)
    struct.pack_into(f"{order}2i", head, 124, 0, samples - 1)
    struct.pack_into(f"{order}i", head, 144, segments)
    struct.pack_into(f"{order}fd", head, 176, 2.5e-11, -1e-9)
    body = bytes(head) + b"u" * 20 + struct.pack(f"{order}{samples}h", *range(samples))
    return b"#9%09d" % len(body) + body


def skimmed(tmp_path: Path, data: bytes, rule: str, name: str = "F2--20210529--00013.txt") -> tuple[bytes, str]:
    path = tmp_path / name
    path.write_bytes(data)
    select = skim.selector([rule])
    assert select is not None
    with ThreadPoolExecutor(1) as pool:
        prepared = content.prepare(path, 1024, pool, lambda file, size: select(name, file, size))
    assert prepared.data is not None
    return prepared.data, prepared.append


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_rows_of_a_text_record_are_header_and_exactly_these_rows(tmp_path: Path, end: bytes) -> None:
    data = text_record(1000, end)
    part, append = skimmed(tmp_path, data, "*.txt rows 100 50")
    lines = data.split(end)
    assert part == end.join(lines[:5] + lines[105:155]) + end
    assert append == "_skimmed"


def test_seconds_of_a_text_record_are_relative_to_the_trigger_and_inclusive(tmp_path: Path) -> None:
    data = text_record(1000)
    part, _ = skimmed(tmp_path, data, "F2* seconds -1e-6 2e-6")
    times = [float(line.split(b",")[0]) for line in part.splitlines()[5:]]
    assert len(times) == 31
    assert times[0] == pytest.approx(-1e-6) and times[-1] == pytest.approx(2e-6)


def test_a_window_that_reaches_over_the_end_is_cut_there(tmp_path: Path) -> None:
    data = text_record(1000)
    part, _ = skimmed(tmp_path, data, "*.txt rows 990 50")
    assert part.count(b"\n") == 15 and data.endswith(part[len(HEADER) :])


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("rule", ["*.trc rows 40 21", "*.trc seconds 0 0.5e-9"])
def test_a_trc_window_has_a_header_that_describes_it(tmp_path: Path, order: str, rule: str) -> None:
    part, append = skimmed(tmp_path, trc_record(1000, order), rule, "C1.trc")
    assert append == "_skimmed"
    assert lecroy_bytes(part) == len(part) == 11 + 346 + 20 + 42
    assert part[:11] == b"#9%09d" % (len(part) - 11)
    at = 11
    assert struct.unpack_from(f"{order}i", part, at + 60) == (42,)
    assert struct.unpack_from(f"{order}i", part, at + 116) == (21,)
    assert struct.unpack_from(f"{order}2i", part, at + 124) == (0, 20)
    # Sample 40 is at -1 ns + 40 x 25 ps = 0 s.
    assert struct.unpack_from(f"{order}d", part, at + 180)[0] == pytest.approx(0.0, abs=1e-15)
    assert struct.unpack_from(f"{order}21h", part, at + 366) == tuple(range(40, 61))


@pytest.mark.parametrize(
    ("data", "name", "rule", "why"),
    [
        (trc_record(100, segments=3), "C1.trc", "*.trc rows 0 10", "several segments"),
        (trc_record(100), "C1.trc", "*.trc rows 100 10", "outside the record"),
        (b"x,y\n1,2\n" * 10, "a.txt", "*.txt rows 0 3", "no line `Time"),
        (text_record(100), "a.txt", "*.txt rows 100 3", "outside the record"),
        (HEADER.replace(b"#1,", b"#1,x\n#2,") + b"0,1\n", "a.txt", "*.txt rows 0 1", "several segments"),
        (HEADER + b"zero,1\none,2\n", "a.txt", "*.txt seconds 0 1", "not `time,volts`"),
        (b"", "a.txt", "*.txt rows 0 1", "no line"),
    ],
)
def test_what_cannot_be_cut_is_sent_whole_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, data: bytes, name: str, rule: str, why: str
) -> None:
    with caplog.at_level(logging.WARNING):
        assert skimmed(tmp_path, data, rule, name) == (data, "")
    assert why in caplog.text


def test_files_that_no_rule_names_are_sent_whole(tmp_path: Path) -> None:
    assert skimmed(tmp_path, text_record(10), "*.trc rows 0 1") == (text_record(10), "")


@pytest.mark.parametrize(
    "rule", ["*.txt", "*.txt lines 1 2", "*.txt rows -1 5", "*.txt rows 0 0", "*.txt seconds 2 1", "re:( rows 0 1"]
)
def test_a_rule_that_cannot_be_meant_is_refused(rule: str) -> None:
    with pytest.raises(ConfigurationError):
        skim.selector([rule])


def test_no_rules_mean_no_selection() -> None:
    assert skim.selector([]) is None


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_trc_window_reads_back_as_the_same_samples_at_the_same_times(tmp_path: Path, order: str) -> None:
    numpy = pytest.importorskip("numpy")
    from openmsi_streams.pdv.trc import read_trc

    data = trc_record(1000, order)
    part, _ = skimmed(tmp_path, data, "*.trc rows 40 600", "C1.trc")
    whole, window = read_trc(data), read_trc(part)
    assert numpy.array_equal(whole.volts.ravel()[40:640], window.volts.ravel())
    assert numpy.allclose(numpy.ravel(whole.times())[40:640], numpy.ravel(window.times()), rtol=0, atol=1e-18)
