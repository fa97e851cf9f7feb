"""The rules of the written GEMD specification that gemd's own classes accept in silence.

Works on plain JSON objects, so it also serves where gemd is not installed. Source: the GEMD documentation,
specification pages (unique identifiers, tags, attributes, objects), 2024-05.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from openmsi_streams.gemd import ids

NAME_MAX = 128  # bytes, as the specification says; our own names stay a little below


class Finding(NamedTuple):
    """One breach of a rule."""

    rule: str
    where: str
    message: str


_date = re.compile(r"^\d{4}-\d\d-\d\d(T\d\d:\d\d:\d\d)?$")
_attribute_lists = ("properties", "parameters", "conditions")


def lint(objects: Iterable[dict[str, Any]], *, open_links: bool = True) -> list[Finding]:
    """Check GEMD objects as :func:`openmsi_streams.gemd.read.merge` gives them (or a record's ``context``).

    Args:
        objects: plain JSON objects with links between them.
        open_links: also report links to objects that are not among them.
    """
    items = list(objects)
    index: dict[tuple[str, str], dict[str, Any]] = {}
    findings: list[Finding] = []
    for item in items:
        for scope, identifier in (item.get("uids") or {}).items():
            other = index.setdefault((scope.lower(), str(identifier)), item)
            if other is not item:
                message = f"{scope}::{identifier} names two objects; readers keep one of them"
                findings.append(Finding("uid-twice", _where(item), message))
    for item in items:
        findings += _object(item)
        findings += _relations(item, index)
        if open_links:
            findings += [
                Finding("open-link", _where(item), f"{relation} points to {scope}::{identifier}, which is not here")
                for relation, scope, identifier in links_of(item)
                if (scope.lower(), identifier) not in index
            ]
    return findings


def links_of(item: Any, relation: str = "") -> Iterator[tuple[str, str, str]]:
    """Give (field, scope, id) of every link inside an object."""
    if isinstance(item, dict):
        if item.get("type") == "link_by_uid":
            yield relation, str(item.get("scope")), str(item.get("id"))
            return
        for key, value in item.items():
            if isinstance(value, dict | list):
                yield from links_of(value, relation or key)
    elif isinstance(item, list):
        for value in item:
            yield from links_of(value, relation)


def _where(item: dict[str, Any]) -> str:
    uid = next(iter((item.get("uids") or {"": "no uid"}).values()))
    return f"{item.get('type')} {item.get('name')!r} ({uid})"


def _object(item: dict[str, Any]) -> Iterator[Finding]:
    where = _where(item)
    kind = str(item.get("type"))
    name = item.get("name")
    if kind not in ("ingredient_run",) and not name:
        yield Finding("name-missing", where, "has no name")
    if isinstance(name, str) and len(name.encode("utf-8", "replace")) > NAME_MAX:
        yield Finding("name-long", where, f"the name has more than {NAME_MAX} bytes")
    tags = item.get("tags") or []
    if len(tags) > ids.TAGS_MAX:
        yield Finding("tags-many", where, f"{len(tags)} tags; {ids.TAGS_MAX} are allowed")
    for tag in tags:
        if len(str(tag).encode("utf-8", "replace")) > ids.TAG_BYTES:
            yield Finding("tag-long", where, f"the tag {str(tag)[:40]!r}... has more than {ids.TAG_BYTES} bytes")
    uids = item.get("uids") or {}
    if not uids:
        yield Finding("uid-missing", where, "has no uid; writing it again gives it a random one")
    if len(uids) > ids.UIDS_MAX:
        yield Finding("uids-many", where, f"{len(uids)} uids; {ids.UIDS_MAX} are allowed")
    for scope, identifier in uids.items():
        if scope.lower() == "id" or "::" in scope or not scope:
            yield Finding("scope", where, f"the scope {scope!r} is not allowed")
        if len(str(identifier).encode("utf-8", "replace")) > ids.ID_BYTES:
            yield Finding("id-long", where, f"the {scope} id has more than {ids.ID_BYTES} bytes")
    for link in item.get("file_links") or []:
        if not link.get("url") or not link.get("filename"):
            yield Finding("file-link", where, f"the file link {link.get('filename')!r} has no URL or no name")
    for group in _attribute_lists:
        yield from _attributes(item.get(group) or [], group, where, kind)
    date = (item.get("source") or {}).get("performed_date")
    if date is not None and not _date.match(str(date)):
        yield Finding("date", where, f"the date {date!r} is not written YYYY-MM-DD[THH:MM:SS]")
    yield from _numbers(item, where)


def _attributes(entries: list[Any], group: str, where: str, kind: str) -> Iterator[Finding]:
    if kind.endswith("_template"):
        return
    names: set[str] = set()
    templates: set[tuple[str, str]] = set()
    for entry in entries:
        body = entry.get("property", entry) if isinstance(entry, dict) else {}
        name = str(body.get("name"))
        if name in names:
            yield Finding("attribute-twice", where, f"two {group} are named {name!r}")
        names.add(name)
        template = body.get("template")
        if isinstance(template, dict) and template.get("type") == "link_by_uid":
            key = (str(template.get("scope")), str(template.get("id")))
            if key in templates:
                yield Finding("template-twice", where, f"two {group} have the template of {name!r}")
            templates.add(key)
        if kind.endswith("_run") and body.get("origin") == "specified":
            yield Finding("specified", where, f"{name!r} has the origin 'specified', which belongs in a spec")


def _numbers(node: Any, where: str) -> Iterator[Finding]:
    if isinstance(node, dict):
        if node.get("type") == "normal_real":
            std = node.get("std")
            if not isinstance(std, int | float) or not std >= 0:
                yield Finding("std", where, f"the standard deviation {std!r} is not a number of at least 0")
        for value in node.values():
            yield from _numbers(value, where)
    elif isinstance(node, list):
        for value in node:
            yield from _numbers(value, where)
    elif isinstance(node, float) and not math.isfinite(node):
        yield Finding("not-finite", where, f"holds {node}, which is not JSON")


_NEEDED = {
    "measurement_run": ("spec", "material"),
    "process_run": ("spec",),
    "material_run": ("spec", "process"),
    "material_spec": ("process",),
    "ingredient_run": ("spec", "material", "process"),
    "ingredient_spec": ("material", "process"),
}


def _relations(item: dict[str, Any], index: dict[tuple[str, str], dict[str, Any]]) -> Iterator[Finding]:
    where = _where(item)
    for field in _NEEDED.get(str(item.get("type")), ()):
        if not item.get(field):
            yield Finding(f"no-{field}", where, f"has no {field}")
    if item.get("type") == "material_run":
        spec, process = _follow(item.get("spec"), index), _follow(item.get("process"), index)
        if spec is not None and process is not None:
            one, two = _follow(process.get("spec"), index), _follow(spec.get("process"), index)
            if one is not two:
                yield Finding("square", where, "its process follows another spec than its own spec's process")


def _follow(link: Any, index: dict[tuple[str, str], dict[str, Any]]) -> dict[str, Any] | None:
    if not isinstance(link, dict):
        return None
    return index.get((str(link.get("scope")).lower(), str(link.get("id"))))
