"""First guesses of the shapes that are fitted: rises from rest, turning points, lines."""

from __future__ import annotations

import numpy as np

from openmsi_streams.pdv.trace import FloatArray

# Label, knots (ns), levels (m/s), which knots and which levels are free.
Start = tuple[str, list[float], list[float], list[bool], list[bool]]


def rise_starts(t: FloatArray, v: FloatArray, peak: float, t_peak: float, right: float, v_right: float) -> list[Start]:
    """First guesses for the way from rest to the pull-back; ``t``, ``v`` are the smoothed history (ns, m/s)."""
    before = t <= t_peak
    tb, vb = t[before], v[before]

    def crossing(share: float) -> float:
        low = np.flatnonzero(vb < share * peak)
        return float(tb[low[-1]]) if low.size else float(tb[0])

    t10, t50, t90 = crossing(0.1), crossing(0.5), crossing(0.9)
    rise = max(0.4, (t90 - t10) / 0.8)
    starts: list[Start] = []
    for stretch in (0.5, 1.0):
        long = max(0.4, rise * stretch)
        t0, t1 = t50 - 0.5 * long, t50 + 0.5 * long
        starts.append(("corner", [t0, t1, right], [0, peak, v_right], [True, True, False], [False, True, True]))
        for wide in (3.0, 9.0):
            t2 = t1 + min(wide, 0.6 * (right - t1))
            places, levels = [t0, t1, t2, right], [0, peak, peak, v_right]
            starts.append(("plateau", places, levels, [True, True, True, False], [False, True, True, True]))
            starts.append(("level", places, levels, [True, True, True, False], [False, True, False, True]))
    # A foot shows as a stretch of small slope between a tenth and seven tenths of the peak.
    low = crossing(0.06)
    inside = (tb > low) & (vb > 0.08 * peak) & (vb < 0.7 * peak) & (tb > low - 1)
    if inside.sum() >= 3:
        slope = np.gradient(vb, tb)
        usual = peak / rise
        k = int(np.flatnonzero(inside)[np.argmin(slope[inside])])
        flat = inside & (np.abs(vb - vb[k]) < 0.12 * peak)
        wide = max(0.6, float(np.ptp(tb[flat])) if flat.any() else 0.6)
        if slope[k] < 0.6 * usual or rise > 3:
            foot = float(vb[k])
            centre = float(tb[flat].mean()) if flat.any() else float(tb[k])
            h1, h2 = centre - 0.5 * wide, centre + 0.5 * wide
            t1 = max(t90 + 0.5, h2 + 0.5)
            t0 = min(low, h1 - 0.3)
            starts.append(("foot", [t0, h1, h2, t1, right], [0, foot, foot, peak, v_right],
                           [True] * 4 + [False], [False] + [True] * 4))  # fmt: skip
            t2 = t1 + min(3.0, 0.5 * (right - t1))
            starts.append(("foot+plateau", [t0, h1, h2, t1, t2, right], [0, foot, foot, peak, peak, v_right],
                           [True] * 5 + [False], [False] + [True] * 5))  # fmt: skip
            starts.append(("foot+level", [t0, h1, h2, t1, t2, right], [0, foot, foot, peak, peak, v_right],
                           [True] * 5 + [False], [False, True, True, True, False, True]))  # fmt: skip
    if rise > 2.0:
        bend = 0.5 * (t10 + t50)
        starts.append(("bend", [t10 - 0.2 * rise, bend, t90, right], [0, 0.3 * peak, peak, v_right],
                       [True, True, True, False], [False, True, True, True]))  # fmt: skip
    return starts


def varied(starts: list[Start]) -> list[Start]:
    """More first guesses around given ones, for when none of them led to a fit: rises moved, squeezed, stretched."""
    out: list[Start] = []
    seen: set[str] = set()
    for label, knots, levels, free_knots, free_levels in starts:
        if label in seen or label in ("plateau", "foot+plateau", "bend"):
            continue
        seen.add(label)
        top = max(range(len(levels)), key=lambda k: levels[k])
        if label.startswith("foot"):
            for early, width in ((0.3, 0.7), (0.8, 0.8), (0.8, 2.0), (1.5, 0.8)):
                moved = list(knots)
                moved[1] = knots[1] - early + width
                moved[0] = knots[1] - early
                out.append((label, moved, levels, free_knots, free_levels))
            continue
        centre = 0.5 * (knots[0] + knots[top])
        for shift in (-0.6, 0.0, 0.6):
            for stretch in (0.35, 0.8):
                moved = [centre + shift + stretch * (x - centre) if k <= top else x for k, x in enumerate(knots)]
                out.append((label, moved, levels, free_knots, free_levels))
    return out


def turn_starts(left: float, v_left: float, at: float, v_at: float, right: float, v_right: float) -> list[Start]:
    """First guesses for a turning point between two window ends."""
    span = 0.25 * min(at - left, right - at)
    return [
        ("corner", [left, at, right], [v_left, v_at, v_right], [False, True, False], [True, True, True]),
        ("flat", [left, at - span, at + span, right], [v_left, v_at, v_at, v_right], [False, True, True, False],
         [True, True, False, True]),
    ]  # fmt: skip


def line_starts(left: float, right: float, v: float) -> list[Start]:
    """A straight line, and a constant (both ends one level), for a long plateau."""
    return [("line", [left, right], [v, v], [False, False], [True, True])]
