"""Configuration files of OpenMSIStream and openmsipython, read as they are.

Facts about the format (sections, ``$NAME`` values, ``create_new``) come from those programs' documentation and from
running them. Unlike them, every value stays the text that it is: a password ``0012345`` is not made a number.
"""

from __future__ import annotations

import configparser
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from openmsi_streams.config.settings import PdvSettings
from openmsi_streams.errors import ConfigurationError

Tree = dict[str, Any]

# Names of serializers that stand for the one wire format that we write and read anyway.
_SERIALIZERS = ("key.serializer", "value.serializer", "key.deserializer", "value.deserializer")

# Our producer waits for all in-sync replicas, once each: a file that says otherwise would break that promise.
PRODUCER_OURS = frozenset(
    {
        "acks",
        "request.required.acks",
        "enable.idempotence",
        "message.max.bytes",
        "retries",
        "message.send.max.retries",
        "max.in.flight",
        "max.in.flight.requests.per.connection",
    }
)
# Our readers assign partitions and keep their own place.
CONSUMER_OURS = frozenset(
    {"group.id", "enable.auto.commit", "auto.offset.reset", "enable.auto.offset.store", "enable.partition.eof"}
)
# Keys that one kind of client knows and the other does not, as librdkafka's CONFIGURATION.md marks them (P and C);
# people write them under [broker] too.
PRODUCER_ONLY = frozenset(
    {
        *PRODUCER_OURS - {"message.max.bytes", "max.in.flight", "max.in.flight.requests.per.connection"},
        "batch.num.messages",
        "batch.size",
        "compression.codec",
        "compression.level",
        "compression.type",
        "delivery.timeout.ms",
        "linger.ms",
        "message.timeout.ms",
        "partitioner",
        "queue.buffering.backpressure.threshold",
        "queue.buffering.max.kbytes",
        "queue.buffering.max.messages",
        "queue.buffering.max.ms",
        "request.timeout.ms",
        "sticky.partitioning.linger.ms",
        "transaction.timeout.ms",
        "transactional.id",
    }
)
CONSUMER_ONLY = frozenset(
    {
        *CONSUMER_OURS,
        "auto.commit.interval.ms",
        "check.crcs",
        "fetch.error.backoff.ms",
        "fetch.max.bytes",
        "fetch.message.max.bytes",
        "fetch.min.bytes",
        "fetch.wait.max.ms",
        "group.instance.id",
        "group.protocol.type",
        "heartbeat.interval.ms",
        "isolation.level",
        "max.partition.fetch.bytes",
        "max.poll.interval.ms",
        "partition.assignment.strategy",
        "queued.max.messages.kbytes",
        "queued.min.messages",
        "session.timeout.ms",
    }
)
_S3_KEYS = {
    "access_key_id": "access_key_id",
    "secret_key_id": "secret_access_key",
    "secret_access_key": "secret_access_key",
    "endpoint_url": "endpoint",
    "region": "region",
    "bucket_name": "bucket",
    "bucket": "bucket",
}
# The store that an `[s3]` or `[osn]` section becomes.
STORE = "main"


@dataclass
class Legacy:
    """A legacy file in our words."""

    tree: Tree = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    """What was not taken over, and why, one line each."""


def read_legacy(path: Path) -> Tree:
    """Return the settings tree of a `.config` file; ``$NAME`` values are left to be expanded by `config.load`.

    Raises:
        ConfigurationError: the file cannot be read or is not INI.
    """
    return translate(path).tree


def translate(path: Path) -> Legacy:
    """Return the settings tree of a `.config` file and notes on what has no counterpart.

    Raises:
        ConfigurationError: the file cannot be read or is not INI.
    """
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(path.read_text(encoding="utf-8-sig"), source=str(path))
    except configparser.Error as error:
        said = " ".join(str(error).split())
        raise ConfigurationError(f"{path} is not a configuration file of OpenMSIStream: {said}. Mend it.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}. Check its owner, mode and encoding.") from None
    legacy = Legacy()
    for section in parser.sections():
        values = dict(parser.items(section))
        name = section.strip().lower()
        if name == "broker":
            _broker(legacy, values)
        elif name == "producer":
            _producer(legacy, values)
        elif name == "consumer":
            _consumer(legacy, values)
        elif name in ("s3", "osn"):
            _store(legacy, name, values)
        elif name == "kafkacrypto":
            _crypto(legacy, values, path)
        elif name in ("heartbeat", "log"):
            _monitor(legacy, name, values)
        elif name == "pdv":
            _pdv(legacy, values)
        elif name == "default" and not values:
            continue
        else:
            legacy.notes.append(f"[{section}]: not a section that OpenMSIStream documents; left out")
    return legacy


def _put(legacy: Legacy, section: str, key: str, value: Any) -> None:
    legacy.tree.setdefault(section, {})[key] = value


def _option(legacy: Legacy, section: str, key: str, value: str) -> None:
    legacy.tree.setdefault(section, {}).setdefault("options", {})[key] = value


def _broker(legacy: Legacy, values: dict[str, str]) -> None:
    for key, value in values.items():
        if key == "bootstrap.servers":
            _put(legacy, "broker", "bootstrap", value)
        elif key in PRODUCER_ONLY:
            _producer(legacy, {key: value})
        elif key in CONSUMER_ONLY:
            _consumer(legacy, {key: value})
        else:
            _option(legacy, "broker", key, value)


def _producer(legacy: Legacy, values: dict[str, str]) -> None:
    for key, value in values.items():
        if key in _SERIALIZERS:
            continue
        if key in ("compression.type", "compression.codec"):
            _put(legacy, "producer", "compression", value)
        elif key in PRODUCER_OURS:
            legacy.notes.append(
                f"[producer] {key} = {value}: left out; the producer is idempotent and waits for all replicas"
            )
        elif key == "bootstrap.servers":
            legacy.tree.setdefault("broker", {}).setdefault("bootstrap", value)
        else:
            _option(legacy, "producer", key, value)


def _consumer(legacy: Legacy, values: dict[str, str]) -> None:
    for key, value in values.items():
        if key in _SERIALIZERS:
            continue
        if key == "group.id":
            if value != "create_new":
                _put(legacy, "worker", "id", value)
            else:
                legacy.notes.append(
                    "[consumer] group.id = create_new: left out; a worker remembers its place, so it keeps one id "
                    "(worker.id)"
                )
        elif key == "session.timeout.ms" and value.strip().isdigit():
            _put(legacy, "worker", "session_seconds", int(value) / 1000)
        elif key in CONSUMER_OURS:
            legacy.notes.append(f"[consumer] {key} = {value}: left out; the worker keeps its own place in the log")
        elif key == "bootstrap.servers":
            legacy.tree.setdefault("broker", {}).setdefault("bootstrap", value)
        else:
            _option(legacy, "worker", key, value)


def _store(legacy: Legacy, section: str, values: dict[str, str]) -> None:
    store = legacy.tree.setdefault("s3", {}).setdefault(STORE, {})
    for key, value in values.items():
        if key in _S3_KEYS:
            store[_S3_KEYS[key]] = value
        else:
            legacy.notes.append(f"[{section}] {key}: not known; left out")
    if "bucket" not in store:
        legacy.notes.append(
            f"[{section}]: OpenMSIStream takes the bucket on the command line; set s3.{STORE}.bucket, or the variable "
            f"OPENMSI_STREAMS__S3__{STORE.upper()}__BUCKET, for the worker"
        )


def _crypto(legacy: Legacy, values: dict[str, str], path: Path) -> None:
    if "config_file" in values:
        given = values["config_file"].removeprefix("file#")
        beside = path.parent / given
        _put(legacy, "crypto", "node", str(beside) if not Path(given).exists() and beside.is_file() else given)
    elif "node_id" in values:
        node = values["node_id"]
        places = [folder / node / f"{node}.config" for folder in (path.parent, Path())]
        _put(legacy, "crypto", "node", str(next((one for one in places if one.is_file()), places[0])))
    for key in values:
        if key not in ("config_file", "node_id"):
            legacy.notes.append(f"[kafkacrypto] {key}: not known; left out")


def _monitor(legacy: Legacy, section: str, values: dict[str, str]) -> None:
    for key, value in values.items():
        if key in _SERIALIZERS:
            continue
        why = "heartbeats and logs go through the program's own producer"
        if key == "bootstrap.servers":
            why = "heartbeats and logs go to the broker of the chunks; bridge them there if another one must have them"
        legacy.notes.append(f"[{section}] {key} = {value}: left out; {why}")


def _pdv(legacy: Legacy, values: dict[str, str]) -> None:
    known = {one.name for one in msgspec.structs.fields(PdvSettings)}
    for key, value in values.items():
        if key in known:
            _put(legacy, "pdv", key, value)
        else:
            legacy.notes.append(f"[pdv] {key}: not known; left out")
