"""Where a record's values come from: Kafka headers, a sidecar file, the path, an extractor, or a constant."""

from __future__ import annotations

import json
import re
import string
import tomllib
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from openmsi_streams.errors import RecordError

KINDS = ("header", "sidecar", "path", "extract")

# A sidecar describes one file; more than this is data, not a description, and would cost memory for every file.
SIDECAR_BYTES = 1 << 20

_placeholder = re.compile(r"\{(\w+)\}")
_path_fields = frozenset({"dir", "stem", "ext", "filename", "path", "topic"})


class Source(msgspec.Struct, frozen=True):
    """One place to look: ``sidecar:laser.energy_mJ`` is kind ``sidecar``, key ``laser.energy_mJ``."""

    kind: str
    key: str


class Facts(msgspec.Struct):
    """Everything that can be looked up for one file."""

    headers: Mapping[str, Any] = {}
    sidecar: Mapping[str, Any] = {}
    groups: Mapping[str, str | None] = {}
    extracted: Mapping[str, Any] = {}


def parse(
    written: str | list[str] | None, where: str, groups: Iterable[str], *, lenient: bool = False
) -> tuple[Source, ...]:
    """Read ``from = "sidecar:a.b"`` or a list of such; the first that gives a value wins.

    ``lenient`` leaves out groups that the path expression has not: for rules shared by several entries.

    Raises:
        RecordError: the kind is unknown, or the path expression has no such group.
    """
    made = []
    known = set(groups)
    for text in [written] if isinstance(written, str) else (written or []):
        kind, colon, key = text.partition(":")
        if not colon or kind not in KINDS or not key:
            raise RecordError(f"{where}: {text!r} is no source; write one of {', '.join(k + ':NAME' for k in KINDS)}.")
        if kind == "path" and key not in known:
            if lenient:
                continue
            raise RecordError(
                f"{where}: the path expression has no group {key!r}. Name it: (?P<{key}>...). "
                f"Groups there are: {', '.join(sorted(known)) or 'none'}."
            )
        made.append(Source(kind, key.lower() if kind == "header" else key))
    return tuple(made)


def look_up(sources: tuple[Source, ...], facts: Facts) -> Any:
    """Give the first value found, or None. Empty text counts as nothing."""
    for source in sources:
        if source.kind == "header":
            value: Any = facts.headers.get(source.key)
        elif source.kind == "path":
            value = facts.groups.get(source.key)
        else:
            value = dig(facts.sidecar if source.kind == "sidecar" else facts.extracted, source.key)
        if value is not None and value != "":
            return value
    return None


def dig(tree: Any, dotted: str) -> Any:
    """Follow a dotted path through tables and lists (``scope.channels.0.range``); None where it ends early."""
    if isinstance(tree, Mapping) and dotted in tree:
        return tree[dotted]
    for part in dotted.split("."):
        if isinstance(tree, Mapping):
            tree = tree.get(part)
        elif isinstance(tree, list) and part.isdecimal() and int(part) < len(tree):
            tree = tree[int(part)]
        else:
            return None
    return tree


def scalar_text(value: Any) -> str | None:
    """Give a header, sidecar or path value as text; None for tables, lists and nothing."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace").strip() or None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float):
        return str(value).strip() or None
    return None


def read_sidecar(data: bytes) -> dict[str, Any]:
    """Read a sidecar: JSON or TOML, a table at the top.

    Raises:
        ValueError: it is neither, is not a table, is over 1 MiB, or is nested without end.
    """
    if len(data) > SIDECAR_BYTES:
        raise ValueError(f"{len(data)} bytes are too many for a sidecar")
    text = data.decode("utf-8-sig")
    try:
        try:
            tree = json.loads(text)
        except json.JSONDecodeError:
            tree = tomllib.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(tree, dict):
        raise ValueError("no table at the top")
    return tree


def merged_sidecars(found: list[bytes]) -> bytes:
    """Join sidecars, nearest first, to one: a table is joined key by key, anything else is taken from the nearer."""
    try:
        trees = [read_sidecar(data) for data in found]
    except ValueError:
        return found[0]
    made: dict[str, Any] = {}
    for tree in reversed(trees):
        made = _over(made, tree)
    return json.dumps(made, default=str).encode()


def _over(far: dict[str, Any], near: dict[str, Any]) -> dict[str, Any]:
    made = dict(far)
    for key, value in near.items():
        old = made.get(key)
        made[key] = _over(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return made


def shape(pattern: str) -> re.Pattern[str]:
    """Give an expression that fits every path that a sidecar pattern may give."""
    parts = _placeholder.split(pattern)
    text = "".join(".*" if place % 2 else re.escape(part) for place, part in enumerate(parts))
    # An empty {dir} leaves a leading slash, which paths have not.
    return re.compile(text.replace(".*/", "(?:.*/)?", 1) if text.startswith(".*/") else text, re.DOTALL)


def path_fields(topic: str, path: str) -> dict[str, str]:
    """Give the fields that every pattern may use: dir, stem, ext, filename, path, topic."""
    folder, _, filename = path.rpartition("/")
    stem, dot, ext = filename.rpartition(".")
    if not dot or not stem:
        stem, ext = filename, ""
    return {"dir": folder, "stem": stem, "ext": ext, "filename": filename, "path": path, "topic": topic}


def check_pattern(pattern: str, where: str, groups: Iterable[str]) -> str:
    """Check that a pattern uses only ``{dir} {stem} {ext} {filename} {path} {topic}`` and groups of the path.

    Raises:
        RecordError: it names something else, or has stray braces.
    """
    known = _path_fields | set(groups)
    try:
        parts = [part for part in string.Formatter().parse(pattern) if part[1] is not None]
    except ValueError as error:
        raise RecordError(f"{where}: {pattern!r}: {error}.") from error
    for _, field, form, conversion in parts:
        if field not in known or form or conversion:
            raise RecordError(f"{where}: {{{field}}} is unknown in {pattern!r}. Known: {', '.join(sorted(known))}.")
    return pattern


def fill(pattern: str, fields: Mapping[str, str | None]) -> str:
    """Fill a checked pattern; a group that did not match gives nothing."""
    return _placeholder.sub(lambda match: fields.get(match.group(1)) or "", pattern)
