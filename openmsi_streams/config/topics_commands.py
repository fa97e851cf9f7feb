"""`openmsi-streams topics`: plan, create and check the topics of a deployment."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

import click

from openmsi_streams.config import topics as t
from openmsi_streams.config.commands import CONFIG
from openmsi_streams.config.load import load
from openmsi_streams.config.settings import Settings

TOPICS = click.argument("names", metavar="[TOPIC]...", nargs=-1)
BOOTSTRAP = click.option("--bootstrap", help="Broker addresses, host:port with commas between.")
PARTITIONS = click.option("--partitions", type=click.IntRange(min=1), help="Partitions of new chunk topics.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def topics() -> None:
    """Plan, create and check topics.

    TOPIC is a chunk topic; without one, `worker.topics` are meant. All topics beside it are included.
    """


def _settings(path: str | None, bootstrap: str | None, partitions: int | None, names: Sequence[str]) -> Settings:
    flags = {"broker.bootstrap": bootstrap, "topic.partitions": partitions, "worker.topics": list(names) or None}
    return load(path, flags)


@topics.command("plan")
@TOPICS
@CONFIG
@PARTITIONS
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array.")
@click.option("--shell", is_flag=True, help="Print kafka-topics.sh commands for an administrator.")
def plan_command(names: tuple[str, ...], path: str | None, partitions: int | None, as_json: bool, shell: bool) -> None:
    """List the topics that are needed, without asking a broker."""
    settings = _settings(path, None, partitions, names)
    planned = t.plan(settings)
    if as_json:
        click.echo(
            json.dumps(
                [
                    {
                        "name": one.name,
                        "partitions": one.partitions,
                        "replication": one.replication,
                        "config": dict(one.config),
                        "purpose": one.purpose,
                    }
                    for one in planned
                ],
                indent=1,
            )
        )
        return
    for one in planned:
        if shell:
            config = "".join(f" --config {key}={value}" for key, value in one.config.items())
            click.echo(
                f"kafka-topics.sh --bootstrap-server {settings.broker.bootstrap} --create --if-not-exists "
                f"--topic {one.name} --partitions {one.partitions} --replication-factor {one.replication}{config}"
            )
        else:
            click.echo(
                f"{one.name}: {one.partitions} partitions, {', '.join(f'{k}={v}' for k, v in one.config.items())}"
            )
            click.echo(f"    {one.purpose}")


@topics.command()
@TOPICS
@CONFIG
@BOOTSTRAP
@PARTITIONS
def apply(names: tuple[str, ...], path: str | None, bootstrap: str | None, partitions: int | None) -> None:
    """Create what is missing and mend configurations; never changes partitions, never shortens retention."""
    settings = _settings(path, bootstrap, partitions, names)
    client = t.admin(settings)
    found, planned = _read(settings, client)
    findings = t.compare(planned, found)
    t.refuse(findings)
    created = t.create(settings, [one for one in planned if one.name not in found], client)
    changed = t.alter(settings, findings, client)
    for name in created:
        click.echo(f"created {name}")
    for finding in findings:
        if finding.topic in changed:
            click.echo(f"changed {finding.topic}: {finding.why}")
    click.echo(f"{len(created)} created, {len(changed)} changed, {len(planned) - len(created) - len(changed)} right")


@topics.command()
@TOPICS
@CONFIG
@BOOTSTRAP
@PARTITIONS
def check(names: tuple[str, ...], path: str | None, bootstrap: str | None, partitions: int | None) -> None:
    """Compare the broker's topics with the plan. Exits 0 when all is right, else 1."""
    settings = _settings(path, bootstrap, partitions, names)
    found, planned = _read(settings, t.admin(settings))
    findings = t.compare(planned, found)
    for finding in findings:
        click.echo(f"{_WORDS[finding.action]}: {finding.topic}: {finding.why}")
    if any(finding.action in ("create", "set", "refuse") for finding in findings):
        sys.exit(1)


_WORDS = {"ok": "ok", "create": "missing", "set": "differs", "note": "note", "refuse": "WRONG"}


def _read(settings: Settings, client: object) -> tuple[dict[str, t.Found], list[t.Planned]]:
    found = t.read_broker(settings, client)
    planned = t.plan(settings, existing=found)
    return t.read_broker(settings, client, [one.name for one in planned]), planned
