from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from openmsi_streams.gemd.emit import FileFacts, StoreLink
from openmsi_streams.gemd.mapping import Mapping

ROOT = Path(__file__).parents[3]
LAB = ROOT / "docs" / "examples" / "lab.toml"
PATH = "2026/11/22/HTM-0042/F2--20261122--00025.csv"


@pytest.fixture(scope="session")
def lab() -> Mapping:
    return Mapping.load(LAB)


@pytest.fixture(scope="session")
def plain() -> Mapping:
    return Mapping.load(None)


def facts(path: str = PATH, topic: str = "lasershock-pdv", **changes: Any) -> FileFacts:
    given: dict[str, Any] = {
        "file_id": "0f" * 16,
        "topic": topic,
        "path": path,
        "filename": path.rpartition("/")[2],
        "sha512": "26c669cd" * 16,
        "size": 12345678,
        "mtime": 1795342530.25,
        "media_type": "text/csv",
        "producer": "scope-pc",
    }
    return FileFacts(**{**given, **changes})


SIDECAR = {
    "operator": "operator-07",
    "grant": "DEMO-1",
    "sample": {"igsn": "JHXMT00042"},
    "laser": {"energy_mJ": 812.0, "energy_sd_mJ": 9.0},
    "chamber": {"pressure_mTorr": 100},
    "scope": {"rate_Hz": 8e10},
    "type": "not a GEMD type",
}

RESULT: dict[str, Any] = {
    "schema": "openmsi_streams.pdv/1",
    "file": "F2--20261122--00025.csv",
    "class": "spall",
    "reason": "A pull-back of 233 m/s follows the peak.",
    "quantities": {
        "peak_velocity": {"value": 746.2183, "unit": "m/s", "sigma": 3.1},
        "pullback_minimum_velocity": {"value": 512.8, "unit": "m/s", "sigma": 4.0},
        "spall_strength": {"value": 917.0, "unit": "MPa", "sigma": 21.0},
        "strain_rate": {"value": 1.9e6, "unit": "1/s"},
        "peak_stress": {"value": 2.93, "unit": "GPa"},
        "start_time": {"value": 1.25e-7, "unit": "s", "sigma": 2e-10},
        "carrier_frequency": {"value": 2.5e9, "unit": "Hz", "sigma": 1e4},
    },
    "quality": {"snr_db": 21.5, "flags": ["clipped"]},
    "provenance": {
        "software": "openmsi_streams 0.1.0",
        "settings_hash": "73f6c769b4fe90e6",
        "wavelength_nm": 1547.461,
        "angle_deg": 0.0,
        "material": {"name": "AZ31B", "density": 1730.0, "c0": 4540.0, "cl": 5700.0, "s": 1.2, "source": "a handbook"},
        "instrument": {"scope": "LECROYWM816Zi-B", "sample_rate_hz": 8e10},
    },
}

STORES = [
    StoreLink("disk", "file:///data/lasershock-pdv/" + PATH),
    StoreLink("s3", "s3://openmsi-raw/lasershock-pdv/" + PATH),
]


@pytest.fixture
def make_facts() -> Any:
    return facts


@pytest.fixture
def result() -> dict[str, Any]:
    made: dict[str, Any] = json.loads(json.dumps(RESULT))
    return made


@pytest.fixture
def sidecar() -> dict[str, Any]:
    made: dict[str, Any] = json.loads(json.dumps(SIDECAR))
    return made


@pytest.fixture
def stores() -> list[StoreLink]:
    return list(STORES)
