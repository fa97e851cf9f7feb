"""PDV results for the gallery: short entries of each analysis, filtered, paged, plotted, as CSV."""

from __future__ import annotations

import asyncio
import csv
import io
import math
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlencode

from openmsi_streams.web import names
from openmsi_streams.web.lists import decode_cursor, encode_cursor, when
from openmsi_streams.web.problem import Problem
from openmsi_streams.web.site import Site

CLASSES = ("spall", "no_spall", "flyer", "no_shot", "unreadable")
QUANTITIES = (
    "peak_velocity",
    "pullback_minimum_velocity",
    "pullback_velocity",
    "recompression_velocity",
    "spall_strength",
    "spall_strength_elastic_plastic",
    "spall_strength_kanel",
    "strain_rate",
    "spall_thickness",
    "hel_velocity",
    "hel_stress",
    "peak_stress",
    "impact_velocity",
)
"""The order that people read them in; others follow by name."""
LIMIT = 60
# More shots than a laboratory fires in years; a bound for memory and for one CSV.
MOST = 20_000
# Walking all results takes a while, so the list is used again for so long.
KEEP_SECONDS = 5.0
KNOWN = frozenset({"class", "prefix", "topic", "since", "until", "limit", "cursor", "local"})


def shot(file_id: str, doc: Mapping[str, Any]) -> dict[str, Any]:
    """Return the short entry of one result document of schema ``openmsi_streams.pdv/1``.

    ``quantities`` maps a name to ``{"value", "unit", "sigma"}``; one that the document lacks is left out.
    """
    provenance = _mapping(doc.get("provenance"))
    quality = _mapping(doc.get("quality"))
    path = str(doc.get("path") or provenance.get("path") or doc.get("file") or "")
    quantities: dict[str, dict[str, Any]] = {}
    for name, entry in _mapping(doc.get("quantities")).items():
        found = _mapping(entry)
        value, sigma = _number(found.get("value")), _number(found.get("sigma"))
        if value is not None:
            quantities[str(name)] = {"value": value, "unit": str(found.get("unit") or ""), "sigma": sigma}
    ordered = [name for name in QUANTITIES if name in quantities] + sorted(set(quantities) - set(QUANTITIES))
    quantities = {name: quantities[name] for name in ordered}
    flags = quality.get("flags")
    return {
        "file_id": file_id,
        "topic": str(doc.get("topic") or provenance.get("topic") or ""),
        "path": path,
        "shown": names.short(path),
        "class": str(doc.get("class") or "unreadable"),
        "reason": str(doc.get("reason") or ""),
        "time": _number(doc.get("time")) or _number(provenance.get("time")) or 0.0,
        "quantities": quantities,
        "snr_db": _number(quality.get("snr_db")),
        "flags": [_flag(flag) for flag in flags] if isinstance(flags, list) else [],
    }


def _flag(flag: Any) -> str:
    return str(flag.get("flag") or flag.get("name") or "") if isinstance(flag, dict) else str(flag)


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


class ShotQuery:
    """Which shots a list shows."""

    def __init__(self, query: Mapping[str, str]) -> None:
        unknown = sorted(set(query) - KNOWN)
        if unknown:
            raise Problem(
                400, f"The parameter {unknown[0][:60]!r} is not known.", f"Known: {', '.join(sorted(KNOWN))}."
            )
        self.kind = query.get("class", "")
        if self.kind and self.kind not in CLASSES:
            raise Problem(400, f"The class {self.kind[:60]!r} does not exist.", f"Classes: {', '.join(CLASSES)}.")
        self.topic = query.get("topic", "")
        self.prefix = query.get("prefix", "")
        self.since = when(query.get("since", ""), "since")
        self.until = when(query.get("until", ""), "until")
        try:
            self.limit = int(query.get("limit") or LIMIT)
        except ValueError:
            self.limit = 0
        if not 1 <= self.limit <= MOST:
            raise Problem(400, "limit is not a number of shots.", f"Give 1 to {MOST}.")
        cursor = query.get("cursor", "")
        self.before = decode_cursor(cursor) if cursor else None
        self.cursor = cursor
        self.local = query.get("local", "") in ("1", "true", "yes")

    def parameters(self) -> dict[str, str]:
        """Return the parameters for a link to the same list, without cursor."""
        found = {"class": self.kind, "topic": self.topic, "prefix": self.prefix}
        found |= {
            "since": f"{self.since:.3f}" if self.since else "",
            "until": f"{self.until:.3f}" if self.until else "",
        }
        return {name: value for name, value in found.items() if value}

    def takes(self, entry: dict[str, Any]) -> bool:
        """Say whether a shot belongs to the list."""
        return (
            (not self.kind or entry["class"] == self.kind)
            and (not self.topic or entry["topic"] == self.topic)
            and entry["path"].startswith(self.prefix)
            and entry["time"] >= self.since
            and (not self.until or entry["time"] < self.until)
            and (self.before is None or order(entry) < self.before)
        )


def order(entry: dict[str, Any]) -> tuple[float, str]:
    """Return what shots are sorted by, the newest first."""
    return entry["time"], entry["file_id"]


async def all_local(site: Site) -> list[dict[str, Any]]:
    """Return the entries of all of this worker's results, the newest first; walked in a thread."""
    now = site.clock()
    known = site.kept.get("shots")
    if known is not None and 0 <= now - known[0] < KEEP_SECONDS:
        found: list[dict[str, Any]] = known[1]
        return found
    entries = await asyncio.to_thread(lambda: [shot(file_id, doc) for file_id, doc in site.results.pdv_items()])
    for entry in entries:
        row = site.source.row(entry["file_id"]) if not (entry["time"] and entry["topic"]) else None
        if row is not None:
            entry["time"] = entry["time"] or row.updated
            entry["topic"] = entry["topic"] or row.topic
            entry["path"] = row.path
            entry["shown"] = names.short(row.path)
    entries.sort(key=order, reverse=True)
    del entries[MOST:]
    site.kept["shots"] = (now, entries)
    return entries


async def shots(site: Site, query: ShotQuery) -> dict[str, Any]:
    """Return the answer of `/api/v1/pdv`: ``items`` of all workers, the newest first, ``next``, ``notes``."""
    parameters = query.parameters() | {"local": "1", "limit": str(query.limit)}
    if query.cursor:
        parameters["cursor"] = query.cursor
    answers = [] if query.local else await site.peers.ask("/api/v1/pdv?" + urlencode(parameters))
    items = {entry["file_id"]: entry for entry in await all_local(site) if query.takes(entry)}
    notes = site.peers.notes(answers)
    more = False
    for answer in answers:
        body = answer.json() if answer.status == 200 else {}
        more = more or bool(body.get("next"))
        for entry in body.get("items") or ():
            items.setdefault(entry["file_id"], entry)
    ordered = sorted(items.values(), key=order, reverse=True)
    page = ordered[: query.limit]
    more = more or len(ordered) > query.limit
    return {
        "ok": True,
        "items": page,
        "next": encode_cursor(order(page[-1])) if page and more else None,
        "notes": notes,
    }


def to_csv(entries: Iterable[dict[str, Any]]) -> str:
    """Return the shots as CSV, units in the column names. A text that a spreadsheet would run gets a quote before."""
    entries = list(entries)
    units: dict[str, str] = {}
    for entry in entries:
        for name, found in entry["quantities"].items():
            units.setdefault(name, found["unit"])
    columns = [name for name in QUANTITIES if name in units] + sorted(set(units) - set(QUANTITIES))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    head = ["file_id", "topic", "path", "class", "reason", "time", "snr_db", "flags"]
    for name in columns:
        label = f"{name} [{units[name]}]" if units[name] else name
        head += [label, f"{name} sigma [{units[name]}]" if units[name] else f"{name} sigma"]
    writer.writerow(head)
    for entry in entries:
        line: list[Any] = [entry["file_id"], *(_cell(entry[name]) for name in ("topic", "path", "class", "reason"))]
        line += [entry["time"], "" if entry["snr_db"] is None else entry["snr_db"], _cell(" ".join(entry["flags"]))]
        for name in columns:
            found = entry["quantities"].get(name, {})
            # A quantity in another unit than the column's is left out rather than shown wrong.
            same = found.get("unit") == units[name]
            line += [found.get("value", "") if same else "", found.get("sigma") if same and found.get("sigma") else ""]
        writer.writerow(line)
    return out.getvalue()


def _cell(text: str) -> str:
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


# The plot's inner size in SVG units; the page scales it.
WIDTH, HEIGHT = 640.0, 300.0


def plot(entries: Iterable[dict[str, Any]]) -> dict[str, Any] | None:
    """Return spall strength against strain rate (logarithmic) as SVG coordinates; None without two usable shots.

    Returns:
        ``points`` with ``x, y, low, high, left, right`` (1 sigma) and the shot, ``xticks`` and ``yticks`` with
        ``at`` and ``label``, and the units.
    """
    usable = []
    for entry in entries:
        rate, strength = entry["quantities"].get("strain_rate"), entry["quantities"].get("spall_strength")
        if rate and strength and rate["value"] > 0:
            usable.append((entry, rate, strength))
    if len(usable) < 2:
        return None
    logs = [math.log10(rate["value"]) for _, rate, _ in usable]
    left, right = math.floor(min(logs) * 2 - 0.2) / 2, math.ceil(max(logs) * 2 + 0.2) / 2
    top = max(strength["value"] + (strength["sigma"] or 0) for _, _, strength in usable)
    step: float = _step(top)
    ceiling = step * math.ceil(max(top, step) / step)

    def x(log: float) -> float:
        return float(round(WIDTH * (log - left) / (right - left), 2))

    def y(value: float) -> float:
        return float(round(HEIGHT * (1 - value / ceiling), 2))

    points = []
    for entry, rate, strength in usable:
        sigma, spread = strength["sigma"] or 0.0, rate["sigma"] or 0.0
        low = max(rate["value"] - spread, rate["value"] / 10)
        points.append(
            {
                "x": x(math.log10(rate["value"])),
                "y": y(strength["value"]),
                "low": y(max(0.0, strength["value"] - sigma)),
                "high": y(strength["value"] + sigma),
                "left": x(max(left, math.log10(low))),
                "right": x(min(right, math.log10(rate["value"] + spread))),
                "shot": entry,
                "rate": rate,
                "strength": strength,
            }
        )
    whole = range(math.ceil(left), math.floor(right) + 1)
    xticks = [{"at": x(exponent), "label": exponent} for exponent in whole]
    yticks = [{"at": y(step * i), "label": f"{step * i:g}"} for i in range(round(ceiling / step) + 1)]
    return {
        "points": points,
        "xticks": xticks,
        "yticks": yticks,
        "x_unit": usable[0][1]["unit"],
        "y_unit": usable[0][2]["unit"],
    }


def _step(top: float) -> float:
    if top <= 0:
        return 1.0
    rough = 10.0 ** math.floor(math.log10(top / 4))
    return next((rough * factor for factor in (1, 2, 5, 10) if rough * factor * 5 >= top), rough * 10)
