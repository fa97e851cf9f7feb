"""What the caller knows about a file, and what it gets back."""

from __future__ import annotations

import msgspec


class FileFacts(msgspec.Struct, frozen=True, kw_only=True):
    """One delivered file version.

    ``path`` is relative with forward slashes; ``size`` in bytes; ``mtime`` in seconds since 1970 (UTC), None or 0
    when the producer did not send it. ``producer`` is kept out of the record: two producers of one file must give the
    same bytes.
    """

    file_id: str
    topic: str
    path: str
    filename: str
    sha512: str
    size: int
    mtime: float | None = None
    media_type: str = ""
    producer: str = ""


class StoreLink(msgspec.Struct, frozen=True):
    """Where a file lies: ``kind`` is "disk" or "s3"; ``url`` is percent-encoded and never presigned."""

    kind: str
    url: str
    filename: str = ""  # empty: the last part of the URL


class RecordSet(msgspec.Struct):
    """The records of one file, ready to send and to store.

    ``messages`` go to ``<topic>.gemd`` as (key, value); ``document`` is all of them in one, for ``<key>.gemd.json``;
    ``flags`` say what is missing or wrong. All empty when the mapping skips such files.
    """

    messages: list[tuple[bytes, bytes]] = msgspec.field(default_factory=list)
    document: bytes = b""
    flags: list[str] = msgspec.field(default_factory=list)
    name: str = ""
    file_uid: str = ""
    analysis_uid: str = ""
    sample_uid: str = ""
