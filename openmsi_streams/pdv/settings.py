"""Settings of an analysis: only what physics needs a human for, all optional, defaults flagged in the result."""

from __future__ import annotations

import difflib
import fnmatch
import hashlib
import math
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from openmsi_streams.errors import ConfigurationError
from openmsi_streams.pdv.materials import DEFAULT_MATERIAL, MATERIALS, Material, find_material

# The usual telecom wavelength. A laser tuned elsewhere in the C band (1530 to 1565 nm) is up to 1.3 % off, so the
# default is flagged.
DEFAULT_WAVELENGTH_NM = 1550.0
# Tuning of a laser of known nominal wavelength.
DEFAULT_WAVELENGTH_SIGMA_NM = 0.1
DEFAULT_ANGLE_SIGMA_DEG = 0.5
# The spacer that the lab's earlier software assumed.
DEFAULT_STANDOFF_MM = 0.125


class PdvSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What a human may say of a shot. None means: not said, so a flagged default is used.

    Constants given by hand count as exact unless their ``sigma_*`` is given as well.
    """

    wavelength_nm: float | None = None
    sigma_wavelength_nm: float | None = None
    angle_deg: float | None = None
    sigma_angle_deg: float | None = None
    material: str = ""
    density: float | None = None
    c0: float | None = None
    cl: float | None = None
    s: float | None = None
    sigma_density: float | None = None
    sigma_c0: float | None = None
    sigma_cl: float | None = None
    sigma_s: float | None = None
    standoff_mm: float | None = None
    channel: str = ""

    def __post_init__(self) -> None:
        for name in ("wavelength_nm", "density", "c0", "cl"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be a positive number, not {value}")
        if self.angle_deg is not None and not abs(self.angle_deg) < 80:
            raise ValueError(f"angle_deg must lie between -80 and 80, not {self.angle_deg}")

    @property
    def hash(self) -> str:
        """A short hash of all settings, for provenance."""
        return hashlib.sha256(msgspec.json.encode(self, order="sorted")).hexdigest()[:16]


class Constants(msgspec.Struct, frozen=True):
    """Settings made complete: wavelength (m), angle (rad), material, stand-off (m), flags for every default."""

    wavelength: float
    sigma_wavelength: float
    angle: float
    sigma_angle: float
    material: Material
    standoff: float
    flags: list[str]

    @property
    def to_velocity(self) -> float:
        """m/s per Hz: lambda / (2 cos theta)."""
        return self.wavelength / (2 * math.cos(self.angle))


def settings_from(given: Mapping[str, Any] | PdvSettings | None) -> PdvSettings:
    """Settings from a mapping; keys that are not ours (the worker's own) are ignored, empty values count as unsaid.

    Raises ConfigurationError for a value that cannot be.
    """
    if isinstance(given, PdvSettings):
        return given
    known = set(PdvSettings.__struct_fields__)
    chosen = {key: value for key, value in (given or {}).items() if key in known and value not in (None, "")}
    try:
        return msgspec.convert(chosen, PdvSettings, strict=False)
    except (msgspec.ValidationError, ValueError) as error:
        raise ConfigurationError(f"PDV settings: {error}. Correct the value in [pdv] or on the command line.") from None


def read_sidecar(text: bytes) -> dict[str, Any]:
    """Settings that a `.pdv.toml` beside a file gives, at its top or in a section `[pdv]`.

    Raises ConfigurationError if it is not TOML or has a key that is not a PDV setting.
    """
    try:
        found = tomllib.loads(text.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"It is not TOML: {error}. Correct or remove it.") from None
    section = found.get("pdv", found)
    if not isinstance(section, dict):
        raise ConfigurationError(f"pdv = {section!r} is not a section. Write [pdv] and the settings below it.")
    refuse_unknown(section)
    return section


def refuse_unknown(given: Iterable[str]) -> None:
    """Raise ConfigurationError for a name that is not a PDV setting: one misspelt would be left out silently."""
    known = PdvSettings.__struct_fields__
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"Did you mean {near[0]}?" if near else f"There are: {', '.join(known)}."
            raise ConfigurationError(f"{name!r} is not a PDV setting. {hint}")


def check_rules(rules: Iterable[Mapping[str, Any]]) -> None:
    """Raise ConfigurationError for a rule with a key or value that cannot be, before anything is analysed with it."""
    for number, rule in enumerate(rules, start=1):
        said = {key: value for key, value in rule.items() if key not in ("topic", "path")}
        try:
            refuse_unknown(said)
            settings_from(said)
        except ConfigurationError as error:
            raise ConfigurationError(f"[[pdv.rules]], number {number}: {error}") from None


def choose(
    base: Mapping[str, Any], rules: Sequence[Mapping[str, Any]], topic: str = "", path: str = "",
    sidecar: Mapping[str, Any] | None = None,
) -> PdvSettings:  # fmt: skip
    """Settings for one file: ``base``, then every rule whose ``topic`` and ``path`` patterns match, then the sidecar.

    A rule is a mapping with optional glob patterns ``topic`` and ``path`` beside settings; later rules win.
    """
    merged: dict[str, Any] = dict(base)
    for rule in rules:
        if fnmatch.fnmatchcase(topic, str(rule.get("topic", "*"))) and fnmatch.fnmatchcase(
            path, str(rule.get("path", "*"))
        ):
            merged.update({key: value for key, value in rule.items() if key not in ("topic", "path")})
    merged.update(sidecar or {})
    return settings_from(merged)


def constants(settings: PdvSettings) -> Constants:
    """Complete constants.

    Raises ConfigurationError for a material that is not known and not described by numbers.
    """
    flags: list[str] = []
    wavelength, sigma_wavelength = settings.wavelength_nm, settings.sigma_wavelength_nm
    if wavelength is None:
        wavelength = DEFAULT_WAVELENGTH_NM
        flags.append("wavelength_default")
        sigma_wavelength = DEFAULT_WAVELENGTH_SIGMA_NM if sigma_wavelength is None else sigma_wavelength
    angle, sigma_angle = settings.angle_deg, settings.sigma_angle_deg
    if angle is None:
        angle = 0.0
        flags.append("angle_default")
        sigma_angle = DEFAULT_ANGLE_SIGMA_DEG if sigma_angle is None else sigma_angle
    numbers = (settings.density, settings.c0)
    base = find_material(settings.material) if settings.material else None
    if settings.material and base is None and None in numbers:
        known = ", ".join(sorted(entry.name for entry in MATERIALS.values()))
        raise ConfigurationError(
            f"material {settings.material!r} is not in the table ({known}). Give density, c0 and cl as numbers instead."
        )
    if base is None:
        base = MATERIALS[DEFAULT_MATERIAL]
        if None in numbers:
            flags.append("material_default")
        else:
            if settings.cl is None:
                flags.append("cl_default")
            base = Material(settings.material or "by numbers", base.density, base.c0, base.cl, base.s, source="given")

    def pick(name: str) -> tuple[float, float]:
        value, sigma = getattr(settings, name), getattr(settings, f"sigma_{name}")
        if value is None:
            return getattr(base, name), getattr(base, f"sigma_{name}") if sigma is None else sigma
        return float(value), float(sigma or 0.0)

    picked = {name: pick(name) for name in ("density", "c0", "cl", "s")}
    values = {name: value for name, (value, _) in picked.items()}
    sigmas = {f"sigma_{name}": sigma for name, (_, sigma) in picked.items()}
    material = Material(name=base.name, source=base.source, **values, **sigmas)
    standoff = settings.standoff_mm
    if not standoff:
        standoff = DEFAULT_STANDOFF_MM
    return Constants(
        wavelength * 1e-9, (sigma_wavelength or 0.0) * 1e-9, math.radians(angle), math.radians(sigma_angle or 0.0),
        material, standoff * 1e-3, flags,
    )  # fmt: skip
