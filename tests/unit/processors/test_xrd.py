"""The example: a diffraction scan gives a plot and a table whose peaks are where they were put."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from openmsi_streams.processors import RejectFile
from openmsi_streams.processors.testing import check_repeats, try_processor
from openmsi_streams.processors.xrd import CU_KALPHA1, lower_envelope, peaks, read, xrd

# Silicon (a = 5.43102 angstrom, NIST SRM 640): reflections and their intensities relative to 111.
SILICON = {(1, 1, 1): 1.00, (2, 2, 0): 0.55, (3, 1, 1): 0.30, (4, 0, 0): 0.06, (3, 3, 1): 0.11}
LATTICE = 5.43102


def bragg(indices: tuple[int, int, int]) -> float:
    spacing = LATTICE / sum(one * one for one in indices) ** 0.5
    return float(2 * np.degrees(np.arcsin(CU_KALPHA1 / (2 * spacing))))


def scan(separator: str = ",", header: str = "2theta,counts", seed: int = 1) -> bytes:
    angle = np.arange(20.0, 80.0, 0.02)
    counts = 400 * np.exp(-angle / 30) + 60
    for indices, height in SILICON.items():
        counts += 8000 * height * np.exp(-4 * np.log(2) * ((angle - bragg(indices)) / 0.12) ** 2)
    counts = np.random.default_rng(seed).poisson(counts)
    rows = "\n".join(f"{one:.3f}{separator}{count}" for one, count in zip(angle, counts, strict=True))
    return f"# lab scan\n{header}\n{rows}\n".encode()


def test_the_peaks_of_silicon_are_found_where_bragg_puts_them() -> None:
    found, _ = peaks(read(scan().decode()))
    assert len(found) == len(SILICON)
    for one, indices in zip(found, sorted(SILICON, key=bragg), strict=True):
        assert one["two_theta_deg"] == pytest.approx(bragg(indices), abs=0.02)
        assert one["d_angstrom"] == pytest.approx(LATTICE / sum(i * i for i in indices) ** 0.5, rel=1e-3)
        assert one["fwhm_deg"] == pytest.approx(0.12, abs=0.04)
        assert one["relative_percent"] == pytest.approx(100 * SILICON[indices], rel=0.15)


def test_a_scan_without_peaks_gives_an_empty_table() -> None:
    angle = np.arange(20, 60, 0.02)
    counts = np.random.default_rng(3).poisson(200, len(angle))
    text = "\n".join(f"{a:.3f},{c}" for a, c in zip(angle, counts, strict=True))
    assert peaks(read(text))[0] == []


def test_a_background_lies_below_the_peaks_and_follows_the_curve() -> None:
    angle = np.arange(20, 60, 0.02)
    smooth = 500 * np.exp(-angle / 30) + 50
    peak = 5000 * np.exp(-(((angle - 40) / 0.1) ** 2))
    assert np.allclose(lower_envelope(smooth + peak, 38), smooth, rtol=0.02)


@pytest.mark.parametrize("separator", [",", ";", "\t", "   "])
def test_separators_of_every_instrument_are_read(separator: str) -> None:
    assert len(read(scan(separator).decode()).angle) == 3000


def test_a_wavelength_in_the_header_is_used_and_an_assumed_one_is_said() -> None:
    told = read(scan(header="Wavelength (A) = 0.7093").decode())
    assert told.wavelength == 0.7093 and not told.assumed
    assert read(scan().decode()).assumed


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", "\n".join(f"{i * 100},1" for i in range(50))])
def test_what_is_no_scan_is_rejected_with_the_reason(text: str) -> None:
    with pytest.raises(RejectFile):
        read(text)


def test_plot_and_table_are_stored_beside_the_file_and_are_the_same_each_time(tmp_path: Path) -> None:
    tried = check_repeats(xrd, scan(), name="run/si_xrd.csv", topic="xrd", folder=tmp_path)
    assert set(tried.files) == {"si_xrd.csv.png", "si_xrd.csv.peaks.csv"}
    assert tried.files["si_xrd.csv.png"].startswith(b"\x89PNG")
    lines = tried.files["si_xrd.csv.peaks.csv"].decode().splitlines()
    assert lines[0].startswith("two_theta_deg,d_angstrom") and len(lines) == 1 + len(SILICON)
    assert len(tried.json["peaks"]) == len(SILICON) and tried.record == {
        "peaks": 5,
        "strongest_two_theta_deg": pytest.approx(bragg((1, 1, 1)), abs=0.02),
    }


def test_it_runs_in_a_process_of_its_own(tmp_path: Path) -> None:
    tried = try_processor(xrd, scan(), name="si_xrd.csv", folder=tmp_path, isolated=True)
    assert tried.outcome is not None and tried.outcome.ok, tried.outcome and tried.outcome.error
    assert len(tried.files) == 2
