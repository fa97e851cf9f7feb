"""Spall: peak, pull-back minimum and recompression of one shot, and the strengths that follow."""

from __future__ import annotations

import math

import numpy as np

from openmsi_streams.pdv import physics
from openmsi_streams.pdv.event import Event
from openmsi_streams.pdv.extrema import (
    LOG_PRIOR,
    Estimate,
    Posterior,
    Quantity,
    explore,
    extreme_of,
    extreme_time,
    window,
)
from openmsi_streams.pdv.materials import Material
from openmsi_streams.pdv.result import ShotResult
from openmsi_streams.pdv.rise import (
    Marks,
    add_hel,
    add_start,
    add_time,
    fit_rise,
    from_history,
    half_way,
    velocity_parts,
)
from openmsi_streams.pdv.settings import Constants
from openmsi_streams.pdv.shapes import turn_starts
from openmsi_streams.pdv.trace import FloatArray


def measure_spall(event: Event, known: Constants, result: ShotResult, marks: Marks, common: dict[str, float]) -> None:
    assert marks.minimum is not None and marks.again is not None
    t = (event.t - event.onset) * 1e9
    m = known.material
    down = half_way(event, t, marks.peak, marks.minimum)
    up = half_way(event, t, marks.minimum, marks.again)
    rise = fit_rise(event, t, marks, down)
    low_data = window(event, down[0], up[0])
    low = None
    if low_data is not None:
        low = explore(low_data, turn_starts(down[0] - 0.1, down[1], *marks.minimum, up[0] + 0.1, up[1]))
    if rise is None or low is None:
        result.flags.append("fit_failed")
        from_history(event, result, marks, common)
        return
    # One target and one probe round all corners alike, unless the windows contradict each other or do not fit.
    rise_log, low_log = rise.by_sigma(), low.by_sigma()
    shared = float((rise_log + low_log).max()) > -4.0 and max(rise.misfit, low.misfit) < 1.25
    peak_of, low_of = extreme_of(-3.0, down[0], 1.0), extreme_of(down[0], up[0], -1.0)
    if shared:
        peak, minimum = rise.average(peak_of, low_log), low.average(low_of, rise_log)
        difference = _difference(rise, low, peak_of, low_of)
    else:
        peak, minimum = rise.average(peak_of), low.average(low_of)
        difference = Estimate(peak.value - minimum.value, math.hypot(peak.noise, minimum.noise),
                              math.hypot(peak.model, minimum.model))  # fmt: skip
    more = low_log if shared else None
    result.add("peak_velocity", peak.value, velocity_parts(peak, common))
    result.add("pullback_minimum_velocity", minimum.value, velocity_parts(minimum, common))
    parts = velocity_parts(difference, common, difference=True)
    result.add("pullback_velocity", difference.value, parts)
    add_start(event, result, rise, more)
    add_hel(result, rise, common, known)
    add_time(event, result, "peak_time", rise.average(extreme_time(-3.0, down[0], 1.0), more))
    add_time(event, result, "pullback_minimum_time", low.average(extreme_time(down[0], up[0], -1.0)))
    _strength(result, m, difference.value, parts)
    fall = float(np.diff(rise.best().levels[-2:])[0] / np.diff(rise.best().knots[-2:])[0]) * 1e9
    if fall < 0:
        rate = physics.strain_rate(m, fall)
        result.add("strain_rate", rate, {
            "fit": rate * (parts["noise"] + parts["model"]) / max(difference.value, 1e-9) * 1.5,
            "material": rate * m.sigma_c0 / m.c0,
        })  # fmt: skip
    _recompression(event, result, marks, up, common, rise_log + low_log if shared else low_log)
    _ringing(result, m, low, marks, difference.value, fall)
    for label, posterior in (("rise", rise), ("pull-back", low)):
        if posterior.misfit > 1.5:
            result.flags.append("model_misfit")
            result.notes.append(
                f"the {label} is not made of straight pieces: residual {posterior.misfit:.1f} times noise"
            )
    _cross_check(event, result, marks, difference, rise, low)


def _difference(rise: Posterior, low: Posterior, peak_of: Quantity, low_of: Quantity) -> Estimate:
    """Peak less minimum under one rounding: their shared error in it is counted once, with its sign."""
    joint = rise.by_sigma() + low.by_sigma() + LOG_PRIOR
    weight = np.exp(joint - joint.max())
    weight /= weight.sum()
    a, va = _by_sigma(rise, peak_of)
    b, vb = _by_sigma(low, low_of)
    mean = float(weight @ (a - b))
    scatter = float(weight @ ((a - b - mean) ** 2))
    chosen = weight > 1e-6
    noise = float(weight[chosen] @ (va + vb)[chosen])
    return Estimate(mean, math.sqrt(noise), math.sqrt(scatter))


def _by_sigma(posterior: Posterior, quantity: Quantity) -> tuple[FloatArray, FloatArray]:
    """(mean, variance) of a quantity over the models, for every rounding of `GRID`."""
    logs = np.array([curve.evidence() for curve in posterior.curves])
    weight = np.exp(logs - logs.max(axis=0))
    weight /= weight.sum(axis=0)
    tables = posterior.tabled(quantity)
    value, variance = np.array([table[0] for table in tables]), np.array([table[1] for table in tables])
    mean = (weight * value).sum(axis=0)
    spread = (weight * (value - mean) ** 2).sum(axis=0)
    return mean, posterior.misfit * (weight * variance).sum(axis=0) + spread


def _strength(result: ShotResult, m: Material, pullback: float, parts: dict[str, float]) -> None:
    for name, formula, speeds in (
        ("spall_strength", physics.spall_acoustic, m.sigma_c0 / m.c0),
        ("spall_strength_elastic_plastic", physics.spall_elastic_plastic,
         math.hypot(m.sigma_c0 / m.c0 * m.cl, m.sigma_cl / m.cl * m.c0) / (m.c0 + m.cl)),
    ):  # fmt: skip
        value = formula(m, pullback)
        own = {key: formula(m, part) for key, part in parts.items()}
        own["material"] = value * math.hypot(m.sigma_density / m.density, speeds)
        result.add(name, value, own, 1e-9)


def _recompression(event: Event, result: ShotResult, marks: Marks, up: tuple[float, float],
                   common: dict[str, float], sigma_log: FloatArray) -> None:  # fmt: skip
    assert marks.again is not None
    t = (event.t - event.onset) * 1e9
    end = float((event.end - event.onset) * 1e9)
    right = half_way(event, t, marks.again, marks.following) if marks.following else (min(marks.again[0] + 8, end), 0.0)
    if right[0] < marks.again[0] + 1.0:
        return
    if not marks.following:
        right = (right[0], float(np.interp(right[0], t, event.velocity)))
    data = window(event, up[0], right[0])
    made = None
    if data is not None:
        made = explore(data, turn_starts(up[0] - 0.1, up[1], *marks.again, right[0] + 0.1, right[1]))
    if made is None:
        return
    more = sigma_log if float((made.by_sigma() + sigma_log).max()) > -4.0 else None
    value = made.average(extreme_of(up[0], right[0], 1.0), more)
    result.add("recompression_velocity", value.value, velocity_parts(value, common))
    add_time(event, result, "recompression_time", made.average(extreme_time(up[0], right[0], 1.0)))


def _ringing(result: ShotResult, m: Material, low: Posterior, marks: Marks, pullback: float, fall: float) -> None:
    """Spall thickness from the ringing's period (minimum to next minimum), and Kanel's correction with it."""
    if marks.following is None or marks.minimum is None:
        return
    ring = (marks.following[0] - marks.minimum[0]) * 1e-9
    thickness = physics.spall_thickness(m, ring)
    result.add("spall_thickness", thickness, {"fit": 0.05 * thickness, "material": thickness * m.sigma_c0 / m.c0}, 1e6)
    best = low.best()
    rebound = float((best.levels[-1] - best.levels[-2]) / (best.knots[-1] - best.knots[-2])) * 1e9
    if rebound > 0 and fall < 0 and "spall_strength" in result.quantities:
        value = physics.spall_kanel(m, pullback, thickness, fall, rebound)
        base = result.quantities["spall_strength"]
        parts = {key: part * 1e9 for key, part in base.parts.items()}
        # The correction itself is good to a fifth at best: it takes both slopes for straight.
        parts["correction"] = 0.2 * (value - base.value * 1e9)
        result.add("spall_strength_kanel", value, parts, 1e-9)


def _cross_check(event: Event, result: ShotResult, marks: Marks, difference: Estimate, rise: Posterior,
                 low: Posterior) -> None:  # fmt: skip
    """Compare with the plain way: extrema of the smoothed history, corrected for its kernel by the fits' own shape."""
    assert marks.minimum is not None
    t = (event.t - event.onset) * 1e9
    kernel = event.kernel * 1e9
    reading = []
    for posterior, mark, sign in ((rise, marks.peak, 1.0), (low, marks.minimum, -1.0)):
        near = np.abs(t - mark[0]) < 3.0
        model = posterior.best()
        wider = model.copy()
        wider.sigma = math.hypot(model.sigma, kernel)
        smooth = wider.extreme(mark[0] - 4, mark[0] + 4, sign)[1]
        sharp = model.extreme(mark[0] - 4, mark[0] + 4, sign)[1]
        seen = float(np.max(sign * event.velocity[near]) * sign) if near.any() else mark[1]
        reading.append(seen - (smooth - sharp))
    other = reading[0] - reading[1]
    usual = float(np.median(event.sigma[(t > 0) & (t < marks.minimum[0] + 10)]))
    allowed = 5 * math.hypot(difference.sigma, 2 * usual) + 0.01 * abs(difference.value)
    if abs(other - difference.value) > allowed:
        result.flags.append("methods_disagree")
        result.notes.append(
            f"the smoothed history gives a pull-back of {other:.1f} m/s, the fit {difference.value:.1f} m/s"
        )
