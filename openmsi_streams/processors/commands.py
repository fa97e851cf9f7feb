"""`openmsi-streams processors`: list a lab's own functions, try one on a file, run them again over what is there."""

from __future__ import annotations

import datetime
import json
import sys
from pathlib import Path

import click

from openmsi_streams.config.commands import CONFIG
from openmsi_streams.config.load import load
from openmsi_streams.errors import UsageError
from openmsi_streams.processors.decide import explain
from openmsi_streams.processors.registry import load_one, load_processors


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def processors() -> None:
    """List a lab's own functions, try one on a file, run them again over delivered files."""


@processors.command("list")
@CONFIG
def list_command(path: str | None) -> None:
    """Show the processors that a worker with these settings runs."""
    settings = load(path)
    found = load_processors(settings)
    for one in found:
        limit = one.time_limit or settings.processors.time_limit
        click.echo(
            f"{one.name}: {', '.join(one.match)} on {', '.join(one.topics) or 'all topics'}; {one.reference}"
            f"{f', version {one.version}' if one.version else ''}, at most {limit:g} s"
        )
    if not found:
        click.echo("No processor is loaded. Name one under processors.load; see docs/processors.md.")


@processors.command("try")
@click.argument("reference", metavar="MODULE:NAME")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--name", help="Path that the file would have below the instrument's folder; default: its name.")
@click.option("--topic", default="test", show_default=True, help="Chunk topic that it would come by.")
@click.option("--to", "target", type=click.Path(file_okay=False, path_type=Path), help="Folder for the files it makes.")
@CONFIG
def try_command(
    reference: str, file: Path, name: str | None, topic: str, target: Path | None, path: str | None
) -> None:
    """Run one processor on FILE as a worker would, without Kafka, and show what it makes."""
    from openmsi_streams.processors.testing import try_processor

    # A worker's own path has the packages that are installed; while trying, the current folder too.
    sys.path.insert(0, str(Path.cwd()))
    limits = load(path).processors
    by = load_one(reference, "command line")
    tried = try_processor(
        by,
        file,
        name=name or file.name,
        topic=topic,
        isolated=True,
        time_limit=limits.time_limit,
        memory_limit=limits.memory_limit,
    )
    assert tried.outcome is not None
    if not tried.outcome.ok:
        click.echo(explain(tried.outcome, 1), err=True)
        sys.exit(1)
    if tried.outcome.output:
        click.echo(tried.outcome.output.rstrip(), err=True)
    for made, content in sorted(tried.files.items()):
        if target is not None:
            target.mkdir(parents=True, exist_ok=True)
            (target / made).write_bytes(content)
        click.echo(f"{target / made if target else made}: {len(content)} bytes")
    if tried.json is not None:
        click.echo(json.dumps(tried.json, indent=1, ensure_ascii=False))


@processors.command()
@click.option("--topic", required=True, help="Chunk topic whose files are meant.")
@click.option("--processor", "wanted", multiple=True, help="Only files that this processor is for.")
@click.option("--match", multiple=True, help="Only paths that fit this pattern, e.g. 'run_7/*.csv'.")
@click.option("--since", type=click.DateTime(), help="Only files delivered since then (local time).")
@click.option("--dry-run", is_flag=True, help="List the files and do nothing.")
@click.option("--bootstrap", help="Broker addresses, host:port with commas between.")
@CONFIG
def again(
    topic: str,
    wanted: tuple[str, ...],
    match: tuple[str, ...],
    since: datetime.datetime | None,
    dry_run: bool,
    bootstrap: str | None,
    path: str | None,
) -> None:
    """Have workers analyse delivered files again, the newest version of each path; results replace the old ones.

    As far back as <TOPIC>.delivered is kept (30 days by default).
    """
    from openmsi_streams.processors.history import choose, read_delivered, send_again

    settings = load(path, {"broker.bootstrap": bootstrap})
    chosen_processors = []
    if wanted:
        known = {one.name: one for one in load_processors(settings)}
        for name in wanted:
            if name not in known:
                raise UsageError(f"No processor is called {name!r}. Loaded: {', '.join(sorted(known)) or 'none'}.")
            chosen_processors.append(known[name])
    chosen = choose(read_delivered(settings, topic), chosen_processors, match, since.timestamp() if since else 0.0)
    if dry_run:
        for one in chosen:
            click.echo(one.version.path if one.version else one.key.decode("utf-8", "replace"))
        click.echo(f"{len(chosen)} files")
        return
    click.echo(f"{send_again(settings, topic, chosen)} files put back; workers are at it.")
