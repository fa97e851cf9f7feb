"""Putting what cannot be used where a person can see it, with the reason."""

from __future__ import annotations

from openmsi_streams.assembly.message import Message
from openmsi_streams.chunks.messages import Receipt, to_json
from openmsi_streams.chunks.reasons import Reason
from openmsi_streams.tables.rows import Row

# Kafka counts headers into the message's size; an error text has no business being longer.
MAX_TEXT = 1000
# A key over this is kept as a hash-like cut in the quarantine message's own key; the original is longer than any path.
MAX_KEY = 2000

ENVELOPE = ("topic", "partition", "offset", "timestamp", "reason", "message")


def message_headers(message: Message, reason: Reason, what: str) -> dict[str, bytes]:
    """Return the headers of a quarantined message: where it was, why it is here, and its own headers prefixed."""
    ours = {
        "kind": "message",
        "topic": message.topic,
        "partition": str(message.partition),
        "offset": str(message.offset),
        "timestamp": f"{message.timestamp:.3f}",
        "reason": str(reason),
        "message": what[:MAX_TEXT],
    }
    kept = {f"original-{name}": value for name, value in message.headers.items()}
    return {**kept, **{name: text.encode("utf-8", "replace") for name, text in ours.items()}}


def message_key(message: Message) -> bytes:
    """Return the key on the quarantine topic: where the message was, so that a repeat replaces it."""
    return f"{message.topic}/{message.partition}/{message.offset}".encode()


def file_headers(file_id: str, row: Row, reason: Reason, what: str) -> dict[str, bytes]:
    """Return the headers of a quarantined file version."""
    ours = {
        "kind": "file",
        "topic": row.topic,
        "partition": str(row.partition),
        "offset": str(row.log.first if row.log else row.home.first if row.home else -1),
        "timestamp": f"{row.timestamp:.3f}",
        "reason": str(reason),
        "message": what[:MAX_TEXT],
        "path": row.path,
        "sha512": row.sha512.hex(),
        "file_id": file_id,
    }
    return {name: text.encode("utf-8", "replace") for name, text in ours.items()}


def receipt_of(file_id: str, row: Row, now: float) -> bytes:
    """Return the receipt of a settled file version as JSON."""
    if row.state == "delivered":
        superseded = bool(row.deliveries) and all(d.note == "superseded" for d in row.deliveries)
        state = "superseded" if superseded else "delivered"
    else:
        state = "quarantined"
    return to_json(
        Receipt(
            file_id=file_id,
            topic=row.topic,
            path=row.path,
            sha512=row.sha512.hex(),
            bytes=max(row.size, 0),
            state=state,  # type: ignore[arg-type]
            deliveries=row.deliveries,
            reason=row.reason,
            message=row.message,
            time=now,
            copy_of=row.copy_of,
            flags=row.flags,
        )
    )
