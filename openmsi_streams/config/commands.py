"""`openmsi-streams config`: check, write, convert and show configuration."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click
import msgspec

from openmsi_streams.config import checks, describe
from openmsi_streams.config.load import FILE_VARIABLE, is_secret, load_with_sources
from openmsi_streams.config.settings import Settings
from openmsi_streams.errors import ConfigurationError, OpenMSIStreamsError, UsageError

CONFIG = click.option(
    "--config",
    "path",
    type=click.Path(dir_okay=False),
    help=f"Settings file (TOML or a legacy .config); else ${FILE_VARIABLE}, else ./openmsi-streams.toml.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def config() -> None:
    """Check, write and convert configuration files."""


@config.command()
@CONFIG
@click.option("--connect", is_flag=True, help="Also ask broker and stores, and compare sizes, topics, time-outs.")
@click.option(
    "--role",
    type=click.Choice(["all", "producer", "worker"]),
    default="all",
    show_default=True,
    help="Check only what a producer or a worker needs.",
)
@click.option("--defaults", is_flag=True, help="Also list settings that are at their default.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def check(path: str | None, connect: bool, role: checks.Role, defaults: bool, as_json: bool) -> None:
    """Print every value with its source, and what is wrong. Exits 0, or 1 if there is an error."""
    settings, sources = load_with_sources(path)
    found = checks.problems(settings, role)
    if role != "producer" and not any(one.key == "processors.load" for one in found):
        found += _processors_that_do_not_load(settings)
    if role != "producer":
        found += _pdv_rules_that_cannot_be(settings)
    if connect:
        found += _what_does_not_answer(settings, role)
    values = flatten(settings)
    if as_json:
        click.echo(
            json.dumps(
                {
                    "settings": {
                        key: {"value": hidden(key, value), "source": sources.get(key, "default")}
                        for key, value in values.items()
                        if defaults or key in sources
                    },
                    "problems": [
                        {
                            "severity": one.severity,
                            "key": one.key,
                            "value": hidden(one.key, one.value),
                            "cause": one.cause,
                            "cure": one.cure,
                        }
                        for one in found
                    ],
                },
                indent=1,
            )
        )
    else:
        shown = {key: value for key, value in values.items() if defaults or key in sources}
        width = max((len(key) for key in shown), default=0)
        for key, value in shown.items():
            click.echo(f"{key:<{width}} = {describe.toml(hidden(key, value))}  ({sources.get(key, 'default')})")
        for problem in found:
            click.echo(problem.line(sources), err=True)
        errors = sum(problem.severity == "error" for problem in found)
        click.echo(f"{errors} errors, {len(found) - errors} warnings, {len(sources)} settings that are not defaults")
    if any(problem.severity == "error" for problem in found):
        sys.exit(1)


def _what_does_not_answer(settings: Settings, role: checks.Role) -> list[checks.Problem]:
    """Ask broker and stores. What does not answer is one problem among the others, not the end of the check."""
    from openmsi_streams.config.broker_checks import broker_problems

    found: list[checks.Problem] = []
    try:
        found += broker_problems(settings)
    except OpenMSIStreamsError as error:
        found.append(checks.Problem("broker.bootstrap", settings.broker.bootstrap, str(error), ""))
    if role == "producer":
        return found
    places = [(f"s3.{name}", [name], store.bucket) for name, store in settings.s3.items() if store.bucket]
    if settings.disk.root:
        places.append(("disk.root", [], settings.disk.root))
    for key, names, shown in places:
        try:
            from openmsi_streams.storage import stores_from

            for store in stores_from(settings, names):
                # Each time the disk comes along; it has its own turn.
                if names == [store.name] or (not names and store.kind == "disk"):
                    store.check()
        except (OpenMSIStreamsError, ImportError) as error:
            found.append(checks.Problem(key, shown, str(error), ""))
    return found


def _processors_that_do_not_load(settings: Settings) -> list[checks.Problem]:
    """Import a lab's processors as a worker will; their own faults are then found here and not at night."""
    if not settings.processors.load:
        return []
    from openmsi_streams.processors.registry import load_processors

    try:
        load_processors(settings)
    except ConfigurationError as error:
        return [checks.Problem("processors.load", settings.processors.load, str(error), "")]
    return []


def _pdv_rules_that_cannot_be(settings: Settings) -> list[checks.Problem]:
    """Check the rules as a worker does at its start."""
    from openmsi_streams.pdv.settings import check_rules

    try:
        check_rules(settings.pdv.rules)
    except ConfigurationError as error:
        return [checks.Problem("pdv.rules", settings.pdv.rules, str(error), "")]
    return []


@config.command()
@click.argument("path", type=click.Path(dir_okay=False), default="openmsi-streams.toml")
@click.option("--short", is_flag=True, help="Names and defaults alone, without the explanations.")
@click.option("--force", is_flag=True, help="Overwrite a file that is there.")
def init(path: str, short: bool, force: bool) -> None:
    """Write a commented settings file to PATH ("-": to the screen)."""
    text = describe.template(full=not short)
    if path == "-":
        click.echo(text)
        return
    write_private(Path(path), text, force)
    click.echo(f"Wrote {path}. Remove the '#' from the lines that you change, then: openmsi-streams config check")


@config.command()
@click.argument("source", type=click.Path(exists=True, dir_okay=False))
@click.argument("target", type=click.Path(dir_okay=False), required=False)
@click.option("--force", is_flag=True, help="Overwrite a file that is there.")
def convert(source: str, target: str | None, force: bool) -> None:
    """Write the settings of SOURCE, a .config file of OpenMSIStream or openmsipython, as TOML to TARGET.

    Values that name a variable stay names. What has no counterpart stands in comments at the top.
    """
    from openmsi_streams.config.legacy import translate

    legacy = translate(Path(source))
    lines = [f"# Converted from {Path(source).name} by openmsi-streams config convert."]
    lines += [f"# Not taken over: {note}" for note in legacy.notes]
    text = "\n".join([*lines, "", describe.write_toml(legacy.tree)])
    if target is None or target == "-":
        click.echo(text)
        return
    write_private(Path(target), text, force)
    for note in legacy.notes:
        click.echo(f"note: {note}", err=True)
    click.echo(f"Wrote {target}. Check it with: openmsi-streams config check --config {target}")


@config.command()
def schema() -> None:
    """Print the JSON schema of the settings file, for editors."""
    click.echo(describe.schema_text(), nl=False)


@config.command()
@CONFIG
@click.argument("key", required=False)
def show(path: str | None, key: str | None) -> None:
    """Print the settings in force as TOML, or one of them; secrets are shown as ***."""
    settings, _ = load_with_sources(path)
    tree: dict[str, Any] = msgspec.to_builtins(settings)
    if key:
        found: Any = tree
        for part in key.split(".", 2 if ".options." in key else -1):
            if not isinstance(found, dict) or part not in found:
                raise UsageError(f"There is no setting {key!r}. `openmsi-streams config show` lists all.")
            found = found[part]
        shown = masked(found, f"{key}.") if isinstance(found, dict) else hidden(key, found)
        click.echo(shown if isinstance(shown, str) else json.dumps(shown))
        return
    click.echo(describe.write_toml(masked(tree)), nl=False)


def flatten(settings: Settings) -> dict[str, Any]:
    """Return all settings by dotted name; entries of tables (options, headers) each by their own."""
    flat: dict[str, Any] = {}

    def walk(tree: dict[str, Any], above: str) -> None:
        for key, value in tree.items():
            if isinstance(value, dict):
                walk(value, f"{above}{key}.")
            else:
                flat[f"{above}{key}"] = value

    walk(msgspec.to_builtins(settings), "")
    return flat


def hidden(key: str, value: Any) -> Any:
    """Return the value as it may be shown: a secret that is set is ``***``."""
    return "***" if is_secret(key) and value else value


def masked(tree: dict[str, Any], above: str = "") -> dict[str, Any]:
    """Return a copy of a settings tree whose secrets are ``***``."""
    return {
        key: masked(value, f"{above}{key}.") if isinstance(value, dict) else hidden(f"{above}{key}", value)
        for key, value in tree.items()
    }


def write_private(path: Path, text: str, force: bool) -> None:
    """Write a file that only its owner can read: secrets end up in it.

    Raises:
        ConfigurationError: the file is there and ``force`` is not given, or it cannot be written.
    """
    if path.exists() and not force:
        raise ConfigurationError(f"{path} is there already. Choose another name, or overwrite it with --force.")
    try:
        path.touch(mode=0o600)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written: {error.strerror}. Check the folder.") from None
