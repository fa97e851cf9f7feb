"""Classes, values and error bars of known shots; bad input never raises and never gives a value unflagged."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from openmsi_streams.pdv import synthetic
from openmsi_streams.pdv.analysis import analyze, analyze_trace
from openmsi_streams.pdv.result import CLASSES, ShotResult
from openmsi_streams.pdv.settings import PdvSettings, constants
from openmsi_streams.pdv.trace import Trace
from openmsi_streams.pdv.trc import build_trc

# Defaults that a result must own up to, but that say nothing against its values.
MILD = {"wavelength_default", "angle_default", "material_default", "cl_default", "sequence"}


def result_of(made: synthetic.Shot) -> ShotResult:
    recipe = made.recipe
    known = PdvSettings(
        wavelength_nm=recipe.wavelength * 1e9,
        angle_deg=recipe.angle_deg,
        density=recipe.density,
        c0=recipe.c0,
        cl=recipe.c0 * 1.2,
        standoff_mm=recipe.standoff * 1e3 or None,
    )
    return analyze_trace(made.trace, constants(known))


# Cases that differ from these in noise alone are left to the accuracy table.
SOME = [name for name in synthetic.CASES if name not in ("sharp, noise 2 %", "sharp, noise 20 %", "rise 3 ns", "spur")]


@pytest.mark.parametrize("case", SOME)
def test_class_and_values_of_every_case(case: str) -> None:
    """Every kind of shot gets its class, and no value is beyond five sigma without a flag (six here, for luck)."""
    made = synthetic.shot(case, 0)
    result = result_of(made)
    assert result.shot_class == made.truth["class"], result.reason
    assert result.reason
    for key in ("peak_velocity", "spall_strength", "hel_velocity", "impact_velocity"):
        if key in made.truth and key != "hel_velocity":
            assert key in result.quantities
        if key in made.truth and key in result.quantities:
            got = result.quantities[key]
            assert got.sigma is not None
            flagged = set(result.flags) - MILD
            assert abs(got.value - float(made.truth[key])) < 6 * got.sigma or flagged, key


@pytest.mark.parametrize("case", ["sharp, noise 5 %", "plateau 10 ns", "fast 1.5 km/s"])
def test_clear_shots_are_measured_well(case: str) -> None:
    """Two seeds each; the margins are several times the scatter that the accuracy table shows."""
    for seed in (1, 2):
        made = synthetic.shot(case, seed)
        got, truth = result_of(made).quantities, made.truth
        assert abs(got["peak_velocity"].value - float(truth["peak_velocity"])) < 4.0
        assert abs(got["spall_strength"].value / float(truth["spall_strength"]) - 1) < 0.02
        assert abs(got["start_time"].value - float(truth["start_time"])) < 0.3e-9
        assert abs(got["carrier_frequency"].value - float(truth["carrier_frequency"])) < 20e3


def test_angle_and_wavelength_scale_velocities() -> None:
    recipe = synthetic.CASES["plateau 10 ns"](0)
    recipe.angle_deg, recipe.wavelength = 20.0, 1547.461e-9
    made = synthetic.make(recipe, 0)
    got = result_of(made).quantities["peak_velocity"]
    assert abs(got.value - float(made.truth["peak_velocity"])) < 2.0


def test_uncertainty_has_its_parts_and_their_sum() -> None:
    made = synthetic.shot("HEL foot", 0)
    result = analyze_trace(made.trace, constants(PdvSettings(material="AZ31B")))
    strength = result.quantities["spall_strength"]
    assert {"noise", "model", "wavelength", "material"} <= set(strength.parts)
    assert strength.sigma == pytest.approx(math.sqrt(sum(part**2 for part in strength.parts.values())))
    assert {"wavelength_default", "angle_default"} <= set(result.flags)
    assert result.provenance["material"]["name"] == "AZ31B"


def test_several_segments_are_searched_for_the_event() -> None:
    quiet, shot = synthetic.shot("no shot", 0), synthetic.shot("plateau 10 ns", 0)
    trace = shot.trace
    trace.volts = np.vstack([quiet.volts, shot.volts])
    trace.starts = np.array([quiet.start, shot.start])
    result = analyze_trace(trace, constants(PdvSettings()))
    assert result.shot_class == "spall"
    assert result.provenance["segment"] == 1


def trace_of(volts: np.ndarray, rate: float = 80e9) -> Trace:  # type: ignore[type-arg]
    return Trace(volts=volts[None, :], dt=1 / rate, starts=np.array([-1e-7]), format="test")


@pytest.mark.parametrize(
    ("volts", "word"),
    [
        (np.zeros(20_000), "constant"),
        (np.random.default_rng(0).normal(0, 0.1, 40_000), "carrier"),
        (np.sign(np.random.default_rng(1).normal(0, 1, 40_000)), "carrier"),
        (np.cos(2 * np.pi * 39.99e9 * np.arange(40_000) / 80e9), "carrier"),
        (np.cos(2 * np.pi * 2e9 * np.arange(300) / 80e9), "samples"),
        (np.linspace(-1, 1, 40_000), "no"),
    ],
)
def test_records_without_a_shot_say_so(volts: np.ndarray, word: str) -> None:  # type: ignore[type-arg]
    result = analyze_trace(trace_of(volts), constants(PdvSettings()))
    assert result.shot_class == "no_shot"
    assert word in result.reason
    assert not result.quantities


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"LECROYX,1,Waveform\nSegments,1,SegmentSize,10\nSegment,TrigTime,TimeSinceSegment1\n#1,x,0\nTime,Ampl\n",
        b"%PDF-1.7 not a record",
        b"\x00" * 10_000,
        b"Time,Ampl\n" + b"nan,nan\n" * 500,
        b"Time,Ampl\n" + b"0,0\n" * 500,
        b"1e308,1e308\n2e308,1e308\n" * 300,
        build_trc(np.zeros(500, np.int8), gain=1, offset=0, interval=1e-9, first=0)[:300],
        build_trc(np.zeros(500, np.int8), gain=float("nan"), offset=0, interval=1e-9, first=0),
        build_trc(np.zeros(500, np.int8), gain=1, offset=0, interval=-1.0, first=0),
    ],
)
def test_bad_files_are_unreadable_with_a_reason(data: bytes) -> None:
    result = analyze(data, None, "x.trc")
    assert result.shot_class in ("unreadable", "no_shot")
    assert result.reason
    assert not result.quantities
    json.dumps(result.to_dict(), allow_nan=False)


def test_a_record_of_gigabytes_is_refused_without_reading_it(tmp_path: Path) -> None:
    path = tmp_path / "huge.txt"
    with path.open("wb") as file:
        file.truncate(2 << 30)  # a sparse file: no disk is used
    result = analyze(path)
    assert result.shot_class == "unreadable"
    assert "GB" in result.reason


def test_clipping_is_flagged() -> None:
    recipe = synthetic.CASES["plateau 10 ns"](0)
    recipe.range_volts = 0.1
    assert "clipped" in result_of(synthetic.make(recipe, 0)).flags


@pytest.mark.parametrize("keep", [0.405, 0.43])
def test_event_at_the_end_of_the_record_is_no_unflagged_spall(keep: float) -> None:
    made = synthetic.shot("plateau 10 ns", 0)
    trace = made.trace
    trace.volts = trace.volts[:, : int(keep * trace.points)].copy()
    result = analyze_trace(trace, constants(PdvSettings()))
    assert result.shot_class in CLASSES
    if result.shot_class == "spall" and not set(result.flags) - MILD:
        got = result.quantities["spall_strength"]
        assert got.sigma is not None
        assert abs(got.value - float(made.truth["spall_strength"])) < 5 * got.sigma


def test_event_at_the_start_of_the_record_does_not_raise() -> None:
    made = synthetic.shot("plateau 10 ns", 0)
    for first in (47_000, 47_900, 48_500):
        trace = made.trace
        trace.volts = trace.volts[:, first:].copy()
        result = analyze_trace(trace, constants(PdvSettings()))
        assert result.shot_class in CLASSES
        assert result.reason


GOOD = build_trc(
    synthetic.shot("HEL foot", 0, points=20_000, record_start=-150e-9).codes, gain=0.003, offset=0, interval=1.25e-11,
    first=-1.5e-7,
)  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.binary(max_size=400), st.sampled_from(["a.trc", "a.txt", "a.csv"]))
def test_any_bytes_give_a_result(data: bytes, name: str) -> None:
    record = analyze(data, None, name).to_dict()
    assert record["class"] in ("unreadable", "no_shot")
    json.dumps(record, allow_nan=False)


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2**32), st.integers(1, 30))
def test_damaged_records_give_a_result(seed: int, damage: int) -> None:
    """Bytes of a good record changed at random, mostly in its header, or cut off."""
    rng = random.Random(seed)
    data = bytearray(GOOD)
    for _ in range(damage):
        data[rng.randrange(11, 360 if rng.random() < 0.8 else len(data))] = rng.randrange(256)
    cut = len(data) if rng.random() < 0.7 else rng.randrange(len(data))
    result = analyze(bytes(data[:cut]), None, "a.trc")
    assert result.shot_class in CLASSES
    assert "internal_error" not in result.flags, result.reason
    json.dumps(result.to_dict(), allow_nan=False)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(st.floats(), st.floats()), min_size=1, max_size=60))
def test_any_table_of_numbers_gives_a_result(rows: list[tuple[float, float]]) -> None:
    text = "Time,Ampl\n" + "\n".join(f"{a!r},{b!r}" for a, b in rows)
    record = analyze(text.encode(), None, "a.csv").to_dict()
    assert record["class"] in ("unreadable", "no_shot")
    json.dumps(record, allow_nan=False)


def test_recipes_are_plain_data() -> None:
    recipe = synthetic.CASES["flyer"](0)
    assert msgspec.json.decode(msgspec.json.encode(recipe), type=synthetic.Recipe) == recipe
