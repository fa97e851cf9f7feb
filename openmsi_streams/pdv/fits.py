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
    ``noise`` is the mean of |noise of y|^2 per sample; ``walk`` the diffusion of the laser's phase, rad^2 per ns, of
    which only what is quicker than ``walk_width`` (ns) is left, where that is not 0.
    """

    t: FloatArray
    y: ComplexArray
    phase: FloatArray
    amplitude: FloatArray
    scale: float
    noise: float
    walk: float
    carrier_slack: float
    walk_width: float
    amplitude_kernel: FloatArray
    amplitude_norm: FloatArray


# Width (standard deviation, ns) over which the amplitude of the moving light is taken for smooth.
_AMPLITUDE_WIDTH = 1.2


def window_of(
    t: FloatArray, y: ComplexArray, phase: FloatArray, amplitude: FloatArray, *, scale: float, noise: float,
    walk: float, walk_width: float, carrier_slack: float,
) -> Window:  # fmt: skip
    """A window of these data; see `Window`."""
    dt = float(t[1] - t[0])
    reach = min(max(1, round(4 * _AMPLITUDE_WIDTH / dt)), (t.size - 1) // 2)
    kernel = np.exp(-0.5 * (dt * np.arange(-reach, reach + 1) / _AMPLITUDE_WIDTH) ** 2)
    norm = np.convolve(np.ones(t.size), kernel, "same")
    return Window(t, y, phase, amplitude, scale, noise, walk, carrier_slack, walk_width, kernel, norm)


class Polyline(msgspec.Struct):
    """A model and its fit. ``cov`` is over [psi0, knots..., levels...] (zero where a parameter is held).

    A first or last knot that is held is where the window ends, no corner: the line goes straight on beyond it.
    """

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

    def corners(self, t: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """(S, R, I) of `kinematics.rounded` at times in ns for every knot, shape (K, n); an end has no rounding."""
        u = t - self.knots[:, None]
        first, last = (0 if self.free_knots[0] else 1), u.shape[0] - (0 if self.free_knots[-1] else 1)
        steps, ramps, areas = rounded(u[first:last], self.sigma)
        if last - first == u.shape[0]:
            return steps, ramps, areas
        out = np.zeros((3, *u.shape))
        out[0, first:last], out[1, first:last], out[2, first:last] = steps, ramps, areas
        if first:
            out[1, 0] = u[0]
            out[2, 0] = 0.5 * u[0] * u[0]
        return out[0], out[1], out[2]

    def velocity(self, t: FloatArray) -> FloatArray:
        """Velocity of the model, m/s, at times in ns."""
        return np.asarray(self.levels[0] + slope_changes(self.knots, self.levels) @ self.corners(t)[1])

    def gradient(self, t: float) -> FloatArray:
        """Derivative of the velocity at one time (ns) by [psi0, knots..., levels...]."""
        steps, ramps = (part[:, 0] for part in self.corners(np.array([t]))[:2])
        gaps = self.knots[1:] - self.knots[:-1]
        slopes = (self.levels[1:] - self.levels[:-1]) / gaps
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
        # A sharp extreme is a corner, a rounded one lies near one.
        t = np.concatenate([np.linspace(low, high, 81), self.knots[(self.knots > low) & (self.knots < high)]])
        v = self.velocity(t)
        k = int(np.argmax(sign * v))
        step = (high - low) / 80
        fine = np.linspace(max(low, t[k] - step), min(high, t[k] + step), 61)
        fine[30] = t[k]
        v = self.velocity(fine)
        k = int(np.argmax(sign * v))
        return float(fine[k]), float(v[k])


class _Shape(msgspec.Struct):
    """What a model's displacement and its derivatives are made of, at the times of a window."""

    displacement: FloatArray
    steps: FloatArray
    ramps: FloatArray
    areas: FloatArray
    change: FloatArray


def _shape(model: Polyline, t: FloatArray) -> _Shape:
    steps, ramps, areas = model.corners(t)
    change = slope_changes(model.knots, model.levels)
    return _Shape(model.levels[0] * (t - model.knots[0]) + change @ areas, steps, ramps, areas, change)


def _derivatives(model: Polyline, shape: _Shape, t: FloatArray) -> FloatArray:
    """Derivatives of the displacement (nm) by every knot, every level and sigma: shape (2 K + 1, n)."""
    knots, levels = model.knots, model.levels
    count = knots.size
    gaps = knots[1:] - knots[:-1]
    slopes = (levels[1:] - levels[:-1]) / gaps
    # change_k = slope_k - slope_(k-1), slope_j = (level_(j+1) - level_j) / gap_j
    by_slope = (shape.areas[:-1] - shape.areas[1:]) / gaps[:, None]
    by_gap = slopes[:, None] * by_slope
    out = np.empty((2 * count + 1, t.size))
    np.multiply(shape.ramps, -shape.change[:, None], out=out[:count])
    out[0] -= levels[0]
    out[: count - 1] += by_gap
    out[1:count] -= by_gap
    out[count] = t - knots[0]
    out[count + 1 : 2 * count] = 0.0
    out[count : 2 * count - 1] -= by_slope
    out[2 * count - 1] = by_slope[-1]
    out[count + 1 : 2 * count - 1] += by_slope[:-1]
    out[-1] = model.sigma * (shape.change @ shape.steps)
    return out


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


class _Point(msgspec.Struct):
    """A model with what its residual was made of, so that its Jacobian need not begin anew."""

    model: Polyline
    slack: FloatArray
    shape: _Shape
    residual: FloatArray
    turn: ComplexArray | None
    in_phase: FloatArray
    cost: float


def _point(model: Polyline, slack: FloatArray, window: Window, by_phase: bool, stiffness: float) -> _Point:
    """Residual and cost of a model; ``stiffness`` is the weight of the carrier's slack."""
    shape = _shape(model, window.t)
    psi = model.psi0 + window.scale * shape.displacement
    if by_phase:
        limit = np.maximum(window.amplitude, 1e-30)
        residual = window.amplitude * (window.phase - psi)
        size = np.abs(residual)
        # One slipped fringe must not rule the fit: beyond a radian the pull grows no more.
        far = size > limit
        if far.any():
            pulled = np.sign(residual) * np.sqrt(limit * np.maximum(2 * size - limit, 0.0))
            residual = np.where(far, pulled, residual)
        return _Point(model, slack, shape, residual, None, residual, float(residual @ residual))
    turn = np.exp(-1j * psi)
    y = (window.y - (slack[0] + 1j * slack[1])) * turn
    residual = y.imag.copy()
    cost = float(residual @ residual) + stiffness * float(slack @ slack)
    return _Point(model, slack, shape, residual, turn, y.real, cost)


def _system(point: _Point, window: Window, stiffness: float) -> tuple[FloatArray, FloatArray, FloatArray]:
    """(normal matrix, gradient, Jacobian) over [psi0, free knots, free levels, free sigma, slack]."""
    model = point.model
    by = _derivatives(model, point.shape, window.t)
    if model.tied >= 0:
        by[model.knots.size + model.tied] += by[model.knots.size + model.tied + 1]
    by = by[np.concatenate([model.free_knots, model.free_levels, [model.free_sigma]])]
    amplitude = window.amplitude
    if point.turn is not None:
        amplitude = np.convolve(point.in_phase, window.amplitude_kernel, "same") / window.amplitude_norm
    count = by.shape[0]
    jacobian = np.empty((count + (1 if point.turn is None else 3), window.t.size))
    jacobian[0] = -amplitude
    np.multiply(by, -window.scale * amplitude, out=jacobian[1 : 1 + count])
    if point.turn is not None:
        jacobian[-2], jacobian[-1] = -point.turn.imag, -point.turn.real
    normal = jacobian @ jacobian.T
    gradient = jacobian @ point.residual
    if point.turn is not None:
        last = np.arange(-2, 0)
        normal[last, last] += stiffness
        gradient[last] += stiffness * point.slack
    return normal, gradient, jacobian


def _descend(model: Polyline, window: Window, rounds: int, by_phase: bool) -> Polyline:
    sigma2 = max(window.noise / 2, 1e-30)
    stiffness = sigma2 / window.carrier_slack**2
    damping = 1e-3
    count = model.knots.size
    knots_end = 1 + int(model.free_knots.sum())
    levels_end = knots_end + int(model.free_levels.sum())
    best = _point(model, np.zeros(2), window, by_phase, stiffness)
    normal, gradient, jac = _system(best, window, stiffness)
    for _ in range(rounds):
        step = _solve(normal, damping, gradient)
        trial = best.model.copy()
        trial.psi0 += float(step[0])
        trial.knots[model.free_knots] += step[1:knots_end]
        trial.levels[model.free_levels] += step[knots_end:levels_end]
        if model.tied >= 0:
            trial.levels[model.tied + 1] = trial.levels[model.tied]
        if model.free_sigma:
            moved = abs(trial.sigma + min(max(float(step[levels_end]), -0.5), 0.5))
            trial.sigma = min(max(moved, 0.02), MOST_ROUNDED)
        if not np.isfinite(step).all() or (trial.knots[1:] - trial.knots[:-1]).min() < CLOSEST:
            damping *= 8
            if damping > 1e8:
                break
            continue
        tried = _point(trial, best.slack if by_phase else best.slack + step[-2:], window, by_phase, stiffness)
        if tried.cost < best.cost:
            gain = best.cost - tried.cost
            best = tried
            damping = max(damping / 6, 1e-9)
            normal, gradient, jac = _system(best, window, stiffness)
            if gain < 1e-3 * sigma2:
                break
        else:
            damping *= 8
            if damping > 1e8:
                break
    model = best.model
    model.samples = window.t.size
    if by_phase:
        return model
    model.chi2 = best.cost / sigma2
    inverse = _inverse(normal)
    # The walk of the laser's phase acts like noise that is kept from sample to sample: sum the Jacobian backwards.
    dt = float(window.t[1] - window.t[0])
    amplitude = -jac[0]
    weighted = jac * amplitude
    if window.walk_width > 0:
        reach = min(math.ceil(4 * window.walk_width / dt), (weighted.shape[1] - 1) // 2)
        kernel = np.exp(-0.5 * (dt * np.arange(-reach, reach + 1) / window.walk_width) ** 2)
        kernel /= kernel.sum()
        weighted = weighted - np.array([np.convolve(row, kernel, "same") for row in weighted])
    summed = np.cumsum(weighted[:, ::-1], axis=1)[:, ::-1]
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


def _solve(normal: FloatArray, damping: float, gradient: FloatArray) -> FloatArray:
    """The step against the gradient, every parameter in its own unit of curvature (Marquardt 1963)."""
    scale = 1 / np.sqrt(np.maximum(normal.diagonal(), 1e-300))
    scaled = normal * (scale[:, None] * scale)
    scaled.reshape(-1)[:: scale.size + 1] += damping
    try:
        return np.asarray(-scale * np.linalg.solve(scaled, scale * gradient))
    except np.linalg.LinAlgError:
        return np.zeros_like(gradient)


def _inverse(matrix: FloatArray) -> FloatArray:
    scale = 1 / np.sqrt(np.maximum(np.diag(matrix), 1e-300))
    return np.asarray(np.outer(scale, scale) * np.linalg.pinv(matrix * np.outer(scale, scale), rcond=1e-12))
