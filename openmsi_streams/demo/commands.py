"""`openmsi-streams demo`."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import click

from openmsi_streams.demo.laboratory import CAMERA_BYTES
from openmsi_streams.embedded.commands import until_stopped
from openmsi_streams.errors import UsageError


@click.command()
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Write the result as JSON.")
@click.option("--once", is_flag=True, help="Exit after the proof, also in a terminal.")
@click.option(
    "--folder", type=click.Path(file_okay=False, path_type=Path),
    help="Work in this new folder and keep it; otherwise a temporary one is used and removed.",
)  # fmt: skip
@click.option(
    "--camera-mb", type=click.FloatRange(min=0.001), default=CAMERA_BYTES / 1e6, show_default=True,
    help="Size of the camera's recording, in MB.",
)  # fmt: skip
@click.option("--encrypted", is_flag=True, help="Encrypt every message end to end with KafkaCrypto.")
def demo(json_file: Path | None, once: bool, folder: Path | None, camera_mb: float, encrypted: bool) -> int:
    """Run a small laboratory on this machine.

    Instruments write files into a folder; a producer sends them through a broker to a worker, which checks them and
    puts them on disk and into S3. At the end both are read back and compared. The exit code is 0 only if every file
    is in both with the right hash.
    """
    from rich.console import Console

    from openmsi_streams.demo.display import Display
    from openmsi_streams.demo.findings import show
    from openmsi_streams.demo.run import CHUNK_BYTES, Demo, Stopped

    if json_file is not None and not json_file.absolute().parent.is_dir():
        raise UsageError(f"{json_file} cannot be written: its folder does not exist. Make it, or give another --json.")
    if folder is not None and folder.exists() and any(folder.iterdir()):
        raise UsageError(f"{folder} is not empty. Give a --folder that does not exist, or leave --folder out.")
    console = Console()
    with (
        until_stopped() as stop,
        tempfile.TemporaryDirectory(prefix="openmsi-streams-demo-", ignore_cleanup_errors=True) as temporary,
    ):
        work = (folder or Path(temporary)).absolute()
        made = Demo(work, stop, Display(console, CHUNK_BYTES), int(camera_mb * 1e6), encrypted)
        try:
            with made.display:
                data = made.run()
            made.display.final(made.results)
            show(console, made.findings)
            console.print(made.summary(data), highlight=False)
            if json_file is not None:
                json_file.write_text(json.dumps(data, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
            if console.is_terminal and not once:
                console.print(f"The views are at {made.web}/ and the files in {made.folder}. Ctrl-C ends it.")
                stop.wait()
        except Stopped:
            console.print("stopped")
            return 130
        finally:
            made.close()
    return 1 if data["totals"]["mismatches"] else 0
