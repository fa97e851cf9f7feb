"""One value from a sidecar, header, path or result: checked, and turned into GEMD JSON or into a flag.

Nothing here raises for a bad value. What cannot be said in GEMD (NaN, text where a number belongs, a value outside
the limits) is left out of the record, and the flag says why.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from openmsi_streams.errors import RecordError
from openmsi_streams.gemd import ids, library
from openmsi_streams.gemd.vocabulary import Attribute

Problem = Literal["missing", "invalid", "out_of_bounds", "unit"]


class Made(NamedTuple):
    """A GEMD value as JSON (or None) and what was wrong with it (or None)."""

    value: dict[str, Any] | None
    problem: Problem | None = None


_with_unit = re.compile(r"^\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*(\S.*?)?\s*$")


def number(raw: Any) -> tuple[float | None, str | None]:
    """Read a finite number, and the unit when text carries one (``"812 mJ"``); None when it is not a number."""
    if raw is None or isinstance(raw, bool):
        return None, None
    unit = None
    if isinstance(raw, str):
        match = _with_unit.match(raw)
        if match is None:
            return None, None
        raw, unit = match.group(1), match.group(2)
    try:
        value = float(raw)
    except (TypeError, ValueError, OverflowError):
        return None, None
    return (value if math.isfinite(value) else None), unit


# A unit that comes with data is no more than names with small powers: `m/s`, `kg/m^3`, `1/s`. The unit parser works out
# any expression, and `m**9**9**9` would keep it busy for ever.
_name = r"[^\W\d_]+(?:_[^\W\d_]+)*"
_power = r"(?:\s*(?:\^|\*\*)\s*-?\d(?:\.\d)?)?"
_plain_unit = re.compile(rf"(?:1\s*/\s*)?(?:%|[°]?{_name}){_power}(?:\s*[*/·. ]\s*(?:%|[°]?{_name}){_power})*")


def data_unit(text: str) -> str:
    """Give a unit that came with data, if it is a plain one.

    Raises:
        RecordError: it is long, or an expression.
    """
    text = text.strip()
    if text and (len(text) > 60 or _plain_unit.fullmatch(text) is None):
        raise RecordError(f"The unit {text[:60]!r} is not a plain one; write it like 'm/s' or 'kg/m^3'.")
    return text


def is_absent(raw: Any) -> bool:
    """Tell whether nothing was given: None, empty text, or NaN or infinity, which stand for "not computed"."""
    if raw is None:
        return True
    if isinstance(raw, str):
        return raw.strip().lower() in ("", "nan", "n/a", "na", "none", "null", "inf", "-inf", "+inf", "infinity", "?")
    if isinstance(raw, bool):
        return False
    try:
        return not math.isfinite(raw)
    except (TypeError, ValueError, OverflowError):
        return False


@functools.lru_cache(maxsize=4096)
def limits(attribute: Attribute, unit: str) -> tuple[float, float]:
    """Give an attribute's limits in ``unit``, converted exactly as gemd does when it checks."""
    if unit == attribute.unit:
        return attribute.low, attribute.high
    return (
        library.exact_bound(attribute.low, attribute.unit, unit),
        library.exact_bound(attribute.high, attribute.unit, unit),
    )


def make(
    attribute: Attribute, raw: Any, *, unit: str = "", to: str = "", std: Any = None, resolution: float | None = None
) -> Made:
    """Make the GEMD value of an attribute.

    Args:
        attribute: from the vocabulary; decides the form and the limits.
        raw: a number, text, a mapping ``{"value": .., "unit": .., "sigma": ..}``, or a composition.
        unit: the unit of a bare number (gemd's name); empty means the attribute's own.
        to: the unit to write; empty means ``unit``.
        std: one standard deviation in the same unit as the value; a bad one is left out.
        resolution: the step of a read-off scale; the value becomes a uniform distribution of that width.
    """
    if isinstance(raw, Mapping) and attribute.form != "composition":
        std = raw.get("sigma", raw.get("std")) if std is None else std
        to = to or unit or attribute.unit
        try:
            unit, raw = _own_unit(raw, unit), raw.get("value")
        except RecordError:
            return Made(None, "missing" if is_absent(raw.get("value")) else "unit")
    if attribute.form == "choice" and isinstance(raw, str) and raw.strip() in attribute.choices:
        return _category(attribute, raw)  # "None" and "N/A" are answers where they are on the list
    if is_absent(raw):
        return Made(None, "missing")
    try:
        if attribute.form == "real":
            return _real(attribute, raw, unit or attribute.unit, to, std, resolution)
        if attribute.form == "integer":
            return _integer(attribute, raw)
        if attribute.form == "composition":
            return _composition(attribute, raw)
        return _category(attribute, raw)
    except RecordError:
        return Made(None, "unit")


def _own_unit(raw: Mapping[Any, Any], unit: str) -> str:
    given = raw.get("unit")
    return data_unit(given) if isinstance(given, str) and given.strip() else unit


def _real(attribute: Attribute, raw: Any, unit: str, to: str, std: Any, resolution: float | None) -> Made:
    value, written = number(raw)
    if value is None:
        return Made(None, "invalid")
    start = library.unit_name(data_unit(written) if written else unit)
    end = library.unit_name(to or unit)
    if library.base_units(end) != library.base_units(attribute.unit):
        return Made(None, "unit")
    low, high = limits(attribute, end)
    if resolution is not None:
        ends = sorted(library.convert(value + side * resolution / 2, start, end) for side in (-1, 1))
        if not (low <= ends[0] and ends[1] <= high):
            return Made(None, "out_of_bounds")
        return Made({"lower_bound": ends[0], "type": "uniform_real", "units": end, "upper_bound": ends[1]})
    converted = library.convert(value, start, end)
    if not low <= converted <= high:
        return Made(None, "out_of_bounds")
    spread, _ = number(std)
    if spread is not None and spread >= 0:
        if start != end:
            # A spread is a difference: an offset between the scales (degrees Celsius) must not enter it.
            spread = abs(library.convert(value + spread, start, end) - converted)
            spread = float(f"{spread:.6g}")
        return Made({"mean": converted, "std": spread, "type": "normal_real", "units": end})
    return Made({"nominal": converted, "type": "nominal_real", "units": end})


def _integer(attribute: Attribute, raw: Any) -> Made:
    if isinstance(raw, int) and not isinstance(raw, bool):
        whole = raw
    else:
        value, unit = number(raw)
        if value is None or unit or value != int(value):
            return Made(None, "invalid")
        whole = int(value)
    if not attribute.low <= whole <= attribute.high:
        return Made(None, "out_of_bounds")
    return Made({"nominal": whole, "type": "nominal_integer"})


def _category(attribute: Attribute, raw: Any) -> Made:
    if isinstance(raw, bool):
        text = "true" if raw else "false"
    elif isinstance(raw, str | int | float):
        text = ids.clean(str(raw)).strip()
    else:
        return Made(None, "invalid")
    if attribute.form == "choice" and text not in attribute.choices:
        return Made(None, "out_of_bounds")
    return Made({"category": text, "type": "nominal_categorical"})


def _composition(attribute: Attribute, raw: Any) -> Made:
    if not isinstance(raw, Mapping) or not raw:
        return Made(None, "invalid")
    amounts: dict[str, float] = {}
    for component, amount in raw.items():
        value, unit = number(amount)
        if value is None or unit or value < 0:
            return Made(None, "invalid")
        if str(component) not in attribute.choices:
            return Made(None, "out_of_bounds")
        amounts[str(component)] = value
    return Made({"quantities": amounts, "type": "nominal_composition"})


def attribute_json(attribute: Attribute, value: dict[str, Any], origin: str) -> dict[str, Any]:
    """Give the attribute as GEMD writes it, linked to its template where it has one."""
    body: dict[str, Any] = {"name": attribute.name, "origin": origin, "type": attribute.kind, "value": value}
    if attribute.uid:
        body["template"] = ids.link(attribute.uid)
    return body
