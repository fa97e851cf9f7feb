"""`openmsi-streams worker`."""

from __future__ import annotations

import faulthandler
import logging
import os
import socket
from typing import Any

import click

from openmsi_streams.config import Settings, load
from openmsi_streams.errors import UsageError

# An orderly end takes seconds. A service manager kills after 90 s; a client library that waits by a clock that was set
# back meanwhile can take hours.
END_SECONDS = 45.0


@click.command()
@click.option("--config", type=click.Path(), help="TOML file (or a legacy .config file).")
@click.option("--topic", "topics", multiple=True, help="Chunk topic to read; may be given several times.")
@click.option("--broker", help="Addresses of brokers, host:port with commas between.")
@click.option("--root", help="Folder that files are delivered to.")
@click.option("--data", help="Folder for this worker's tables and work files.")
@click.option("--id", "worker_id", help="Application id; workers that share it share the work.")
@click.option("--web-port", type=int, help="Port of the web views.")
@click.option("--log-level", default="warning", show_default=True, help="debug, info, warning or error.")
def worker(
    config: str | None,
    topics: tuple[str, ...],
    broker: str | None,
    root: str | None,
    data: str | None,
    worker_id: str | None,
    web_port: int | None,
    log_level: str,
) -> None:
    """Run a worker: reassemble, verify, store, analyse, record. Start as many as there are partitions; kill any."""
    settings = load(
        config,
        {
            "worker.topics": list(topics) or None,
            "broker.bootstrap": broker,
            "disk.root": root,
            "worker.data": data,
            "worker.id": worker_id,
            "web.port": web_port,
        },
    )
    run(settings, log_level)


def run(settings: Settings, log_level: str) -> None:
    """Build the app and run it in the foreground until a signal."""
    if settings.web.port == 0:
        settings.web.port = free_port(settings.web.host)
    else:
        check_port(settings.web.host, settings.web.port)
    logging.getLogger().setLevel(log_level.upper())
    from openmsi_streams.app import build

    # A broker that is away is waited for: half a minute of silence would look like a hang.
    print(f"connecting to {settings.broker.bootstrap}", flush=True)
    app = build(settings)
    _quiet(log_level)
    print(f"web views at http://{settings.web.host}:{settings.web.port}/", flush=True)
    started = app.Worker(
        loglevel=log_level, logfile=None, redirect_stdouts=False, override_logging=False, quiet=True,
        blocking_timeout=None, debug=False, workdir=None, console_port=0,
    )  # fmt: skip
    # Its spinner writes escape sequences into logs.
    started.spinner = None
    end_in_time(started)
    try:
        started.execute_from_commandline()
    finally:
        app.openmsi.close()


def end_in_time(started: Any, seconds: float = END_SECONDS) -> None:
    """Have the process end at the latest ``seconds`` after it was asked to, wherever it hangs by then.

    faulthandler's clock needs neither the interpreter, which may be gone already, nor the time of day; it says on
    standard error what every thread was doing. Nothing is lost: a worker may be killed at any moment.
    """
    schedule = started._schedule_shutdown

    def shutdown(number: Any) -> None:
        # First, as a process without a standard error has no watchdog.
        schedule(number)
        faulthandler.dump_traceback_later(seconds, exit=True)

    started._schedule_shutdown = shutdown


def _quiet(log_level: str) -> None:
    """Keep the clients' chatter out of the log unless debugging: their news reach health, metrics and our own lines."""
    if log_level.lower() != "debug":
        for name in ("aiokafka", "faust", "mode", "kafka", "botocore", "urllib3"):
            logging.getLogger(name).setLevel(logging.ERROR)


def check_port(host: str, port: int) -> None:
    """Raise UsageError if the port of the web views is taken."""
    with socket.socket() as probe:
        if os.name == "posix":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UsageError(
                f"The web views cannot use {host}:{port} ({error.strerror}). Another worker may use it; "
                "choose one with --web-port (0: any free one)."
            ) from None


def free_port(host: str) -> int:
    """Return a port that is free now."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
