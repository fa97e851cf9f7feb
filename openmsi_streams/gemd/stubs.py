"""The two specs that all stand-in samples of a laboratory share."""

from __future__ import annotations

import uuid

from openmsi_streams.gemd import ids

PROVENANCE = "Sample provenance not recorded"


def stub_specs(space: uuid.UUID) -> list[bytes]:
    """Give the two specs that all stub materials of a laboratory share, as JSON."""
    process_uid = ids.uid(space, "stub process spec")
    process = {
        "name": PROVENANCE,
        "tags": ["openmsi.stub"],
        "type": "process_spec",
        "uids": {ids.SCOPE: process_uid},
    }
    material = {
        "name": "Sample",
        "process": ids.link(process_uid),
        "tags": ["openmsi.stub"],
        "type": "material_spec",
        "uids": {ids.SCOPE: ids.uid(space, "stub material spec")},
    }
    return [ids.encode(process), ids.encode(material)]
