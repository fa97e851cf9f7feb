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


def rounded(u: FloatArray, sigma: float) -> tuple[FloatArray, FloatArray, FloatArray]:
    """(S, R, I) at ``u`` seconds from the corner, for rounding ``sigma`` seconds; units 1, s, s^2; any shape."""
    shape = u.shape
    u = np.ascontiguousarray(u).reshape(-1)
    step = (u > 0).astype(np.float64)
    ramp = u * step
    area = 0.5 * u * ramp
    if sigma > 0:
        reach = _REACH * sigma
        # Far above the corner the exact integral keeps sigma^2 / 2 of displacement.
        area += 0.5 * sigma * sigma * (u >= reach)
        near = np.flatnonzero(np.abs(u) < reach)
        if near.size:
            x = u[near]
            scale = -1.0 / (math.sqrt(2.0) * sigma)
            s = 0.5 * np.fromiter(map(math.erfc, (x * scale).tolist()), dtype=np.float64, count=near.size)
            g = sigma / math.sqrt(2.0 * math.pi) * np.exp(-0.5 * (x / sigma) ** 2)
            step[near] = s
            ramp[near] = x * s + g
            area[near] = 0.5 * (x * x + sigma * sigma) * s + 0.5 * x * g
    return step.reshape(shape), ramp.reshape(shape), area.reshape(shape)


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
    slopes = np.concatenate([[0.0], np.diff(levels) / np.diff(knots), [0.0]])
    return np.asarray(np.diff(slopes), dtype=np.float64)
