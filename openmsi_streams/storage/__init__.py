"""Stores: where verified files are delivered to, on disk and in S3, with proof."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from openmsi_streams.storage.base import SourceGone, Store, Stored, StoreUnavailable, Verified
from openmsi_streams.storage.disk import DiskStore

if TYPE_CHECKING:
    from openmsi_streams.config.settings import Settings

__all__ = ["DiskStore", "SourceGone", "Store", "StoreUnavailable", "Stored", "Verified", "stores_from"]


def stores_from(settings: Settings, names: Iterable[str] | None = None) -> list[Store]:
    """Return the stores of the settings, S3 first and the disk last, since the disk takes the partial file away.

    Args:
        settings: all settings.
        names: only these S3 stores; None: all.

    Raises:
        StoreError: a store's settings cannot work.
    """
    stores: list[Store] = []
    wanted = None if names is None else set(names)
    for name, one in settings.s3.items():
        if wanted is None or name in wanted:
            from openmsi_streams.storage.s3 import S3Store

            stores.append(S3Store(name, one, settings.worker.versions))
    if settings.disk.root:
        stores.append(DiskStore(Path(settings.disk.root), settings.disk, settings.worker.versions))
    return stores
