"""`openmsi-streams service`: run a command as a service of the operating system."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click
import msgspec

from openmsi_streams.services import spec as specs
from openmsi_streams.services.manage import Manager, manager
from openmsi_streams.services.spec import Spec

NAME = click.argument("name")
_SCOPE = click.option(
    "--system/--user",
    "system",
    default=None,
    help="A service of the machine, or of your own login; default: of the machine for root, else your own.",
)
_ROOT = click.option("--root", type=click.Path(file_okay=False), hidden=True, help="Folder that stands for /.")
_WRAPPER = click.option("--wrapper", default="", help="Windows: path of WinSW or NSSM; default: found on the PATH.")


def _manager(system: bool | None, root: str | None, wrapper: str = "") -> Manager:
    if system is None:
        system = hasattr(os, "geteuid") and os.geteuid() == 0
    return manager(system=system, root=Path(root) if root else None, wrapper=wrapper)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def service() -> None:
    """Run a command as a service: started with the machine, started again when it fails.

    systemd on Linux, launchd on macOS, WinSW or NSSM on Windows.
    """


@service.command()
@NAME
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@_SCOPE
@click.option("--config", type=click.Path(dir_okay=False), help="Settings file for the command.")
@click.option(
    "--workdir", type=click.Path(file_okay=False, exists=True), help="Folder of relative paths; default: here."
)
@click.option("--run-as", default="", help="Account; default for a service of the machine: who calls sudo.")
@click.option(
    "--env", "variables", multiple=True, metavar="NAME[=VALUE]", help="A variable for it; kept in a private file."
)
@click.option("--writable", multiple=True, metavar="DIR", help="A further folder that it may write to.")
@click.option("--start", is_flag=True, help="Also start it.")
@click.option("--dry-run", is_flag=True, help="Print the files that would be written, and change nothing.")
@_WRAPPER
@_ROOT
def install(
    name: str,
    command: tuple[str, ...],
    system: bool | None,
    config: str | None,
    workdir: str | None,
    run_as: str,
    variables: tuple[str, ...],
    writable: tuple[str, ...],
    start: bool,
    dry_run: bool,
    wrapper: str,
    root: str | None,
) -> None:
    """Install NAME to run COMMAND, written after --.

    Example: openmsi-streams service install xrd --config lab.toml -- watch D:\\data --topic xrd
    """
    by = _manager(system, root, wrapper)
    spec = specs.make(
        name,
        command,
        system=by.system,
        config=config,
        workdir=workdir,
        run_as=run_as or (os.environ.get("SUDO_USER", "") if by.system and sys.platform != "win32" else ""),
        variables=variables,
        writable=writable,
    )
    if dry_run:
        for path, text in by.files(spec).items():
            click.echo(f"# {path}\n{text}")
        kept = ", ".join(sorted(spec.environment)) or "nothing"
        click.echo(f"# {by.record(name)} (only its owner reads it) would keep: {kept}")
        return
    by.install(spec)
    if start:
        by.start(spec)
    more = "It runs." if start else f"Start it: openmsi-streams service start {name}"
    click.echo(f"Installed {name}. {more}")


def _simple(verb: str, done: str, text: str) -> None:
    @service.command(verb, help=text)
    @NAME
    @_SCOPE
    @_WRAPPER
    @_ROOT
    def command(name: str, system: bool | None, wrapper: str, root: str | None) -> None:
        by = _manager(system, root, wrapper)
        if verb == "remove":
            by.remove(name)
        else:
            spec = by.find(name)
            if verb in ("stop", "restart"):
                by.stop(spec)
            if verb in ("start", "restart"):
                by.start(spec)
        click.echo(f"{done} {name}.")


_simple("start", "Started", "Start NAME.")
_simple("stop", "Stopped", "Stop NAME and wait until it has stopped; it starts again with the machine.")
_simple("restart", "Restarted", "Stop NAME and start it again.")
_simple("remove", "Removed", "Stop NAME and remove it with its files; data and settings stay.")


@service.command()
@click.argument("name", required=False)
@_SCOPE
@_WRAPPER
@_ROOT
def status(name: str | None, system: bool | None, wrapper: str, root: str | None) -> None:
    """Show how NAME is, or all services. Exits 0 if it runs, 3 if not."""
    by = _manager(system, root, wrapper)
    running = True
    wanted = [name] if name else specs.names(by.folder)
    for one in wanted:
        state = by.state(by.find(one))
        running = running and state.running
        click.echo(state.line(one))
    if not wanted:
        click.echo("No service is installed.")
    if not running:
        # As `systemctl status` does.
        sys.exit(3)


@service.command()
@NAME
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@_SCOPE
@click.option("--config", type=click.Path(dir_okay=False), help="Another settings file.")
@click.option("--env", "variables", multiple=True, metavar="NAME[=VALUE]", help="A further or changed variable.")
@_WRAPPER
@_ROOT
def reinstall(
    name: str,
    command: tuple[str, ...],
    system: bool | None,
    config: str | None,
    variables: tuple[str, ...],
    wrapper: str,
    root: str | None,
) -> None:
    """Write NAME's files anew, with COMMAND if one is given, and start it again if it ran.

    Do so after an update, after moving the environment, or to change the command.
    """
    by = _manager(system, root, wrapper)

    def change(old: Spec) -> Spec:
        kept = {key: value for key, value in old.environment.items() if key != "OPENMSI_STREAMS_CONFIG"}
        new = specs.make(
            name,
            command or old.command,
            system=by.system,
            config=config or old.environment.get("OPENMSI_STREAMS_CONFIG"),
            workdir=old.workdir,
            run_as=old.run_as,
            variables=variables,
            writable=old.writable,
            environment={**kept, **os.environ},
        )
        return msgspec.structs.replace(new, environment={**kept, **new.environment})

    # What is wrong with the new command is said before the old service is touched.
    change(by.find(name))
    runs = by.reinstall(name, change)
    click.echo(f"Installed {name} anew. {'It runs.' if runs else 'It is not running.'}")
