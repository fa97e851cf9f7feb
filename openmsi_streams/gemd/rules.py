"""What a laboratory writes in its mapping file, as types; a misspelt key is an error, not a silence."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from openmsi_streams.gemd import ids

Written = str | list[str]
ORIGINS = ("measured", "predicted", "summary", "computed", "unknown")


class AttributeRule(msgspec.Struct, forbid_unknown_fields=True, frozen=True, rename={"source": "from"}):
    """``"Drive laser energy" = { from = "sidecar:laser.energy_mJ", unit = "mJ", std = "sidecar:laser.sd" }``."""

    source: Written | None = None
    value: Any = None
    unit: str | None = None
    to: str | None = None
    std: Written | float | None = None
    resolution: float | None = None
    origin: str = "measured"


class IdentityRule(msgspec.Struct, forbid_unknown_fields=True, frozen=True, rename={"source": "from"}):
    """The one scope that names a sample, and where its id is found."""

    scope: str
    source: Written


class SampleRule(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """How the sample of a measurement is found and written."""

    identity: IdentityRule | None = None
    also: dict[str, Written] = {}
    material: Literal["stub", "link"] = "stub"


class MapRule(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """One ``[[map]]`` entry."""

    id: str
    path: str = ""
    topic: str = "*"
    measurement: str = "Data file"
    name: str = "{filename}"
    shot: str | None = None
    sidecar: list[str] = []
    analyses: list[str] | None = None
    extract: str | None = None
    operator: Written | None = None
    sample: SampleRule | None = None
    attributes: dict[str, AttributeRule] = {}
    settings: dict[str, AttributeRule] = {}
    tags: dict[str, Written] = {}


class ResultRule(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """One quantity of an analysis result."""

    key: str
    unit: str | None = None
    to: str | None = None
    std: str | None = None
    when: list[str] | None = None


class AnalysisRule(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """One ``[analysis."NAME"]`` table: how a program's result becomes properties."""

    program: str = ""
    schema: str | None = None
    properties: dict[str, ResultRule] = {}
    parameters: dict[str, ResultRule] = {}


class General(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The ``[gemd]`` table."""

    namespace: str = ids.DEFAULT_NAMESPACE
    embed: Literal["full", "thin"] = "full"
    unmatched: Literal["generic", "skip"] = "generic"
    vocabulary: Written = []
    urls: dict[str, str] = {}
