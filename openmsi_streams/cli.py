"""The command line: one door, with a command's module loaded only when that command is called."""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections.abc import Sequence

import click

from openmsi_streams import __version__
from openmsi_streams.errors import ExtraMissing, OpenMSIStreamsError

# command -> (module, extra that brings its packages, one line for --help). The help lines stand here so that
# `openmsi-streams --help` is quick on an instrument PC and works where an extra is not installed.
COMMANDS: dict[str, tuple[str, str, str]] = {
    "upload": ("openmsi_streams.producers.commands", "", "Send files and wait until the broker has them."),
    "watch": ("openmsi_streams.producers.commands", "", "Watch a folder and send each file when it is whole."),
    "worker": ("openmsi_streams.worker.commands", "server", "Run a worker: reassemble, verify, store, analyse."),
    "demo": ("openmsi_streams.demo.commands", "server,embedded", "Run a small laboratory on this machine."),
    "broker": ("openmsi_streams.embedded.commands", "embedded", "Run the embedded Kafka-protocol broker."),
    "s3": ("openmsi_streams.embedded.commands", "embedded", "Run the embedded S3 server."),
    "status": ("openmsi_streams.web.commands", "", "Show where files are, as a table or as data."),
    "replay": ("openmsi_streams.worker.replay", "", "Put a quarantined file or message back through."),
    "verify": ("openmsi_streams.storage.commands", "server", "Compare rows with disk, S3 and source folders."),
    "fetch": ("openmsi_streams.storage.commands", "server", "Get a delivered file back from S3, verified."),
    "pdv": ("openmsi_streams.worker.pdv_commands", "server", "Analyse photon Doppler velocimetry records."),
    "gemd": ("openmsi_streams.gemd.commands", "server", "Export, check and lint GEMD records."),
    "processors": ("openmsi_streams.processors.commands", "", "Try a lab's own functions, run them again."),
    "crypto": ("openmsi_streams.crypto.commands", "crypto", "Provision and check message encryption."),
    "config": ("openmsi_streams.config.commands", "", "Check, write and convert configuration files."),
    "topics": ("openmsi_streams.config.topics_commands", "", "Plan, create and check topics."),
    "service": ("openmsi_streams.services.commands", "", "Run a command as a service of the operating system."),
}


def _extra_missing(command: str, error: ModuleNotFoundError) -> Exception:
    """Return the error that names the extra to install; a missing module of ours is a fault of ours and stays one."""
    extra = COMMANDS.get(command, ("", "", ""))[1]
    if not extra or (error.name or "").startswith("openmsi_streams"):
        return error
    return ExtraMissing(f"`openmsi-streams {command}`", extra, error.name or "")


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = COMMANDS[cmd_name][0]
        try:
            loaded = importlib.import_module(module)
        except ModuleNotFoundError as error:
            raise _extra_missing(cmd_name, error) from error
        command: click.Command = getattr(loaded, cmd_name)
        return command

    def invoke(self, ctx: click.Context) -> object:
        """Run the command; packages that it imports only while it runs may be missing as well."""
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as error:
            raise _extra_missing(ctx.invoked_subcommand or "", error) from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry[2]) for name, entry in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, prog_name="openmsi-streams")
def cli() -> None:
    """Carry every file of a laboratory from the instrument to storage, plots and records, and prove that it arrived."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; exit 0 when all is well, 1 for a failure, 2 for wrong usage, 130 for Ctrl-C."""
    logging.basicConfig(
        level=os.environ.get("OPENMSI_STREAMS_LOG", "WARNING").upper(),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    try:
        code = cli.main(
            args=list(argv) if argv is not None else None, prog_name="openmsi-streams", standalone_mode=False
        )
    except OpenMSIStreamsError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("stopped", err=True)
        sys.exit(130)
    except BrokenPipeError:
        # The reader of our output has gone (`| head`); Python would complain once more while closing stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
