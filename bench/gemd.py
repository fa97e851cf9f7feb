"""How long GEMD records take: `python bench/gemd.py`. Prints CPU time per record and the size of records."""

from __future__ import annotations

import gzip
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

from openmsi_streams.gemd import read
from openmsi_streams.gemd.emit import FileFacts, RecordSet, StoreLink, records_for_file
from openmsi_streams.gemd.mapping import Mapping

# Python puts this folder first on its path, where this file would hide the gemd library (imported at first use).
sys.path = [entry for entry in sys.path if Path(entry).resolve() != Path(__file__).resolve().parent]

LAB = Path(__file__).parents[1] / "docs" / "examples" / "lab.toml"
COUNT = 1000

SIDECAR = {
    "operator": "operator-07",
    "grant": "DEMO-1",
    "laser": {"energy_mJ": 812.0, "energy_sd_mJ": 9.0},
    "chamber": {"pressure_mTorr": 100},
    "scope": {"rate_Hz": 8e10},
}


def facts(number: int) -> FileFacts:
    path = f"2026/11/22/HTM-{number % 40:04d}/F2--20261122--{number:05d}.csv"
    return FileFacts(
        file_id=f"{number:032x}",
        topic="lasershock-pdv",
        path=path,
        filename=path.rpartition("/")[2],
        sha512=f"{number:0128x}",
        size=12345678 + number,
        mtime=1795342530.0 + number,
        media_type="text/csv",
    )


def result(number: int) -> dict[str, Any]:
    return {
        "schema": "openmsi_streams.pdv/1",
        "class": "spall",
        "reason": "A pull-back follows the peak.",
        "quantities": {
            "peak_velocity": {"value": 746.2 + number * 0.01, "unit": "m/s", "sigma": 3.1},
            "pullback_minimum_velocity": {"value": 512.8, "unit": "m/s", "sigma": 4.0},
            "spall_strength": {"value": 917.0 + number * 0.01, "unit": "MPa", "sigma": 21.0},
            "strain_rate": {"value": 1.9e6, "unit": "1/s", "sigma": 1e5},
            "peak_stress": {"value": 2.93, "unit": "GPa"},
            "start_time": {"value": 1.25e-7, "unit": "s", "sigma": 2e-10},
            "carrier_frequency": {"value": 2.5e9, "unit": "Hz", "sigma": 1e4},
        },
        "quality": {"snr_db": 21.5, "flags": []},
        "provenance": {
            "software": "openmsi_streams 0.1.0",
            "settings_hash": "73f6c769b4fe90e6",
            "wavelength_nm": 1547.461,
            "material": {"name": "AZ31B", "density": 1730.0, "c0": 4540.0},
        },
    }


def timed(name: str, mapping: Mapping, with_analysis: bool) -> list[RecordSet]:
    sidecar = json.dumps(SIDECAR).encode()
    inputs = [(facts(number), result(number) if with_analysis else None) for number in range(COUNT)]
    made = []
    start = time.process_time()
    for file, analysis in inputs:
        link = [StoreLink("s3", f"s3://bucket/{file.topic}/{file.path}")]
        made.append(records_for_file(mapping, file, link, analysis, sidecar, {"igsn": "JHXMT00042"}))
    cpu = time.process_time() - start
    messages = [value for records in made for _, value in records.messages]
    size = sum(map(len, messages)) / len(messages)
    packed = sum(len(gzip.compress(value)) for value in messages[:50]) / 50
    print(
        f"{name:<34} {len(messages):>5} records  {cpu:6.3f} s CPU  {cpu / len(messages) * 1e3:6.3f} ms each  "
        f"{size:7.0f} bytes  {packed:5.0f} gzipped"
    )
    return made


def main() -> None:
    start = time.process_time()
    lab, plain = Mapping.load(LAB), Mapping.load(None)
    print(f"gemd imported, two mappings loaded: {time.process_time() - start:.2f} s CPU")
    timed("generic file, default mapping", plain, False)
    timed("PDV trace, lab mapping", lab, False)
    both = timed("PDV trace and analysis, lab mapping", lab, True)
    messages = [value for records in both for _, value in records.messages]
    start = time.process_time()
    objects = read.merge(read.iter_records(messages))
    merged = time.process_time()
    read.to_rows(objects)
    rows = time.process_time()
    read.load(objects)
    loaded = time.process_time()
    print(
        f"reading {len(messages)} messages back: {merged - start:.2f} s merge ({len(objects)} objects), "
        f"{rows - merged:.2f} s table, {loaded - rows:.2f} s gemd's loader"
    )
    # ru_maxrss counts KiB on Linux, bytes on macOS.
    unit = 1 if sys.platform == "darwin" else 1024
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()
