"""Materials by name: density, sound speeds, Hugoniot slope, with standard uncertainties and sources.

Density rho0 (kg/m^3), bulk sound speed C0 (m/s) and slope S of Us = C0 + S up come from shock data (LASL, Steinberg);
copper's density is that of annealed metal. C0 is checked against the bulk speed sqrt(CL^2 - 4/3 CS^2) that ultrasonic
speeds give: where a Hugoniot's intercept is no sound speed (iron and titanium change their phase), it is not used,
because spall strength needs the speed of a weak wave. Longitudinal sound speeds CL (m/s) come from the CRC Handbook or
ASTM E494.

Uncertainties are our own estimate of how sheets and bars of one name differ and how far sources disagree: 0.3 % in
density; half of the distance between C0 and the ultrasonic bulk speed, at least 0.5 %; 1 % in CL, more where sources
differ; 0.02 in S, more where one straight line does not hold.
"""

from __future__ import annotations

import msgspec

_LASL = "LASL Shock Hugoniot Data, ed. Marsh, Univ. of California Press 1980"
_STEINBERG = "Steinberg, Equation of State and Strength Properties of Selected Materials, LLNL UCRL-MA-106439, 1996"
_CRC = "CRC Handbook of Chemistry and Physics, speed of sound in various media"
_E494 = "ASTM E494, acoustic velocity in engineering materials"
_USUAL = "usual value of the spall literature (e.g. Antoun et al., Spall Fracture, Springer 2003)"


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


def _entry(
    name: str, density: float, c0: float, cl: float, s: float, speeds: str = _CRC, *, shock: str = _LASL,
    percent_c0: float = 0.5, percent_cl: float = 1.0, sigma_s: float = 0.02,
) -> Material:  # fmt: skip
    return Material(
        name, density, c0, cl, s, 0.003 * density, 0.01 * percent_c0 * c0, 0.01 * percent_cl * cl, sigma_s,
        f"rho0, C0, S: {shock}; CL: {speeds}",
    )  # fmt: skip


_TABLE = [
    _entry("copper", 8960, 3940, 4760, 1.489),
    _entry("aluminium", 2712, 5380, 6420, 1.337),
    _entry("aluminium 6061", 2703, 5350, 6400, 1.340, _USUAL, percent_c0=1.0, percent_cl=1.5),
    _entry("aluminium 2024", 2785, 5328, 6370, 1.338, _USUAL),
    _entry("magnesium", 1740, 4492, 5770, 1.263, percent_c0=0.9),
    _entry("AZ31B", 1775, 4516, 5770, 1.256, f"{_CRC} (pure magnesium)"),
    # The LASL fit for iron (3574, 1.920) is that of the phase above 13 GPa; below it iron is like steel 4340.
    _entry(
        "iron",
        7850,
        4640,
        5960,
        1.33,
        percent_c0=1.0,
        sigma_s=0.1,
        shock=f"C0 from CL and CS of {_CRC} (below the transition at 13 GPa), S: steel 4340, {_STEINBERG}",
    ),
    _entry("steel 304", 7896, 4569, 5790, 1.490, f"{_E494} (stainless 347)"),
    # The CRC's CL of nickel (6040) is far from its bulk speed; E494's is not.
    _entry("nickel", 8874, 4602, 5630, 1.437, _E494, percent_c0=1.4),
    # Titanium's Hugoniot is bent by its transition: the LASL line (5220, 0.767) does not start at the sound speed.
    _entry(
        "titanium",
        4510,
        5020,
        6070,
        1.15,
        percent_c0=1.5,
        sigma_s=0.15,
        shock=f"{_STEINBERG}, S: a line through its curve up to up = 0.5 km/s",
    ),
    _entry("tantalum", 16654, 3414, 4160, 1.201, _USUAL),
    _entry("tungsten", 19224, 4029, 5220, 1.237),
    _entry("molybdenum", 10206, 5124, 6250, 1.233, percent_c0=2.0, percent_cl=3.0),
    _entry("gold", 19240, 3056, 3240, 1.572, percent_c0=2.0),
    _entry("silver", 10490, 3229, 3650, 1.595, percent_c0=1.5),
    _entry("lead", 11350, 2051, 2160, 1.460, percent_c0=1.2),
    _entry("platinum", 21419, 3598, 3960, 1.544, _E494, percent_c0=2.0),
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
