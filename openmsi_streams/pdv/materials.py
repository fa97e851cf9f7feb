"""Materials by name: density, sound speeds, Hugoniot slope, with standard uncertainties and sources.

Density rho0 (kg/m^3), bulk sound speed C0 (m/s) and slope S of Us = C0 + S up: S. P. Marsh (editor), LASL Shock
Hugoniot Data, University of California Press, 1980; copper's density is that of annealed metal. Longitudinal sound
speed CL (m/s): CRC Handbook of Chemistry and Physics, "Speed of sound in various media", and for alloys that are not
in it, values used in the spall literature (Antoun et al., Spall Fracture, Springer 2003). The uncertainties are our
own estimate of how sheets and bars of one name differ: 0.3 % in density, 0.5 % to 1 % in speeds, 0.02 in S.
"""

from __future__ import annotations

import msgspec

_LASL = "LASL Shock Hugoniot Data, ed. Marsh 1980"
_CRC = "CRC Handbook of Chemistry and Physics, speed of sound in various media"
_ANTOUN = "Antoun et al., Spall Fracture, Springer 2003"


class Material(msgspec.Struct, frozen=True):
    """Constants of a material in SI units; ``sigma_*`` are their standard uncertainties."""

    name: str
    density: float
    c0: float
    cl: float
    s: float
    sigma_density: float = 0.0
    sigma_c0: float = 0.0
    sigma_cl: float = 0.0
    sigma_s: float = 0.0
    source: str = ""


def _entry(name: str, density: float, c0: float, cl: float, s: float, speeds: str = _CRC) -> Material:
    return Material(
        name, density, c0, cl, s, 0.003 * density, 0.005 * c0, 0.01 * cl, 0.02, f"rho0, C0, S: {_LASL}; CL: {speeds}"
    )


_TABLE = [
    _entry("copper", 8960, 3940, 4760, 1.489),
    _entry("aluminium", 2712, 5380, 6420, 1.337),
    _entry("aluminium 6061", 2703, 5350, 6400, 1.340, _ANTOUN),
    _entry("aluminium 2024", 2785, 5328, 6370, 1.338, _ANTOUN),
    _entry("magnesium", 1740, 4492, 5770, 1.263),
    _entry("AZ31B", 1775, 4516, 5770, 1.256, f"{_CRC} (pure magnesium)"),
    _entry("iron", 7850, 3574, 5960, 1.920),
    _entry("steel 304", 7896, 4569, 5790, 1.490, f"{_CRC} (stainless 347)"),
    _entry("nickel", 8874, 4602, 6040, 1.437),
    _entry("titanium", 4528, 5220, 6070, 0.767),
    _entry("tantalum", 16654, 3414, 4160, 1.201, _ANTOUN),
    _entry("tungsten", 19224, 4029, 5220, 1.237),
    _entry("molybdenum", 10206, 5124, 6250, 1.233),
    _entry("gold", 19240, 3056, 3240, 1.572),
    _entry("silver", 10490, 3229, 3650, 1.595),
    _entry("lead", 11350, 2051, 2160, 1.460),
    _entry("platinum", 21419, 3598, 3960, 1.544, _ANTOUN),
]
_OTHER_NAMES = {
    "cu": "copper", "al": "aluminium", "aluminum": "aluminium", "al1100": "aluminium", "al6061": "aluminium 6061",
    "6061": "aluminium 6061", "al2024": "aluminium 2024", "2024": "aluminium 2024", "mg": "magnesium",
    "az31": "AZ31B", "fe": "iron", "304": "steel 304", "ss304": "steel 304", "stainless": "steel 304", "ni": "nickel",
    "ti": "titanium", "ta": "tantalum", "w": "tungsten", "mo": "molybdenum", "au": "gold", "ag": "silver",
    "pb": "lead", "pt": "platinum",
}  # fmt: skip


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower().replace("aluminum", "aluminium") if letter.isalnum())


MATERIALS: dict[str, Material] = {_plain(entry.name): entry for entry in _TABLE}
DEFAULT_MATERIAL = "copper"


def find_material(name: str) -> Material | None:
    """The material of a name, in any spelling (``AZ31B``, ``az31``, ``Al 6061``), or None."""
    key = _plain(name)
    if key in MATERIALS:
        return MATERIALS[key]
    other = _OTHER_NAMES.get(key)
    return MATERIALS[_plain(other)] if other else None
