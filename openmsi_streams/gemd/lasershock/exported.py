"""Exports of the laboratory's FileMaker database: JSON or CSV files, or its REST interface."""

from __future__ import annotations

import csv
import importlib
import io
import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from openmsi_streams.errors import RecordError, UsageError

# A layout of the database, and keys that only its records have together; used where a file does not say its layout.
SIGNATURES: dict[str, frozenset[str]] = {
    "Experiment": frozenset({"Experiment Type", "Launch ID"}),
    "Launch Package": frozenset({"Launch ID", "Flyer Row Location"}),
    "Flyer Stack": frozenset({"Flyer ID", "Foil Name", "Epoxy Name"}),
    "Sample": frozenset({"Sample Name", "Material Type"}),
    "Spacer Cutting Program": frozenset({"Spacer Cutting ID"}),
    "Flyer Cutting Program": frozenset({"Flyer Cutting ID"}),
    "Glass ID": frozenset({"Glass ID", "Glass name"}),
    "Foil ID": frozenset({"Foil ID", "Foil Name"}),
    "Epoxy ID": frozenset({"Epoxy ID", "Epoxy Name"}),
    "Spacer ID": frozenset({"Spacer ID", "Spacer Name"}),
}
LAYOUTS = tuple(SIGNATURES)


class Record(msgspec.Struct):
    """One record: its layout, its fields as exported, and where it was read."""

    layout: str
    fields: dict[str, Any]
    where: str = ""


def read_folder(path: Path) -> list[Record]:
    """Read all ``.json`` and ``.csv`` files of a folder (or one file).

    A file holds the records of one layout and is named after it (``Glass ID.json``, ``flyer_stack.csv``), or a JSON
    object with one list per layout, or the answer of FileMaker's data API. Where nothing names the layout, the keys do.

    Raises:
        RecordError: a file cannot be read, or a record fits no layout.
    """
    if not path.exists():
        raise RecordError(f"{path} does not exist. Give the folder with the exported records.")
    files = (
        sorted(item for item in path.rglob("*") if item.suffix.lower() in (".json", ".csv"))
        if path.is_dir()
        else [path]
    )
    records: list[Record] = []
    for file in files:
        try:
            text = file.read_text("utf-8-sig")
            rows = (
                json.loads(text)
                if file.suffix.lower() == ".json"
                else list(csv.DictReader(io.StringIO(text, newline="")))
            )
        except (OSError, ValueError, csv.Error) as error:
            raise RecordError(
                f"{file} cannot be read as an export: {error}. Export it again as JSON or CSV."
            ) from error
        records += _records(rows, layout_of(file.stem), str(file.name))
    return records


def layout_of(name: str) -> str | None:
    """Give the layout that a file or table name means (``launch_packages`` is ``Launch Package``), or None."""
    plain = re.sub(r"[^a-z]", "", name.lower())
    for layout in sorted(LAYOUTS, key=len, reverse=True):
        short = re.sub(r"[^a-z]", "", layout.lower())
        if plain in (short, short + "s", "lasershock" + short) or plain == short.removesuffix("id"):
            return layout
    return None


def _records(tree: Any, layout: str | None, where: str) -> list[Record]:
    if isinstance(tree, dict) and isinstance(tree.get("response"), dict):  # the data API's answer
        data = tree["response"].get("data") or []
        info = tree["response"].get("dataInfo") or {}
        layout = layout_of(str(info.get("layout", ""))) or layout
        return _rows([_flat(item) for item in data], layout, where)
    if isinstance(tree, dict) and tree and all(isinstance(value, list) for value in tree.values()):
        made: list[Record] = []
        for name, rows in tree.items():
            made += _rows(rows, layout_of(name) or layout, f"{where}: {name}")
        return made
    return _rows(tree if isinstance(tree, list) else [tree], layout, where)


def _flat(item: Any) -> Any:
    if isinstance(item, dict) and isinstance(item.get("fieldData"), dict):
        return {**item["fieldData"], "recordId": item.get("recordId", ""), "modId": item.get("modId", "")}
    return item


def _rows(rows: Iterable[Any], layout: str | None, where: str) -> list[Record]:
    made = []
    for number, row in enumerate(rows, 1):
        here = f"{where}, record {number}"
        if not isinstance(row, dict):
            raise RecordError(f"{here} is not a table of fields.")
        row = {str(key).strip(): value for key, value in _flat(row).items() if key is not None}
        found = layout or next((name for name, keys in SIGNATURES.items() if keys <= set(row)), None)
        if found is None:
            raise RecordError(
                f"{here} fits no layout. Name the file after one: {', '.join(LAYOUTS)}. "
                f"Its fields: {', '.join(list(row)[:8])}."
            )
        made.append(Record(found, row, here))
    return made


def read_server(url: str, database: str, layouts: Iterable[str] = LAYOUTS) -> Iterator[Record]:
    """Read all records of a FileMaker server through its data API.

    User and password come from OPENMSI_FILEMAKER_USER and OPENMSI_FILEMAKER_PASSWORD.

    Raises:
        UsageError: python-fmrest is not installed, or user and password are not set.
        RecordError: the server refuses or cannot be reached.
    """
    try:
        fmrest = importlib.import_module("fmrest")
    except ModuleNotFoundError as error:
        raise UsageError("Reading a FileMaker server needs python-fmrest: pip install python-fmrest") from error
    user, password = (os.environ.get(f"OPENMSI_FILEMAKER_{name}", "") for name in ("USER", "PASSWORD"))
    if not user or not password:
        raise UsageError(
            "Set OPENMSI_FILEMAKER_USER and OPENMSI_FILEMAKER_PASSWORD; they are never taken from options."
        )
    for layout in layouts:
        try:
            server = fmrest.Server(
                url, user=user, password=password, database=database, layout=layout, api_version="vLatest"
            )
            with server:
                server.login()
                # The data API gives 100 records unless asked; this is more than any laboratory's layout holds.
                found = server.get_records(limit=100000)
                rows = [dict(zip(item.keys(), item.values(), strict=True)) for item in found]
        except Exception as error:  # fmrest raises requests' errors and its own
            raise RecordError(f"The layout {layout!r} of {database!r} at {url} cannot be read: {error}.") from error
        yield from _rows(rows, layout, f"{database}: {layout}")
