"""All topics that a deployment needs, and what is to be done about those that a broker has: pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from openmsi_streams.chunks.topics import SUFFIXES, beside, check_topic, table_names
from openmsi_streams.config import kafka
from openmsi_streams.errors import TopicError

if TYPE_CHECKING:
    from openmsi_streams.config.settings import Settings

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
# What waits in quarantine waits for a person; a quarter of a year outlasts holidays and beam times.
QUARANTINE_MS = 90 * DAY_MS
# Heartbeats and logs answer "what happened last week", not more.
MONITOR_MS = 14 * DAY_MS
# Kafka's own default (1 MiB and a batch header): no topic is planned below it.
KAFKA_MESSAGE_BYTES = 1_048_588
# GEMD records and analysis results carry curves; the same limit as the largest chunk serves them.
RESULT_BYTES = 4 * KAFKA_MESSAGE_BYTES

# The broker's clock dates messages, not the sender's: retention goes by these dates, so chunks of a computer whose
# clock is a month behind may be deleted at the next check, and of one that is over an hour ahead Kafka >= 3.6 takes
# none (message.timestamp.after.max.ms). A forwarded chunk alone keeps the date that it has from the broker.
DATED = {"message.timestamp.type": "LogAppendTime"}

Policy = Literal["delete", "compact"]

# Topics whose partition p must hold what belongs to partition p of the chunk topic: the worker's tables rest on it.
COPARTITIONED = ("home", "ticks", "delivered")
COMPACTED = ("gemd", "history", "pdv", "results")
# Few and small messages that one reader wants in order.
SINGLE = ("heartbeats", "logs")
# KafkaCrypto's own: beside the root (what stands before the first dot of a chunk topic), and one set for all roots.
CRYPTO_SUFFIXES = ("keys", "reqs", "subs")
CRYPTO_TOPICS = ("chains", "allowlist", "denylist")


@dataclass(frozen=True, slots=True)
class Planned:
    """A topic as it should be."""

    name: str
    partitions: int
    replication: int
    config: Mapping[str, str]
    purpose: str
    like: str = ""
    """The chunk topic whose partition count this topic must share; empty: none."""

    @property
    def policy(self) -> str:
        """``delete`` or ``compact``."""
        return self.config["cleanup.policy"]


@dataclass(frozen=True, slots=True)
class Found:
    """A topic as the broker has it."""

    partitions: int
    replication: int = 1
    config: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Finding:
    """What is to be done about one topic."""

    topic: str
    action: Literal["ok", "create", "set", "note", "refuse"]
    """``set``: configuration is changed; ``note``: works, but see; ``refuse``: a person must decide."""
    why: str
    config: Mapping[str, str] = field(default_factory=dict)


def changelog(worker_id: str, table: str) -> str:
    """Return the name that Faust gives a table's changelog topic."""
    return f"{worker_id}-{table}-changelog"


def plan(
    settings: Settings,
    topics: Iterable[str] | None = None,
    existing: Mapping[str, Found] | None = None,
    tables: Sequence[str] | None = None,
) -> list[Planned]:
    """Return every topic that these chunk topics need, the chunk topics first.

    Args:
        settings: partitions, replication, retention and sizes come from here.
        topics: chunk topics; None: ``worker.topics``.
        existing: what the broker has. A chunk topic that exists keeps its partition count, and its siblings follow.
        tables: names of the worker's tables; None: those of each chunk topic. A table's changelog has as many
            partitions as its chunk topic.

    Raises:
        TopicError: a name that Kafka refuses, or no chunk topic at all.
    """
    names = [check_topic(name) for name in dict.fromkeys(settings.worker.topics if topics is None else topics)]
    if not names:
        raise TopicError("No chunk topic is named. Set `worker.topics`, or give topics on the command line.")
    have = existing or {}
    planned: list[Planned] = []
    for name in names:
        partitions = have[name].partitions if name in have else settings.topic.partitions
        planned += _family(settings, name, partitions)
        planned += [
            Planned(
                changelog(settings.worker.id, table),
                partitions,
                settings.topic.replication,
                {"cleanup.policy": "compact", "max.message.bytes": str(KAFKA_MESSAGE_BYTES), **DATED},
                f"changelog of the table {table}",
                like=name,
            )
            for table in (table_names(name) if tables is None else tables)
        ]
    if settings.crypto.node:
        planned += _crypto(settings, names)
    return list({one.name: one for one in planned}.values())


def _family(settings: Settings, name: str, partitions: int) -> list[Planned]:
    replication = settings.topic.replication
    chunks = _deleting(_retention(settings), _chunk_message(settings)) | DATED
    family = [Planned(name, partitions, replication, chunks, "chunks of files")]
    for suffix in dict.fromkeys((*SUFFIXES, *COPARTITIONED)):
        if suffix not in SUFFIXES:
            continue
        family.append(
            Planned(
                beside(name, suffix),
                1 if suffix in SINGLE else partitions,
                replication,
                _config(settings, suffix) | ({} if suffix == "home" else DATED),
                SUFFIXES[suffix],
                like=name if suffix in COPARTITIONED else "",
            )
        )
    return family


def _config(settings: Settings, suffix: str) -> dict[str, str]:
    if suffix in COMPACTED:
        return {"cleanup.policy": "compact", "max.message.bytes": str(RESULT_BYTES)}
    rows = int(settings.worker.keep_rows_for * 1000)
    retention = {
        "home": _retention(settings),
        "ticks": HOUR_MS,
        # A producer that was off for a holiday still finds its receipts; they are small.
        "receipts": max(_retention(settings), rows),
        "requests": int(settings.worker.expire_after * 1000),
        "quarantine": max(_retention(settings), QUARANTINE_MS),
        "delivered": max(_retention(settings), rows),
        "heartbeats": MONITOR_MS,
        "logs": MONITOR_MS,
    }.get(suffix, _retention(settings))
    size = _chunk_message(settings) if suffix in ("home", "quarantine") else KAFKA_MESSAGE_BYTES
    return _deleting(retention, size)


def _deleting(retention_ms: int, message: int) -> dict[str, str]:
    return {"cleanup.policy": "delete", "retention.ms": str(retention_ms), "max.message.bytes": str(message)}


def _retention(settings: Settings) -> int:
    return int(settings.topic.retention_hours * HOUR_MS)


def _chunk_message(settings: Settings) -> int:
    return max(KAFKA_MESSAGE_BYTES, kafka.message_bytes(settings))


def _crypto(settings: Settings, names: Sequence[str]) -> list[Planned]:
    encrypted = [name for name in names if not settings.crypto.topics or name in settings.crypto.topics]
    roots = dict.fromkeys(name.split(".")[0] for name in encrypted)
    config = {"cleanup.policy": "delete", "retention.ms": str(MONITOR_MS), "max.message.bytes": str(RESULT_BYTES)}
    wanted = [f"{root}.{suffix}" for root in roots for suffix in CRYPTO_SUFFIXES]
    planned = [Planned(name, 1, settings.topic.replication, config, "KafkaCrypto: exchange of keys") for name in wanted]
    # Chains and lists must be found by nodes that start years later.
    kept = {"cleanup.policy": "compact", "max.message.bytes": str(KAFKA_MESSAGE_BYTES)}
    planned += [
        Planned(name, 1, settings.topic.replication, kept, "KafkaCrypto: who may do what") for name in CRYPTO_TOPICS
    ]
    return planned


def compare(planned: Iterable[Planned], found: Mapping[str, Found]) -> list[Finding]:
    """Say for each planned topic what the broker's state asks for; touches nothing.

    Nothing that is proposed can lose data or move keys: partitions are never changed, retention and size only raised.
    """
    findings: list[Finding] = []
    for want in planned:
        have = found.get(want.name)
        if have is None:
            findings.append(Finding(want.name, "create", f"{want.partitions} partitions, {_words(want.config)}"))
            continue
        if want.like and have.partitions != want.partitions:
            findings.append(Finding(want.name, "refuse", _mismatch(want, have.partitions)))
            continue
        change, why = _changes(want, have.config)
        if change:
            findings.append(Finding(want.name, "set", "; ".join(why), change))
        elif have.partitions != want.partitions and want.name.rpartition(".")[2] in SINGLE:
            findings.append(Finding(want.name, "note", f"has {have.partitions} partitions; 1 keeps the order in time"))
        else:
            findings.append(Finding(want.name, "ok", f"{have.partitions} partitions"))
    return findings


def _mismatch(want: Planned, partitions: int) -> str:
    return (
        f"has {partitions} partitions but {want.like} has {want.partitions}: the worker's tables would look for rows "
        f"in the wrong partition. A broker that creates topics by itself, or `kafka-topics --alter`, makes this. "
        f"Stop the workers, delete {want.name}, run `openmsi-streams topics apply`, and start them again"
        + (
            "; the table is filled again from the log of chunks"
            if want.name.endswith("-changelog")
            else "; what it held is read again from the log of chunks"
        )
    )


def _changes(want: Planned, have: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    change: dict[str, str] = {}
    why: list[str] = []
    policy = have.get("cleanup.policy")
    if policy is not None and set(policy.split(",")) != {want.policy}:
        change["cleanup.policy"] = want.policy
        why.append(
            f"cleanup.policy {policy} -> {want.policy} ("
            + ("compaction would remove chunks" if want.policy == "delete" else "deletion would lose records")
            + ")"
        )
    for key, value in DATED.items():
        if key in want.config and have.get(key, value) != value:
            change[key] = value
            why.append(f"{key} {have[key]} -> {value} (a sender's wrong clock would have messages refused, or deleted)")
    for key in ("retention.ms", "max.message.bytes"):
        if key in want.config and key in have and _is_less(have[key], want.config[key]):
            change[key] = want.config[key]
            why.append(f"{key} {have[key]} -> {want.config[key]}")
    return change, why


def _is_less(have: str, want: str) -> bool:
    try:
        # -1 is Kafka's "without limit".
        return int(have) != -1 and (int(want) == -1 or int(have) < int(want))
    except ValueError:
        return False


def _words(config: Mapping[str, str]) -> str:
    return ", ".join(f"{key}={value}" for key, value in config.items())


def refuse(findings: Iterable[Finding]) -> None:
    """Raise TopicError if a finding says that running on would break the tables."""
    bad = [finding for finding in findings if finding.action == "refuse"]
    if bad:
        more = f" ({len(bad) - 1} more: `openmsi-streams topics check`)" if len(bad) > 1 else ""
        raise TopicError(f"The topic {bad[0].topic} {bad[0].why}.{more}")
