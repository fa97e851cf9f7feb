"""Unfinished multipart uploads of a store: listed, and aborted when nobody goes on with them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from openmsi_streams.storage.base import NoUpload
from openmsi_streams.storage.upload_state import seconds_of

if TYPE_CHECKING:
    from openmsi_streams.storage.s3 import S3Store


def list_parts(store: S3Store, key: str, upload_id: str) -> list[Any]:
    """Return what the server says of each part of an upload. Raises NoUpload, StoreUnavailable."""
    pages = store.client.get_paginator("list_parts")

    def read() -> list[Any]:
        found: list[Any] = []
        for page in pages.paginate(Bucket=store.settings.bucket, Key=key, UploadId=upload_id):
            found += page.get("Parts", [])
        return found

    return store.calls.run(f"list the parts of {key!r}", read)


def abort(store: S3Store, key: str, upload_id: str) -> None:
    """Abort an upload; nothing happens if it is gone. Raises StoreUnavailable."""
    with contextlib.suppress(NoUpload):
        store.calls.run(
            f"abort the upload of {key!r}",
            lambda: store.client.abort_multipart_upload(Bucket=store.settings.bucket, Key=key, UploadId=upload_id),
        )


def sweep(store: S3Store, known_upload_ids: Collection[str], topics: Collection[str] | None = None) -> int:
    """Abort multipart uploads of ours that no row knows and where nothing has happened for ``orphan_hours``.

    Another worker's upload is known to that worker alone, so one that still gets parts is left, however old it is.

    Args:
        store: the store.
        known_upload_ids: those that rows of this worker name.
        topics: chunk topics whose keys are ours; None: those of the settings, else all that the template makes.

    Returns:
        How many were aborted.
    """
    ours = set(topics) if topics is not None else set(store.settings.topics)
    before = time.time() - store.settings.orphan_hours * 3600
    pages = store.client.get_paginator("list_multipart_uploads")

    def read() -> list[Any]:
        found: list[Any] = []
        for page in pages.paginate(Bucket=store.settings.bucket):
            found += page.get("Uploads", [])
        return found

    aborted = 0
    for upload in store.calls.run("list its unfinished uploads", read):
        upload_id, key = str(upload["UploadId"]), str(upload["Key"])
        place = store.keys.place(key)
        if upload_id in known_upload_ids or place is None or (ours and place[0] not in ours):
            continue
        if seconds_of(upload.get("Initiated")) > before or _last_part(store, key, upload_id) > before:
            continue
        abort(store, key, upload_id)
        aborted += 1
    return aborted


def _last_part(store: S3Store, key: str, upload_id: str) -> float:
    try:
        parts = list_parts(store, key, upload_id)
    except NoUpload:
        return 0.0
    return max((seconds_of(part.get("LastModified")) for part in parts), default=0.0)
