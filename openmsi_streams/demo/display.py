"""The demo on the screen: a live table in a terminal, a line for each event elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from openmsi_streams.chunks.codec import count
from openmsi_streams.demo.results import Result, Row

_COLOURS = {"delivered": "green", "quarantined": "red", "stalled": "yellow", "receiving": "cyan", "verifying": "cyan"}
_BAR = 20


def size(number: float) -> str:
    """Return a number of bytes for people: decimal prefixes, as disks are sold."""
    for unit in ("B", "kB", "MB"):
        if number < 999.5:
            return f"{number:.0f} {unit}" if unit == "B" or number >= 100 else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} GB"


class Display:
    """Shows what happens; use as a context manager."""

    def __init__(self, console: Console, chunk_bytes: int) -> None:
        self._console = console
        self._chunk_bytes = chunk_bytes
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        self._told: set[tuple[str, str]] = set()
        self._start = time.monotonic()

    def say(self, text: str) -> None:
        """Print one line, with the seconds since the start."""
        self._console.print(f"{time.monotonic() - self._start:6.1f} s  {text}", highlight=False, markup=False)

    def update(self, rows: dict[str, Row], sizes: dict[str, int]) -> None:
        """Show the state of all files; ``sizes`` are those on the instruments' disks now."""
        if self._live is not None:
            self._live.update(self._table(rows, sizes), refresh=True)
            return
        for path, row in rows.items():
            if row.state in ("delivered", "quarantined", "stalled") and (path, row.state) not in self._told:
                self._told.add((path, row.state))
                self.say(f"{row.state:<11} {size(row.bytes):>8}  {path}{f'  ({row.reason})' if row.reason else ''}")

    def _table(self, rows: dict[str, Row], sizes: dict[str, int]) -> Table:
        table = Table(title="Files on their way", expand=True, title_justify="left")
        table.add_column("file", ratio=1, overflow="ellipsis", no_wrap=True)
        table.add_column("size", justify="right", no_wrap=True)
        table.add_column("chunks", justify="right", no_wrap=True)
        table.add_column("arrived", no_wrap=True, min_width=_BAR)
        table.add_column("state", no_wrap=True, min_width=10)
        for path in sorted({*sizes, *rows}):
            row = rows.get(path)
            total = row.bytes if row is not None and row.bytes else sizes.get(path, 0)
            chunks = count(total, self._chunk_bytes)
            if row is None:
                table.add_row(Text(path), size(total), str(chunks), "", "at the instrument", style="dim")
                continue
            done = row.state in ("delivered", "delivering")
            share = 1.0 if done or not total else min(1.0, row.received / total)
            filled = round(share * _BAR)
            bar = Text("█" * filled + "░" * (_BAR - filled), style=_COLOURS.get(row.state, "blue"))
            arrived = chunks if done else row.received // self._chunk_bytes
            state = Text(row.state, style=_COLOURS.get(row.state, "blue"))
            table.add_row(Text(path), size(total), f"{arrived}/{chunks}", bar, state)
        return table

    def final(self, results: list[Result]) -> None:
        """Print the final table."""
        if self._live is not None:
            self._live.stop()
        # Not narrower than this: a log is read with long lines, and the table is the proof.
        console = self._console if self._console.is_terminal else Console(file=self._console.file, width=150)
        table = Table(title="Read back from both stores and compared", title_justify="left")
        table.add_column("file", overflow="fold")
        for heading in ("size", "chunks", "seconds"):
            table.add_column(heading, justify="right", no_wrap=True)
        table.add_column("where it is", overflow="fold")
        table.add_column("hash", no_wrap=True)
        for result in results:
            where = " and ".join(name for name, there in (("disk", result.disk_path), ("S3", result.s3_url)) if there)
            verdict = Text("equal", style="green") if result.equal else Text("NOT EQUAL", style="bold red")
            seconds = "" if result.seconds is None else f"{result.seconds:.2f}"
            table.add_row(
                Text(result.path), size(result.bytes), str(result.chunks), seconds, where or result.state, verdict
            )
        console.print(table)

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
