"""What all classes of events share: turning points, the rise with its start and elastic limit, parts of uncertainty."""

from __future__ import annotations

import math

import msgspec
import numpy as np

from openmsi_streams.pdv import physics
from openmsi_streams.pdv.event import Event
from openmsi_streams.pdv.extrema import Estimate, Posterior, explore, knot_sigma, window
from openmsi_streams.pdv.fits import Polyline
from openmsi_streams.pdv.result import ShotResult
from openmsi_streams.pdv.settings import Constants
from openmsi_streams.pdv.shapes import rise_starts, varied
from openmsi_streams.pdv.trace import FloatArray
from openmsi_streams.pdv.tracking import slope_velocity, turns

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


def half_way(event: Event, t: FloatArray, a: tuple[float, float], b: tuple[float, float]) -> tuple[float, float]:
    """(time, velocity) half-way in velocity between two marks."""
    chosen = np.flatnonzero((t >= a[0]) & (t <= b[0]))
    level = 0.5 * (a[1] + b[1])
    if chosen.size == 0:
        return 0.5 * (a[0] + b[0]), level
    k = chosen[int(np.argmin(np.abs(event.velocity[chosen] - level)))]
    return float(t[k]), level


def t_reaches(event: Event, t: FloatArray, marks: Marks) -> float:
    """First time (ns) at which the history reaches 95 % of its peak."""
    high = np.flatnonzero((t > -2) & (event.velocity > 0.95 * marks.peak[1]))
    return float(t[high[0]]) if high.size else marks.peak[0]


def common_parts(event: Event, known: Constants) -> dict[str, float]:
    """Relative uncertainties that scale every velocity, and the carrier's absolute one (m/s)."""
    angle = math.hypot(math.tan(known.angle) * known.sigma_angle, known.sigma_angle**2 / math.sqrt(2))
    return {
        "carrier": event.carrier.sigma * event.to_velocity,
        "wavelength": known.sigma_wavelength / known.wavelength,
        "angle": angle,
    }


def velocity_parts(estimate: Estimate, common: dict[str, float], difference: bool = False) -> dict[str, float]:
    parts = {"noise": estimate.noise, "model": estimate.model}
    if not difference:
        parts["carrier"] = common["carrier"]
    for name in ("wavelength", "angle"):
        parts[name] = abs(estimate.value) * common[name]
    return parts


def fit_rise(event: Event, t: FloatArray, marks: Marks, right: tuple[float, float]) -> Posterior | None:
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


def add_start(event: Event, result: ShotResult, rise: Posterior, more: FloatArray | None = None) -> None:
    def onset(model: Polyline) -> tuple[float, float]:
        return float(model.knots[0]), min(knot_sigma(model, 0), 20.0)

    start = rise.average(onset, more)
    result.add(
        "start_time", event.onset + start.value * 1e-9, {"noise": start.noise * 1e-9, "model": start.model * 1e-9}
    )


def add_hel(result: ShotResult, rise: Posterior, common: dict[str, float], known: Constants) -> None:
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
    parts = velocity_parts(value, common)
    result.add("hel_velocity", value.value, parts)
    m = known.material
    stress = {name: physics.hel_stress(m, part) for name, part in parts.items()}
    full = physics.hel_stress(m, value.value)
    stress["material"] = full * math.hypot(m.sigma_density / m.density, m.sigma_cl / m.cl)
    result.add("hel_stress", full, stress, 1e-9)


def add_time(event: Event, result: ShotResult, name: str, estimate: Estimate) -> None:
    result.add(name, event.onset + estimate.value * 1e-9,
               {"noise": min(estimate.noise, 50.0) * 1e-9, "model": estimate.model * 1e-9})  # fmt: skip


def from_history(event: Event, result: ShotResult, marks: Marks, common: dict[str, float]) -> None:
    """Values as read from the smoothed history, where nothing could be fitted; flagged by the caller."""
    sigma = 3 * float(np.median(event.sigma)) + 0.03 * marks.peak[1]
    peak = Estimate(marks.peak[1], sigma)
    result.add("peak_velocity", peak.value, velocity_parts(peak, common))
    result.add("start_time", event.onset, {"noise": 2e-9})
