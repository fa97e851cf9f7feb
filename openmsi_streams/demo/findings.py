"""What came of the demo's files after their delivery: shots analysed, scans plotted, records made."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

from openmsi_streams.demo.results import get_json

# An analysis takes about a second in a warm process; the first one also imports NumPy, SciPy and matplotlib.
PATIENCE_SECONDS = 90.0
# The quantities of a shot that are shown, with their headings.
SHOWN = (
    ("peak_velocity", "peak"),
    ("spall_strength", "spall strength"),
    ("strain_rate", "strain rate"),
    ("impact_velocity", "impact"),
)


@dataclass
class Findings:
    """Results by path of the shot, and how many records and processor runs there are."""

    shots: dict[str, dict[str, Any]] = field(default_factory=dict)
    records: int = 0
    processed: int = 0

    def as_data(self) -> dict[str, Any]:
        """Return what goes into the demo's JSON."""
        shots = [
            {"path": path, "class": shot["class"], "quantities": shot.get("quantities", {})}
            for path, shot in sorted(self.shots.items())
        ]
        return {"shots": shots, "records": self.records, "processed": self.processed}


def wait_for(web: str, shots: int, scans: int, records: int, look_after: Callable[[], None]) -> Findings:
    """Return the findings when there are as many as expected, or when nothing new has come for too long."""
    found = Findings()
    last = time.monotonic()
    while time.monotonic() - last < PATIENCE_SECONDS:
        look_after()
        now = Findings(_shots(web), _count(f"{web}/api/v1/gemd"), _processed(web))
        if now.as_data() != found.as_data():
            found, last = now, time.monotonic()
        if len(found.shots) >= shots and found.processed >= scans and found.records >= records:
            break
        time.sleep(0.2)
    return found


def _shots(web: str) -> dict[str, dict[str, Any]]:
    found = {}
    for item in _items(f"{web}/api/v1/pdv"):
        result = get_json(f"{web}/api/v1/files/{item['file_id']}/result")
        if isinstance(result, dict):
            found[item["path"]] = result.get("result", result)
    return found


def _items(url: str) -> list[dict[str, Any]]:
    page = get_json(f"{url}?limit=200")
    return list(page.get("items", ())) if isinstance(page, dict) else []


def _count(url: str) -> int:
    return len(_items(url))


def _processed(web: str) -> int:
    return sum(int(item.get("ok", 0)) for item in _items(f"{web}/api/v1/processors"))


def show(console: Console, found: Findings) -> None:
    """Print a table of the shots and what else was made."""
    # As in the table of files: a log is read with long lines.
    console = console if console.is_terminal else Console(file=console.file, width=150)
    table = Table(title="Shots, analysed", title_justify="left")
    table.add_column("file", overflow="fold")
    table.add_column("class")
    for _, heading in SHOWN:
        table.add_column(heading, justify="right")
    for path, shot in sorted(found.shots.items()):
        cells = [_shown(shot.get("quantities", {}).get(name)) for name, _ in SHOWN]
        table.add_row(path.rpartition("/")[2], str(shot["class"]), *cells)
    console.print(table)
    console.print(f"{found.records} GEMD records, {found.processed} scans plotted", highlight=False)


def _shown(quantity: dict[str, Any] | None) -> str:
    if not quantity or "value" not in quantity:
        return ""
    value, sigma = quantity["value"], quantity.get("sigma", 0.0)
    shown = f"{value:.3e} ± {sigma:.1e}" if abs(value) >= 1e5 else f"{value:.4g} ± {sigma:.2g}"
    return f"{shown} {quantity.get('unit', '')}"
