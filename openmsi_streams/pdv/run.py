"""What a worker's process pool calls: one file in, its sheet, result and history out. Same input, same bytes out."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from openmsi_streams.pdv.analysis import analyze
from openmsi_streams.pdv.readers import SNIFF_BYTES, sniff
from openmsi_streams.pdv.result import QUANTITIES, History, ShotResult

__all__ = ["analyze_to_files", "csv_row", "matches", "sheet_name", "sniff"]


def matches(path: str) -> bool:
    """Whether a file is a scope record by its name and its first bytes (`.trc`; `.txt` and `.csv` by content)."""
    try:
        with open(path, "rb") as file:
            head = file.read(SNIFF_BYTES)
    except OSError:
        return False
    return sniff(head, path)


def sheet_name(shot_class: str, stem: str) -> str:
    """The sheet's file name, as the lab knows it: flyers have velocity plots, all others spall plots."""
    return f"pdv_velocity_plots_{stem}.png" if shot_class == "flyer" else f"pdv_spall_plots_{stem}.png"


def analyze_to_files(
    source_path: str, out_dir: str, settings: Mapping[str, Any] | None = None,
    provenance: Mapping[str, Any] | None = None, plot: bool = True,
) -> dict[str, Any]:  # fmt: skip
    """Analyse one file; write its sheet, JSON and history into ``out_dir``.

    Gives ``{"result": the JSON's content, "files": [names written]}``.

    ``settings`` are those of `PdvSettings` (other keys are ignored); ``provenance`` (file id, topic, sha512, ...) goes
    into the result as it is. The names derive from the source's stem. Does not raise for a bad shot: its result is of
    class ``no_shot`` or ``unreadable`` and says why. Raises OSError when ``out_dir`` cannot be written.
    """
    source = Path(source_path)
    result = analyze(source, settings or {}, source.name)
    result.provenance |= dict(provenance or {})
    if "sha512" not in result.provenance and (digest := file_sha512(source)):
        result.provenance["sha512"] = digest
    out = Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    stem = source.stem
    files: list[str] = []
    if plot:
        name = sheet_name(result.shot_class, stem)
        try:
            from openmsi_streams.pdv.sheet import draw_sheet

            draw_sheet(result, out / name)
            files.append(name)
        except OSError:
            raise
        except Exception as error:  # a drawing must never cost the numbers
            result.flags.append("no_sheet")
            result.notes.append(f"the sheet could not be drawn ({type(error).__name__}: {error})")
    record = result.to_dict()
    if result.history is not None:
        name = f"{stem}.pdv_velocity.csv"
        (out / name).write_bytes(history_csv(result.history))
        files.append(name)
    name = f"{stem}.pdv.json"
    (out / name).write_bytes(to_json(record))
    files.append(name)
    return {"result": record, "files": files}


def to_json(record: Mapping[str, Any] | list[dict[str, Any]]) -> bytes:
    """JSON text, two spaces a level, without NaN."""
    return (json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def file_sha512(path: Path) -> str:
    """Hex SHA-512 of a file, empty where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha512").hexdigest()
    except OSError:
        return ""


def history_csv(history: History) -> bytes:
    """The velocity history as CSV with units in its header."""
    rows = io.StringIO()
    rows.write(f"# velocity by phase slope, Gaussian kernel of {history.kernel_fwhm * 1e9:.3f} ns full width at half "
               "maximum\ntime_s,velocity_m_per_s,sigma_m_per_s,displacement_m,amplitude_v\n")  # fmt: skip
    columns = (history.time, history.velocity, history.sigma, history.displacement, history.amplitude)
    for row in zip(*(column.tolist() for column in columns), strict=True):
        rows.write("{:.12g},{:.6g},{:.4g},{:.6g},{:.4g}\n".format(*row))
    return rows.getvalue().encode()


COLUMNS = (
    ["file", "class", "reason"]
    + [name for key in QUANTITIES for name in (key, f"{key}_sigma", f"{key}_unit")]
    + ["snr_db", "flags", "file_id", "sha512", "software", "settings_hash", "scope", "trigger_time", "material"]
)


def csv_row(result: Mapping[str, Any] | ShotResult, header: bool = False) -> str:
    """One line of CSV for a result (with the header line before it, if wanted); absent quantities are empty."""
    record = result.to_dict() if isinstance(result, ShotResult) else result
    provenance = record.get("provenance", {})
    instrument = provenance.get("instrument", {})
    row: dict[str, Any] = {
        "file": record["file"],
        "class": record["class"],
        "reason": record["reason"],
        "snr_db": record["quality"].get("snr_db", ""),
        "flags": " ".join(record["quality"]["flags"]),
        "file_id": provenance.get("file_id", ""),
        "sha512": provenance.get("sha512", ""),
        "software": provenance.get("software", ""),
        "settings_hash": provenance.get("settings_hash", ""),
        "scope": instrument.get("scope", ""),
        "trigger_time": instrument.get("trigger_time", ""),
        "material": provenance.get("material", {}).get("name", ""),
    }
    for key, quantity in record["quantities"].items():
        row[key] = quantity["value"]
        row[f"{key}_sigma"] = quantity.get("sigma", "")
        row[f"{key}_unit"] = quantity["unit"]
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n", extrasaction="ignore")
    if header:
        writer.writeheader()
    writer.writerow(row)
    return text.getvalue()
