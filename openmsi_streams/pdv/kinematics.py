"""Velocity as straight pieces with rounded corners, and its displacement, both in closed form.

v(t) = v0 + m0 (t - t1) + sum_k dm_k R(t - t_k), where R is a ramp folded with a Gaussian of standard deviation sigma:

    S(u) = erfc(-u / (sqrt(2) sigma)) / 2                               rounded step
    R(u) = u S(u) + g(u),     g(u) = sigma / sqrt(2 pi) exp(-u^2 / (2 sigma^2))
    I(u) = (u^2 + sigma^2) S(u) / 2 + u g(u) / 2                          integral of R, the displacement

Both the synthetic shots and the fits use these, so a fit has no kernel whose rounding would have to be corrected.
Needs numpy alone.
"""

from __future__ import annotations

import math

import numpy as np

from openmsi_streams.pdv.trace import FloatArray

# exp(-6^2 / 2) is 1.5e-8: beyond six sigma a rounded ramp is a ramp.
_REACH = 6.0
# S and g of unit sigma at 256 places per sigma. Two terms of Taylor's series from the nearest place are good to 1e-9,
# and take a fifth of the time of an erfc for each sample.
_PER_SIGMA = 256
_PLACES = np.arange(-_REACH * _PER_SIGMA, _REACH * _PER_SIGMA + 1) / _PER_SIGMA
_STEP = np.array([0.5 * math.erfc(-x / math.sqrt(2.0)) for x in _PLACES.tolist()])
_STEP[[0, -1]] = 0.0, 1.0
_BELL = np.exp(-0.5 * _PLACES**2) / math.sqrt(2.0 * math.pi)
_BELL[[0, -1]] = 0.0


def rounded(u: FloatArray, sigma: float) -> tuple[FloatArray, FloatArray, FloatArray]:
    """(S, R, I) at ``u`` seconds from the corner, for rounding ``sigma`` seconds; units 1, s, s^2; any shape."""
    if sigma <= 0:
        step = (u > 0).astype(np.float64)
        ramp = u * step
        return step, ramp, 0.5 * u * ramp
    x = np.minimum(np.maximum(u * (1.0 / sigma), -_REACH), _REACH)
    place = np.rint((x + _REACH) * _PER_SIGMA).astype(np.intp)
    near, bell = _PLACES[place], _BELL[place]
    h = x - near
    bent = near * h
    step = _STEP[place] + bell * h * (1.0 - 0.5 * bent)
    bell = bell * (1.0 - bent + 0.5 * (bent * bent - h * h))
    ramp = u * step + sigma * bell
    return step, ramp, 0.5 * (u * ramp + sigma * sigma * step)


def velocity(t: FloatArray, knots: FloatArray, levels: FloatArray, sigma: float) -> FloatArray:
    """Velocity (m/s) of the rounded polyline through (knots, levels), constant before the first and after the last."""
    v = np.full(t.shape, float(levels[0]))
    for knot, change in zip(knots, slope_changes(knots, levels), strict=True):
        v += change * rounded(t - knot, sigma)[1]
    return v


def displacement(t: FloatArray, knots: FloatArray, levels: FloatArray, sigma: float) -> FloatArray:
    """Displacement (m) of the same polyline; zero long before the first knot when the first level is zero."""
    d = float(levels[0]) * (t - float(knots[0]))
    for knot, change in zip(knots, slope_changes(knots, levels), strict=True):
        d += change * rounded(t - knot, sigma)[2]
    return d


def slope_changes(knots: FloatArray, levels: FloatArray) -> FloatArray:
    """Change of slope at each knot (m/s^2)."""
    slopes = (levels[1:] - levels[:-1]) / (knots[1:] - knots[:-1])
    change = np.empty(knots.size)
    change[:-1] = slopes
    change[-1] = 0.0
    change[1:] -= slopes
    return change
