"""Options of `upload` and `watch`, with the names that OpenMSIStream's users have in their scripts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

import click

from openmsi_streams.chunks.topics import check_topic
from openmsi_streams.config import Settings, load, sizes
from openmsi_streams.errors import UsageError

log = logging.getLogger(__name__)

Command = Callable[..., Any]


def bytes_of(text: str | None) -> int | None:
    """Return bytes (a second) from an option's text. Raises UsageError if `sizes.parse` cannot read it."""
    try:
        return None if text is None else sizes.parse(text)
    except ValueError as error:
        raise UsageError(str(error)) from None


def headers_of(texts: Iterable[str]) -> dict[str, str]:
    """Return headers from ``KEY=VALUE`` texts. Raises UsageError for one without a key or ``=``."""
    headers: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise UsageError(f"The header {text!r} is not KEY=VALUE. Write for example --header igsn=JHXMT00042.")
        headers[key] = value
    return headers


def _apply(command: Command, options: list[Callable[[Command], Command]]) -> Command:
    for option in reversed(options):
        command = option(command)
    return command


def common(command: Command) -> Command:
    """Options that both commands have."""
    return _apply(
        command,
        [
            click.option("--topic", "--topic_name", "--producer_topic_name", "topic", help="Topic to send to."),
            click.option("--broker", help="Address of the Kafka broker, host:port."),
            click.option("--config", help="Settings: TOML, or an OpenMSIStream .config file."),
            click.option("--state", help="Folder for registry, log and state file; default: the platform's place."),
            click.option("--bandwidth", help="At most so many bytes a second, e.g. 20MB/s."),
            click.option("--chunk-bytes", "--chunk_size", "chunk_bytes", help="Bytes of a file in one message."),
            click.option("--wire", type=click.Choice(["9", "10"]), help="9 for readers before OpenMSIStream 1.8.6.1."),
            click.option("--include", multiple=True, help="Send only these: a glob, or re: and a regular expression."),
            click.option("--exclude", multiple=True, help="Do not send these; beside the default patterns."),
            click.option("--header", multiple=True, metavar="KEY=VALUE", help="A Kafka header for each message."),
            click.option("--upload_regex", hidden=True),
            click.option("--select", multiple=True, help="Send a part of LeCroy files: PATTERN rows FIRST COUNT, or "
                         "PATTERN seconds FROM TO."),
            # Options of OpenMSIStream that have nothing to set here: accepted, so that a script goes on working.
            click.option("--n_threads", hidden=True),
            click.option("--logger_stream_level", hidden=True),
            click.option("--logger_file_level", hidden=True),
            click.option("--logger_file_path", hidden=True),
        ],
    )  # fmt: skip


def watching(command: Command) -> Command:
    """Options of `watch` alone."""
    return _apply(
        command,
        [
            click.option("--quiet-seconds", "--watchdog_lag_time", "quiet_seconds", type=float,
                         help="A file is whole when its size and time have not changed for so long."),
            click.option("--polling/--no-polling", default=None, help="Walk the folder instead of native events: for "
                         "network drives."),
            click.option("--use_polling_observer", is_flag=True, hidden=True),
            click.option("--existing/--no-existing", default=None, help="Also send what is there at the first start."),
            click.option("--upload_existing", is_flag=True, hidden=True),
            click.option("--done-marker", help="A file is whole when a file NAME + this suffix stands beside it."),
            click.option("--stable-looks", type=int, help="A file is whole after so many equal looks."),
            click.option("--when-delivered", help="keep, archive:DIR or delete: after the proof of delivery."),
            click.option("--grace-seconds", type=float, help="How long after the proof."),
            click.option("--producer-id", "--heartbeat_program_id", "producer_id", help="Name in heartbeats and logs."),
            click.option("--heartbeats/--no-heartbeats", default=None, help="Send heartbeats and log lines to topics."),
            click.option("--heartbeat_topic_name", hidden=True),
            click.option("--heartbeat_interval_secs", type=float, hidden=True),
            click.option("--log_topic_name", hidden=True),
            click.option("--log_program_id", hidden=True),
            click.option("--log_interval_secs", type=float, hidden=True),
            click.option("--queue_max_size", type=float, hidden=True),
            click.option("--update_seconds", hidden=True),
            click.option("--consumer_topic_name", hidden=True),
            click.option("--consumer_group_id", "--consumer_group_ID", "consumer_group_id", hidden=True),
            click.option("--treat_undecryptable_as_plaintext", is_flag=True, hidden=True),
            click.option("--max_wait_per_decrypt", hidden=True),
            click.option("--max_initial_wait_per_decrypt", hidden=True),
        ],
    )  # fmt: skip


def settings_of(given: dict[str, Any]) -> Settings:
    """Return the settings of a command line; what was not given comes from file and environment.

    Raises:
        UsageError: an option's value is not usable.
    """
    include = list(given.get("include") or ())
    if given.get("upload_regex"):
        include.append("re:" + given["upload_regex"])
    megabytes = given.get("queue_max_size")
    flags: dict[str, Any] = {
        "broker.bootstrap": given.get("broker"),
        "chunks.chunk_bytes": bytes_of(given.get("chunk_bytes")),
        "producer.bandwidth": bytes_of(given.get("bandwidth")),
        "producer.state": given.get("state"),
        "producer.wire": int(given["wire"]) if given.get("wire") else None,
        "producer.include": include or None,
        "producer.exclude": list(given.get("exclude") or ()) or None,
        "producer.select": list(given.get("select") or ()) or None,
        "producer.headers": headers_of(given.get("header") or ()) or None,
        "producer.quiet_seconds": given.get("quiet_seconds"),
        "producer.polling": True if given.get("use_polling_observer") else given.get("polling"),
        "producer.existing": True if given.get("upload_existing") else given.get("existing"),
        "producer.done_marker": given.get("done_marker"),
        "producer.stable_looks": given.get("stable_looks"),
        "producer.when_delivered": given.get("when_delivered"),
        "producer.grace_seconds": given.get("grace_seconds"),
        "producer.producer_id": given.get("producer_id") or given.get("log_program_id"),
        "producer.heartbeats": given.get("heartbeats"),
        "producer.heartbeat_topic": given.get("heartbeat_topic_name"),
        "producer.heartbeat_seconds": given.get("heartbeat_interval_secs"),
        "producer.log_topic": given.get("log_topic_name"),
        "producer.log_seconds": given.get("log_interval_secs"),
        # Theirs is in megabytes; ours has a floor of one.
        "producer.queue_bytes": max(1 << 20, int(megabytes * 1e6)) if megabytes else None,
    }
    return load(given.get("config"), flags)


def topic_of(given: dict[str, Any]) -> str:
    """Return the topic. Raises UsageError if none is named, TopicError if Kafka refuses the name."""
    if not given.get("topic"):
        raise UsageError("No topic is named. Give one with --topic NAME.")
    return check_topic(given["topic"])
