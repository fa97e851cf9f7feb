"""`openmsi-streams pdv`: analyse records from files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from openmsi_streams.errors import ConfigurationError, UsageError
from openmsi_streams.pdv.settings import read_sidecar


@click.group()
def pdv() -> None:
    """Analyse photon Doppler velocimetry records."""


@pdv.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--wavelength-nm", type=float, default=None, help="Wavelength of the target's laser (default 1550).")
@click.option("--angle-deg", type=float, default=None, help="Angle between probe and surface normal (default 0).")
@click.option("--material", default="", help="Name of the target's material, e.g. copper, AZ31B, 'Al 6061'.")
@click.option("--density", type=float, default=None, help="Density in kg/m^3, instead of the material's.")
@click.option("--c0", type=float, default=None, help="Bulk sound speed in m/s.")
@click.option("--cl", type=float, default=None, help="Longitudinal sound speed in m/s.")
@click.option("--s", "slope", type=float, default=None, help="Slope of the Hugoniot Us = C0 + S up.")
@click.option("--standoff-mm", type=float, default=None, help="Distance after which a flyer strikes (default 0.125).")
@click.option("--channel", default="", help="Channel of a file with several.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=None,
              help="Folder for sheets, results and histories (default: beside each file).")  # fmt: skip
@click.option("--json", "json_file", type=click.Path(path_type=Path, dir_okay=False, allow_dash=True), default=None,
              help="Write the result here: an object for one file, a list for several; - for stdout.")  # fmt: skip
@click.option("--csv", "csv_file", type=click.Path(path_type=Path, dir_okay=False, allow_dash=True), default=None,
              help="Write a table of the results here, one row per file.")  # fmt: skip
@click.option("--no-plot", is_flag=True, help="Draw no sheets.")
def analyze(
    files: tuple[Path, ...], wavelength_nm: float | None, angle_deg: float | None, material: str,
    density: float | None, c0: float | None, cl: float | None, slope: float | None, standoff_mm: float | None,
    channel: str, out: Path | None, json_file: Path | None, csv_file: Path | None, no_plot: bool,
) -> None:  # fmt: skip
    """Analyse shots: LeCroy .trc or text, Keysight CSV, two-column CSV.

    Writes a sheet, a result (JSON) and the velocity history for each FILE. What a file does not hold is said in its
    result; the command fails only for wrong usage. A file `<name>.pdv.toml` beside a FILE sets its wavelength_nm,
    material and so on; options given here win.
    """
    from openmsi_streams.pdv.run import analyze_to_files, csv_row, to_json
    from openmsi_streams.pdv.settings import constants, settings_from

    options: dict[str, Any] = {
        "wavelength_nm": wavelength_nm, "angle_deg": angle_deg, "material": material, "density": density, "c0": c0,
        "cl": cl, "s": slope, "standoff_mm": standoff_mm, "channel": channel,
    }  # fmt: skip
    options = {key: value for key, value in options.items() if value not in (None, "")}
    constants(settings_from(options))  # wrong options are told before any work is done
    missing = [str(path) for path in files if not path.is_file()]
    if missing:
        raise UsageError(f"no such file: {', '.join(missing)}. Check the path.")
    records: list[dict[str, Any]] = []
    for path in files:
        chosen = {**sidecar_of(path), **options}
        done = analyze_to_files(str(path), str(out or path.parent), chosen, {}, plot=not no_plot)
        records.append(done["result"])
        if json_file is None or str(json_file) != "-":
            click.echo(summary(done["result"]))
    if json_file is not None:
        _write(json_file, to_json(records[0] if len(records) == 1 else records))
    if csv_file is not None:
        rows = "".join(csv_row(record, header=k == 0) for k, record in enumerate(records))
        _write(csv_file, rows.encode())


def sidecar_of(path: Path) -> dict[str, Any]:
    """Settings beside a file: `<file>.pdv.toml` or `<stem>.pdv.toml`.

    Raises ConfigurationError when the sidecar cannot be read or used.
    """
    for candidate in (path.with_name(path.name + ".pdv.toml"), path.with_name(path.stem + ".pdv.toml")):
        if candidate.is_file():
            try:
                return read_sidecar(candidate.read_bytes())
            except OSError as error:
                raise ConfigurationError(f"{candidate} cannot be read: {error.strerror}. Check its mode.") from None
            except ConfigurationError as error:
                raise ConfigurationError(f"{candidate}: {error}") from None
    return {}


def summary(record: dict[str, Any]) -> str:
    """One line for the terminal."""
    shown = []
    for key, label in (("peak_velocity", "peak"), ("spall_strength", "spall"), ("impact_velocity", "impact")):
        if key in record["quantities"]:
            item = record["quantities"][key]
            shown.append(f"{label} {item['value']:.5g} ± {item.get('sigma', 0.0):.2g} {item['unit']}")
    flags = record["quality"]["flags"]
    text = f"{record['file']}: {record['class']}"
    text += f", {', '.join(shown)}" if shown else f": {record['reason']}"
    return text + (f" [{' '.join(flags)}]" if flags else "")


def _write(path: Path, data: bytes) -> None:
    if str(path) == "-":
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    else:
        path.write_bytes(data)
