"""Start, elastic limit, peak, pull-back and recompression of a followed event, each with its uncertainty.

Several models (corner or plateau, with or without an elastic foot) and several roundings are fitted in the same
window, and their results averaged with the weight of their evidence (BIC, Schwarz 1978). What the data cannot decide
thereby widens the error bar instead of biasing the value.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import msgspec
import numpy as np

from openmsi_streams.pdv.event import Event
from openmsi_streams.pdv.fits import MOST_ROUNDED, Polyline, Window, fit, window_of
from openmsi_streams.pdv.shapes import Start
from openmsi_streams.pdv.trace import FloatArray

# Corners of free-surface histories of metals are rounded by some tenths of ns, within a factor of two or so. The prior
# is log-normal; data that say otherwise overrule it (a rounding of 1.5 ns costs 4 in log evidence).
_USUAL_ROUNDING, _ROUNDING_FACTOR = 0.35, 0.45
# Before any data, these shapes are less likely than a plain corner, in log evidence.
_PENALTY = {"flat": 2.5, "bend": 2.0, "foot": 1.0, "foot+level": 1.0, "foot+plateau": 2.0, "plateau": 0.5}
# Models whose evidence is below the best one's by this much in BIC (a weight of 1 in 400) are not refined.
_FAR = 12.0


# A value and its standard deviation, read off a model.
Quantity = Callable[[Polyline], tuple[float, float]]


class Estimate(msgspec.Struct):
    """A value with the standard deviations of its parts."""

    value: float
    noise: float
    model: float = 0.0

    @property
    def sigma(self) -> float:
        """All parts in quadrature."""
        return math.hypot(self.noise, self.model)


def smooth_curve(x: FloatArray, y: FloatArray, at: FloatArray) -> FloatArray:
    """Natural cubic spline through (x, y), at the places ``at``; straight beyond the ends."""
    h = np.diff(x)
    n = x.size
    matrix = np.eye(n)
    right = np.zeros(n)
    for k in range(1, n - 1):
        matrix[k, k - 1 : k + 2] = h[k - 1], 2 * (h[k - 1] + h[k]), h[k]
        right[k] = 6 * ((y[k + 1] - y[k]) / h[k] - (y[k] - y[k - 1]) / h[k - 1])
    bend = np.linalg.solve(matrix, right)
    i = np.clip(np.searchsorted(x, at) - 1, 0, n - 2)
    a, b = (x[i + 1] - at) / h[i], (at - x[i]) / h[i]
    curve = a * y[i] + b * y[i + 1] + ((a**3 - a) * bend[i] + (b**3 - b) * bend[i + 1]) * h[i] ** 2 / 6
    return np.asarray(np.where((at < x[0]) | (at > x[-1]), np.interp(at, x, y), curve))


class Curve(msgspec.Struct):
    """Fits of one model over its roundings (rising), with the log evidence of each."""

    label: str
    sigmas: FloatArray
    logs: FloatArray
    fits: list[Polyline]

    def on_grid(self, values: FloatArray) -> FloatArray:
        """Values at the tried roundings, drawn over `GRID`."""
        return np.asarray(np.interp(GRID, self.sigmas, values))

    def evidence(self) -> FloatArray:
        """Log evidence over `GRID`; smooth in sigma^2, as the phase is. Outside the tried roundings: very small."""
        if self.sigmas.size >= 4:
            logs = smooth_curve(self.sigmas**2, self.logs, GRID**2)
            # Between far points a spline may swing above all of them; there are no peaks of the evidence out there.
            logs = np.minimum(logs, float(self.logs.max()) + 1.0)
        else:
            logs = self.on_grid(self.logs)
        outside = (self.sigmas[0] - 1e-9 > GRID) | (self.sigmas[-1] + 1e-9 < GRID)
        return np.asarray(np.where(outside, float(self.logs.max()) - 2 * _FAR, logs))


class Posterior(msgspec.Struct):
    """Fits of all models and roundings of one window."""

    curves: list[Curve]
    misfit: float

    def by_sigma(self) -> FloatArray:
        """Log evidence over `GRID` of all models together, relative to the largest."""
        total = np.logaddexp.reduce([curve.evidence() for curve in self.curves], axis=0)
        return np.asarray(total - total.max())

    def best(self) -> Polyline:
        """The likeliest fit."""
        curve = self._best_curve()
        return curve.fits[int(np.argmax(curve.logs))]

    def tabled(self, quantity: Quantity) -> list[tuple[FloatArray, FloatArray]]:
        """(value, variance) over `GRID` for each curve.

        Where two corners of a model nearly meet, its linearised variance is meaningless; none counts for more than
        four times that of the likeliest fit.
        """
        limit = 4 * quantity(self.best())[1] ** 2
        out = []
        for curve in self.curves:
            pairs = np.array([quantity(made) for made in curve.fits])
            out.append((curve.on_grid(pairs[:, 0]), curve.on_grid(np.minimum(pairs[:, 1] ** 2, limit))))
        return out

    def best_label(self) -> str:
        """Name of the likeliest model."""
        return self._best_curve().label

    def _best_curve(self) -> Curve:
        return max(self.curves, key=lambda curve: float(curve.logs.max()))

    def share(self, labels: tuple[str, ...]) -> float:
        """Weight of the models with these labels."""
        logs = np.array([float(np.logaddexp.reduce(curve.evidence() + LOG_PRIOR)) for curve in self.curves])
        weights = np.exp(logs - logs.max())
        chosen = np.array([curve.label in labels for curve in self.curves])
        return float(weights[chosen].sum() / weights.sum())

    def average(
        self, quantity: Quantity, more: FloatArray | None = None,
        labels: tuple[str, ...] = (),
    ) -> Estimate:  # fmt: skip
        """Mean of (value, sigma) over models and roundings; the scatter between them is the model's part.

        ``more`` is further log evidence over `GRID`, from another window of the same shot; ``labels`` restricts the
        models.
        """
        logs, values, variances = [], [], []
        for curve, table in zip(self.curves, self.tabled(quantity), strict=True):
            if labels and curve.label not in labels:
                continue
            logs.append(curve.evidence() + LOG_PRIOR + (more if more is not None else 0.0))
            values.append(table[0])
            variances.append(table[1])
        log = np.concatenate(logs)
        weight = np.exp(log - log.max())
        weight /= weight.sum()
        value, variance = np.concatenate(values), np.concatenate(variances)
        mean = float(weight @ value)
        # What the fit leaves beyond the noise is no white noise; its size says how far to trust the bar.
        noise = math.sqrt(float(weight @ variance) * self.misfit)
        return Estimate(mean, noise, math.sqrt(float(weight @ (value - mean) ** 2)))


GRID = np.arange(0.0, MOST_ROUNDED + 0.005, 0.01)
LOG_PRIOR = -0.5 * (np.log((GRID + 0.1) / (_USUAL_ROUNDING + 0.1)) / _ROUNDING_FACTOR) ** 2 - np.log(GRID + 0.1)


def window(event: Event, low: float, high: float) -> Window | None:
    """The fit's data between two times in ns after ``event.onset``."""
    t = (event.t - event.onset) * 1e9
    chosen = (t >= low) & (t <= high)
    if chosen.sum() < 8:
        return None
    tracked = event.tracked
    return window_of(
        t[chosen], tracked.y[chosen], tracked.phase[chosen], tracked.amplitude[chosen],
        scale=2 * math.pi * 1e-9 / event.to_velocity, noise=event.noise, walk=event.carrier.diffusion * 1e-9,
        walk_width=event.walk_width * 1e9, carrier_slack=event.carrier_slack,
    )  # fmt: skip


# Models with a level stretch, and the corner at its beginning.
_TIED = {"level": 1, "foot+level": 3, "flat": 1}


def explore(data: Window, starts: list[Start], deep: bool = False) -> Posterior | None:
    """Fit every start (label, knots, levels, free knots, free levels) with every rounding worth it.

    ``deep`` also counts fringes where no start led to a fit; that takes a few tenths of a second.
    """
    n = data.t.size
    best: dict[str, tuple[float, Polyline]] = {}
    for label, knots, levels, free_knots, free_levels in starts:
        if np.any(np.diff(knots) < 0.04):
            continue
        # A second rounding to start from helps the first guess of each model only.
        for sigma in (0.3,) if label in best else (0.3, 1.2):
            model = Polyline(
                np.array(knots, dtype=np.float64), np.array(levels, dtype=np.float64), np.array(free_knots),
                np.array(free_levels), sigma, free_sigma=True, tied=_TIED.get(label, -1),
            )  # fmt: skip
            made = fit(model, data, rounds=20)
            score = made.chi2 + made.parameters * math.log(n)
            if math.isfinite(score) and (label not in best or score < best[label][0]):
                best[label] = (score, made)
    if not best:
        return None
    lowest, champion = min(best.values(), key=lambda item: item[0])
    if deep and champion.chi2 > 1.4 * n and not champion.free_levels[0]:
        _count_fringes(best, data)
        lowest, champion = min(best.values(), key=lambda item: item[0])
    # A model that leaves more than the noise has all its comparisons scaled down by the same factor.
    misfit = max(1.0, champion.chi2 / max(1, n - champion.parameters))
    curves: list[Curve] = []
    for label, (score, made) in best.items():
        if (score - lowest) / misfit > _FAR:
            continue
        found: dict[float, tuple[float, Polyline]] = {}
        # Outwards from the best rounding, in steps of its own error bar, until the evidence is gone.
        for sign in (1, -1):
            previous, sigma = made, round(made.sigma, 4)
            step = min(max(made.sd_sigma * 0.8, 0.03), 0.4)
            for k in range(14):
                model = previous.copy()
                model.sigma, model.free_sigma = sigma, False
                got = found[sigma][1] if sigma in found else fit(model, data, rounds=30, coarse=False)
                if not math.isfinite(got.chi2):
                    break
                value = got.chi2 + got.parameters * math.log(n)
                found[sigma] = (value, got)
                previous = got
                last = sigma
                sigma = round(min(MOST_ROUNDED, max(0.0, sigma + sign * step)), 4)
                if (value - lowest) / misfit > 1.1 * _FAR or sigma == last:
                    break
                step *= 1.0 if k < 5 else 1.5
        _fill(found, data, n)
        if found:
            sigmas = np.array(sorted(found))
            logs = np.array([-0.5 * found[x][0] / misfit for x in sigmas.tolist()]) - _PENALTY.get(label, 0.0)
            curves.append(Curve(label, sigmas, logs, [found[x][1] for x in sigmas.tolist()]))
    return Posterior(curves, misfit) if curves else None


def _fill(found: dict[float, tuple[float, Polyline]], data: Window, n: int) -> None:
    """Add roundings half-way to the best one's neighbours until the evidence between them is smooth."""
    for _ in range(3):
        sigmas = sorted(found)
        if len(sigmas) < 2:
            return
        k = min(range(len(sigmas)), key=lambda i: found[sigmas[i]][0])
        added = False
        for other in (k - 1, k + 1):
            if 0 <= other < len(sigmas) and abs(found[sigmas[other]][0] - found[sigmas[k]][0]) > 1.5:
                middle = round(0.5 * (sigmas[k] + sigmas[other]), 4)
                if middle in found or abs(sigmas[k] - sigmas[other]) < 0.02:
                    continue
                model = found[sigmas[k]][1].copy()
                model.sigma, model.free_sigma = middle, False
                got = fit(model, data, rounds=30, coarse=False)
                if math.isfinite(got.chi2):
                    found[middle] = (got.chi2 + got.parameters * math.log(n), got)
                    added = True
        if not added:
            return


def _count_fringes(best: dict[str, tuple[float, Polyline]], data: Window) -> None:
    """Try many rises by their place and length, for those too fast for the phase to be counted.

    Through thousands of m/s in a ns the tracked phase slips, and the coarse fit rests whole fringes off, far above the
    noise. A fringe is lambda / 2 of displacement, or that over the peak velocity in time; half of it is the grid here.
    """
    n = data.t.size
    _, made = min(best.values(), key=lambda item: item[0])
    top = int(np.argmax(made.levels))
    peak = float(made.levels[top])
    rest = data.t < min(float(made.knots[0]), 0.0) - 2.0
    if peak <= 0 or rest.sum() < 4:
        return
    centre = 0.5 * float(made.knots[0] + made.knots[top])
    right, v_right = float(made.knots[-1]), float(made.levels[-1])
    fringe = 2 * math.pi / data.scale / peak
    psi0 = float(np.angle(np.mean(data.y[rest])))
    slope = (v_right - float(made.levels[-2])) / (right - float(made.knots[-2]))
    found: tuple[float, Polyline] | None = None
    for length in (0.5, 1.0, 1.8, 3.0, 4.5):
        for k in range(-10, 11):
            t0 = centre + 0.5 * k * fringe - 0.5 * length
            t1 = t0 + length
            if t1 > right - 1.0:
                continue
            model = Polyline(
                np.array([t0, t1, right]), np.array([0.0, v_right - slope * (right - t1), v_right]),
                np.array([True, True, False]), np.array([False, True, True]), 0.35, psi0, free_sigma=True,
            )  # fmt: skip
            got = fit(model, data, rounds=6, coarse=False)
            if math.isfinite(got.chi2) and (found is None or got.chi2 < found[0]):
                found = (got.chi2, got)
    if found is None or found[0] > 0.7 * made.chi2:
        return
    corner = fit(found[1], data, rounds=20, coarse=False)
    best.clear()
    best["corner"] = (corner.chi2 + corner.parameters * math.log(n), corner)
    t0, t1 = (float(x) for x in corner.knots[:2])
    for name, tied in (("plateau", -1), ("level", 1)):
        model = Polyline(
            np.array([t0, t1, t1 + 1.0, right]), np.array([0.0, corner.levels[1], corner.levels[1], v_right]),
            np.array([True, True, True, False]), np.array([False, True, tied < 0, True]), corner.sigma, corner.psi0,
            free_sigma=True, tied=tied,
        )  # fmt: skip
        got = fit(model, data, rounds=20, coarse=False)
        if math.isfinite(got.chi2):
            best[name] = (got.chi2 + got.parameters * math.log(n), got)


def extreme_of(low: float, high: float, sign: float) -> Quantity:
    """(largest or smallest velocity, its sigma) of a model between two times."""

    def quantity(model: Polyline) -> tuple[float, float]:
        when, value = model.extreme(low, high, sign)
        return value, model.sigma_of(model.gradient(when))

    return quantity


def extreme_time(low: float, high: float, sign: float) -> Quantity:
    """(time of the extreme in ns, the sigma of the nearest corner)."""

    def quantity(model: Polyline) -> tuple[float, float]:
        when, _ = model.extreme(low, high, sign)
        return when, knot_sigma(model, int(np.argmin(np.abs(model.knots - when))))

    return quantity


def knot_sigma(model: Polyline, k: int) -> float:
    """Standard deviation (ns) of a corner's time."""
    return 0.0 if model.cov is None else math.sqrt(max(0.0, float(model.cov[1 + k, 1 + k])))


def level_of(k: int) -> Quantity:
    """(level, sigma) of one corner."""

    def quantity(model: Polyline) -> tuple[float, float]:
        gradient = np.zeros(1 + 2 * model.knots.size)
        gradient[1 + model.knots.size + k] = 1.0
        return float(model.levels[k]), model.sigma_of(gradient)

    return quantity
