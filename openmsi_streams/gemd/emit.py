"""From the facts of one file to its GEMD records: pure, deterministic, and never in the way of the file.

One ``MeasurementRun`` stands for the file version and one for its analysis, both on the same sample. Objects refer to
each other by link only and everything constant is already JSON, so that a record costs well under a millisecond.
"""

from __future__ import annotations

import datetime
import logging
from collections.abc import Mapping as AnyMapping
from collections.abc import Sequence
from typing import Any
from urllib.parse import unquote

import msgspec

from openmsi_streams.gemd import ids, sources
from openmsi_streams.gemd.analysis import analysis_record
from openmsi_streams.gemd.facts import FileFacts, RecordSet, StoreLink
from openmsi_streams.gemd.mapping import Entry, Mapping
from openmsi_streams.gemd.material import material_objects
from openmsi_streams.gemd.stubs import stub_specs
from openmsi_streams.gemd.values import attribute_json, make

__all__ = ["FileFacts", "RecordSet", "StoreLink", "records_for_file"]

log = logging.getLogger(__name__)

GROUP = {"parameter": "parameters", "condition": "conditions", "property": "properties"}


def records_for_file(
    mapping: Mapping,
    file: FileFacts,
    deliveries: Sequence[StoreLink],
    analysis: dict[str, Any] | None = None,
    sidecar: bytes | None = None,
    headers: AnyMapping[str, str] | None = None,
    *,
    extracted: AnyMapping[str, Any] | None = None,
    sidecar_links: Sequence[StoreLink] = (),
    analysis_links: Sequence[StoreLink] = (),
) -> RecordSet:
    """Give the records of a delivered file, and of its analysis when there is one.

    Args:
        mapping: the laboratory's mapping, loaded at start.
        file: the file version.
        deliveries: the stores that hold it.
        analysis: a result of schema ``openmsi_streams.pdv/1``, or of another program that the mapping describes.
        sidecar: the bytes of the sidecar file, None when there is none yet (see ``Mapping.sidecar_paths``).
        headers: Kafka headers of the chunks.
        extracted: what ``Mapping.extract`` found in the file's first bytes.
        sidecar_links: where the sidecar is stored.
        analysis_links: where sheet, result and history of the analysis are stored.

    Never raises: what is wrong becomes a flag in the record and in ``RecordSet.flags``.
    """
    try:
        return _build(
            mapping, file, deliveries, analysis, sidecar, headers or {}, extracted or {}, sidecar_links, analysis_links
        )
    except Exception as error:  # whatever it is, the file goes on; the cause is in the log and in the flag
        log.exception("The GEMD record of %r on %s could not be made in full", file.path, file.topic)
        flag = f"openmsi.record_error::{type(error).__name__}"
        try:
            made = _build(mapping, file, deliveries, None, None, {}, {}, (), (), flag=flag)
        except Exception:
            log.exception("Nor could the plain record of %r", file.path)
            return RecordSet(flags=[flag])
        return made


def _build(
    mapping: Mapping,
    file: FileFacts,
    deliveries: Sequence[StoreLink],
    analysis: dict[str, Any] | None,
    sidecar: bytes | None,
    headers: AnyMapping[str, Any],
    extracted: AnyMapping[str, Any],
    sidecar_links: Sequence[StoreLink],
    analysis_links: Sequence[StoreLink],
    flag: str = "",
) -> RecordSet:
    found = mapping.match(file.topic, file.path)
    if found is None:
        return RecordSet()
    entry, groups = found
    flags = [flag] if flag else []
    facts = sources.Facts({str(key).lower(): value for key, value in headers.items()}, {}, groups, extracted)
    tree = _sidecar(sidecar, flags)
    if tree is not None:
        facts.sidecar = tree
    fields = {**groups, **sources.path_fields(file.topic, file.path)}
    material, objects, sample_uid = material_objects(mapping, entry, file, facts, flags)
    links = _links(mapping, file, deliveries)
    if not links:
        flags.append("openmsi.no_store::file")
    uid = ids.uid(mapping.space, "file", file.topic, file.path, file.sha512)
    shot = ids.clean(sources.fill(entry.shot, fields)).strip() if entry.shot else ""
    body: dict[str, Any] = {
        "file_links": links + [_link(mapping, item, file) for item in sidecar_links],
        "material": material,
        "name": ids.name(sources.fill(entry.name, fields)),
        "source": _source(entry, file, facts, flags),
        "spec": ids.link(entry.spec_uid),
        "type": "measurement_run",
        "uids": {ids.SCOPE: uid},
    }
    _attributes(mapping, entry, file, facts, body, flags)
    tags = [
        "openmsi.record::file",
        ids.tag("openmsi.topic", file.topic),
        ids.tag("openmsi.path", file.path),
        ids.tag("openmsi.sha512", file.sha512),
        ids.tag("openmsi.file_id", file.file_id),
        ids.tag("openmsi.map", entry.id),
    ]
    if file.media_type:
        tags.append(ids.tag("openmsi.media_type", file.media_type))
    if shot:
        tags.append(ids.tag("openmsi.shot", shot))
    if entry.sidecars or sidecar is not None:
        tags.append(f"openmsi.rev::{0 if tree is None else 1}")
    for key, places in entry.tags:
        text = sources.scalar_text(sources.look_up(places, facts))
        if text is None:
            flags.append(ids.tag("openmsi.missing", key))
        else:
            tags.append(ids.tag(key, text))
    body["tags"] = _tags(tags, flags)
    if len(f"openmsi.path::{file.path}".encode("utf-8", "backslashreplace")) > ids.TAG_BYTES:
        body["notes"] = ids.clean(f"Path: {file.path}")

    full = mapping.general.embed == "full"
    stubs = stub_specs(mapping.space) if objects and full else []
    encoded = ids.encode(ids.prune(body))
    records = RecordSet(name=body["name"], file_uid=uid, sample_uid=sample_uid)
    shared = entry.static if full else ()
    records.messages.append((uid.encode(), ids.document([*shared, *stubs, *objects, encoded], [uid])))
    records.document = records.messages[0][1]
    if analysis is not None:
        links += [_link(mapping, item, file) for item in analysis_links]
        made = analysis_record(mapping, entry, analysis, body, uid, shot, links)
        if made is None:
            flags.append(ids.tag("openmsi.analysis_unknown", str(analysis.get("schema"))))
        else:
            own = (*(made.static if full else ()), made.spec)
            records.messages.append((made.uid.encode(), ids.document([*own, *stubs, *objects, made.run], [made.uid])))
            both = _in_loading_order((*shared, *own))
            records.document = ids.document([*both, *stubs, *objects, encoded, made.run], [uid, made.uid])
            records.analysis_uid = made.uid
            flags += made.flags
    records.flags = sorted(set(flags))
    return records


def _in_loading_order(parts: Sequence[bytes]) -> list[bytes]:
    """Put the constant objects of two records in one order, each once: what is referred to comes first."""

    def rank(part: bytes) -> int:
        return 2 if b'"type":"measurement_spec"' in part else 1 if b'"type":"measurement_template"' in part else 0

    return sorted(dict.fromkeys(parts), key=rank)


def _sidecar(data: bytes | None, flags: list[str]) -> dict[str, Any] | None:
    if data is None:
        return None
    try:
        return sources.read_sidecar(data)
    except ValueError as error:
        flags.append(ids.tag("openmsi.sidecar_error", str(error))[:120])
        return None


def _attributes(
    mapping: Mapping, entry: Entry, file: FileFacts, facts: sources.Facts, body: dict[str, Any], flags: list[str]
) -> None:
    if all(field.attribute.name != mapping.size.name for field in entry.fields):
        made = make(mapping.size, file.size)
        _add(body, mapping.size, made, "measured", flags)
    for field in entry.fields:
        _add(body, field.attribute, field.make(facts), field.origin, flags)


def _add(body: dict[str, Any], attribute: Any, made: Any, origin: str, flags: list[str]) -> None:
    if made.value is None:
        flags.append(ids.tag(f"openmsi.{made.problem}", attribute.name))
    else:
        body.setdefault(GROUP[attribute.kind], []).append(attribute_json(attribute, made.value, origin))


def _source(entry: Entry, file: FileFacts, facts: sources.Facts, flags: list[str]) -> dict[str, str] | None:
    source = {"type": "performed_source"}
    date = performed_date(file.mtime)
    if date is None:
        flags.append("openmsi.missing::date")
    else:
        source["performed_date"] = date
    operator = sources.scalar_text(sources.look_up(entry.operator, facts)) if entry.operator else None
    if operator is not None:
        source["performed_by"] = ids.clip(operator, ids.TAG_BYTES)
    elif entry.operator:
        flags.append("openmsi.missing::operator")
    return source if len(source) > 1 else None


def performed_date(seconds: float | None) -> str | None:
    """Give seconds since 1970 as GEMD's date (UTC, whole seconds, no zone letter); None when there is no such date."""
    if not seconds:
        return None
    try:
        return datetime.datetime.fromtimestamp(float(seconds), datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S").zfill(19)
    except (ValueError, OverflowError, OSError, TypeError):
        return None


def _links(mapping: Mapping, file: FileFacts, deliveries: Sequence[StoreLink]) -> list[dict[str, str]]:
    # The order of delivery must not show in the bytes: object stores first, then disk, each by URL.
    ordered = sorted(deliveries, key=lambda item: (item.kind != "s3", item.kind, item.url))
    return [_link(mapping, item, file, file.filename) for item in ordered]


def _link(mapping: Mapping, item: StoreLink, file: FileFacts, filename: str = "") -> dict[str, str]:
    url = item.url
    pattern = mapping.general.urls.get(item.kind)
    if pattern is not None and filename:
        from urllib.parse import quote

        fields = sources.path_fields(file.topic, file.path)
        url = sources.fill(pattern, {key: quote(ids.clean(value)) for key, value in fields.items()})
    name = filename or item.filename or unquote(url.rstrip("/").rpartition("/")[2])
    return {"filename": ids.clean(name), "type": "file_link", "url": ids.clean(url)}


def _tags(tags: list[str], flags: list[str]) -> list[str]:
    made = list(dict.fromkeys([*tags, *sorted(set(flags))]))
    if len(made) > ids.TAGS_MAX:
        made = [*made[: ids.TAGS_MAX - 1], "openmsi.more_flags"]
    return made


def decode_document(document: bytes) -> dict[str, Any]:
    """Give a record's JSON as plain dictionaries."""
    tree: dict[str, Any] = msgspec.json.decode(document)
    return tree
