"""The fits' own parts: rounded corners, the ends of a window, the walk of the laser's phase."""

from __future__ import annotations

import math

import numpy as np
import pytest

from openmsi_streams.pdv import synthetic
from openmsi_streams.pdv.analysis import analyze_trace
from openmsi_streams.pdv.fits import Polyline
from openmsi_streams.pdv.kinematics import rounded, slope_changes
from openmsi_streams.pdv.settings import PdvSettings, constants


@pytest.mark.parametrize("sigma", [0.02, 0.35, 1.5])
def test_rounded_corner_agrees_with_the_error_function(sigma: float) -> None:
    u = np.linspace(-9 * sigma, 9 * sigma, 4001)
    step = np.array([0.5 * math.erfc(-x / (math.sqrt(2) * sigma)) for x in u.tolist()])
    bell = sigma / math.sqrt(2 * math.pi) * np.exp(-0.5 * (u / sigma) ** 2)
    s, r, i = rounded(u, sigma)
    assert np.allclose(s, step, atol=2e-9)
    assert np.allclose(r, u * step + bell, atol=2e-9 * sigma)
    assert np.allclose(i, 0.5 * (u * u + sigma * sigma) * step + 0.5 * u * bell, atol=2e-9 * sigma**2)


def test_slope_changes_add_up_to_nothing() -> None:
    change = slope_changes(np.array([0.0, 1.0, 3.0]), np.array([0.0, 10.0, 4.0]))
    assert change.tolist() == [10.0, -13.0, 3.0]


def test_the_ends_of_a_window_are_no_corners() -> None:
    """A line that is cut off by the window goes straight on; a corner in the middle is as round as it is anywhere."""
    model = Polyline(
        np.array([0.0, 10.0, 20.0]), np.array([100.0, 0.0, 50.0]), np.array([False, True, False]),
        np.array([True, True, True]), 1.5,
    )  # fmt: skip
    t = np.array([0.0, 1.0, 19.0, 20.0, 22.0])
    assert model.velocity(t) == pytest.approx([100.0, 90.0, 45.0, 50.0, 60.0], abs=1e-6)
    bottom = model.velocity(np.array([10.0]))[0]
    assert bottom == pytest.approx((10.0 + 5.0) * 1.5 / math.sqrt(2 * math.pi), rel=1e-6)
    # Derivatives by knots and levels against differences.
    at, step = 10.7, 1e-2
    for place, values in ((1, model.knots), (4, model.levels)):
        for k in range(3):
            if place == 1 and k != 1:
                continue
            kept = float(values[k])
            values[k] = kept + step
            up = model.velocity(np.array([at]))[0]
            values[k] = kept - step
            down = model.velocity(np.array([at]))[0]
            values[k] = kept
            assert model.gradient(at)[place + k] == pytest.approx((up - down) / (2 * step), rel=1e-3, abs=1e-4)


def measured(case: str, seed: int, **changes: object) -> tuple[dict[str, float], dict[str, float]]:
    """(value less truth, sigma) of each velocity of a shot."""
    made = synthetic.shot(case, seed, **changes)
    r = made.recipe
    known = PdvSettings(
        wavelength_nm=r.wavelength * 1e9, angle_deg=r.angle_deg, density=r.density, c0=r.c0, cl=r.c0 * 1.2
    )
    result = analyze_trace(made.trace, constants(known))
    names = [name for name in result.quantities if name in made.truth and name.endswith("_velocity")]
    errors = {name: result.quantities[name].value - float(made.truth[name]) for name in names}
    return errors, {name: result.quantities[name].sigma or math.inf for name in names}


def test_wide_rounding_is_measured_without_bias() -> None:
    """With next to no noise, what is left is bias: rounded window ends once cost 1.2 m/s here."""
    errors, sigmas = measured("rounded 1.5 ns", 0, noise=0.002, bits=14)
    assert set(errors) == {"peak_velocity", "pullback_minimum_velocity", "pullback_velocity", "recompression_velocity"}
    for name, error in errors.items():
        assert abs(error) < 0.1, name
        assert sigmas[name] < 0.1, name


def test_the_walk_of_the_lasers_phase_is_taken_out() -> None:
    """The carrier beside the moving light shows the walk; left in, it costs some 3 m/s at the minimum."""
    errors = [measured("phase noise 30 kHz", seed, linewidth=300e3, noise=0.02)[0] for seed in range(3)]
    assert np.sqrt(np.mean([e["pullback_minimum_velocity"] ** 2 for e in errors])) < 1.7
