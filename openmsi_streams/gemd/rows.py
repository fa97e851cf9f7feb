"""Records as rows of a table: one per shot, with units in the column names. Plain Python, no pandas."""

from __future__ import annotations

import math
from typing import Any

from openmsi_streams.gemd import ids, library

# gemd writes units in full; these are what people write.
SHORT = {
    "meter / second": "m/s",
    "gigapascal": "GPa",
    "pascal": "Pa",
    "1 / second": "1/s",
    "hertz": "Hz",
    "gigahertz": "GHz",
    "second": "s",
    "nanosecond": "ns",
    "meter": "m",
    "millimeter": "mm",
    "micrometer": "um",
    "nanometer": "nm",
    "inch": "in",
    "kilogram / meter ** 3": "kg/m^3",
    "joule / centimeter ** 2": "J/cm^2",
    "millijoule": "mJ",
    "microjoule": "uJ",
    "millitorr": "mTorr",
    "byte": "byte",
    "volt": "V",
    "millivolt": "mV",
    "ampere": "A",
    "degree": "deg",
    "degree_Celsius": "degC",
    "kelvin": "K",
    "decibel": "dB",
    "decibelmilliwatt": "dBm",
    "dimensionless": "",
}


HEAD = ("name", "shot", "class", "date", "topic", "url", "file uid", "analysis uid", "sample")


def to_rows(objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Give one row per measurement; an analysis and the raw file it came from share a row.

    Columns: ``name``, ``shot``, ``class``, ``date``, ``topic``, ``sample``, ``sample <scope>``, ``url``, ``file uid``,
    ``analysis uid``, then ``<attribute> [<unit>]`` and ``<attribute> std [<unit>]``. A missing value is left out (NaN
    in a DataFrame). Where records give one attribute in several units, the first one's is used.
    """
    index = {
        (scope.lower(), str(identifier)): item
        for item in objects
        for scope, identifier in (item.get("uids") or {}).items()
    }
    runs = [item for item in objects if item.get("type") == "measurement_run"]
    raw_of = {id(run): _raw(run, index) for run in runs}
    covered = {id(raw) for raw in raw_of.values() if raw is not None}
    units: dict[str, str] = {}
    rows = [_row(run, raw_of[id(run)], index, units) for run in runs if id(run) not in covered]
    rows.sort(key=lambda row: (str(row.get("date") or ""), str(row["name"]), str(row.get("analysis uid") or "")))
    head = columns(rows)
    return [{column: row[column] for column in head if column in row} for row in rows]


def columns(rows: list[dict[str, Any]]) -> list[str]:
    """Give the columns of rows in reading order: what it is, whose sample, then the values as they first occur."""
    seen = dict.fromkeys(column for row in rows for column in row)
    known = [column for column in HEAD if column in seen]
    samples = sorted(column for column in seen if column.startswith("sample ") and "[" not in column)
    return list(dict.fromkeys([*known, *samples, *seen]))


def _raw(run: dict[str, Any], index: dict[tuple[str, str], dict[str, Any]]) -> dict[str, Any] | None:
    uid = _tag(run, "openmsi.derived_from")
    return index.get((ids.SCOPE, uid)) if uid else None


def _tag(item: dict[str, Any] | None, key: str) -> str | None:
    for tag in (item or {}).get("tags") or []:
        if str(tag).startswith(key + "::"):
            return str(tag)[len(key) + 2 :]
    return None


def _follow(link: Any, index: dict[tuple[str, str], dict[str, Any]]) -> dict[str, Any]:
    if not isinstance(link, dict):
        return {}
    return index.get((str(link.get("scope")).lower(), str(link.get("id"))), {})


def _row(
    run: dict[str, Any],
    raw: dict[str, Any] | None,
    index: dict[tuple[str, str], dict[str, Any]],
    units: dict[str, str],
) -> dict[str, Any]:
    first = raw or run
    uid = next(iter((run.get("uids") or {"": ""}).values())) if ids.SCOPE not in run["uids"] else run["uids"][ids.SCOPE]
    row: dict[str, Any] = {"name": first.get("name")}
    links = first.get("file_links") or []
    facts = {
        "shot": _tag(run, "openmsi.shot") or _tag(raw, "openmsi.shot"),
        "class": _tag(run, "openmsi.class"),
        "date": (first.get("source") or {}).get("performed_date"),
        "topic": _tag(first, "openmsi.topic"),
        "url": links[0].get("url") if links else None,
        "file uid": (raw or {}).get("uids", {}).get(ids.SCOPE) if raw is not None else None,
    }
    if _tag(run, "openmsi.derived_from"):
        facts["analysis uid"] = uid
    else:
        facts["file uid"] = uid
    material = _follow(run.get("material"), index)
    facts["sample"] = material.get("name")
    for scope, identifier in (material.get("uids") or {}).items():
        if scope != ids.SCOPE:
            facts[f"sample {scope}"] = identifier
    row.update({key: value for key, value in facts.items() if value is not None})
    for source in (run, raw or {}, _follow(run.get("spec"), index), _follow((raw or {}).get("spec"), index)):
        for group in ("properties", "conditions", "parameters"):
            for entry in source.get(group) or []:
                _cells(row, entry.get("property", entry), units)
    return row


def _cells(row: dict[str, Any], attribute: dict[str, Any], units: dict[str, str]) -> None:
    name, value = str(attribute.get("name")), attribute.get("value") or {}
    kind = value.get("type")
    unit = value.get("units") or ""
    spread: float | None = None
    if kind in ("nominal_real", "nominal_integer"):
        found: Any = value.get("nominal")
    elif kind == "normal_real":
        found, spread = value.get("mean"), value.get("std")
    elif kind in ("uniform_real", "uniform_integer"):
        found = (value["lower_bound"] + value["upper_bound"]) / 2
        # The standard deviation of a uniform distribution is its width over the root of 12.
        spread = (value["upper_bound"] - value["lower_bound"]) / math.sqrt(12)
    else:
        found = next((value[key] for key in ("category", "formula", "inchi", "smiles") if key in value), None)
        if found is None:
            amounts = value.get("probabilities") or value.get("quantities") or {}
            found = ", ".join(f"{key} {amount:g}" for key, amount in sorted(amounts.items())) or None
    if found is None:
        return
    if unit:
        wanted = units.setdefault(name, unit)
        if wanted != unit:
            moved = library.convert(found, unit, wanted)
            spread = abs(library.convert(found + spread, unit, wanted) - moved) if spread is not None else None
            found, unit = moved, wanted
    short = SHORT.get(unit, unit)
    suffix = f" [{short}]" if short else ""
    row.setdefault(name + suffix, found)
    if spread is not None:
        row.setdefault(f"{name} std{suffix}", spread)
