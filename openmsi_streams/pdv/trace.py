"""One digitiser record, whatever the file it came from, and the rules for its time axis."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from openmsi_streams.errors import AnalysisError

FloatArray = npt.NDArray[np.float64]
ComplexArray = npt.NDArray[np.complex128]
BoolArray = npt.NDArray[np.bool_]

# Digitisers name their rates with few digits (80, 25.6, 31.25, 128 GS/s). A step is taken for a nominal rate when it
# is this close to one: LeCroy stores the step as float32, which is right to 6e-8.
SNAP_TOLERANCE = 3e-7
SNAP_DIGITS = 4


class TraceError(AnalysisError):
    """A file is not a readable digitiser record."""


class Trace(msgspec.Struct, kw_only=True):
    """Voltage against time from one channel of a digitiser.

    ``volts`` has shape (segments, points), in volts; ``dt`` is the sample step in seconds; ``starts`` holds the time of
    the first sample of each segment in seconds relative to its trigger. ``v_low`` and ``v_high`` are the limits of the
    digitiser's range in volts, where the file tells them. ``flags`` are short words about the file that a result must
    carry on; ``notes`` say the same in plain words.
    """

    volts: FloatArray
    dt: float
    starts: FloatArray
    format: str
    scope: str = ""
    serial: str = ""
    channel: str = ""
    channels: list[str] = []
    trigger_time: str = ""
    v_low: float | None = None
    v_high: float | None = None
    bits: int | None = None
    bandwidth: float | None = None
    flags: list[str] = []
    notes: list[str] = []

    @property
    def segments(self) -> int:
        """Number of segments (1 unless the scope ran in sequence mode)."""
        return int(self.volts.shape[0])

    @property
    def points(self) -> int:
        """Samples in each segment."""
        return int(self.volts.shape[1])

    @property
    def rate(self) -> float:
        """Samples per second."""
        return 1.0 / self.dt

    def times(self, segment: int = 0) -> FloatArray:
        """Time of each sample of a segment, in seconds relative to its trigger."""
        return np.asarray(self.starts[segment] + self.dt * np.arange(self.points), dtype=np.float64)

    def describe(self) -> dict[str, Any]:
        """What is known of the instrument, for a result's provenance; unknown things are left out."""
        known: dict[str, Any] = {
            "format": self.format,
            "scope": self.scope,
            "serial": self.serial,
            "channel": self.channel,
            "trigger_time": self.trigger_time,
            "bits": self.bits,
            "range_low_v": self.v_low,
            "range_high_v": self.v_high,
            "bandwidth_hz": self.bandwidth,
            "sample_rate_hz": float(f"{self.rate:.12g}"),
            "points": self.points,
            "segments": self.segments,
        }
        return {key: value for key, value in known.items() if value not in ("", None)}


def snap_step(dt: float, sigma: float = 0.0) -> float:
    """The nominal sample step nearest to ``dt`` (seconds), or ``dt`` itself when none is near.

    ``sigma`` is the standard error of ``dt``; the step snaps within four of these or within ``SNAP_TOLERANCE``.
    """
    if not (dt > 0 and math.isfinite(dt)):
        return dt
    rate = float(f"{1.0 / dt:.{SNAP_DIGITS}g}")
    nominal = 1.0 / rate
    # Beyond 1e-4 the four digits would swallow any rate at all, so no error bar may widen the rule further.
    tolerance = min(max(SNAP_TOLERANCE, 4.0 * sigma / dt), 1e-4)
    return nominal if abs(nominal / dt - 1.0) <= tolerance else dt


def fit_time_axis(times: FloatArray) -> tuple[float, float, float]:
    """Straight line through a column of times: (time of the first row, step, largest deviation), in seconds.

    Text exports round each time to eight digits, so two neighbouring rows say little; all rows together fix the step to
    one part in 10^9. The step is snapped to a nominal rate.

    Raises TraceError when the column does not rise.
    """
    n = times.size
    if n < 2:
        raise TraceError("the record has fewer than two samples. Usual cause: an export that stopped at the header.")
    index = np.arange(n, dtype=np.float64)
    centred = index - 0.5 * (n - 1)
    middle = float(times.mean())
    step = float(centred @ (times - middle)) / float(centred @ centred)
    if not (step > 0 and math.isfinite(step)):
        raise TraceError("the time column does not rise. Usual cause: this is not an oscilloscope record.")
    deviation = times - (middle + step * centred)
    scatter = float(np.sqrt(np.mean(deviation**2)))
    sigma = scatter / math.sqrt(float(centred @ centred)) if n > 2 else 0.0
    step = snap_step(step, sigma)
    worst = float(np.max(np.abs(times - (middle + step * centred))))
    return middle - step * 0.5 * (n - 1), step, worst
