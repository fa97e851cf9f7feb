"""GEMD records for the views: the list by sample, and one record as a graph of its links."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import msgspec

from openmsi_streams.web import names
from openmsi_streams.web.numbers import measured
from openmsi_streams.web.problem import Problem
from openmsi_streams.web.site import Site

# Objects drawn; a record of ours has about ten.
MOST_OBJECTS = 200
LIMIT = 2000
KEEP_SECONDS = 5.0
KINDS = {
    "material_run": "material",
    "material_spec": "material",
    "process_run": "process",
    "process_spec": "process",
    "measurement_run": "measurement",
    "measurement_spec": "measurement",
    "ingredient_run": "ingredient",
    "ingredient_spec": "ingredient",
}
_DETAILS = frozenset({"parameter_template", "property_template", "condition_template"})
# Runs stand left, what they follow stands right.
_COLUMNS = {"run": 0, "spec": 1, "template": 2}


def _text(value: Any) -> str:
    return names.short(str(value or ""))


def _table(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def parse(document: bytes) -> dict[str, Any]:
    """Return ``{"root", "objects", "edges"}`` of a GEMD JSON document.

    Each object has ``uid, type, kind, name, tags, uids, attributes, files, root``; each edge ``source, target, name``.

    Raises:
        Problem: 502 if the stored document is not a GEMD document.
    """
    try:
        tree = msgspec.json.decode(document)
        context = tree["context"] if isinstance(tree, dict) else tree[0]
        top = tree.get("object") if isinstance(tree, dict) else tree[1]
        bodies = [body for body in context if isinstance(body, dict)][:MOST_OBJECTS]
    except (msgspec.DecodeError, KeyError, IndexError, TypeError):
        raise Problem(
            502, "The stored GEMD record cannot be read.", "Check it with `openmsi-streams gemd check`."
        ) from None
    if isinstance(top, dict) and top.get("type") not in (None, "link_by_uid"):
        bodies.append(top)
    by_uid: dict[str, int] = {}
    objects: list[dict[str, Any]] = []
    for position, body in enumerate(bodies):
        uids = _table(body.get("uids"))
        for value in uids.values():
            by_uid[str(value)] = position
        kind = str(body.get("type") or "")
        objects.append(
            {
                "uid": str(next(iter(uids.values()), position)),
                "uids": {_text(scope): _text(value) for scope, value in uids.items()},
                "type": kind,
                "kind": KINDS.get(kind, kind.rpartition("_")[2]),
                "name": _text(body.get("name") or kind),
                "tags": [_text(tag) for tag in _items(body.get("tags"))],
                "attributes": list(_attributes(body)),
                "files": [
                    {"name": _text(link.get("filename")), "url": str(link.get("url") or "")}
                    for link in _items(body.get("file_links"))
                    if isinstance(link, dict)
                ],
                "root": False,
                "detail": kind in _DETAILS,
            }
        )
    root = str(top.get("id") or "") if isinstance(top, dict) else ""
    if root in by_uid:
        objects[by_uid[root]]["root"] = True
    elif objects:
        objects[-1]["root"] = True
        root = objects[-1]["uid"]
    edges = []
    for position, body in enumerate(bodies):
        for name, target in _links(body):
            if target in by_uid and by_uid[target] != position:
                edges.append({"source": position, "target": by_uid[target], "name": name})
    return {"root": root, "objects": objects, "edges": edges}


def _links(node: Any, name: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(node, dict):
        if node.get("type") == "link_by_uid":
            yield name, str(node.get("id"))
            return
        for key, value in node.items():
            if key not in ("uids", "file_links"):
                yield from _links(value, name or str(key))
    elif isinstance(node, list):
        for value in node:
            yield from _links(value, name)


def _attributes(body: dict[str, Any]) -> Iterator[dict[str, str]]:
    for group in ("properties", "conditions", "parameters"):
        for attribute in _items(body.get(group)):
            if not isinstance(attribute, dict):
                continue
            inner = _table(attribute.get("property")) or attribute
            yield {
                "group": group[:-1] if group != "properties" else "property",
                "name": _text(inner.get("name")),
                "value": _text(_value(inner.get("value"))),
            }


def _value(value: Any) -> str:
    if not isinstance(value, dict):
        return ""
    unit = str(value.get("units") or "")
    for name in ("mean", "nominal"):
        if isinstance(value.get(name), int | float):
            return measured({"value": value[name], "unit": unit, "sigma": _number(value.get("std"))})
    if "lower_bound" in value:
        return (
            f"{_short(value['lower_bound'])} to {measured({'value': _number(value.get('upper_bound')), 'unit': unit})}"
        )
    return str(value.get("category") or value.get("smiles") or value.get("type") or "")


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def _short(number: Any) -> str:
    return f"{number:.6g}" if isinstance(number, int | float) else str(number)


# Boxes of the drawing, in SVG units.
BOX_WIDTH, BOX_HEIGHT, GAP_X, GAP_Y = 230, 46, 80, 22


def drawing(graph: dict[str, Any]) -> dict[str, Any]:
    """Return the graph laid out in three columns (runs, specs, templates) as SVG coordinates.

    Templates of single attributes are left out: there is one per value, and the lines to them hide all others.
    """
    heights = [0, 0, 0]
    places: dict[int, tuple[int, int]] = {}
    for position, found in enumerate(graph["objects"]):
        if found["detail"]:
            continue
        column = _COLUMNS.get(found["type"].rpartition("_")[2], 2)
        places[position] = (column * (BOX_WIDTH + GAP_X), heights[column])
        heights[column] += BOX_HEIGHT + GAP_Y
    used = [column for column in range(3) if heights[column]] or [0]
    lines = []
    for edge in graph["edges"]:
        if edge["source"] not in places or edge["target"] not in places:
            continue
        (x1, y1), (x2, y2) = places[edge["source"]], places[edge["target"]]
        y1, y2 = y1 + BOX_HEIGHT // 2, y2 + BOX_HEIGHT // 2
        if x1 == x2:
            # Within a column the line bows out at the right.
            x1 = x2 = x1 + BOX_WIDTH
            bow = x1 + GAP_X * 2 // 3
            path = f"M{x1},{y1} C{bow},{y1} {bow},{y2} {x2},{y2}"
        else:
            start, end = (x1 + BOX_WIDTH, x2) if x1 < x2 else (x1, x2 + BOX_WIDTH)
            middle = (start + end) // 2
            path = f"M{start},{y1} C{middle},{y1} {middle},{y2} {end},{y2}"
        lines.append({"path": path, "name": edge["name"]})
    boxes = [{"x": x, "y": y, "object": graph["objects"][position]} for position, (x, y) in places.items()]
    return {
        "boxes": boxes,
        "lines": lines,
        "width": (max(used) + 1) * (BOX_WIDTH + GAP_X),
        "height": max(heights) or BOX_HEIGHT,
    }


async def all_local(site: Site) -> list[dict[str, Any]]:
    """Return this worker's records, the newest first; walked in a thread."""
    now = site.clock()
    known = site.kept.get("records")
    if known is not None and 0 <= now - known[0] < KEEP_SECONDS:
        kept: list[dict[str, Any]] = known[1]
        return kept
    found = await asyncio.to_thread(lambda: [_entry(file_id, record) for file_id, record in site.results.records()])
    found.sort(key=lambda entry: (-entry["time"], entry["file_id"]))
    site.kept["records"] = (now, found)
    return found


def _entry(file_id: str, record: dict[str, Any]) -> dict[str, Any]:
    entry: dict[str, Any] = {"file_id": file_id}
    for name in ("uid", "name", "kind", "sample", "topic", "path"):
        entry[name] = str(record.get(name) or "")
    time = record.get("time")
    entry["time"] = float(time) if isinstance(time, int | float) else 0.0
    return entry


async def listing(site: Site, sample: str, local: bool) -> dict[str, Any]:
    """Return the answer of `/api/v1/gemd`: ``items`` of all workers, the newest first, and ``notes``."""
    answers = [] if local else await site.peers.ask("/api/v1/gemd?local=1")
    items = {(entry["file_id"], entry["uid"]): entry for entry in await all_local(site)}
    for answer in answers:
        body = answer.json() if answer.status == 200 else {}
        for entry in body.get("items") or ():
            items.setdefault((entry["file_id"], entry["uid"]), entry)
    ordered = sorted(items.values(), key=lambda entry: (-entry["time"], entry["file_id"]))
    chosen = [entry for entry in ordered if not sample or entry["sample"] == sample]
    return {
        "ok": True,
        "items": chosen[:LIMIT],
        "left_off": max(0, len(chosen) - LIMIT),
        "notes": site.peers.notes(answers),
    }
