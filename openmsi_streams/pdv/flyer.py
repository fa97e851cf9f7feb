"""Flyers and long plateaus: velocity of a flat top, displacement, velocity at the stand-off."""

from __future__ import annotations

import math

import numpy as np

from openmsi_streams.pdv.event import Event
from openmsi_streams.pdv.extrema import Estimate, Posterior, explore, level_of, window
from openmsi_streams.pdv.result import ShotResult
from openmsi_streams.pdv.rise import Marks, add_start, velocity_parts
from openmsi_streams.pdv.settings import Constants
from openmsi_streams.pdv.shapes import line_starts
from openmsi_streams.pdv.trace import FloatArray
from openmsi_streams.pdv.tracking import slope_velocity


def plateau(event: Event, t: FloatArray, marks: Marks) -> Estimate | None:
    """Velocity of a long flat top: a straight line through it, its higher end where it has a slope."""
    v = slope_velocity(event.tracked, 4e-9, event.to_velocity)
    end = float((event.end - event.onset) * 1e9) - 12.0
    inside = (t > 0) & (t < end)
    if not inside.any():
        return None
    top = float(np.percentile(v[inside], 98))
    high = np.flatnonzero(inside & (v > 0.99 * top))
    if high.size < 16:
        return None
    runs = np.split(high, np.flatnonzero(np.diff(high) > 3) + 1)
    run = max(runs, key=len)
    left, right = float(t[run[0]]), float(t[run[-1]])
    # Sides are still bent; and more than 200 ns add nothing but the laser's walk.
    width = right - left
    left, right = left + 0.1 * width, min(right - 0.1 * width, left + 0.1 * width + 200)
    if right - left < 12:
        return None
    data = window(event, left, right)
    if data is None:
        return None
    posterior = explore(data, line_starts(left - 0.1, right + 0.1, top))
    if posterior is None:
        return None
    ends = [posterior.average(level_of(k)) for k in (0, 1)]
    middle = Estimate(0.5 * (ends[0].value + ends[1].value), 0.5 * math.hypot(ends[0].noise, ends[1].noise))
    slope = ends[1].value - ends[0].value
    # The two ends' errors are opposite (a line turns about its middle), so their difference is wide.
    if abs(slope) < 3 * math.hypot(ends[0].noise, ends[1].noise):
        gradient = _middle(posterior)
        return Estimate(gradient[0], gradient[1], abs(slope) * 0.1)
    best = max(ends, key=lambda item: item.value)
    return Estimate(best.value, best.noise, abs(best.value - middle.value) * 0.05)


def _middle(posterior: Posterior) -> tuple[float, float]:
    best = posterior.best()
    gradient = np.zeros(1 + 2 * best.knots.size)
    gradient[1 + best.knots.size :] = 0.5
    return float(best.levels.mean()), best.sigma_of(gradient) * math.sqrt(posterior.misfit)


def measure_flyer(event: Event, known: Constants, result: ShotResult, t: FloatArray, marks: Marks,
           common: dict[str, float]) -> None:  # fmt: skip
    peak = plateau(event, t, marks)
    if peak is None:
        sigma = float(np.median(event.sigma))
        peak = Estimate(marks.peak[1], sigma, 0.005 * marks.peak[1])
    result.add("peak_velocity", peak.value, velocity_parts(peak, common))
    # The start: from rest to a fifth of the peak, which any drive passes on a smooth way.
    v = slope_velocity(event.tracked, 1.5e-9, event.to_velocity)
    early = np.flatnonzero((t > -8) & (v > 0.3 * marks.peak[1]))
    right = float(t[early[0]]) if early.size else 10.0
    level = 0.3 * marks.peak[1]
    data = window(event, min(-12.0, -0.5 * right), right)
    rise = None
    if data is not None:
        guess = max(right * 0.5, 1.0)
        starts = [
            ("ramp", [right - 2 * guess, right + 0.1], [0, level], [True, False], [False, True]),
            ("bend", [right - 2 * guess, right - 0.8 * guess, right + 0.1], [0, 0.5 * level, level],
             [True, True, False], [False, True, True]),
        ]  # fmt: skip
        rise = explore(data, starts)
    if rise is not None:
        add_start(event, result, rise)
    else:
        result.add("start_time", event.onset, {"noise": 3e-9})
    _impact(event, known, result, common)


def displacement(event: Event) -> FloatArray:
    """Displacement (m) from the phase itself: to_velocity / (2 pi) times the phase since rest."""
    phase = event.tracked.phase
    rest = event.t < event.onset - 1e-9
    zero = float(np.median(phase[rest])) if rest.any() else float(phase[0])
    return np.asarray((phase - zero) * event.to_velocity / (2 * math.pi))


def _impact(event: Event, known: Constants, result: ShotResult, common: dict[str, float]) -> None:
    moved = displacement(event)
    after = (event.t > event.onset) & (event.t < event.end)
    x, v = moved[after], event.velocity[after]
    place = known.standoff
    if x.size < 10 or x.max() < 1.05 * place:
        result.notes.append(f"the flyer is not seen to reach {place * 1e6:.0f} um")
        return
    # The flyer passes each place once; a line through the velocities near it gives the value, their spread the spread.
    near = np.abs(x - place) < 0.05 * place
    wide = np.abs(x - place) < 0.15 * place
    if near.sum() < 6:
        return
    slope, value = np.polyfit(x[near] - place, v[near], 1)
    # The history's samples are correlated over the kernel; count independent ones.
    count = max(1.0, near.sum() * event.tracked.band.dt / (2 * math.sqrt(math.pi) * event.kernel))
    noise = float(np.median(event.sigma[after][near])) / math.sqrt(count)
    estimate = Estimate(float(value), noise, abs(float(slope)) * 0.4e-6)
    result.add("impact_velocity", estimate.value, velocity_parts(estimate, common))
    result.add("impact_velocity_spread", float(np.std(v[wide])))
