"""From a followed event to its class and its quantities."""

from __future__ import annotations

import math

import msgspec
import numpy as np

from openmsi_streams.pdv import physics
from openmsi_streams.pdv.event import Event
from openmsi_streams.pdv.extrema import (
    GRID,
    LOG_PRIOR,
    Estimate,
    Posterior,
    explore,
    extreme_of,
    extreme_time,
    knot_sigma,
    level_of,
    line_starts,
    rise_starts,
    turn_starts,
    varied,
    window,
)
from openmsi_streams.pdv.fits import Polyline
from openmsi_streams.pdv.result import ShotResult
from openmsi_streams.pdv.settings import Constants
from openmsi_streams.pdv.trace import FloatArray
from openmsi_streams.pdv.tracking import slope_velocity, turns

# A shock takes a free surface to its peak in a few ns; a flyer is pushed for tens of ns.
FLYER_RISE = 20.0
# A fall or a rebound smaller than this share of the peak is not called a pull-back.
LEAST_TURN = 0.025
# A peak is looked for among maxima above this share of the highest velocity: an elastic precursor is not the peak.
PEAK_SHARE = 0.4


class Marks(msgspec.Struct):
    """Turning points of the history: (time in ns after the rough onset, velocity)."""

    peak: tuple[float, float]
    minimum: tuple[float, float] | None
    again: tuple[float, float] | None
    following: tuple[float, float] | None
    rise: float


def measure(event: Event, known: Constants, result: ShotResult) -> None:
    """Fill ``result`` with class, reason and quantities of the event."""
    t = (event.t - event.onset) * 1e9
    marks = find_marks(event, t)
    if marks is None:
        result.shot_class, result.reason = "no_shot", "motion was seen, but no velocity could be followed"
        return
    m = known.material
    common = _common_parts(event, known)
    if marks.rise > FLYER_RISE:
        result.shot_class = "flyer"
        result.reason = f"the velocity rises for {marks.rise:.0f} ns, as a driven flyer's does"
        _flyer(event, known, result, t, marks, common)
    elif marks.minimum is not None and marks.again is not None:
        result.shot_class = "spall"
        fall, back = marks.peak[1] - marks.minimum[1], marks.again[1] - marks.minimum[1]
        result.reason = f"the velocity falls by {fall:.0f} m/s after its peak and rises again by {back:.0f} m/s"
        _spall(event, known, result, marks, common)
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


def find_marks(event: Event, t: FloatArray) -> Marks | None:
    """Peak, pull-back minimum, recompression and what follows, from the smoothed history."""
    # A kernel as wide as the noise asks for, for finding only; the fits take the values.
    kernel = max(event.kernel, 0.7e-9)
    v = slope_velocity(event.tracked, kernel, event.to_velocity)
    good = (t > -2.0) & (event.t < event.end)
    if good.sum() < 8:
        return None
    usual = float(np.median(event.sigma[good])) * (event.kernel / kernel) ** 1.5
    top = float(np.percentile(v[good & (t < 250.0)], 99.5)) if np.any(good & (t < 250)) else float(v[good].max())
    threshold = max(6 * usual, LEAST_TURN * top)
    found = turns(v, threshold, good)
    first = next((k for k, (i, sign) in enumerate(found) if sign > 0 and v[i] > PEAK_SHARE * top), None)
    if first is None:
        i = int(np.flatnonzero(good)[np.argmax(v[good])])
        rest: list[tuple[int, int]] = []
    else:
        i, rest = found[first][0], found[first + 1 :]
    # A flyer sets off so gently that the rough onset may lie tens of ns late.
    before = (t > -70.0) & (t <= t[i])
    level = v[i]
    low, high = np.flatnonzero(before & (v < 0.1 * level)), np.flatnonzero(before & (v > 0.9 * level))
    rise = float(t[high[0]] - t[low[-1]]) / 0.8 if low.size and high.size and high[0] > low[-1] else 1.0
    points = [(float(t[k]), float(v[k])) for k, _ in rest]
    minimum = points[0] if points else None
    if minimum is None and first is not None:
        later = good & (t > t[i])
        k = int(np.flatnonzero(later)[np.argmin(v[later])])
        minimum = (float(t[k]), float(v[k]))
    return Marks(
        (float(t[i]), float(level)), minimum, points[1] if len(points) > 1 else None,
        points[2] if len(points) > 2 else None, rise,
    )  # fmt: skip


def _half(event: Event, t: FloatArray, a: tuple[float, float], b: tuple[float, float]) -> tuple[float, float]:
    """(time, velocity) half-way in velocity between two marks."""
    chosen = np.flatnonzero((t >= a[0]) & (t <= b[0]))
    level = 0.5 * (a[1] + b[1])
    if chosen.size == 0:
        return 0.5 * (a[0] + b[0]), level
    k = chosen[int(np.argmin(np.abs(event.velocity[chosen] - level)))]
    return float(t[k]), level


def _common_parts(event: Event, known: Constants) -> dict[str, float]:
    """Relative uncertainties that scale every velocity, and the carrier's absolute one (m/s)."""
    angle = math.hypot(math.tan(known.angle) * known.sigma_angle, known.sigma_angle**2 / math.sqrt(2))
    return {
        "carrier": event.carrier.sigma * event.to_velocity,
        "wavelength": known.sigma_wavelength / known.wavelength,
        "angle": angle,
    }


def _velocity_parts(estimate: Estimate, common: dict[str, float], difference: bool = False) -> dict[str, float]:
    parts = {"noise": estimate.noise, "model": estimate.model}
    if not difference:
        parts["carrier"] = common["carrier"]
    for name in ("wavelength", "angle"):
        parts[name] = abs(estimate.value) * common[name]
    return parts


def _rise(event: Event, t: FloatArray, marks: Marks, right: tuple[float, float]) -> Posterior | None:
    def explored(jump: bool) -> Posterior | None:
        # After a jump of the carrier what came before the start is no guide: only the light after it is used.
        data = window(event, 0.4 if jump else -9.0, right[0])
        if data is None:
            return None
        starts = rise_starts(t, event.velocity, marks.peak[1], marks.peak[0], right[0] + 0.1, right[1])
        if jump:
            starts = [start for start in starts if start[0] in ("corner", "plateau", "level")]
        # Above some 1500 m/s a shock slips fringes as a rule.
        made = explore(data, starts, deep=marks.peak[1] > 1500)
        if made is not None and made.misfit > 1.4 and not jump:
            again = explore(data, starts + varied(starts), deep=True)
            made = again if again is not None and again.misfit < made.misfit else made
        return made

    plain = explored(False)
    if plain is None or plain.misfit < 1.4:
        return plain
    freed = explored(True)
    # A shape that does not fit stays misfit without the rest before it; a jump of the carrier explains nearly all.
    if freed is not None and freed.misfit - 1 < 0.5 * (plain.misfit - 1):
        event.flags.append("carrier_jump")
        return freed
    return plain


def _start(event: Event, result: ShotResult, rise: Posterior, more: FloatArray | None = None) -> None:
    def onset(model: Polyline) -> tuple[float, float]:
        return float(model.knots[0]), min(knot_sigma(model, 0), 20.0)

    start = rise.average(onset, more)
    result.add(
        "start_time", event.onset + start.value * 1e-9, {"noise": start.noise * 1e-9, "model": start.model * 1e-9}
    )


def _hel(result: ShotResult, rise: Posterior, common: dict[str, float], known: Constants) -> None:
    """The elastic limit: a foot of small slope, where the data ask for one."""
    labels = ("foot", "foot+plateau", "foot+level")
    if rise.share(labels) < 0.9:
        return
    best = rise.best()
    if not rise.best_label().startswith("foot"):
        return
    k, lv = best.knots, best.levels
    slope = (lv[2] - lv[1]) / (k[2] - k[1])
    main = (lv[3] - lv[2]) / (k[3] - k[2])
    first = lv[1] / (k[1] - k[0])
    if not (k[2] - k[1] > 0.5 and slope < 0.35 * main and slope < 0.5 * first and 0.02 * lv[3] < lv[1] < 0.8 * lv[3]):
        return

    def foot(model: Polyline) -> tuple[float, float]:
        gradient = np.zeros(1 + 2 * model.knots.size)
        gradient[1 + model.knots.size + 1 : 1 + model.knots.size + 3] = 0.5
        return 0.5 * float(model.levels[1] + model.levels[2]), model.sigma_of(gradient)

    value = rise.average(foot, labels=labels)
    parts = _velocity_parts(value, common)
    result.add("hel_velocity", value.value, parts)
    m = known.material
    stress = {name: physics.hel_stress(m, part) for name, part in parts.items()}
    full = physics.hel_stress(m, value.value)
    stress["material"] = full * math.hypot(m.sigma_density / m.density, m.sigma_cl / m.cl)
    result.add("hel_stress", full, stress, 1e-9)


def _spall(event: Event, known: Constants, result: ShotResult, marks: Marks, common: dict[str, float]) -> None:
    assert marks.minimum is not None and marks.again is not None
    t = (event.t - event.onset) * 1e9
    m = known.material
    down = _half(event, t, marks.peak, marks.minimum)
    up = _half(event, t, marks.minimum, marks.again)
    rise = _rise(event, t, marks, down)
    low_data = window(event, down[0], up[0])
    low = None
    if low_data is not None:
        low = explore(low_data, turn_starts(down[0] - 0.1, down[1], *marks.minimum, up[0] + 0.1, up[1]))
    if rise is None or low is None:
        result.flags.append("fit_failed")
        _from_history(event, result, marks, common)
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
    result.add("peak_velocity", peak.value, _velocity_parts(peak, common))
    result.add("pullback_minimum_velocity", minimum.value, _velocity_parts(minimum, common))
    parts = _velocity_parts(difference, common, difference=True)
    result.add("pullback_velocity", difference.value, parts)
    _start(event, result, rise, more)
    _hel(result, rise, common, known)
    _time(event, result, "peak_time", rise.average(extreme_time(-3.0, down[0], 1.0), more))
    _time(event, result, "pullback_minimum_time", low.average(extreme_time(down[0], up[0], -1.0)))
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


def _difference(rise: Posterior, low: Posterior, peak_of, low_of) -> Estimate:  # type: ignore[no-untyped-def]
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


def _by_sigma(posterior: Posterior, quantity) -> tuple[FloatArray, FloatArray]:  # type: ignore[no-untyped-def]
    """(mean, variance) of a quantity over the models, for every rounding of `GRID`."""
    logs = np.array([curve.evidence() for curve in posterior.curves])
    weight = np.exp(logs - logs.max(axis=0))
    weight /= weight.sum(axis=0)
    tables = posterior.tabled(quantity)
    value, variance = np.array([table[0] for table in tables]), np.array([table[1] for table in tables])
    mean = (weight * value).sum(axis=0)
    spread = (weight * (value - mean) ** 2).sum(axis=0)
    return mean, posterior.misfit * (weight * variance).sum(axis=0) + spread


def _strength(result: ShotResult, m, pullback: float, parts: dict[str, float]) -> None:  # type: ignore[no-untyped-def]
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
    right = _half(event, t, marks.again, marks.following) if marks.following else (min(marks.again[0] + 8, end), 0.0)
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
    result.add("recompression_velocity", value.value, _velocity_parts(value, common))
    _time(event, result, "recompression_time", made.average(extreme_time(up[0], right[0], 1.0)))


def _ringing(result: ShotResult, m, low: Posterior, marks: Marks, pullback: float, fall: float) -> None:  # type: ignore[no-untyped-def]
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


def _time(event: Event, result: ShotResult, name: str, estimate: Estimate) -> None:
    result.add(name, event.onset + estimate.value * 1e-9,
               {"noise": min(estimate.noise, 50.0) * 1e-9, "model": estimate.model * 1e-9})  # fmt: skip


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


def _from_history(event: Event, result: ShotResult, marks: Marks, common: dict[str, float]) -> None:
    """Values as read from the smoothed history, where nothing could be fitted; flagged by the caller."""
    sigma = 3 * float(np.median(event.sigma)) + 0.03 * marks.peak[1]
    peak = Estimate(marks.peak[1], sigma)
    result.add("peak_velocity", peak.value, _velocity_parts(peak, common))
    result.add("start_time", event.onset, {"noise": 2e-9})


def _no_spall(event: Event, known: Constants, result: ShotResult, t: FloatArray, marks: Marks,
              common: dict[str, float]) -> None:  # fmt: skip
    end = float((event.end - event.onset) * 1e9)
    if marks.minimum is not None:
        right = _half(event, t, marks.peak, marks.minimum)
        if right[0] > marks.peak[0] + 40:
            right = (marks.peak[0] + 40, float(np.interp(marks.peak[0] + 40, t, event.velocity)))
    else:
        at = min(t_reaches(event, t, marks) + 25.0, end)
        right = (at, float(np.interp(at, t, event.velocity)))
    rise = _rise(event, t, marks, right)
    if rise is None:
        result.flags.append("fit_failed")
        _from_history(event, result, marks, common)
        return
    if marks.minimum is None and (top := _plateau(event, t, marks)) is not None:
        peak = top
    else:
        peak = rise.average(extreme_of(-3.0, right[0], 1.0))
    result.add("peak_velocity", peak.value, _velocity_parts(peak, common))
    _start(event, result, rise)
    _hel(result, rise, common, known)
    _time(event, result, "peak_time", rise.average(extreme_time(-3.0, right[0], 1.0)))


def t_reaches(event: Event, t: FloatArray, marks: Marks) -> float:
    """First time (ns) at which the history reaches 95 % of its peak."""
    high = np.flatnonzero((t > -2) & (event.velocity > 0.95 * marks.peak[1]))
    return float(t[high[0]]) if high.size else marks.peak[0]


def _plateau(event: Event, t: FloatArray, marks: Marks) -> Estimate | None:
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


def _flyer(event: Event, known: Constants, result: ShotResult, t: FloatArray, marks: Marks,
           common: dict[str, float]) -> None:  # fmt: skip
    peak = _plateau(event, t, marks)
    if peak is None:
        sigma = float(np.median(event.sigma))
        peak = Estimate(marks.peak[1], sigma, 0.005 * marks.peak[1])
    result.add("peak_velocity", peak.value, _velocity_parts(peak, common))
    # The start: from rest to a fifth of the peak, which any drive passes on a smooth way.
    v = slope_velocity(event.tracked, 1.5e-9, event.to_velocity)
    early = np.flatnonzero((t > -8) & (v > 0.3 * marks.peak[1]))
    right = float(t[early[0]]) if early.size else 10.0
    level = 0.3 * marks.peak[1]
    data = window(event, min(-12.0, -0.5 * right), right)
    rise = None
    if data is not None:
        starts = rise_starts(t, v, level, right, right + 0.1, level)
        guess = max(right * 0.5, 1.0)
        starts = [
            ("ramp", [right - 2 * guess, right + 0.1], [0, level], [True, False], [False, True]),
            ("bend", [right - 2 * guess, right - 0.8 * guess, right + 0.1], [0, 0.5 * level, level],
             [True, True, False], [False, True, True]),
        ]  # fmt: skip
        rise = explore(data, starts)
    if rise is not None:
        _start(event, result, rise)
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
    result.add("impact_velocity", estimate.value, _velocity_parts(estimate, common))
    result.add("impact_velocity_spread", float(np.std(v[wide])))


def _stresses(result: ShotResult, m) -> None:  # type: ignore[no-untyped-def]
    peak = result.quantities["peak_velocity"]
    for name, formula in (("peak_stress", physics.peak_stress), ("peak_stress_acoustic", physics.peak_stress_acoustic)):
        value = formula(m, peak.value)
        slope = (formula(m, peak.value * 1.001) - value) / (0.001 * peak.value) if peak.value else 0.0
        parts = {key: part * slope for key, part in peak.parts.items()}
        up = 0.5 * peak.value
        hugoniot = m.density * up * up * m.sigma_s if name == "peak_stress" else 0.0
        parts["material"] = math.hypot(value * m.sigma_density / m.density, m.density * up * m.sigma_c0, hugoniot)
        result.add(name, value, parts, 1e-9)


__all__ = ["GRID", "Marks", "displacement", "find_marks", "measure"]
