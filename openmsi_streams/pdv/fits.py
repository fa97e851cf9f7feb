"""Fits of a rounded polyline of velocity to the measured phase: no smoothing kernel, so no rounding by one.

Within a window the moving light is y(t) = A(t) exp(i psi(t)), psi = psi0 + 4 pi cos(theta) d(t) / lambda with the
displacement d of `kinematics`. The part of y in quadrature with the model, Im(y exp(-i psi)), is noise alone when the
model is right, whatever the amplitude does; its sum of squares is made least (Gauss-Newton with damping).

Units here: time ns, velocity m/s, so displacement is in nm.
"""

from __future__ import annotations

import math

import msgspec
import numpy as np

from openmsi_streams.pdv.kinematics import rounded, slope_changes
from openmsi_streams.pdv.trace import BoolArray, ComplexArray, FloatArray

# Corners closer than this (ns) cannot be told apart by any digitiser in use.
CLOSEST = 0.03
# Largest rounding (ns) of a corner: that of slow, porous targets.
MOST_ROUNDED = 3.6


class Window(msgspec.Struct):
    """The data of a fit: times (ns), the moving light y, its amplitude, the tracked phase, and the noise of y.

    ``carrier_slack`` is the standard deviation of what is left of the carrier in y.
    ``noise`` is the mean of |noise of y|^2 per sample; ``walk`` the diffusion of the laser's phase, rad^2 per ns.
    """

    t: FloatArray
    y: ComplexArray
    phase: FloatArray
    amplitude: FloatArray
    scale: float
    noise: float
    walk: float
    carrier_slack: float


class Polyline(msgspec.Struct):
    """A model and its fit. ``cov`` is over [psi0, knots..., levels...] (zero where a parameter is held)."""

    knots: FloatArray
    levels: FloatArray
    free_knots: BoolArray
    free_levels: BoolArray
    sigma: float
    psi0: float = 0.0
    chi2: float = math.inf
    cov: FloatArray | None = None
    samples: int = 0
    free_sigma: bool = False
    sd_sigma: float = 0.0
    tied: int = -1
    """Corner whose level the next corner shares (a level plateau); -1: none."""

    @property
    def parameters(self) -> int:
        """Parameters, the phase and the rounding included."""
        return int(2 + self.free_knots.sum() + self.free_levels.sum())

    def copy(self) -> Polyline:
        """A copy whose knots and levels are its own, without the fit's results."""
        return Polyline(
            self.knots.copy(), self.levels.copy(), self.free_knots, self.free_levels, self.sigma, self.psi0,
            free_sigma=self.free_sigma, tied=self.tied,
        )  # fmt: skip

    def velocity(self, t: FloatArray) -> FloatArray:
        """Velocity of the model, m/s, at times in ns."""
        ramps = rounded(t[None, :] - self.knots[:, None], self.sigma)[1]
        return np.asarray(self.levels[0] + slope_changes(self.knots, self.levels) @ ramps)

    def gradient(self, t: float) -> FloatArray:
        """Derivative of the velocity at one time (ns) by [psi0, knots..., levels...]."""
        steps, ramps, _ = rounded(t - self.knots, self.sigma)
        gaps = np.diff(self.knots)
        slopes = np.diff(self.levels) / gaps
        change = slope_changes(self.knots, self.levels)
        by_slope = (ramps[:-1] - ramps[1:]) / gaps
        count = self.knots.size
        out = np.zeros(1 + 2 * count)
        out[1 : 1 + count] = -change * steps
        out[1:count] += slopes * by_slope
        out[2 : 1 + count] -= slopes * by_slope
        out[1 + count : 2 * count] -= by_slope
        out[2 + count :] += by_slope
        out[1 + count] += 1.0
        return out

    def sigma_of(self, gradient: FloatArray) -> float:
        """Standard deviation of a quantity with this gradient."""
        if self.cov is None:
            return math.inf
        return math.sqrt(max(0.0, float(gradient @ self.cov @ gradient)))

    def extreme(self, low: float, high: float, sign: float) -> tuple[float, float]:
        """(time, velocity) of the largest (sign 1) or smallest (sign -1) velocity between two times (ns)."""
        t = v = np.zeros(0)
        k = 0
        for _ in range(3):
            t = np.linspace(low, high, 121)
            v = self.velocity(t)
            k = int(np.argmax(sign * v))
            step = t[1] - t[0]
            low, high = max(low, t[k] - step), min(high, t[k] + step)
        return float(t[k]), float(v[k])


class _Shape(msgspec.Struct):
    """What a model's displacement and its derivatives are made of, at the times of a window."""

    displacement: FloatArray
    steps: FloatArray
    ramps: FloatArray
    areas: FloatArray
    change: FloatArray


def _shape(model: Polyline, t: FloatArray) -> _Shape:
    steps, ramps, areas = rounded(t[None, :] - model.knots[:, None], model.sigma)
    change = slope_changes(model.knots, model.levels)
    return _Shape(model.levels[0] * (t - model.knots[0]) + change @ areas, steps, ramps, areas, change)


def _derivatives(model: Polyline, shape: _Shape, t: FloatArray) -> FloatArray:
    """Derivatives of the displacement (nm) by every knot, every level and sigma: shape (2 K + 1, n)."""
    knots, levels = model.knots, model.levels
    count = knots.size
    gaps = np.diff(knots)
    slopes = np.diff(levels) / gaps
    # change_k = slope_k - slope_(k-1), slope_j = (level_(j+1) - level_j) / gap_j
    by_slope = (shape.areas[:-1] - shape.areas[1:]) / gaps[:, None]
    out = np.zeros((2 * count + 1, t.size))
    out[:count] = -shape.change[:, None] * shape.ramps
    out[0] -= levels[0]
    out[: count - 1] += slopes[:, None] * by_slope
    out[1:count] -= slopes[:, None] * by_slope
    out[count : 2 * count - 1] -= by_slope
    out[count + 1 : 2 * count] += by_slope
    out[count] += t - knots[0]
    out[-1] = model.sigma * (shape.change @ shape.steps)
    return out


def _smooth(values: FloatArray, dt: float, width: float) -> FloatArray:
    reach = max(1, round(4 * width / dt))
    x = dt * np.arange(-reach, reach + 1)
    kernel = np.exp(-0.5 * (x / width) ** 2)
    if values.size < kernel.size:
        return np.full_like(values, float(values.mean()))
    top = np.convolve(values, kernel, "same")
    return np.asarray(top / np.convolve(np.ones_like(values), kernel, "same"))


def fit(model: Polyline, window: Window, *, rounds: int = 25, coarse: bool = True) -> Polyline:
    """The model with its free parameters fitted, ``chi2`` (residual over expected noise) and covariance.

    ``coarse`` first fits the tracked phase itself, which cannot lock to a wrong fringe; then the quadrature.
    """
    current = model.copy()
    if coarse:
        d = _shape(current, window.t).displacement
        weight = window.amplitude
        current.psi0 = float(np.sum(weight * (window.phase - window.scale * d)) / max(float(weight.sum()), 1e-30))
        current = _descend(current, window, min(rounds, 12), by_phase=True)
    return _descend(current, window, rounds, by_phase=False)


def _residual(
    model: Polyline, window: Window, slack: FloatArray, by_phase: bool, want_jacobian: bool
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """(residual, Jacobian over [psi0, free knots, free levels, slack], amplitude)."""
    shape = _shape(model, window.t)
    psi = model.psi0 + window.scale * shape.displacement
    by = np.empty((0, 0))
    free = np.zeros(0, dtype=bool)
    if want_jacobian:
        by = _derivatives(model, shape, window.t)
        if model.tied >= 0:
            by[model.knots.size + model.tied] += by[model.knots.size + model.tied + 1]
        free = np.concatenate([model.free_knots, model.free_levels, [model.free_sigma]])
    if by_phase:
        amplitude = window.amplitude
        residual = amplitude * (window.phase - psi)
        # One slipped fringe must not rule the fit: beyond a radian the pull grows no more.
        limit = np.maximum(amplitude, 1e-30)
        residual = np.where(
            np.abs(residual) > limit,
            np.sign(residual) * np.sqrt(limit * np.maximum(2 * np.abs(residual) - limit, 0.0)),
            residual,
        )
        jacobian = -amplitude * np.vstack([np.ones_like(window.t), window.scale * by[free]]) if want_jacobian else by
        return residual, jacobian, amplitude
    turn = np.exp(-1j * psi)
    y = (window.y - (slack[0] + 1j * slack[1])) * turn
    residual = y.imag
    if not want_jacobian:
        return residual, by, residual
    dt = float(window.t[1] - window.t[0])
    amplitude = _smooth(y.real, dt, 1.2)
    rows = [-amplitude[None, :], -amplitude * window.scale * by[free], -turn.imag[None, :], -turn.real[None, :]]
    jacobian = np.vstack(rows)
    return residual, jacobian, amplitude


def _descend(model: Polyline, window: Window, rounds: int, by_phase: bool) -> Polyline:
    prior = np.full(2, window.carrier_slack)
    slack = np.zeros(prior.size)
    sigma2 = max(window.noise / 2, 1e-30)
    damping = 1e-3
    count = model.knots.size

    def cost(candidate: Polyline, s: FloatArray) -> float:
        r, _, _ = _residual(candidate, window, s, by_phase, False)
        return float(r @ r) + (0.0 if by_phase else sigma2 * float(np.sum((s / prior) ** 2)))

    def system(candidate: Polyline, s: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        r, jac, _ = _residual(candidate, window, s, by_phase, True)
        normal = jac @ jac.T
        gradient = jac @ r
        if not by_phase:
            last = np.arange(-s.size, 0)
            normal[last, last] += sigma2 / prior**2
            gradient[last] += sigma2 / prior**2 * s
        return normal, gradient, jac

    best = cost(model, slack)
    normal, gradient, jac = system(model, slack)
    for _ in range(rounds):
        step = _solve(normal + damping * np.diag(np.diag(normal)), -gradient)
        trial = model.copy()
        trial.psi0 += float(step[0])
        at = 1
        trial.knots[model.free_knots] += step[at : at + int(model.free_knots.sum())]
        at += int(model.free_knots.sum())
        trial.levels[model.free_levels] += step[at : at + int(model.free_levels.sum())]
        if model.tied >= 0:
            trial.levels[model.tied + 1] = trial.levels[model.tied]
        at += int(model.free_levels.sum())
        if model.free_sigma:
            trial.sigma = abs(trial.sigma + float(np.clip(step[at], -0.5, 0.5)))
            if trial.sigma < 0.02:
                trial.sigma = 0.02
        s = slack if by_phase else slack + step[-slack.size :]
        if trial.sigma > MOST_ROUNDED:
            trial.sigma = MOST_ROUNDED
        if np.any(np.diff(trial.knots) < CLOSEST) or not np.isfinite(step).all():
            damping *= 8
            if damping > 1e8:
                break
            continue
        value = cost(trial, s)
        if value < best:
            gain = best - value
            model, slack, best = trial, s, value
            damping = max(damping / 6, 1e-9)
            normal, gradient, jac = system(model, slack)
            if gain < 1e-3 * sigma2:
                break
        else:
            damping *= 8
            if damping > 1e8:
                break
    model.samples = window.t.size
    if by_phase:
        return model
    model.chi2 = best / sigma2
    inverse = _inverse(normal)
    # The walk of the laser's phase acts like noise that is kept from sample to sample: sum the Jacobian backwards.
    dt = float(window.t[1] - window.t[0])
    amplitude = -jac[0]
    summed = np.cumsum((jac * amplitude)[:, ::-1], axis=1)[:, ::-1]
    middle = sigma2 * normal + window.walk * dt * (summed @ summed.T)
    small = inverse @ middle @ inverse
    free = np.flatnonzero(np.concatenate([[True], model.free_knots, model.free_levels]))
    if model.free_sigma:
        model.sd_sigma = math.sqrt(max(0.0, float(small[free.size, free.size])))
    cov = np.zeros((1 + 2 * count, 1 + 2 * count))
    cov[np.ix_(free, free)] = small[: free.size, : free.size]
    if model.tied >= 0:
        one = 1 + count + model.tied
        cov[one + 1], cov[:, one + 1] = cov[one], cov[:, one]
        cov[one + 1, one + 1] = cov[one, one]
    model.cov = cov
    return model


def _solve(matrix: FloatArray, right: FloatArray) -> FloatArray:
    scale = 1 / np.sqrt(np.maximum(np.diag(matrix), 1e-300))
    try:
        return np.asarray(scale * np.linalg.solve(matrix * np.outer(scale, scale), scale * right))
    except np.linalg.LinAlgError:
        return np.zeros_like(right)


def _inverse(matrix: FloatArray) -> FloatArray:
    scale = 1 / np.sqrt(np.maximum(np.diag(matrix), 1e-300))
    return np.asarray(np.outer(scale, scale) * np.linalg.pinv(matrix * np.outer(scale, scale), rcond=1e-12))
