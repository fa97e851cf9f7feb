"""Check values against their templates, as gemd does at load, but with findings instead of exceptions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from openmsi_streams.errors import RecordError
from openmsi_streams.gemd import library
from openmsi_streams.gemd.lint import Finding

Index = dict[tuple[str, str], dict[str, Any]]


def out_of_bounds(objects: list[dict[str, Any]]) -> list[Finding]:
    """Give a finding for each value that is outside its template's limits, or measures something else.

    Raises:
        ExtraMissing: the gemd library, which knows the units, is not installed.
    """
    library.library()
    index: Index = {
        (scope.lower(), str(identifier)): item
        for item in objects
        for scope, identifier in (item.get("uids") or {}).items()
    }
    findings = []
    for item in objects:
        for attribute in _attributes(item):
            link = attribute.get("template")
            template = (
                index.get((str(link.get("scope")).lower(), str(link.get("id")))) if isinstance(link, dict) else None
            )
            if template is not None:
                trouble = _trouble(attribute.get("value") or {}, template.get("bounds") or {})
                if trouble:
                    where = f"{item.get('type')} {item.get('name')!r}"
                    findings.append(Finding("bounds", where, f"{attribute.get('name')!r} {trouble}"))
    return findings


def _attributes(item: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if str(item.get("type")).endswith("_template"):
        return
    for group in ("properties", "parameters", "conditions"):
        for entry in item.get(group) or []:
            yield entry.get("property", entry)
            yield from entry.get("conditions") or []


def _ends(value: dict[str, Any]) -> tuple[float, float] | None:
    for low, high in (("nominal", "nominal"), ("mean", "mean"), ("lower_bound", "upper_bound")):
        if isinstance(value.get(low), int | float) and isinstance(value.get(high), int | float):
            return value[low], value[high]
    return None


def _trouble(value: dict[str, Any], bounds: dict[str, Any]) -> str:
    kind, allowed = str(value.get("type")), str(bounds.get("type"))
    ends = _ends(value)
    if allowed == "real_bounds":
        if ends is None or not kind.endswith("_real"):
            return f"is {kind}, the template wants a real number"
        unit, wanted = value.get("units") or "", bounds.get("default_units") or ""
        try:
            if library.base_units(unit) != library.base_units(wanted):
                return f"is in {unit!r}, the template in {wanted!r}: they measure different things"
            low, high = (library.exact_bound(bounds[key], wanted, unit) for key in ("lower_bound", "upper_bound"))
        except RecordError as error:
            return str(error)
    elif allowed == "integer_bounds":
        if ends is None or not kind.endswith("_integer"):
            return f"is {kind}, the template wants a whole number"
        low, high, unit = bounds["lower_bound"], bounds["upper_bound"], ""
    elif allowed in ("categorical_bounds", "composition_bounds"):
        choices = set(bounds.get("categories") or bounds.get("components") or [])
        given = (
            {value["category"]}
            if "category" in value
            else set(value.get("probabilities") or value.get("quantities") or {})
        )
        strange = sorted(given - choices)
        return f"is {', '.join(strange)}, which is not among the template's choices" if strange else ""
    else:
        return ""
    if low <= ends[0] and ends[1] <= high:
        return ""
    shown = f"{ends[0]:g}" if ends[0] == ends[1] else f"{ends[0]:g} to {ends[1]:g}"
    return f"is {shown} {unit}, the template allows {low:g} to {high:g}".replace("  ", " ")
