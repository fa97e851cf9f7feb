"""Names of the topics around a chunk topic.

All are ``<topic>.<suffix>``: KafkaCrypto takes what stands before the first dot as the root whose keys are shared.
"""

from __future__ import annotations

import re

from openmsi_streams.errors import TopicNameError

SUFFIXES: dict[str, str] = {
    "receipts": "what was delivered, where, with which hash; producers read it",
    "requests": "byte ranges that a worker lacks and a producer should send again",
    "quarantine": "messages and files that could not be used, with the reason",
    "home": "chunks forwarded to the home partition of their path",
    "delivered": "file versions to be analysed and recorded",
    "pdv": "results of PDV analyses, keyed by file id",
    "results": "results of a lab's own processors, keyed by file id and processor",
    "gemd": "GEMD records, keyed by uid, compacted",
    "history": "compact rows of file versions whose row was pruned",
    "heartbeats": "heartbeats of producers and workers",
    "logs": "log lines of producers and workers",
}
_LEGAL = re.compile(r"[A-Za-z0-9._-]+")
# Kafka refuses names over 249 characters; the longest suffix is added to a chunk topic's name.
MAX_TOPIC = 249 - 1 - max(len(suffix) for suffix in SUFFIXES)


def check_topic(name: str) -> str:
    """Return the name if Kafka takes it as a chunk topic's name.

    Raises:
        TopicNameError: with the rule that it breaks.
    """
    if not name or name in (".", "..") or not _LEGAL.fullmatch(name):
        raise TopicNameError(f"Kafka refuses the topic name {name!r}: use letters, digits, '.', '_' and '-' only.")
    if len(name) > MAX_TOPIC:
        raise TopicNameError(
            f"The topic name {name[:40]!r}... has {len(name)} characters; at most {MAX_TOPIC} are possible."
        )
    return name


def beside(topic: str, suffix: str) -> str:
    """Return the name of the topic with this suffix beside a chunk topic."""
    assert suffix in SUFFIXES, suffix
    return f"{topic}.{suffix}"


def table_names(topic: str) -> tuple[str, str]:
    """Return the names of the worker's tables for a chunk topic: file versions, analysis results."""
    return f"files-{topic}", f"results-{topic}"
