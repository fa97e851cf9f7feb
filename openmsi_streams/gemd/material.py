"""The sample behind a measurement: a link to somebody else's record, or a minimal valid stand-in.

A measurement without a material is not valid GEMD. Where no system describes the sample yet, a stub does: a material
with a process that says "provenance not recorded", tagged ``openmsi.stub``. A reader must prefer a real object.
"""

from __future__ import annotations

from openmsi_streams.gemd import ids, sources, stubs
from openmsi_streams.gemd.facts import FileFacts
from openmsi_streams.gemd.mapping import Entry, Mapping


def material_objects(
    mapping: Mapping, entry: Entry, file: FileFacts, facts: sources.Facts, flags: list[str]
) -> tuple[dict[str, str], list[bytes], str]:
    """Give the link to the sample, the encoded objects that stand for it, and its uid."""
    sample = sources.scalar_text(sources.look_up(entry.identity, facts)) if entry.identity else None
    if sample is not None and len(sample.encode("utf-8", "backslashreplace")) > ids.ID_BYTES:
        flags.append("openmsi.invalid::sample id")
        sample = None
    if sample is not None:
        sample = ids.clean(sample)
        if entry.link_only:
            return ids.link(sample, entry.identity_scope), [], ""
        uid = ids.uid(mapping.space, "material", entry.identity_scope, sample)
        uids = {ids.SCOPE: uid, entry.identity_scope: sample}
        for scope, places in entry.also:
            other = sources.scalar_text(sources.look_up(places, facts))
            if other is not None and len(other.encode("utf-8", "backslashreplace")) <= ids.ID_BYTES:
                uids[scope] = ids.clean(other)
        name, tags = f"Sample {sample}", ["openmsi.stub"]
    else:
        flags.append("openmsi.sample_unknown")
        uid = ids.uid(mapping.space, "unassigned", file.topic)
        uids = {ids.SCOPE: uid}
        name, tags = f"Unassigned material of {file.topic}", ["openmsi.stub", "openmsi.sample_unknown"]
    process_uid = ids.uid(mapping.space, "stub process", uid)
    process = {
        "name": stubs.PROVENANCE,
        "spec": ids.link(ids.uid(mapping.space, "stub process spec")),
        "tags": ["openmsi.stub"],
        "type": "process_run",
        "uids": {ids.SCOPE: process_uid},
    }
    material = {
        "name": ids.name(name),
        "process": ids.link(process_uid),
        "sample_type": "experimental" if sample is not None else "unknown",
        "spec": ids.link(ids.uid(mapping.space, "stub material spec")),
        "tags": tags,
        "type": "material_run",
        "uids": uids,
    }
    return ids.link(uid), [ids.encode(process), ids.encode(material)], uid
