"""Read GEMD records back: from files, folders or messages to objects, a graph, a table, or one file per object.

Plain JSON does all of it but :func:`load`; networkx and pandas are imported by the functions that need them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from openmsi_streams.errors import ExtraMissing, RecordError
from openmsi_streams.gemd import ids, library
from openmsi_streams.gemd.lint import links_of
from openmsi_streams.gemd.rows import columns, to_rows

__all__ = [
    "columns",
    "explode",
    "iter_records",
    "load",
    "merge",
    "to_dataframe",
    "to_document",
    "to_networkx",
    "to_rows",
]

Objects = list[dict[str, Any]]

# gemd's loader resolves only links to objects that it has seen: what is referred to must come first.
_RANK = {
    "condition_template": 0,
    "parameter_template": 0,
    "property_template": 0,
    "material_template": 1,
    "measurement_template": 1,
    "process_template": 1,
    "measurement_spec": 2,
    "process_spec": 2,
    "material_spec": 3,
    "process_run": 3,
    "ingredient_spec": 4,
    "material_run": 4,
    "ingredient_run": 5,
    "measurement_run": 5,
}


def iter_records(source: str | Path | Iterable[bytes | str | dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Give records as documents ``{"context": [...], "object": ...}``.

    Args:
        source: a file (``.json`` with one document, ``.jsonl`` with one a line), a folder (all ``*.gemd.json`` and
            ``*.jsonl`` below it; all ``*.json`` where there are none), or the messages of a topic.

    Raises:
        RecordError: a file is missing or is not JSON.
    """
    if isinstance(source, str | Path):
        for path in _files(Path(source)):
            try:
                text = path.read_text("utf-8")
                parts = text.splitlines() if path.suffix == ".jsonl" else [text]
                for part in parts:
                    if part.strip():
                        yield _document(json.loads(part), str(path))
            except (OSError, ValueError) as error:
                raise RecordError(f"{path} is no GEMD document: {error}. Remove it or send its file again.") from error
    else:
        for number, item in enumerate(source):
            if isinstance(item, dict):
                yield _document(item, f"record {number}")
            elif item:  # an empty value is a tombstone of a compacted topic
                try:
                    yield _document(json.loads(item), f"record {number}")
                except ValueError as error:
                    raise RecordError(f"Record {number} is not JSON: {error}.") from error


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        ours = sorted([*path.rglob("*.gemd.json"), *path.rglob("*.jsonl")])
        return ours or sorted(path.rglob("*.json"))
    if not path.exists():
        raise RecordError(
            f"{path} does not exist. Give a record, a folder with records, or a bucket or topic to export."
        )
    return [path]


def _document(tree: Any, where: str) -> dict[str, Any]:
    if isinstance(tree, dict) and "context" in tree:
        return tree
    if isinstance(tree, dict) and tree.get("type") in _RANK:  # one thin object, as `explode` writes it
        return {"context": [tree], "object": None}
    if isinstance(tree, list):
        return {"context": tree, "object": None}
    raise RecordError(f"{where} holds neither a GEMD document nor a GEMD object.")


def merge(records: Iterable[dict[str, Any]]) -> Objects:
    """Join records to one set of objects in loading order, each once.

    Objects that share any uid are one. A real object beats a stub, a higher ``openmsi.rev`` beats a lower, else the
    later wins; uids of all are kept, and links that named a stub then lead to the real object. The result does not
    depend on the order of the records, except where two real objects contradict each other.
    """
    groups = _Groups()
    for record in records:
        for item in record.get("context") or []:
            if isinstance(item, dict) and item.get("type") in _RANK:
                groups.add(item)
        root = record.get("object")
        for item in root if isinstance(root, list) else [root]:
            if isinstance(item, dict) and item.get("type") in _RANK:
                groups.add(item)
    winners = groups.winners()
    aliases = {key: ids.link(*_primary(item)) for item, keys in winners for key in keys}
    merged = [_relink(item, aliases) for item, _ in winners]
    # The stand-in process of a stub that a real sample has replaced belongs to nothing any more.
    used = {(scope.lower(), identifier) for item in merged for _, scope, identifier in links_of(item)}
    kept = [item for item in merged if not (_idle_stub(item) and not any(key in used for key in _keys(item)))]
    return sorted(kept, key=lambda item: (_RANK[item["type"]], _primary(item)))


def _keys(item: dict[str, Any]) -> list[tuple[str, str]]:
    return [(scope.lower(), str(identifier)) for scope, identifier in (item.get("uids") or {}).items()]


def _primary(item: dict[str, Any]) -> tuple[str, str]:
    """Give (id, scope) that links use: our own scope if there, else the first by name."""
    uids = item.get("uids") or {}
    scope = ids.SCOPE if ids.SCOPE in uids else min(uids)
    return str(uids[scope]), scope


def _node(item: dict[str, Any]) -> str:
    """Give a name that only this object has: our uid, or scope and id of another system."""
    identifier, scope = _primary(item)
    return identifier if scope == ids.SCOPE else f"{scope}::{identifier}"


def _idle_stub(item: dict[str, Any]) -> bool:
    return item["type"] in ("process_run", "process_spec", "material_spec") and "openmsi.stub" in (
        item.get("tags") or []
    )


def _strength(item: dict[str, Any]) -> tuple[bool, int]:
    tags = item.get("tags") or []
    revision = max((int(tag[13:]) for tag in tags if re.fullmatch(r"openmsi\.rev::\d{1,9}", str(tag))), default=0)
    return "openmsi.stub" not in tags, revision


class _Groups:
    """Objects that are one because they share a uid."""

    def __init__(self) -> None:
        self._group: dict[tuple[str, str], int] = {}
        self._members: dict[int, list[dict[str, Any]]] = {}
        self._next = 0

    def add(self, item: dict[str, Any]) -> None:
        keys = _keys(item)
        if not keys:
            raise RecordError(f"The {item.get('type')} {item.get('name')!r} has no uid, so nothing can refer to it.")
        found = sorted({self._group[key] for key in keys if key in self._group})
        if found:
            target = found[0]
        else:
            target, self._next = self._next, self._next + 1
        members = self._members.setdefault(target, [])
        for other in found[1:]:
            for member in self._members.pop(other):
                members.append(member)
            for key, group in self._group.items():
                if group == other:
                    self._group[key] = target
        if item in members:  # seen again: it counts as the later one
            members.remove(item)
        members.append(item)
        for key in keys:
            self._group[key] = target

    def winners(self) -> list[tuple[dict[str, Any], set[tuple[str, str]]]]:
        keys: dict[int, set[tuple[str, str]]] = {}
        for key, group in self._group.items():
            keys.setdefault(group, set()).add(key)
        made = []
        for group, members in self._members.items():
            best = members[0]
            for member in members[1:]:
                if _strength(member) >= _strength(best):
                    best = member
            uids: dict[str, str] = {}
            for member in members:
                uids.update(member["uids"])
            made.append(({**best, "uids": {**uids, **best["uids"]}}, keys[group]))
        return made


def _relink(node: Any, aliases: dict[tuple[str, str], dict[str, str]]) -> Any:
    if isinstance(node, dict):
        if node.get("type") == "link_by_uid":
            return aliases.get((str(node.get("scope")).lower(), str(node.get("id"))), node)
        return {key: _relink(value, aliases) for key, value in node.items()}
    if isinstance(node, list):
        return [_relink(value, aliases) for value in node]
    return node


def to_document(objects: Objects) -> bytes:
    """Give one GEMD document of all objects; its ``object`` is the list of runs that are measurements, else of all."""
    roots = [item for item in objects if item["type"] == "measurement_run"] or objects
    links = [ids.link(*_primary(item)) for item in roots]
    return ids.encode({"context": objects, "object": links})


def load(objects: Objects) -> list[Any]:
    """Load merged objects with gemd's own loader: one connected graph of gemd objects, in the same order.

    Raises:
        ExtraMissing: gemd is not installed.
    """
    everything = {"context": objects, "object": [ids.link(*_primary(item)) for item in objects]}
    loaded: list[Any] = library.library().json.loads(ids.encode(everything).decode())
    return loaded


def to_networkx(objects: Objects) -> Any:
    """Give a ``networkx.DiGraph``: a node per object (by uid), an edge to everything that it refers to.

    Nodes carry ``type``, ``name`` and ``tags``; edges carry ``relation``. ``derived_from`` tags are edges too, so the
    descendants of an analysis reach its raw file's run, sample, specs and templates.

    Raises:
        ExtraMissing: networkx is not installed.
    """
    try:
        import networkx
    except ModuleNotFoundError as error:
        raise ExtraMissing("A graph of records", "records", "networkx") from error
    graph = networkx.DiGraph()
    nodes = {key: _node(item) for item in objects for key in _keys(item)}
    for item in objects:
        tags = [str(tag) for tag in item.get("tags") or []]
        graph.add_node(_node(item), type=item["type"], name=str(item.get("name") or item["type"]), tags="\n".join(tags))
    for item in objects:
        start = _node(item)
        for relation, scope, identifier in links_of(item):
            end = nodes.get((scope.lower(), identifier))
            if end is None:
                end = f"{scope}::{identifier}"
                graph.add_node(end, type="link_by_uid", name=end, tags="")
            graph.add_edge(start, end, relation=relation)
        for tag in item.get("tags") or []:
            if str(tag).startswith("openmsi.derived_from::"):
                end = nodes.get((ids.SCOPE, str(tag).partition("::")[2]))
                if end is not None:
                    graph.add_edge(start, end, relation="derived_from")
    return graph


def to_dataframe(objects: Objects) -> Any:
    """Give a ``pandas.DataFrame`` with one row per shot: see :func:`to_rows` for its columns.

    Raises:
        ExtraMissing: pandas is not installed.
    """
    try:
        import pandas
    except ModuleNotFoundError as error:
        raise ExtraMissing("A table of records", "records", "pandas") from error
    rows = to_rows(objects)
    return pandas.DataFrame(rows, columns=columns(rows))


def explode(objects: Objects, folder: str | Path) -> list[Path]:
    """Write one thin JSON file per object (links, no context), as openmsimodel's OpenGraph reads them."""
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    written = []
    for item in objects:
        identifier = _node(item)
        name = re.sub(r"[^A-Za-z0-9._-]+", "_", str(item.get("name") or ""))[:60]
        path = target / f"{item['type']}_{name}_{re.sub(r'[^A-Za-z0-9._-]+', '_', identifier)[:80]}.json"
        path.write_bytes(ids.encode(item))
        written.append(path)
    return written
