"""What an analysis gives: quantities with uncertainties and units, quality, provenance."""

from __future__ import annotations

import math
from typing import Any

import msgspec

from openmsi_streams.pdv.trace import FloatArray

SCHEMA = "openmsi_streams.pdv/1"
CLASSES = ("spall", "no_spall", "flyer", "no_shot", "unreadable")

# Order of the columns of a CSV row; a result of any class has them all, empty where absent.
QUANTITIES: dict[str, str] = {
    "peak_velocity": "m/s",
    "pullback_minimum_velocity": "m/s",
    "pullback_velocity": "m/s",
    "recompression_velocity": "m/s",
    "spall_strength": "GPa",
    "spall_strength_elastic_plastic": "GPa",
    "spall_strength_kanel": "GPa",
    "strain_rate": "1/s",
    "spall_thickness": "um",
    "hel_velocity": "m/s",
    "hel_stress": "GPa",
    "peak_stress": "GPa",
    "peak_stress_acoustic": "GPa",
    "impact_velocity": "m/s",
    "impact_velocity_spread": "m/s",
    "carrier_frequency": "Hz",
    "start_time": "s",
    "peak_time": "s",
    "pullback_minimum_time": "s",
    "recompression_time": "s",
}


class Quantity(msgspec.Struct, omit_defaults=True):
    """A value with its unit, standard uncertainty, and the parts of that uncertainty."""

    value: float
    unit: str
    sigma: float | None = None
    parts: dict[str, float] = {}


class History(msgspec.Struct):
    """Velocity history: time (s, the record's own axis), velocity and sigma (m/s), displacement (m), amplitude (V)."""

    time: FloatArray
    velocity: FloatArray
    sigma: FloatArray
    displacement: FloatArray
    amplitude: FloatArray
    kernel_fwhm: float


class ShotResult(msgspec.Struct):
    """The result of one shot. ``quantities`` holds only what could be measured; there is no NaN anywhere."""

    name: str
    shot_class: str
    reason: str
    quantities: dict[str, Quantity] = {}
    snr_db: float | None = None
    flags: list[str] = []
    notes: list[str] = []
    provenance: dict[str, Any] = {}
    history: History | None = None
    picture: Any = None

    def to_dict(self) -> dict[str, Any]:
        """The JSON form (schema `openmsi_streams.pdv/1`)."""
        quality: dict[str, Any] = {"flags": list(self.flags)}
        if self.snr_db is not None and math.isfinite(self.snr_db):
            quality = {"snr_db": round(self.snr_db, 2), **quality}
        if self.notes:
            quality["notes"] = list(self.notes)
        return {
            "schema": SCHEMA,
            "file": self.name,
            "class": self.shot_class,
            "reason": self.reason,
            "quantities": {key: _quantity(self.quantities[key]) for key in QUANTITIES if key in self.quantities},
            "quality": quality,
            "provenance": self.provenance,
        }

    def add(self, name: str, value: float, parts: dict[str, float] | None = None, scale: float = 1.0) -> None:
        """Add a quantity, unless it is not a finite number; ``scale`` turns SI into its unit."""
        if not math.isfinite(value):
            return
        kept = {key: abs(part) * scale for key, part in (parts or {}).items() if math.isfinite(part) and part}
        sigma = math.sqrt(sum(part * part for part in kept.values())) if parts is not None else None
        if parts is not None and any(not math.isfinite(part) for part in parts.values()):
            sigma = None
        self.quantities[name] = Quantity(value * scale, QUANTITIES[name], sigma, kept)


def _quantity(quantity: Quantity) -> dict[str, Any]:
    out: dict[str, Any] = {"value": _short(quantity.value), "unit": quantity.unit}
    if quantity.sigma is not None:
        out["sigma"] = _short(quantity.sigma, 4)
    if quantity.parts:
        out["parts"] = {key: _short(part, 3) for key, part in quantity.parts.items()}
    return out


def _short(value: float, digits: int = 12) -> float:
    return float(f"{value:.{digits}g}")
