"""Measured values for people: rounded to what their error bars allow, in the prefix that reads best."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

# What a shot takes and where its carrier lies are read in nanoseconds and gigahertz.
_PREFIXES = {
    "s": ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"), (1e-12, "ps")),
    "Hz": ((1e9, "GHz"), (1e6, "MHz"), (1e3, "kHz"), (1.0, "Hz")),
    "m": ((1.0, "m"), (1e-3, "mm"), (1e-6, "µm"), (1e-9, "nm")),
}
_NAMES = {
    "um": "µm",
    "second": "s",
    "hertz": "Hz",
    "meter": "m",
    "micrometer": "µm",
    "nanometer": "nm",
    "millimeter": "mm",
    "meter / second": "m/s",
    "gigapascal": "GPa",
    "1 / second": "1/s",
    "decibel": "dB",
    "millijoule": "mJ",
    "degree": "°",
    "kilogram / meter ** 3": "kg/m³",
    "dimensionless": "",
}
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def measured(found: Mapping[str, Any] | None) -> str:
    """Return a value with its 1-sigma, rounded so that sigma has two digits: ``3.42 ± 0.11 GPa``.

    Args:
        found: ``value``, ``unit`` and ``sigma``; None for nothing.
    """
    if not found:
        return ""
    value, sigma = float(found["value"]), found.get("sigma")
    sigma = float(sigma) if sigma and math.isfinite(sigma) and sigma > 0 else 0.0
    unit = str(found.get("unit") or "")
    unit = _NAMES.get(unit, unit)
    if unit in _PREFIXES:
        # A time near zero is read in the size of its error bar.
        size = max(abs(value), sigma)
        scale, unit = next((entry for entry in _PREFIXES[unit] if size >= entry[0]), _PREFIXES[unit][-1])
        if size == 0:
            scale, unit = 1.0, found["unit"]
        value, sigma = value / scale, sigma / scale
    if not sigma and value.is_integer() and abs(value) < 1e15 and unit == "byte":
        return f"{value:.0f} {unit}"
    if 0 < abs(value) < 1e-290:
        # Below this a power of ten is no longer a number.
        return f"{value:.4g} {unit}".strip()
    if value and not 1e-3 <= abs(value) < 1e5:
        exponent = math.floor(math.log10(abs(value)))
        power = f"10{str(exponent).translate(_RAISED)}"
        text = _rounded(value / 10.0**exponent, sigma / 10.0**exponent)
        return f"({text}) × {power} {unit}".strip() if sigma else f"{text} × {power} {unit}".strip()
    return f"{_rounded(value, sigma)} {unit}".strip()


def _rounded(value: float, sigma: float) -> str:
    if not sigma:
        return f"{value:.0f}" if value.is_integer() else f"{value:.6g}"
    if not 1e-12 < sigma < 1e12:
        # No instrument: shown as it is, short.
        return f"{value:.4g} ± {sigma:.2g}"
    places = 1 - math.floor(math.log10(sigma))
    if places <= 0:
        return f"{round(value, places):.0f} ± {round(sigma, places):.0f}"
    return f"{value:.{places}f} ± {sigma:.{places}f}"
