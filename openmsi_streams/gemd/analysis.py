"""The record of an analysis: a second measurement run on the same sample, with computed properties.

GEMD has no link from one measurement to another, so a tag holds it: ``openmsi.derived_from::<uid of the file's run>``.
The recipe (program, version, settings) is the measurement spec, so equal recipes share one spec.
"""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

import msgspec

from openmsi_streams.gemd import ids
from openmsi_streams.gemd.mapping import Analysis, Entry, Mapping, Result
from openmsi_streams.gemd.sources import dig, scalar_text
from openmsi_streams.gemd.values import Made, attribute_json, make

# A result with no readable record behind it: there is nothing to compute from.
FAILED_CLASSES = frozenset({"unreadable"})

NOTES_BYTES = 4096


class AnalysisRecord(NamedTuple):
    """The parts of an analysis record as JSON."""

    uid: str
    static: tuple[bytes, ...]
    spec: bytes
    run: bytes
    flags: list[str]


def analysis_record(
    mapping: Mapping,
    entry: Entry,
    result: dict[str, Any],
    raw: dict[str, Any],
    raw_uid: str,
    shot: str,
    links: list[dict[str, str]],
) -> AnalysisRecord | None:
    """Give the record of an analysis result, or None when the mapping knows no such analysis.

    Args:
        mapping: the laboratory's mapping.
        entry: the entry of the raw file.
        result: the program's result: ``openmsi_streams.pdv/1``, or a flat table of a program with its own entry.
        raw: the body of the raw file's run; sample, name and date are taken from it.
        raw_uid: its uid.
        shot: the shot's id, or "".
        links: file links, the raw file's first.
    """
    rule = _rule(mapping, entry, result)
    if rule is None:
        return None
    flags: list[str] = []
    provenance = result.get("provenance")
    provenance = provenance if isinstance(provenance, dict) else {}
    program, version = _program(rule, provenance)
    settings, config = _settings(provenance)
    spec_uid, spec = _spec(mapping, rule, program, version, (settings, provenance), config, flags)
    kind = scalar_text(result.get("class"))
    failed = kind in FAILED_CLASSES or scalar_text(result.get("status")) == "failed"
    properties = [] if failed else _properties(rule, result, kind, flags)
    uid = ids.uid(mapping.space, "analysis", raw_uid, rule.name, program, version, config)
    tags = [
        "openmsi.record::analysis",
        f"openmsi.derived_from::{raw_uid}",
        ids.tag("openmsi.software", f"{program}::{version}" if version else program),
        ids.tag("openmsi.config_sha256", config),
    ]
    if shot:
        tags.append(ids.tag("openmsi.shot", shot))
    if kind:
        tags.append(ids.tag("openmsi.class", kind))
    scope = scalar_text(dig(provenance, "instrument.scope"))
    if scope:
        tags.append(ids.tag("openmsi.scope", scope))
    if failed:
        flags.append("openmsi.status::failed")
    quality = dig(result, "quality.flags")
    for item in quality if isinstance(quality, list) else []:
        text = scalar_text(item if not isinstance(item, dict) else item.get("flag", item.get("name")))
        if text:
            tags.append(ids.tag("openmsi.quality", text))
    tags = list(dict.fromkeys([*tags, *sorted(set(flags))]))
    if len(tags) > ids.TAGS_MAX:
        tags = [*tags[: ids.TAGS_MAX - 1], "openmsi.more_flags"]
    reason = scalar_text(result.get("reason")) or scalar_text(result.get("error"))
    source = raw.get("source") or {}
    date = source.get("performed_date")
    body = {
        "file_links": links,
        "material": raw["material"],
        "name": ids.name(f"{rule.name} of {raw['name']}"),
        "notes": ids.clip(reason, NOTES_BYTES) if reason else None,
        "properties": properties,
        # The date of the shot, never "now": a replay gives the same bytes.
        "source": {"performed_date": date, "type": "performed_source"} if date else None,
        "spec": ids.link(spec_uid),
        "tags": tags,
        "type": "measurement_run",
        "uids": {ids.SCOPE: uid},
    }
    return AnalysisRecord(uid, rule.static, spec, ids.encode(ids.prune(body)), flags)


def _rule(mapping: Mapping, entry: Entry, result: dict[str, Any]) -> Analysis | None:
    names = entry.analyses if entry.analyses is not None else tuple(mapping.analyses)
    wanted = result.get("schema")
    for name in names:
        rule = mapping.analyses[name]
        if rule.schema == wanted or (rule.schema is None and wanted is None):
            return rule
    return None


def _first(table: dict[str, Any], *keys: str) -> str:
    for key in keys:
        text = scalar_text(dig(table, key))
        if text:
            return ids.clean(text)
    return ""


def _program(rule: Analysis, provenance: dict[str, Any]) -> tuple[str, str]:
    name = rule.program or _first(provenance, "program", "software.name", "software") or "unknown"
    version = _first(provenance, "software_version", "version", "software.version", "program_version")
    written = _first(provenance, "software")
    if not version and written.startswith(f"{name} "):  # "openmsi_streams 0.1.0"
        version = written[len(name) + 1 :]
    return name, version


def _settings(provenance: dict[str, Any]) -> tuple[dict[str, Any], str]:
    settings = provenance.get("settings")
    settings = settings if isinstance(settings, dict) else {}
    given = _first(provenance, "settings_sha256", "settings_hash", "config_sha256", "settings.sha256")
    if not given:
        try:
            text = ids.encode(settings)
        except (TypeError, ValueError, OverflowError, msgspec.MsgspecError):
            text = ids.clean(repr(sorted(map(str, settings.items())))).encode()
        given = hashlib.sha256(text).hexdigest()
    return settings, given


def _spec(
    mapping: Mapping,
    rule: Analysis,
    program: str,
    version: str,
    recipe: tuple[dict[str, Any], dict[str, Any]],
    config: str,
    flags: list[str],
) -> tuple[str, bytes]:
    body: dict[str, Any] = {
        "name": ids.name(f"{rule.name}, {program} {version}, {config[:8]}".replace(" ,", ",")),
        "tags": [ids.tag("openmsi.config_sha256", config)],
        "template": ids.link(rule.template.uid),
        "type": "measurement_spec",
    }
    for item in rule.parameters:
        # A program may tell its settings apart, or beside the rest of where the result comes from.
        found = [value for value in (dig(table, item.key) for table in recipe) if value is not None]
        made = _value(item, found[0] if found else None, None)
        if made.value is not None:
            group = "parameters" if item.attribute.kind == "parameter" else "conditions"
            body.setdefault(group, []).append(attribute_json(item.attribute, made.value, "specified"))
        elif made.problem != "missing":
            flags.append(ids.tag(f"openmsi.{made.problem}", item.attribute.name))
    uid = ids.content_uid(mapping.space, "spec", body)
    body["uids"] = {ids.SCOPE: uid}
    return uid, ids.encode(body)


def _properties(rule: Analysis, result: dict[str, Any], kind: str | None, flags: list[str]) -> list[dict[str, Any]]:
    made = []
    quantities = result.get("quantities")
    table = quantities if isinstance(quantities, dict) else {}
    known = set()
    for item in rule.properties:
        known.add(item.key)
        raw = table[item.key] if item.key in table else dig(result, item.key)
        std = None
        if item.std is not None:
            std = table[item.std] if item.std in table else dig(result, item.std)
        value = _value(item, raw, std)
        if value.value is not None:
            made.append(attribute_json(item.attribute, value.value, "computed"))
        elif value.problem != "missing" or item.when is None or kind in item.when:
            flags.append(ids.tag(f"openmsi.{value.problem}", item.attribute.name))
    # What the program computed and the mapping does not name is said, not dropped in silence.
    flags += [ids.tag("openmsi.unmapped", str(key)) for key in table if key not in known]
    return made


def _value(item: Result, raw: Any, std: Any) -> Made:
    return make(item.attribute, raw, unit=item.unit, to=item.to, std=std)
