"""Write merged records in the form that somebody asked for."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from openmsi_streams.errors import UsageError
from openmsi_streams.gemd import ids, read

Form = Literal["folder", "document", "csv", "graphml", "objects"]
FORMS: tuple[Form, ...] = ("folder", "document", "csv", "graphml", "objects")


def form_of(out: Path, given: str | None) -> Form:
    """Give the form: as given, else by the ending of the output's name, else a folder."""
    if given is not None:
        if given not in FORMS:
            raise UsageError(f"The form {given!r} is unknown; there are {', '.join(FORMS)}.")
        return given
    by_ending: dict[str, Form] = {".json": "document", ".csv": "csv", ".graphml": "graphml"}
    return by_ending.get(out.suffix.lower(), "folder")


def write(form: Form, out: Path, records: list[dict[str, Any]], objects: read.Objects) -> str:
    """Write to ``out`` and give one line that says what was written.

    ``folder``: one self-contained document per record; ``document``: one GEMD document of all; ``csv``: a row per
    shot; ``graphml``: the graph; ``objects``: one thin JSON file per object.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    if form == "objects":
        return f"{len(read.explode(objects, out))} objects in {out}"
    if form == "folder":
        out.mkdir(parents=True, exist_ok=True)
        for number, record in enumerate(records):
            (out / f"{_name(record, number)}.gemd.json").write_bytes(ids.encode(record))
        return f"{len(records)} records in {out}"
    if form == "document":
        out.write_bytes(read.to_document(objects))
        return f"{len(objects)} objects in {out}"
    if form == "csv":
        rows = read.to_rows(objects)
        write_csv(out, rows)
        return f"{len(rows)} rows in {out}"
    graph = read.to_networkx(objects)
    import networkx

    networkx.write_graphml(graph, out)
    return f"{graph.number_of_nodes()} nodes and {graph.number_of_edges()} edges in {out}"


def write_csv(out: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write rows as CSV with a header line; columns in the order of :func:`openmsi_streams.gemd.rows.to_rows`."""
    rows = list(rows)
    columns = read.columns(rows)
    with open(out, "w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _name(record: dict[str, Any], number: int) -> str:
    root = record.get("object")
    link = root[0] if isinstance(root, list) and root else root
    uid = str(link.get("id")) if isinstance(link, dict) and link.get("id") else f"record-{number:06d}"
    return "".join(character if character.isalnum() or character in "-_." else "_" for character in uid)[:100]


def pretty(document: bytes) -> str:
    """Give a document for a person to read, one object after the other."""
    return json.dumps(json.loads(document), indent=2, sort_keys=True, ensure_ascii=False)
