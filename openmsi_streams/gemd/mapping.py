"""A laboratory's mapping file: which files are which measurement, and where their values come from.

The file is checked in full when it is loaded. After that nothing about it can go wrong while files arrive.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from collections.abc import Mapping as AnyMapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import msgspec

from openmsi_streams.errors import RecordError
from openmsi_streams.gemd import extract, ids, library, sources
from openmsi_streams.gemd.rules import (
    ORIGINS,
    AnalysisRule,
    AttributeRule,
    General,
    IdentityRule,
    MapRule,
    ResultRule,
    SampleRule,
    Written,
)
from openmsi_streams.gemd.sources import Facts, Source
from openmsi_streams.gemd.stubs import stub_specs
from openmsi_streams.gemd.values import Made, attribute_json, make
from openmsi_streams.gemd.vocabulary import (
    Attribute,
    ObjectTemplate,
    Vocabulary,
    check_unit,
    closure,
    read_toml,
    shipped,
)


class Field(msgspec.Struct, frozen=True):
    """An attribute rule, ready for use."""

    attribute: Attribute
    places: tuple[Source, ...] = ()
    constant: Any = None
    unit: str = ""
    to: str = ""
    std: tuple[Source, ...] | float | None = None
    resolution: float | None = None
    origin: str = "measured"

    def make(self, facts: Facts) -> Made:
        """Find the value and make it GEMD's; never raises for a bad one."""
        raw = sources.look_up(self.places, facts) if self.places else self.constant
        std = sources.look_up(self.std, facts) if isinstance(self.std, tuple) else self.std
        return make(self.attribute, raw, unit=self.unit, to=self.to, std=std, resolution=self.resolution)


class Result(msgspec.Struct, frozen=True):
    """A quantity of an analysis, ready for use."""

    attribute: Attribute
    key: str
    unit: str
    to: str
    std: str | None
    when: frozenset[str] | None


class Analysis(msgspec.Struct, frozen=True):
    """An analysis table, ready for use, with its templates as JSON."""

    name: str
    program: str
    schema: str | None
    template: ObjectTemplate
    properties: tuple[Result, ...]
    parameters: tuple[Result, ...]
    static: tuple[bytes, ...]


class Entry(msgspec.Struct, frozen=True):
    """A ``[[map]]`` entry, ready for use, with everything constant already written as JSON."""

    id: str
    topic: str
    path: re.Pattern[str]
    template: ObjectTemplate
    name: str
    shot: str | None
    sidecars: tuple[str, ...]
    sidecar_shapes: tuple[re.Pattern[str], ...]
    analyses: tuple[str, ...] | None
    extractor: Callable[[bytes], AnyMapping[str, Any]] | None
    operator: tuple[Source, ...]
    link_only: bool
    identity_scope: str
    identity: tuple[Source, ...]
    also: tuple[tuple[str, tuple[Source, ...]], ...]
    fields: tuple[Field, ...]
    tags: tuple[tuple[str, tuple[Source, ...]], ...]
    spec_uid: str
    static: tuple[bytes, ...]


class Mapping:
    """A mapping file with its vocabulary, checked and ready. Make one with :meth:`load`, once, at start."""

    def __init__(self, table: dict[str, Any], where: str) -> None:
        self.where = where
        known = {"gemd", "map", "analysis", "sample", "property", "parameter", "condition"}
        known |= {"material", "process", "measurement"}
        for key in table:
            if key not in known:
                raise RecordError(f"{where}: [{key}] is unknown. Known tables: {', '.join(sorted(known))}.")
        self.general: General = _convert(table.get("gemd", {}), General, f"{where}: [gemd]")
        self.space = ids.namespace(self.general.namespace)
        base = shipped("base")[1]
        self.vocabulary = Vocabulary.build(
            [("base", base), *_extra(self.general.vocabulary, where), (where, table)], self.space
        )
        self.size = self.vocabulary.find("File size", where)
        self.default_sample: SampleRule = (
            _convert(table["sample"], SampleRule, f"{where}: [sample]") if "sample" in table else _IGSN
        )
        analyses = {**base["analysis"], **_tables(table, "analysis", where)}
        self.analyses = {name: self._analysis(name, rule) for name, rule in analyses.items()}
        rules: list[MapRule] = _convert(table.get("map", []), list[MapRule], f"{where}: [[map]]")
        seen: set[str] = set()
        for rule in rules:
            if rule.id in seen:
                raise RecordError(f"{where}: two [[map]] entries have the id {rule.id!r}; give each its own.")
            seen.add(rule.id)
        self.entries = [self._entry(rule) for rule in rules]
        self.generic = self._entry(MapRule(id="generic"))
        self._check_urls()

    @classmethod
    def load(cls, path: Path | None = None) -> Mapping:
        """Load a laboratory's file, or the default mapping (one record per file, PDV results understood).

        Raises:
            RecordError: the file cannot be read, or something in it is wrong; the message says where.
            ExtraMissing: the gemd library is not installed.
        """
        library.library()
        return cls({}, "default mapping") if path is None else cls(read_toml(path), path.name)

    def match(self, topic: str, path: str) -> tuple[Entry, dict[str, str | None]] | None:
        """Give the first entry that fits, with the groups of its path expression; None when such files are skipped."""
        for entry in self.entries:
            if fnmatchcase(topic, entry.topic):
                found = entry.path.search(path)
                if found is not None:
                    return entry, found.groupdict()
        return (self.generic, {}) if self.general.unmatched == "generic" else None

    def sidecar_paths(self, topic: str, path: str) -> list[str]:
        """Give the paths (same topic) where this file's sidecar may be, nearest first; empty when none is expected."""
        found = self.match(topic, path)
        if found is None or not found[0].sidecars:
            return []
        fields = {**found[1], **sources.path_fields(topic, path)}
        paths = [sources.fill(pattern, fields).lstrip("/") for pattern in found[0].sidecars]
        return [candidate for candidate in dict.fromkeys(paths) if candidate != path]

    def may_be_sidecar(self, topic: str, path: str) -> bool:
        """Tell whether a delivered file may describe others on its topic, whose records are then to be made again."""
        return any(
            fnmatchcase(topic, entry.topic) and any(shape.fullmatch(path) for shape in entry.sidecar_shapes)
            for entry in self.entries
        )

    def find_sidecar(self, topic: str, path: str, read: Callable[[str], bytes | None]) -> bytes | None:
        """Give the description of a file from all its sidecars that ``read`` finds; a nearer one overrules a farther.

        ``read`` takes a path on the same topic and gives the bytes, or None. Where there is one sidecar, or one of
        several cannot be read, the nearest is given as it is; :func:`records_for_file` says what is wrong with it.
        """
        found = [data for data in map(read, self.sidecar_paths(topic, path)) if data is not None]
        return sources.merged_sidecars(found) if len(found) > 1 else (found[0] if found else None)

    def wants_bytes(self, topic: str, path: str) -> bool:
        """Tell whether this file's entry names an extractor, so that the caller should give the file's first bytes."""
        found = self.match(topic, path)
        return found is not None and found[0].extractor is not None

    def extract(self, topic: str, path: str, data: bytes) -> dict[str, Any]:
        """Run the entry's extractor on the file's first bytes; empty when there is none or it fails. Never raises."""
        found = self.match(topic, path)
        if found is None or found[0].extractor is None:
            return {}
        return extract.run(found[0].extractor, data)

    def catalogue(self) -> list[tuple[bytes, bytes]]:
        """Give (key, document) of every template and spec, to be sent once when ``embed = "thin"``."""
        made: dict[str, bytes] = {}
        statics = [entry.static for entry in (*self.entries, self.generic)]
        statics.append(tuple(stub_specs(self.space)))
        for part in (*statics, *(item.static for item in self.analyses.values())):
            for encoded in part:
                uid = msgspec.json.decode(encoded)["uids"][ids.SCOPE]
                made.setdefault(uid, ids.document([encoded], [uid]))
        return [(uid.encode(), document) for uid, document in made.items()]

    def _entry(self, rule: MapRule) -> Entry:
        where = f"{self.where}: [[map]] {rule.id!r}"
        try:
            path = re.compile(rule.path)
        except re.error as error:
            raise RecordError(
                f"{where}: path is not a regular expression: {error}. In TOML, use single quotes."
            ) from error
        groups = tuple(path.groupindex)
        template = self.vocabulary.template("measurement", rule.measurement, where)
        fields = [self._field(name, item, template, where, groups) for name, item in rule.attributes.items()]
        settings = [self._field(name, item, template, where, (), True) for name, item in rule.settings.items()]
        for name in rule.analyses or ():
            if name not in self.analyses:
                raise RecordError(
                    f"{where}: there is no [analysis.{name!r}]. Known: {', '.join(sorted(self.analyses))}."
                )
        for key in rule.tags:
            if key.startswith("openmsi.") or "::" in key or not key:
                raise RecordError(f"{where}: the tag {key!r} is not allowed; 'openmsi.' is ours and '::' separates.")
        sample = rule.sample or self.default_sample
        scope, identity, also = self._sample(sample, where, groups)
        body = _spec(rule.measurement, template, settings, where)
        spec_uid = ids.content_uid(self.space, "spec", body)
        body["uids"] = {ids.SCOPE: spec_uid}
        used = [self.size, *(field.attribute for field in (*fields, *settings))]
        return Entry(
            id=rule.id,
            topic=rule.topic,
            path=path,
            template=template,
            name=sources.check_pattern(rule.name, where, groups),
            shot=sources.check_pattern(rule.shot, where, groups) if rule.shot else None,
            sidecars=tuple(sources.check_pattern(item, where, groups) for item in rule.sidecar),
            sidecar_shapes=tuple(sources.shape(item) for item in rule.sidecar),
            analyses=tuple(rule.analyses) if rule.analyses is not None else None,
            extractor=extract.named(rule.extract, where),
            operator=sources.parse(rule.operator, where, groups),
            link_only=sample.material == "link",
            identity_scope=scope,
            identity=identity,
            also=also,
            fields=tuple(fields),
            tags=tuple((key, sources.parse(item, where, groups)) for key, item in rule.tags.items()),
            spec_uid=spec_uid,
            static=(*closure(self.vocabulary, template, used), ids.encode(body)),
        )

    def _field(
        self,
        name: str,
        rule: AttributeRule,
        template: ObjectTemplate,
        where: str,
        groups: tuple[str, ...],
        setting: bool = False,
    ) -> Field:
        where = f"{where}: {name!r}"
        attribute = self.vocabulary.find(name, where, template)
        if (rule.source is None) == (rule.value is None):
            raise RecordError(f"{where}: give either from or value.")
        if setting and (rule.source is not None or attribute.kind == "property"):
            raise RecordError(f"{where}: a setting is a parameter or condition with a constant value.")
        if rule.origin not in ORIGINS:
            raise RecordError(f"{where}: origin is one of {', '.join(ORIGINS)} ('specified' belongs in settings).")
        if attribute.form != "real" and (rule.unit or rule.to or rule.std is not None or rule.resolution is not None):
            raise RecordError(f"{where}: unit, to, std and resolution are for real numbers; this is {attribute.form}.")
        if rule.resolution is not None and not rule.resolution > 0:
            raise RecordError(f"{where}: resolution must be above 0.")
        std = rule.std if isinstance(rule.std, int | float) else sources.parse(rule.std, where, groups) or None
        return Field(
            attribute=attribute,
            places=sources.parse(rule.source, where, groups),
            constant=rule.value,
            unit=_unit(rule.unit, attribute, where),
            to=_unit(rule.to, attribute, where) if rule.to is not None else "",
            std=std,
            resolution=rule.resolution,
            origin="specified" if setting else rule.origin,
        )

    def _sample(
        self, rule: SampleRule, where: str, groups: tuple[str, ...]
    ) -> tuple[str, tuple[Source, ...], tuple[tuple[str, tuple[Source, ...]], ...]]:
        scopes = [*([rule.identity.scope] if rule.identity else []), *rule.also]
        for scope in scopes:
            # Links are written by "auto"; a scope that sorts before it would take over after a reload.
            if scope.lower() <= ids.SCOPE or scope.lower() == "id" or "::" in scope or len(scope) > ids.SCOPE_BYTES:
                raise RecordError(
                    f"{where}: the scope {scope!r} cannot be used: it must sort after 'auto', not be 'id', and hold no "
                    "'::'. Usual scopes: igsn, lab.sample_id, lab.launch_id."
                )
        if len(scopes) + 1 > ids.UIDS_MAX:
            raise RecordError(f"{where}: a sample has at most {ids.UIDS_MAX - 1} ids beside our own.")
        if rule.material == "link" and rule.identity is None:
            raise RecordError(f"{where}: material = 'link' needs an identity to link to.")
        # The common [sample] may name groups that only some entries' paths have.
        shared = rule is self.default_sample
        identity = sources.parse(rule.identity.source, where, groups, lenient=shared) if rule.identity else ()
        also = tuple(
            sorted((scope, sources.parse(item, where, groups, lenient=shared)) for scope, item in rule.also.items())
        )
        return rule.identity.scope if rule.identity else "", identity, also

    def _analysis(self, name: str, entry: Any) -> Analysis:
        where = f"{self.where}: [analysis.{name!r}]"
        rule: AnalysisRule = _convert(entry, AnalysisRule, where)
        template = self.vocabulary.template("measurement", name, where)
        properties = tuple(self._result(key, item, template, where, True) for key, item in rule.properties.items())
        parameters = tuple(self._result(key, item, template, where, False) for key, item in rule.parameters.items())
        static = closure(self.vocabulary, template, [item.attribute for item in (*properties, *parameters)])
        return Analysis(name, rule.program, rule.schema, template, properties, parameters, tuple(static))

    def _result(self, name: str, rule: ResultRule, template: ObjectTemplate, where: str, wanted: bool) -> Result:
        where = f"{where}: {name!r}"
        attribute = self.vocabulary.find(name, where, template)
        if wanted != (attribute.kind == "property"):
            raise RecordError(
                f"{where}: is a {attribute.kind}; results are properties, settings parameters or conditions."
            )
        unit = _unit(rule.unit, attribute, where) if rule.unit is not None else ""
        to = _unit(rule.to, attribute, where) if rule.to is not None else attribute.unit
        when = frozenset(rule.when) if rule.when is not None else None
        return Result(attribute, rule.key, unit, to, rule.std, when)

    def _check_urls(self) -> None:
        for kind, pattern in self.general.urls.items():
            sources.check_pattern(pattern, f"{self.where}: [gemd] urls.{kind}", ())


_IGSN = SampleRule(identity=IdentityRule(scope="igsn", source=["header:igsn"]))


def _spec(name: str, template: ObjectTemplate, settings: list[Field], where: str) -> dict[str, Any]:
    body: dict[str, Any] = {"name": name, "template": ids.link(template.uid), "type": "measurement_spec"}
    for field in settings:
        made = field.make(Facts())
        if made.value is None:
            raise RecordError(f"{where}: the setting {field.attribute.name!r} = {field.constant!r} is {made.problem}.")
        group = "parameters" if field.attribute.kind == "parameter" else "conditions"
        body.setdefault(group, []).append(attribute_json(field.attribute, made.value, "specified"))
    return body


def _unit(written: str | None, attribute: Attribute, where: str) -> str:
    if written is None or attribute.form != "real":
        return attribute.unit
    name = check_unit(written, where)
    if library.base_units(name) != library.base_units(attribute.unit):
        raise RecordError(
            f"{where}: the unit {written!r} is read as {name!r} ({library.base_units(name)}), but the vocabulary has "
            f"{attribute.unit!r} ({library.base_units(attribute.unit)}); they measure different things."
        )
    return name


def _extra(written: Written, where: str) -> list[tuple[str, dict[str, Any]]]:
    names = [written] if isinstance(written, str) else written
    made = []
    for name in names:
        source, table = shipped(name)
        made.append((f"{where}: vocabulary {source}", table))
    return made


def _tables(table: dict[str, Any], key: str, where: str) -> dict[str, Any]:
    section = table.get(key, {})
    if not isinstance(section, dict):
        raise RecordError(f"{where}: [{key}] must be a table of names.")
    return section


def _convert(value: Any, kind: Any, where: str) -> Any:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise RecordError(f"{where}: {error}.") from error
