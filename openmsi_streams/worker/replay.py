"""`openmsi-streams replay`: put what is in quarantine back through."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import click
import msgspec
from confluent_kafka import Producer

from openmsi_streams.chunks.topics import beside, check_topic
from openmsi_streams.config import Settings, kafka, load
from openmsi_streams.config.reading import read_to_end
from openmsi_streams.errors import UsageError
from openmsi_streams.worker.engine import CONTROL_HEADER, REPLAY_HEADER


@dataclass(frozen=True, slots=True)
class Entry:
    """One quarantined message, file version or processor run."""

    kind: str
    key: bytes
    value: bytes | None
    headers: dict[str, bytes]

    def text(self, name: str) -> str:
        """Return a header as text."""
        return self.headers.get(name, b"").decode("utf-8", "replace")

    @property
    def number(self) -> str:
        """How a person names it: the file id, or topic/partition/offset."""
        return self.key.decode("utf-8", "replace")


@click.command()
@click.argument("which", nargs=-1)
@click.option("--topic", required=True, help="Chunk topic whose quarantine is meant.")
@click.option("--config", type=click.Path(), help="TOML file (or a legacy .config file).")
@click.option("--broker", help="Addresses of brokers, host:port with commas between.")
@click.option("--reason", help="Only what is there for this reason.")
@click.option("--all", "everything", is_flag=True, help="Put everything back through.")
@click.option("--list", "show", is_flag=True, help="Show what is in quarantine and do nothing.")
@click.option("--json", "as_json", is_flag=True, help="Show it as JSON lines.")
def replay(
    which: tuple[str, ...],
    topic: str,
    config: str | None,
    broker: str | None,
    reason: str | None,
    everything: bool,
    show: bool,
    as_json: bool,
) -> int:
    """Put quarantined files or messages back through.

    WHICH are file ids, paths, or topic/partition/offset of messages, as --list shows them. A file is read again from
    the log; a message is sent again unchanged to its partition.
    """
    check_topic(topic)
    settings = load(config, {"broker.bootstrap": broker})
    entries = [e for e in read_quarantine(settings, topic) if not reason or e.text("reason") == reason]
    if show or as_json:
        _show(entries, as_json)
        return 0
    if not which and not everything and not reason:
        raise UsageError("Say what to replay: file ids, paths, topic/partition/offset, --reason or --all (see --list).")
    chosen = [e for e in entries if not which or e.number in which or (e.text("path") and e.text("path") in which)]
    missing = set(which) - {e.number for e in chosen} - {e.text("path") for e in chosen}
    if missing:
        raise UsageError(
            f"{sorted(missing)[0]!r} is not in quarantine on {topic}. See `replay --topic {topic} --list`."
        )
    replay_entries(settings, topic, chosen)
    click.echo(f"{len(chosen)} put back through; see `openmsi-streams status`.")
    return 0


def read_quarantine(settings: Settings, topic: str) -> list[Entry]:
    """Return what is in quarantine on a chunk topic, the newest of each key.

    Raises:
        BrokerError: no broker; TopicError: no quarantine topic.
    """
    found: dict[bytes, Entry] = {}
    for message in read_to_end(settings, beside(topic, "quarantine")):
        headers = {k: v or b"" for k, v in message.headers() or ()}
        key = message.key() or b""
        found[key] = Entry(headers.get("kind", b"message").decode(), key, message.value(), headers)
    return list(found.values())


def replay_entries(settings: Settings, topic: str, entries: list[Entry]) -> None:
    """Send each entry back through and wait until the broker has it.

    Raises:
        BrokerError: if one was not taken.
    """
    producer = Producer(kafka.producer(settings, **{"message.max.bytes": settings.chunks.largest_chunk + (1 << 20)}))
    failed: list[str] = []

    def done(error: Any, message: Any) -> None:
        if error is not None:
            failed.append(error.str())

    for entry in entries:
        if entry.kind == "message":
            kept = [(n.removeprefix("original-"), v) for n, v in entry.headers.items() if n.startswith("original-")]
            source = entry.text("topic").removesuffix(".home")
            # The key may have been replaced by its place; readers do not need it.
            producer.produce(
                source,
                entry.value,
                b"replay",
                partition=int(entry.text("partition")),
                headers=[*kept, (REPLAY_HEADER, b"1")],
                on_delivery=done,
            )
        elif entry.kind == "file":
            # To the home topic's partition of the file, where its row is.
            producer.produce(
                beside(topic, "home"),
                b"",
                entry.key,
                partition=int(entry.text("partition")),
                headers=[(CONTROL_HEADER, b"replay")],
                on_delivery=done,
            )
        else:
            # To the partition of the file's row, where its results belong.
            producer.produce(
                beside(topic, "delivered"),
                entry.value,
                entry.text("file_id").encode(),
                partition=int(entry.text("partition")),
                on_delivery=done,
            )
        producer.poll(0)
    producer.flush(settings.broker.connect_timeout)
    if failed or len(producer):
        raise kafka.no_broker(settings, failed[0] if failed else "some messages were not taken")


def _show(entries: list[Entry], as_json: bool) -> None:
    for entry in entries:
        shown = {n: entry.text(n) for n in entry.headers if not n.startswith("original-")}
        if as_json:
            sys.stdout.write(msgspec.json.encode({"which": entry.number, **shown}).decode() + "\n")
        else:
            what = entry.text("path") or entry.number
            click.echo(f"{entry.number}  {entry.text('reason'):20} {what}\n    {entry.text('message')}")
    if not as_json:
        click.echo(f"{len(entries)} in quarantine")
