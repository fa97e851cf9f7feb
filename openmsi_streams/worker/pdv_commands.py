"""`openmsi-streams pdv`, with what needs a broker: analysing delivered shots again."""

from __future__ import annotations

import datetime

import click
import msgspec

from openmsi_streams.chunks.topics import beside
from openmsi_streams.config import Settings, load
from openmsi_streams.config.reading import read_to_end
from openmsi_streams.pdv.commands import pdv

__all__ = ["pdv"]

CLASSES = ("spall", "no_spall", "flyer", "no_shot", "unreadable")


@pdv.command()
@click.option("--topic", required=True, help="Chunk topic whose shots are meant.")
@click.option("--class", "classes", multiple=True, type=click.Choice(CLASSES), help="Only shots of this class.")
@click.option("--match", multiple=True, help="Only paths that fit this pattern, e.g. 'run_7/*.trc'.")
@click.option("--since", type=click.DateTime(), help="Only files delivered since then (local time).")
@click.option("--dry-run", is_flag=True, help="List the files and do nothing.")
@click.option("--config", type=click.Path(), help="TOML file (or a legacy .config file).")
@click.option("--broker", help="Addresses of brokers, host:port with commas between.")
def replay(
    topic: str,
    classes: tuple[str, ...],
    match: tuple[str, ...],
    since: datetime.datetime | None,
    dry_run: bool,
    config: str | None,
    broker: str | None,
) -> None:
    """Have workers analyse delivered shots again, e.g. after new settings; results replace the old ones.

    As far back as <TOPIC>.delivered is kept (30 days by default).
    """
    # Analysing files, in the same group, needs none of this; reading it in takes longer than some commands do.
    from openmsi_streams.processors.history import choose, read_delivered, send_again

    settings = load(config, {"broker.bootstrap": broker})
    chosen = choose(read_delivered(settings, topic), (), match, since.timestamp() if since else 0.0)
    known = classes_of(settings, topic)
    chosen = [one for one in chosen if (known.get(one.key) in classes if classes else one.key in known)]
    if dry_run:
        for one in chosen:
            click.echo(f"{known[one.key]:10}  {one.version.path if one.version else one.key.decode()}")
        click.echo(f"{len(chosen)} shots")
        return
    click.echo(f"{send_again(settings, topic, chosen)} shots put back; workers are at it.")


def classes_of(settings: Settings, topic: str) -> dict[bytes, str]:
    """Return the class of each analysed file version, by file id, from `<topic>.pdv`. Sealed results have none."""
    found: dict[bytes, str] = {}
    for message in read_to_end(settings, beside(topic, "pdv")):
        try:
            result = msgspec.json.decode(message.value() or b"")
        except msgspec.DecodeError:
            continue
        if isinstance(result, dict):
            found[message.key() or b""] = str(result.get("class", ""))
    return found
