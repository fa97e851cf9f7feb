"""`openmsi-streams broker` and `openmsi-streams s3`: the embedded servers by hand."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import click

from openmsi_streams.embedded.broker import EmbeddedBroker
from openmsi_streams.embedded.s3 import EmbeddedS3
from openmsi_streams.embedded.server import EmbeddedServer
from openmsi_streams.errors import ServiceError


@contextmanager
def until_stopped() -> Iterator[threading.Event]:
    """Give an event that Ctrl-C and SIGTERM set; the old handlers come back at the end."""
    stop = threading.Event()

    def asked(number: int, frame: FrameType | None) -> None:
        stop.set()

    numbers = [signal.SIGINT, signal.SIGTERM]
    before = [signal.signal(number, asked) for number in numbers]
    try:
        yield stop
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _stay(server: EmbeddedServer, stop: threading.Event) -> None:
    click.echo("Ctrl-C ends it.")
    assert server.child is not None
    # Looking twice a second whether the server still runs costs nothing.
    while not stop.wait(0.5):
        if server.child.poll() is not None:
            raise ServiceError(
                f"{server.what} ended by itself with code {server.child.poll()}. Start it again; it said:\n"
                + server.child.tail()
            )


@click.command()
@click.option("--port", type=click.IntRange(1, 65535), default=9092, show_default=True, help="Port of 127.0.0.1.")
def broker(port: int) -> None:
    """Run the embedded Kafka-protocol broker until Ctrl-C.

    It keeps all messages in memory and forgets them when it stops: for trying out and for tests.
    """
    with until_stopped() as stop, EmbeddedBroker(port=port) as server:
        click.echo(f"Kafka broker at {server.bootstrap}")
        _stay(server, stop)


@click.command()
@click.option("--port", type=click.IntRange(1, 65535), default=9000, show_default=True, help="Port of 127.0.0.1.")
@click.option("--bucket", "buckets", multiple=True, help="Bucket to make at start; may be repeated.")
@click.option("--data", type=click.Path(file_okay=False, path_type=Path), help="Folder to keep the buckets in.")
def s3(port: int, buckets: tuple[str, ...], data: Path | None) -> None:
    """Run the embedded S3 server until Ctrl-C.

    With --data its buckets and keys are there again at the next start; without, both go when it stops.
    """
    with until_stopped() as stop, EmbeddedS3(port=port, data=data) as server:
        click.echo(f"S3 server at {server.endpoint}")
        click.echo(f"AWS_ACCESS_KEY_ID={server.access_key}")
        click.echo(f"AWS_SECRET_ACCESS_KEY={server.secret_key}")
        for name in buckets:
            click.echo(f"bucket {server.make_bucket(name)}")
        if buckets:
            click.echo(
                "For the settings file:\n\n"
                f'[s3.main]\nbucket = "{buckets[0]}"\nendpoint = "{server.endpoint}"\n'
                f'access_key_id = "{server.access_key}"\nsecret_access_key = "{server.secret_key}"\n'
            )
        _stay(server, stop)
