"""Settings that are each possible and together, or on this machine, are not: one line with key, value, cause, cure."""

from __future__ import annotations

import difflib
import importlib.util
import ipaddress
import re
import string
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from openmsi_streams.config import security
from openmsi_streams.config.load import is_secret
from openmsi_streams.errors import ConfigurationError, OpenMSIStreamsError

if TYPE_CHECKING:
    from openmsi_streams.config.settings import Settings

Role = Literal["all", "producer", "worker"]
# Fields that S3 key templates may use; those of `storage.keys`.
KEY_FIELDS = ("topic", "subdir", "filename", "path")


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, or worth a second look."""

    key: str
    value: Any
    cause: str
    cure: str
    severity: Literal["error", "warning"] = "error"

    def line(self, sources: Mapping[str, str] | None = None) -> str:
        """Return the one line that a person reads; a secret's value is not in it."""
        source = (sources or {}).get(self.key, "")
        shown = "***" if is_secret(self.key) and self.value else repr(self.value)
        return f"{self.severity}: {self.key} = {shown}{f' ({source})' if source else ''}: {self.cause} {self.cure}"


def problems(settings: Settings, role: Role = "all") -> list[Problem]:
    """Return what is wrong with these settings on this machine; touches no network.

    Args:
        settings: the settings.
        role: what will run with them; ``producer`` passes over what only a worker needs.
    """
    rules: list[Callable[[Settings], Iterator[Problem]]] = [_broker, _sizes]
    if role in ("all", "producer"):
        rules += [_producer]
    if role in ("all", "worker"):
        rules += [_topics, _times, _stores, _s3, _web, _patterns, _crypto, _gemd, _processors]
    return [problem for rule in rules for problem in rule(settings)]


def require(settings: Settings, role: Role, sources: Mapping[str, str] | None = None) -> list[Problem]:
    """Raise for the first error; return the warnings.

    Raises:
        ConfigurationError: with the line of the first error, and how many more there are.
    """
    found = problems(settings, role)
    errors = [problem for problem in found if problem.severity == "error"]
    if errors:
        more = f" ({len(errors) - 1} more: `openmsi-streams config check`)" if len(errors) > 1 else ""
        raise ConfigurationError(errors[0].line(sources).removeprefix("error: ") + more)
    return found


def _broker(settings: Settings) -> Iterator[Problem]:
    bootstrap = settings.broker.bootstrap
    for address in bootstrap.split(","):
        host, _, port = address.strip().rpartition(":")
        if "://" in address:
            yield Problem(
                "broker.bootstrap", bootstrap, "Kafka's addresses have no scheme.", "Write host:port, e.g. kafka:9092."
            )
        elif not host or not port.isdigit() or not 0 < int(port) < 65536:
            yield Problem(
                "broker.bootstrap",
                bootstrap,
                f"{address.strip()!r} has no port.",
                "Write host:port, with commas between several.",
            )
    options = settings.broker.options
    name = "broker.options.security.protocol"
    sasl_keys = [key for key in options if key.startswith("sasl.")]
    tls_keys = [key for key in options if key.startswith("ssl.")]
    value = options.get("security.protocol", "")
    try:
        protocol = security.protocol(options)
    except ConfigurationError as error:
        yield Problem(name, value, str(error), "")
        return
    if sasl_keys and not protocol.startswith("SASL"):
        yield Problem(
            name,
            value,
            f"{sasl_keys[0]!r} is set but this protocol sends no password.",
            "Set SASL_SSL (hosted brokers).",
        )
    if tls_keys and not protocol.endswith("SSL"):
        yield Problem(
            name, value, f"{tls_keys[0]!r} is set but this protocol is not encrypted.", "Set SSL or SASL_SSL."
        )
    if protocol == "SASL_PLAINTEXT" and not _all_local(bootstrap):
        yield Problem(name, value, "The password would cross the network in clear.", "Set SASL_SSL.", "warning")
    if protocol.startswith("SASL") or protocol == "SSL":
        try:
            security.faust_options(settings)
        except ConfigurationError as error:
            yield Problem("broker.options", "...", str(error), "")
        except ImportError:
            # An instrument PC has no Faust; librdkafka says what it thinks below.
            pass
    of_one = [key for key in options if key not in security.FOR_BOTH and key not in security.NOT_FOR_FAUST]
    for key in of_one:
        if key.startswith(("sasl.", "ssl.", "enable.ssl", "enable.sasl")):
            yield Problem(
                f"broker.options.{key}",
                options[key],
                "Producers use it; the worker's consumer does not know it.",
                "Leave it out, or be sure that the worker gets in without it.",
                "warning",
            )
    yield from _librdkafka(settings)


def _librdkafka(settings: Settings) -> Iterator[Problem]:
    """Let librdkafka itself look at the options; building a client connects to nothing that must answer."""
    from confluent_kafka import Consumer, Producer

    from openmsi_streams.config import kafka

    for key, make, options in (
        ("broker.options", Producer, kafka.client(settings)),
        ("producer.options", Producer, kafka.producer(settings)),
        ("worker.options", Consumer, kafka.consumer(settings)),
    ):
        try:
            kafka.built(make, {**options, "bootstrap.servers": ""})
        except OpenMSIStreamsError as error:
            yield Problem(key, "...", str(error).replace("broker.options", key), "")
            return


def _all_local(bootstrap: str) -> bool:
    return all(_is_loopback(address.strip().rpartition(":")[0]) for address in bootstrap.split(","))


def _is_loopback(host: str) -> bool:
    if host in ("localhost", ""):
        return host == "localhost"
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _sizes(settings: Settings) -> Iterator[Problem]:
    chunks = settings.chunks
    if chunks.chunk_bytes > chunks.largest_chunk:
        yield Problem(
            "chunks.chunk_bytes",
            chunks.chunk_bytes,
            f"Workers take chunks up to chunks.largest_chunk = {chunks.largest_chunk}.",
            "Lower it, or raise that.",
        )
    # Eight in flight: what the reader fetched, what is being written, what a refill reads.
    if settings.worker.memory_budget < 8 * chunks.chunk_bytes:
        yield Problem(
            "worker.memory_budget",
            settings.worker.memory_budget,
            f"It holds fewer than 8 chunks of {chunks.chunk_bytes} bytes, so workers would wait more than they work.",
            f"Set {8 * chunks.chunk_bytes} or more.",
        )
    if settings.producer.queue_bytes < 2 * chunks.chunk_bytes:
        yield Problem(
            "producer.queue_bytes",
            settings.producer.queue_bytes,
            f"It must hold two chunks of {chunks.chunk_bytes} bytes.",
            "Raise it.",
        )


def _producer(settings: Settings) -> Iterator[Problem]:
    then = settings.producer.when_delivered
    if then not in ("keep", "delete") and not (then.startswith("archive:") and then.removeprefix("archive:")):
        yield Problem("producer.when_delivered", then, "It is not a thing to do.", "Write keep, archive:DIR or delete.")
    if settings.producer.wire == 9 and settings.producer.headers:
        yield Problem(
            "producer.headers",
            settings.producer.headers,
            "Readers of wire 9 drop headers.",
            "Leave them out.",
            "warning",
        )


def _topics(settings: Settings) -> Iterator[Problem]:
    from openmsi_streams.chunks.topics import SUFFIXES, check_topic

    topics = settings.worker.topics
    for name in topics:
        try:
            check_topic(name)
        except OpenMSIStreamsError as error:
            yield Problem("worker.topics", topics, str(error), "Rename it.")
        root, _, suffix = name.rpartition(".")
        if root in topics and suffix in SUFFIXES:
            yield Problem(
                "worker.topics",
                topics,
                f"{name!r} is the {suffix} topic of {root!r}, which the worker writes itself.",
                "Leave it out.",
            )
    if len(set(topics)) != len(topics):
        yield Problem("worker.topics", topics, "A topic stands there twice.", "Leave one out.")
    for section, wanted in [
        ("pdv", settings.pdv.topics),
        ("crypto", settings.crypto.topics),
        *((f"s3.{name}", store.topics) for name, store in settings.s3.items()),
    ]:
        unread = [name for name in wanted if topics and name not in topics]
        if unread:
            yield Problem(
                f"{section}.topics", wanted, f"No worker reads {unread[0]!r}.", "Add it to worker.topics, or mend it."
            )


def _times(settings: Settings) -> Iterator[Problem]:
    retention = settings.topic.retention_hours * 3600
    worker = settings.worker
    if worker.stall_after >= worker.expire_after:
        yield Problem(
            "worker.stall_after",
            worker.stall_after,
            f"Files are given up after worker.expire_after = {worker.expire_after:g} s, before they are asked for.",
            "Make it shorter.",
        )
    if retention < worker.stall_after:
        yield Problem(
            "topic.retention_hours",
            settings.topic.retention_hours,
            f"The log forgets chunks before worker.stall_after = {worker.stall_after:g} s, so nothing can be refilled.",
            "Keep the log for days.",
        )
    elif retention < worker.expire_after:
        yield Problem(
            "topic.retention_hours",
            settings.topic.retention_hours,
            f"Partial files wait worker.expire_after = {worker.expire_after / 3600:g} h; the log holds them shorter.",
            "Raise it, or lower worker.expire_after.",
            "warning",
        )
    if worker.session_seconds < 3 * worker.sweep_seconds:
        yield Problem(
            "worker.session_seconds",
            worker.session_seconds,
            "A worker would be taken for dead within three ticks of worker.sweep_seconds.",
            "Raise it.",
            "warning",
        )


def _stores(settings: Settings) -> Iterator[Problem]:
    disk = settings.disk
    if not disk.root and not settings.s3:
        yield Problem(
            "disk.root", "", "Files would be delivered nowhere: no disk store and no [s3.NAME].", "Set one.", "warning"
        )
    if disk.root:
        yield from _folder("disk.root", disk.root)
    if settings.worker.data:
        yield from _folder("worker.data", settings.worker.data)
    if disk.mode and not re.fullmatch(r"0?[0-7]{3}", disk.mode):
        yield Problem("disk.mode", disk.mode, "It is not an octal mode.", 'Write it as text, e.g. "0640".')
    if disk.owner and not re.fullmatch(r"[^:\s]+(:[^:\s]+)?", disk.owner):
        yield Problem("disk.owner", disk.owner, "It is not user:group.", 'Write e.g. "lab:lab".')


def _folder(key: str, value: str) -> Iterator[Problem]:
    path = Path(value).expanduser()
    if path.exists() and not path.is_dir():
        yield Problem(key, value, "It is a file.", "Name a folder.")
        return
    import os

    nearest = next((one for one in (path, *path.parents) if one.exists()), Path("/"))
    if not os.access(nearest, os.W_OK | os.X_OK):
        # Never advise to open a folder of the system, such as "/", because one below it is missing.
        cure = (
            f"Make it writable: chown or chmod {path}."
            if nearest == path
            else f"Make it for the account that runs the worker: sudo install -d -o USER {path}"
        )
        yield Problem(key, value, f"This user may not write to {nearest}.", cure)


def _s3(settings: Settings) -> Iterator[Problem]:
    for name, store in settings.s3.items():
        here = f"s3.{name}"
        if not store.bucket:
            yield Problem(f"{here}.bucket", "", "A store needs a bucket.", "Set it, or remove the section.")
        elif not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", store.bucket):
            yield Problem(
                f"{here}.bucket",
                store.bucket,
                "S3 refuses the name.",
                "Use 3 to 63 small letters, digits, dots and hyphens.",
            )
        for key in ("access_key_id", "secret_access_key", "session_token"):
            value = getattr(store, key)
            if value.startswith("$"):
                yield Problem(f"{here}.{key}", value, "The variable is not set.", f"Set {value[1:].strip('{}')}.")
        if bool(store.access_key_id) != bool(store.secret_access_key):
            missing = "secret_access_key" if store.access_key_id else "access_key_id"
            yield Problem(f"{here}.{missing}", "", "Half of a key pair is missing.", "Set both or neither.")
        if store.profile and store.access_key_id:
            yield Problem(
                f"{here}.profile", store.profile, "access_key_id is set too, and wins.", "Leave one out.", "warning"
            )
        if store.ca and not Path(store.ca).exists():
            yield Problem(f"{here}.ca", store.ca, "The file does not exist.", "Give its absolute path.")
        yield from _key_template(f"{here}.key", store.key)


def _key_template(key: str, value: str) -> Iterator[Problem]:
    try:
        names = {name for _, name, _, _ in string.Formatter().parse(value) if name is not None}
    except ValueError as error:
        yield Problem(key, value, f"It is not a template ({error}).", "Write e.g. {topic}/{subdir}/{filename}.")
        return
    if unknown := sorted(names - set(KEY_FIELDS)):
        near = difflib.get_close_matches(unknown[0], KEY_FIELDS, n=1)
        hint = f"Did you mean {{{near[0]}}}?" if near else f"Known: {', '.join(KEY_FIELDS)}."
        yield Problem(key, value, f"{{{unknown[0]}}} is not a field.", hint)
    elif not names & {"filename", "path"}:
        yield Problem(key, value, "All files would get one key.", "Use {filename} or {path} in it.")


def _web(settings: Settings) -> Iterator[Problem]:
    web = settings.web
    if not _is_loopback(web.host) and not web.token and not web.behind_proxy:
        yield Problem(
            "web.host",
            web.host,
            "Anyone who reaches this address could see the files.",
            "Set web.token (or web.behind_proxy behind a proxy that checks who comes in), or 127.0.0.1.",
        )
    if web.token and len(web.token) < 16:
        yield Problem(
            "web.token",
            web.token,
            "It is shorter than 16 characters and could be guessed.",
            "Make one: openssl rand -hex 24",
        )


def _patterns(settings: Settings) -> Iterator[Problem]:
    for key, patterns in (
        ("worker.expected_paths", settings.worker.expected_paths),
        ("pdv.match", [settings.pdv.match]),
    ):
        for pattern in patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                yield Problem(key, pattern, f"It is not a regular expression: {error}.", "Escape special characters.")
    if settings.worker.strict_paths and not settings.worker.expected_paths:
        yield Problem(
            "worker.strict_paths",
            True,
            "worker.expected_paths is empty, so nothing is unexpected.",
            "Set both.",
            "warning",
        )


def _crypto(settings: Settings) -> Iterator[Problem]:
    node = settings.crypto.node
    if node and not Path(node).is_file():
        yield Problem(
            "crypto.node", node, "The file does not exist.", "Provision one: openmsi-streams crypto provision."
        )
    if settings.crypto.topics and not node:
        yield Problem(
            "crypto.topics", settings.crypto.topics, "Without crypto.node no message can be read.", "Set crypto.node."
        )


def _gemd(settings: Settings) -> Iterator[Problem]:
    mapping = settings.gemd.mapping
    if settings.gemd.enabled and mapping and not Path(mapping).is_file():
        yield Problem(
            "gemd.mapping",
            mapping,
            "The file does not exist.",
            "Give its absolute path, or leave it out for the default.",
        )


def _processors(settings: Settings) -> Iterator[Problem]:
    for name in settings.processors.load:
        module, _, function = name.partition(":")
        if not module or not function:
            yield Problem("processors.load", name, "It does not name a function.", "Write package.module:function.")
            continue
        try:
            there = importlib.util.find_spec(module) is not None
        except (ImportError, ValueError):
            there = False
        if not there:
            yield Problem(
                "processors.load",
                name,
                f"No module {module!r} is installed here.",
                "Install its package into the environment that the worker runs in.",
            )
