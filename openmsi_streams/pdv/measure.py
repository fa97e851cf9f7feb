"""From a followed event to its class and its quantities."""

from __future__ import annotations

import math

import numpy as np

from openmsi_streams.pdv import physics
from openmsi_streams.pdv.event import Event
from openmsi_streams.pdv.extrema import extreme_of, extreme_time
from openmsi_streams.pdv.flyer import measure_flyer, plateau
from openmsi_streams.pdv.materials import Material
from openmsi_streams.pdv.result import ShotResult
from openmsi_streams.pdv.rise import (
    Marks,
    add_hel,
    add_start,
    add_time,
    common_parts,
    find_marks,
    fit_rise,
    from_history,
    half_way,
    t_reaches,
    velocity_parts,
)
from openmsi_streams.pdv.settings import Constants
from openmsi_streams.pdv.spall import measure_spall
from openmsi_streams.pdv.trace import FloatArray

# A shock takes a free surface to its peak in a few ns; a flyer is pushed for tens of ns.
FLYER_RISE = 20.0


def measure(event: Event, known: Constants, result: ShotResult) -> None:
    """Fill ``result`` with class, reason and quantities of the event."""
    t = (event.t - event.onset) * 1e9
    marks = find_marks(event, t)
    if marks is None:
        result.shot_class, result.reason = "no_shot", "motion was seen, but no velocity could be followed"
        return
    m = known.material
    common = common_parts(event, known)
    if marks.rise > FLYER_RISE:
        result.shot_class = "flyer"
        result.reason = f"the velocity rises for {marks.rise:.0f} ns, as a driven flyer's does"
        measure_flyer(event, known, result, t, marks, common)
    elif marks.minimum is not None and marks.again is not None:
        result.shot_class = "spall"
        fall, back = marks.peak[1] - marks.minimum[1], marks.again[1] - marks.minimum[1]
        result.reason = f"the velocity falls by {fall:.0f} m/s after its peak and rises again by {back:.0f} m/s"
        measure_spall(event, known, result, marks, common)
    else:
        result.shot_class = "no_spall"
        if marks.minimum is None:
            result.reason = "the velocity stays near its peak: no pull-back"
        else:
            result.reason = "the velocity falls after its peak and does not rise again: no spall"
        _no_spall(event, known, result, t, marks, common)
    if 12.0 < marks.rise < 40.0 and result.shot_class != "spall":
        result.flags.append("class_uncertain")
        result.notes.append(f"a rise of {marks.rise:.0f} ns lies between a shock's and a flyer's")
    if "peak_velocity" in result.quantities:
        _stresses(result, m)
    result.add("carrier_frequency", event.carrier.frequency, {"noise": event.carrier.sigma})


def _no_spall(event: Event, known: Constants, result: ShotResult, t: FloatArray, marks: Marks,
              common: dict[str, float]) -> None:  # fmt: skip
    end = float((event.end - event.onset) * 1e9)
    if marks.minimum is not None:
        right = half_way(event, t, marks.peak, marks.minimum)
        if right[0] > marks.peak[0] + 40:
            right = (marks.peak[0] + 40, float(np.interp(marks.peak[0] + 40, t, event.velocity)))
    else:
        at = min(t_reaches(event, t, marks) + 25.0, end)
        right = (at, float(np.interp(at, t, event.velocity)))
    rise = fit_rise(event, t, marks, right)
    if rise is None:
        result.flags.append("fit_failed")
        from_history(event, result, marks, common)
        return
    if marks.minimum is None and (top := plateau(event, t, marks)) is not None:
        peak = top
    else:
        peak = rise.average(extreme_of(-3.0, right[0], 1.0))
    result.add("peak_velocity", peak.value, velocity_parts(peak, common))
    add_start(event, result, rise)
    add_hel(result, rise, common, known)
    add_time(event, result, "peak_time", rise.average(extreme_time(-3.0, right[0], 1.0)))


def _stresses(result: ShotResult, m: Material) -> None:
    peak = result.quantities["peak_velocity"]
    for name, formula in (("peak_stress", physics.peak_stress), ("peak_stress_acoustic", physics.peak_stress_acoustic)):
        value = formula(m, peak.value)
        slope = (formula(m, peak.value * 1.001) - value) / (0.001 * peak.value) if peak.value else 0.0
        parts = {key: part * slope for key, part in peak.parts.items()}
        up = 0.5 * peak.value
        hugoniot = m.density * up * up * m.sigma_s if name == "peak_stress" else 0.0
        parts["material"] = math.hypot(value * m.sigma_density / m.density, m.density * up * m.sigma_c0, hugoniot)
        result.add(name, value, parts, 1e-9)
