"""The words of a laboratory: attributes with units and limits, and the templates made of them.

A vocabulary is TOML; gemd's own classes turn it into templates. A template's uid grows from its content, so changing
a limit gives a new template and records written before stay valid.
"""

from __future__ import annotations

import json
import re
import tomllib
import uuid
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import msgspec

from openmsi_streams.errors import RecordError
from openmsi_streams.gemd import ids, library

Kind = Literal["property", "parameter", "condition"]
ObjectKind = Literal["material", "process", "measurement"]
Form = Literal["real", "integer", "choice", "composition", "text"]

KINDS: tuple[Kind, ...] = ("property", "parameter", "condition")
OBJECT_KINDS: tuple[ObjectKind, ...] = ("material", "process", "measurement")
PLURAL: dict[Kind, str] = {"property": "properties", "parameter": "parameters", "condition": "conditions"}

# Spellings that gemd reads without complaint as something else than their writer meant.
TRAPS: tuple[tuple[str, str], ...] = (
    (r"\b[kMGT]S(a)?\b", "samples per second are written as 'Hz' (S is siemens)"),
    (r"\b[kMGT]H\b", "a frequency is written as 'GHz' (H is henry)"),
    (r"\bat\s*%", "at% reads as percent times technical atmosphere; use '' or 'percent'"),
    (r"\bmol\s*%", "mol% reads as mole times percent; use '' or 'percent'"),
    (r"\bpx\b|\bpixels?\b", "a pixel reads as a length; count pixels with '' or 'count'"),
    (r"\bA_it\b", "A_it is the mean international ampere; the ampere is 'A'"),
)


class AttributeEntry(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """One line of a vocabulary: ``"Peak velocity" = { min = 0, max = 2.0e4, unit = "m/s" }``."""

    min: float | None = None
    max: float | None = None
    unit: str | None = None
    integer: bool = False
    choices: list[str] | None = None
    composition: list[str] | None = None
    text: bool = False
    base: str | None = None  # a unit of the dimension that is meant; a check only
    description: str | None = None


class ObjectEntry(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A material, process or measurement and the attributes it may have."""

    properties: list[str] = []
    parameters: list[str] = []
    conditions: list[str] = []
    description: str | None = None


class Attribute(msgspec.Struct, frozen=True):
    """An attribute ready for use: its limits in ``unit`` (gemd's name of it), and its template as JSON bytes."""

    name: str
    kind: Kind
    form: Form
    written_unit: str = ""
    unit: str = ""
    low: float = 0.0
    high: float = 0.0
    choices: frozenset[str] = frozenset()
    uid: str = ""  # empty: text without limits has no template
    encoded: bytes = b""


class ObjectTemplate(msgspec.Struct, frozen=True):
    """An object template as JSON bytes, with the attributes that it names."""

    name: str
    kind: ObjectKind
    uid: str
    encoded: bytes
    attributes: tuple[Attribute, ...]


class UnitLine(NamedTuple):
    """How one attribute's unit was understood, for a person to read."""

    kind: str
    name: str
    written: str
    read_as: str
    base: str
    limits: str


def check_unit(unit: str, where: str) -> str:
    """Give gemd's name of a unit.

    Raises:
        RecordError: the unit is unknown, or is one that gemd reads as something else than is meant.
    """
    for pattern, cure in TRAPS:
        if re.search(pattern, unit):
            raise RecordError(f"{where}: the unit {unit!r} would be read as {_reading(unit)}; {cure}.")
    try:
        return library.unit_name(unit)
    except RecordError as error:
        raise RecordError(f"{where}: {error}") from error


def _reading(unit: str) -> str:
    try:
        return f"{library.unit_name(unit)!r} ({library.base_units(unit)})"
    except RecordError:
        return "nothing"


class Vocabulary:
    """All attributes and object templates of a laboratory, by kind and name."""

    def __init__(self, space: uuid.UUID) -> None:
        self.space = space
        self.attributes: dict[tuple[Kind, str], Attribute] = {}
        self.templates: dict[tuple[ObjectKind, str], ObjectTemplate] = {}

    @classmethod
    def build(cls, tables: Iterable[tuple[str, Mapping[str, Any]]], space: uuid.UUID) -> Vocabulary:
        """Build from TOML tables, each with the name of its source; a later table replaces entries of an earlier one.

        Raises:
            RecordError: an entry is malformed, a unit is unknown or of another dimension, a name is not defined.
        """
        attributes: dict[tuple[Kind, str], tuple[str, AttributeEntry]] = {}
        templates: dict[tuple[ObjectKind, str], tuple[str, ObjectEntry]] = {}
        for source, table in tables:
            for kind in KINDS:
                for name, entry in _section(table, kind, source).items():
                    attributes[kind, name] = (source, _convert(entry, AttributeEntry, f"{source}: [{kind}] {name!r}"))
            for group in OBJECT_KINDS:
                for name, entry in _section(table, group, source).items():
                    templates[group, name] = (source, _convert(entry, ObjectEntry, f"{source}: [{group}.{name!r}]"))
        made = cls(space)
        for (kind, name), (source, attribute) in attributes.items():
            made.attributes[kind, name] = made._attribute(kind, name, attribute, f"{source}: [{kind}] {name!r}")
        for (group, name), (source, template) in templates.items():
            made.templates[group, name] = made._template(group, name, template, f"{source}: [{group}.{name!r}]")
        return made

    def find(self, name: str, where: str, prefer: ObjectTemplate | None = None) -> Attribute:
        """Give the attribute of that name, first among those of a template.

        Raises:
            RecordError: there is none, or several of different kinds.
        """
        if prefer is not None:
            for attribute in prefer.attributes:
                if attribute.name == name:
                    return attribute
        found = [self.attributes[kind, name] for kind in KINDS if (kind, name) in self.attributes]
        if len(found) == 1:
            return found[0]
        if not found:
            raise RecordError(
                f"{where}: the attribute {name!r} is not in the vocabulary. Add it to [property], [parameter] or "
                f"[condition]{self._similar(name)}."
            )
        raise RecordError(
            f"{where}: {name!r} is both a {found[0].kind} and a {found[1].kind}; give them different names."
        )

    def template(self, group: ObjectKind, name: str, where: str) -> ObjectTemplate:
        """Give the object template of that name, or raise RecordError."""
        if (group, name) not in self.templates:
            known = ", ".join(sorted(key for kind, key in self.templates if kind == group))
            raise RecordError(f"{where}: there is no [{group}.{name!r}]. Known: {known or 'none'}.")
        return self.templates[group, name]

    def unit_report(self) -> list[UnitLine]:
        """Give one line for each attribute: how its unit was read, in base units, and its limits."""
        lines = []
        for (kind, name), item in sorted(self.attributes.items()):
            if item.form == "real":
                limits = f"{item.low:g} to {item.high:g}"
                lines.append(UnitLine(kind, name, item.written_unit, item.unit, library.base_units(item.unit), limits))
            elif item.form == "integer":
                lines.append(UnitLine(kind, name, "", "integer", "", f"{item.low:.0f} to {item.high:.0f}"))
            else:
                lines.append(UnitLine(kind, name, "", item.form, "", ", ".join(sorted(item.choices))))
        return lines

    def _similar(self, name: str) -> str:
        import difflib

        close = difflib.get_close_matches(name, [key for _, key in self.attributes], n=1)
        return f", or did you mean {close[0]!r}?" if close else ""

    def _attribute(self, kind: Kind, name: str, entry: AttributeEntry, where: str) -> Attribute:
        _check_name(name, where)
        form = _form(entry, where)
        if form == "text":
            return Attribute(name, kind, "text")
        g = library.objects()
        unit = ""
        low = high = 0.0
        if form in ("real", "integer"):
            low, high = _limits(entry, where)
        if form == "real":
            unit = check_unit(entry.unit or "", where)
            meant = check_unit(entry.base, where) if entry.base is not None else unit
            if library.base_units(unit) != library.base_units(meant):
                raise RecordError(
                    f"{where}: the unit {entry.unit!r} is read as {unit!r} ({library.base_units(unit)}), which does "
                    f"not measure what {entry.base!r} measures ({library.base_units(meant)})."
                )
            bounds = g.RealBounds(low, high, unit)
        elif form == "integer":
            bounds = g.IntegerBounds(int(low), int(high))
        elif form == "choice":
            bounds = g.CategoricalBounds(entry.choices)
        else:
            bounds = g.CompositionBounds(entry.composition)
        maker = {"property": g.PropertyTemplate, "parameter": g.ParameterTemplate, "condition": g.ConditionTemplate}[
            kind
        ]
        uid, encoded = self._seal(maker(name=name, bounds=bounds, description=entry.description))
        choices = frozenset(entry.choices or entry.composition or ())
        return Attribute(name, kind, form, entry.unit or "", unit, low, high, choices, uid, encoded)

    def _template(self, group: ObjectKind, name: str, entry: ObjectEntry, where: str) -> ObjectTemplate:
        _check_name(name, where)
        g = library.objects()
        allowed: dict[ObjectKind, tuple[Kind, ...]] = {
            "material": ("property",),
            "process": ("parameter", "condition"),
            "measurement": KINDS,
        }
        used: list[Attribute] = []
        fields: dict[str, list[Any]] = {}
        for kind in KINDS:
            names: list[str] = getattr(entry, PLURAL[kind])
            if names and kind not in allowed[group]:
                raise RecordError(f"{where}: a {group} has no {PLURAL[kind]}.")
            for attribute_name in names:
                attribute = self.attributes.get((kind, attribute_name))
                if attribute is None:
                    raise RecordError(
                        f"{where}: the {kind} {attribute_name!r} is not in the vocabulary"
                        f"{self._similar(attribute_name)}."
                    )
                used.append(attribute)
                if attribute.uid:
                    fields.setdefault(PLURAL[kind], []).append(g.LinkByUID(ids.SCOPE, attribute.uid))
        maker = {
            "material": g.MaterialTemplate,
            "process": g.ProcessTemplate,
            "measurement": g.MeasurementTemplate,
        }[group]
        uid, encoded = self._seal(maker(name=name, description=entry.description, **fields))
        return ObjectTemplate(name, group, uid, encoded, tuple(used))

    def _seal(self, template: Any) -> tuple[str, bytes]:
        body = ids.prune(json.loads(library.library().json.GEMDJson().raw_dumps(template)))
        uid = ids.content_uid(self.space, "template", body)
        body["uids"] = {ids.SCOPE: uid}
        return uid, ids.encode(body)


def closure(vocabulary: Vocabulary, template: ObjectTemplate | None, extra: Iterable[Attribute] = ()) -> list[bytes]:
    """Give the JSON of a template and of all attribute templates that it or ``extra`` needs, in loading order."""
    wanted = {item.uid: item for item in (*(template.attributes if template else ()), *extra) if item.uid}
    ordered = sorted(wanted.values(), key=lambda item: (item.kind, item.name))
    return [item.encoded for item in ordered] + ([template.encoded] if template else [])


def shipped(name: str) -> tuple[str, dict[str, Any]]:
    """Give a vocabulary that comes with the program: ``base`` or ``laser_shock``.

    Raises:
        RecordError: there is none of that name.
    """
    folder = resources.files("openmsi_streams.gemd") / "vocabularies"
    wanted = name.removesuffix(".toml").replace("-", "_")
    known = sorted(item.name.removesuffix(".toml") for item in folder.iterdir() if item.name.endswith(".toml"))
    if wanted not in known:
        raise RecordError(f"There is no vocabulary {name!r}. The program brings: {', '.join(known)}.")
    return wanted, tomllib.loads((folder / f"{wanted}.toml").read_text("utf-8"))


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        RecordError: it is missing or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text("utf-8-sig"))
    except OSError as error:
        raise RecordError(f"{path} cannot be read: {error.strerror or error}. Check the path.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecordError(f"{path} is not TOML: {error}. Correct that line.") from error


def _section(table: Mapping[str, Any], key: str, source: str) -> dict[str, Any]:
    section = table.get(key, {})
    if not isinstance(section, dict):
        raise RecordError(f"{source}: [{key}] must be a table of names.")
    return cast("dict[str, Any]", section)


def _convert(entry: Any, kind: Any, where: str) -> Any:
    try:
        return msgspec.convert(entry, kind)
    except msgspec.ValidationError as error:
        raise RecordError(f"{where}: {error}.") from error


def _form(entry: AttributeEntry, where: str) -> Form:
    forms: list[Form] = []
    if entry.choices is not None:
        forms.append("choice")
    if entry.composition is not None:
        forms.append("composition")
    if entry.text:
        forms.append("text")
    if entry.integer:
        forms.append("integer")
    if entry.unit is not None:
        forms.append("real")
    if len(forms) != 1:
        raise RecordError(
            f"{where}: give exactly one of unit (with min and max; '' for a plain number), integer, choices, "
            f"composition and text{'; these were given: ' + ', '.join(forms) if forms else ''}."
        )
    if forms[0] in ("choice", "composition") and not (entry.choices or entry.composition):
        raise RecordError(f"{where}: the list of choices is empty, so no value would be allowed; use text = true.")
    return forms[0]


def _limits(entry: AttributeEntry, where: str) -> tuple[float, float]:
    low, high = entry.min, entry.max
    if low is None or high is None:
        raise RecordError(f"{where}: min and max are needed; they catch wrong units, so give wide physical limits.")
    if not (abs(low) < float("inf") and abs(high) < float("inf") and low <= high):
        raise RecordError(f"{where}: min ({low}) and max ({high}) must be finite and in order.")
    return low, high


def _check_name(name: str, where: str) -> None:
    if not name.strip() or len(name.encode("utf-8", "replace")) > ids.NAME_BYTES:
        raise RecordError(f"{where}: a name has 1 to {ids.NAME_BYTES} bytes.")
