"""What each setting is, for people: name, type, default and meaning, read from the code that defines it."""

from __future__ import annotations

import ast
import functools
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec

from openmsi_streams.config import settings as module
from openmsi_streams.config import sizes
from openmsi_streams.config.settings import S3Settings, Section, Settings

# The name that stands for any store's name in the reference.
STORE = "NAME"


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting as the reference shows it."""

    section: str
    name: str
    kind: str
    default: Any
    meaning: str

    @property
    def dotted(self) -> str:
        """Its full name, ``section.name``."""
        return f"{self.section}.{self.name}"

    @property
    def variable(self) -> str:
        """The environment variable that sets it."""
        return "OPENMSI_STREAMS__" + self.dotted.replace(".", "__").upper()


@dataclass(frozen=True, slots=True)
class SectionDoc:
    """One section of the file."""

    name: str
    meaning: str
    settings: tuple[Setting, ...]


@functools.cache
def sections() -> tuple[SectionDoc, ...]:
    """Return all sections with their settings, in the order of the code; S3 stores as ``s3.NAME``."""
    texts = _texts()
    found: list[SectionDoc] = []
    for field in msgspec.structs.fields(Settings):
        kind = S3Settings if field.name == "s3" else field.type
        name = f"s3.{STORE}" if field.name == "s3" else field.name
        meaning = (kind.__doc__ or "").partition(":")[2].strip()
        own = tuple(
            Setting(
                name, one.name, _kind(_hints(kind)[one.name]), _default(one), texts[kind.__name__].get(one.name, "")
            )
            for one in msgspec.structs.fields(kind)
        )
        found.append(SectionDoc(name, meaning, own))
    return tuple(found)


def every() -> Iterator[Setting]:
    """Yield each setting."""
    for section in sections():
        yield from section.settings


@functools.cache
def _texts() -> dict[str, dict[str, str]]:
    """Return class -> attribute -> the text below it: Python keeps no docstrings of attributes."""
    found: dict[str, dict[str, str]] = {}
    for node in ast.parse(inspect.getsource(module)).body:
        if not isinstance(node, ast.ClassDef):
            continue
        texts = found.setdefault(node.name, {})
        last = ""
        for inner in node.body:
            if isinstance(inner, ast.AnnAssign) and isinstance(inner.target, ast.Name):
                last = inner.target.id
            elif last and isinstance(inner, ast.Expr) and isinstance(inner.value, ast.Constant):
                texts[last] = " ".join(str(inner.value.value).split())
                last = ""
    return found


def _hints(kind: type[Section]) -> dict[str, Any]:
    import typing

    return typing.get_type_hints(kind, include_extras=True)


def _default(field: Any) -> Any:
    if field.default is not msgspec.NODEFAULT:
        return field.default
    return field.default_factory() if field.default_factory is not msgspec.NODEFAULT else None


def _kind(hint: Any) -> str:
    """Return a type in words, e.g. ``number > 0`` or ``"keep" or "replace"``."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return f"{'bytes' if sizes.is_size(hint) else _kind(inner[0])}{_limits(inner[1:])}"
    if origin is Literal:
        return " or ".join(f'"{one}"' if isinstance(one, str) else str(one) for one in inner)
    if origin is list:
        return f"list of {_kind(inner[0])}"
    if origin is dict:
        return "table of text"
    if origin in (Union, UnionType):
        return " or ".join(_kind(one) for one in inner if one is not type(None))
    return {str: "text", int: "whole number", float: "number", bool: "true or false"}.get(hint, str(hint))


def _limits(extras: tuple[Any, ...]) -> str:
    said: list[str] = []
    for extra in extras:
        if isinstance(extra, msgspec.Meta):
            said += [
                f"{sign} {limit:g}" if isinstance(limit, float) else f"{sign} {limit}"
                for sign, limit in ((">", extra.gt), (">=", extra.ge), ("<", extra.lt), ("<=", extra.le))
                if limit is not None
            ]
    return f" {', '.join(said)}" if said else ""


def toml(value: Any) -> str:
    """Return a value as TOML."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return f"{value:g}" if isinstance(value, float) and abs(value) < 1e6 and value % 1 else repr(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(toml(one) for one in value)}]"
    if isinstance(value, dict):
        inner = ", ".join(f"{_key(key)} = {toml(one)}" for key, one in value.items())
        return f"{{ {inner} }}" if inner else "{}"
    # JSON's escapes are TOML's, for text without lone surrogates; TOML also forbids DEL as it is.
    return msgspec.json.encode(str(value)).decode().replace("\x7f", "\\u007f")


def _key(key: str) -> str:
    return key if key.replace("_", "").replace("-", "").isalnum() and key.isascii() else toml(key)


def write_toml(tree: dict[str, Any]) -> str:
    """Return a settings tree as a TOML file with only what is set, sections in the order of the code."""
    lines: list[str] = []
    order = [field.name for field in msgspec.structs.fields(Settings)]
    for name in sorted(tree, key=lambda one: order.index(one) if one in order else len(order)):
        tables = (
            {f"s3.{_key(store)}": inner for store, inner in tree[name].items()} if name == "s3" else {name: tree[name]}
        )
        for header, table in tables.items():
            plain = {key: value for key, value in table.items() if not isinstance(value, dict)}
            nested = {key: value for key, value in table.items() if isinstance(value, dict)}
            if plain:
                lines += [f"[{header}]", *(f"{_key(key)} = {toml(value)}" for key, value in plain.items()), ""]
            for key, inner in nested.items():
                lines += [
                    f"[{header}.{_key(key)}]",
                    *(f"{_key(one)} = {toml(value)}" for one, value in inner.items()),
                    "",
                ]
    return "\n".join(lines)


def template(full: bool = True) -> str:
    """Return a commented configuration file with every setting at its default, each line inactive."""
    lines = [
        "# Settings of openmsi-streams. Every line that starts with '#' shows a default.",
        "# A value '$NAME' stands for that environment variable; a secret '@PATH' for the content of that file.",
        "# Check it with: openmsi-streams config check",
        "",
    ]
    for section in sections():
        name = "s3.main" if section.name == f"s3.{STORE}" else section.name
        inactive = "# " if section.name == f"s3.{STORE}" else ""
        lines += [f"# {section.meaning}", f"{inactive}[{name}]"]
        for setting in section.settings:
            if isinstance(setting.default, dict):
                continue
            if full and setting.meaning:
                lines.append(f"# {setting.meaning}")
            lines.append(f"# {setting.name} = {toml(setting.default)}")
        for setting in section.settings:
            if isinstance(setting.default, dict):
                lines += [f"# {setting.meaning}", f"# [{name}.{setting.name}]"]
        lines.append("")
    return "\n".join(lines)


def schema() -> dict[str, Any]:
    """Return the JSON schema of the configuration file, with each setting's meaning as its description."""
    built: dict[str, Any] = msgspec.json.schema(Settings)
    by_class = {(S3Settings if f.name == "s3" else f.type).__name__: f.name for f in msgspec.structs.fields(Settings)}
    known = {setting.dotted: setting for setting in every()}
    for name, definition in built["$defs"].items():
        section = by_class.get(name, "")
        section = f"s3.{STORE}" if section == "s3" else section
        for key, entry in definition.get("properties", {}).items():
            if (setting := known.get(f"{section}.{key}")) is None:
                continue
            if setting.meaning:
                entry["description"] = setting.meaning
            if setting.kind.startswith("bytes"):
                entry["type"] = ["integer", "string"]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "openmsi-streams.toml",
        **built,
    }


SCHEMA_FILE = "openmsi-streams.schema.json"


def schema_text() -> str:
    """Return the schema as the text of the file that is shipped."""
    return msgspec.json.format(msgspec.json.encode(schema(), order="sorted"), indent=1).decode() + "\n"
