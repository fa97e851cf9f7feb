"""The JSON messages that travel beside the chunks: receipts, requests, quarantine notes."""

from __future__ import annotations

from typing import Literal

import msgspec


class Delivery(msgspec.Struct, frozen=True, omit_defaults=True):
    """Proof that a store holds a file version."""

    kind: str
    """``disk`` or ``s3``."""
    store: str
    """Name of the store in the settings."""
    url: str
    sha512: str
    bytes: int
    time: float
    """When the store confirmed it, seconds since the epoch."""
    attempt: int = 1
    note: str = ""
    """E.g. ``superseded``: a newer version has the final name."""


ReceiptState = Literal["delivered", "quarantined", "superseded"]


class Receipt(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a worker says about one file version; its key on the topic is ``file_id``."""

    schema: str = "openmsi_streams.receipt/1"
    file_id: str
    topic: str
    path: str
    sha512: str
    bytes: int
    state: ReceiptState
    deliveries: tuple[Delivery, ...] = ()
    reason: str = ""
    message: str = ""
    time: float = 0.0
    copy_of: str = ""
    """Path of a file on the same topic that has the same content."""
    flags: tuple[str, ...] = ()


class Request(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Byte ranges that a worker lacks and cannot find in the log; its key on the topic is ``file_id``."""

    schema: str = "openmsi_streams.request/1"
    file_id: str
    topic: str
    path: str
    sha512: str
    missing: tuple[tuple[int, int], ...]
    """Half-open byte ranges; an end of -1 means up to the end, which the worker does not know."""
    attempt: int = 1
    time: float = 0.0


class FileVersion(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A delivered file version, for what comes after delivery (analysis, records, processors)."""

    schema: str = "openmsi_streams.file/1"
    file_id: str
    topic: str
    path: str
    sha512: str
    bytes: int
    mtime: float | None = None
    deliveries: tuple[Delivery, ...] = ()
    headers: dict[str, str] = {}


# Names of the headers on `<topic>.quarantine`; the value is the original message's bytes.
QUARANTINE_HEADERS = (
    "topic",
    "partition",
    "offset",
    "timestamp",
    "reason",
    "message",
    "path",
    "sha512",
    "file_id",
    "kind",
)

_encoder = msgspec.json.Encoder(order="deterministic")


def to_json(message: msgspec.Struct) -> bytes:
    """Return a message's JSON, the same bytes for the same message."""
    return _encoder.encode(message)


def receipt_from(value: bytes) -> Receipt:
    """Return a receipt. Raises msgspec.DecodeError if it is not one."""
    return msgspec.json.decode(value, type=Receipt)


def request_from(value: bytes) -> Request:
    """Return a request. Raises msgspec.DecodeError if it is not one."""
    return msgspec.json.decode(value, type=Request)
