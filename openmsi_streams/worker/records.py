"""GEMD records of deliveries: made in the delivery's thread, made again when a sidecar comes or an analysis is done."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import msgspec

from openmsi_streams.chunks.messages import Delivery, FileVersion
from openmsi_streams.chunks.topics import beside
from openmsi_streams.config.settings import Settings
from openmsi_streams.gemd.emit import FileFacts, RecordSet, StoreLink, records_for_file
from openmsi_streams.gemd.mapping import Mapping
from openmsi_streams.storage.base import Store, Verified
from openmsi_streams.tables.rows import State
from openmsi_streams.worker.deliver import Emitted, Job, Record
from openmsi_streams.worker.engine import Engine

log = logging.getLogger(__name__)

# An extractor reads a header, not a data file.
EXTRACT_BYTES = 1 << 16
# A sidecar is text by a person's hand.
SIDECAR_BYTES = 1 << 20

MEDIA_TYPES = {".png": "image/png", ".json": "application/json", ".csv": "text/csv", ".npz": "application/octet-stream"}


class Recorder:
    """Makes the records of file versions and stores their documents beside the files."""

    def __init__(self, engine: Engine, stores: list[Store], settings: Settings) -> None:
        """Load the lab's mapping.

        Raises:
            RecordError: if it is wrong; before anything starts.
        """
        gemd = settings.gemd
        self.mapping = Mapping.load(Path(gemd.mapping) if gemd.mapping else None) if gemd.enabled else None
        self.engine = engine
        self.stores = stores
        self.analysis_of: Callable[[str], dict[str, Any] | None] = lambda file_id: None
        """Gives the result of a file version's analysis, if there is one; set by the follower."""

    # -- at delivery -------------------------------------------------------------------------------------------------

    def emit(self, job: Job, deliveries: tuple[Delivery, ...]) -> Emitted:
        """Return the records of a file version that is being delivered; runs in a thread."""
        row = job.row
        local = job.file.path if job.file.path.exists() else local_path(deliveries)
        made = self._make(job.file, deliveries, row.headers, local)
        summary = {"uid": made.file_uid, "name": made.name, "sample": made.sample_uid} if made.messages else None
        return Emitted(
            tuple(self._stored(job.file, made)), tuple(made.flags), msgspec.json.encode(summary) if summary else b""
        )

    def describes_others(self, topic: str, path: str) -> bool:
        """Say whether a file may be the sidecar of others, whose records are then made again."""
        return self.mapping is not None and self.mapping.may_be_sidecar(topic, path)

    # -- later -------------------------------------------------------------------------------------------------------

    def of_analysis(self, version: FileVersion, result: dict[str, Any], links: list[StoreLink]) -> list[Record]:
        """Return the records of a file version and its analysis."""
        file = verified(version)
        made = self._make(
            file, version.deliveries, version.headers, local_path(version.deliveries), analysis=result, links=links
        )
        return self._stored(file, made)

    def of_sidecar(self, topic: str, partition: int, sidecar: str) -> list[Record]:
        """Return the records, made again, of the partition's files that this sidecar describes."""
        records: list[Record] = []
        if self.mapping is None:
            return records
        for path, file_id in self.engine.delivered.newest(topic, partition).items():
            if sidecar not in self.mapping.sidecar_paths(topic, path):
                continue
            row = self.engine.row_at(topic, partition, file_id)
            if row is None or row.state is not State.DELIVERED:
                continue
            version = self.engine.version(file_id, row)
            result = self.analysis_of(file_id)
            if result is None:
                file = verified(version)
                made = self._make(file, version.deliveries, version.headers, local_path(version.deliveries))
                records += self._stored(file, made)
            else:
                links = [StoreLink(**link) for link in result.get("stored", ())]
                records += self.of_analysis(version, result, links)
        return records

    # -- parts -------------------------------------------------------------------------------------------------------

    def _make(
        self,
        file: Verified,
        deliveries: Iterable[Delivery],
        headers: dict[str, str],
        local: Path | None,
        analysis: dict[str, Any] | None = None,
        links: list[StoreLink] | None = None,
    ) -> RecordSet:
        if self.mapping is None:
            return RecordSet()
        extracted: dict[str, Any] = {}
        if local is not None and self.mapping.wants_bytes(file.topic, file.relative):
            with open(local, "rb") as source:
                extracted = self.mapping.extract(file.topic, file.relative, source.read(EXTRACT_BYTES))
        sidecar = self.mapping.find_sidecar(file.topic, file.relative, lambda path: self.read(file.topic, path))
        return records_for_file(
            self.mapping,
            FileFacts(
                file_id=file.file_id,
                topic=file.topic,
                path=file.relative,
                filename=file.relative.rpartition("/")[2],
                sha512=file.sha512,
                size=file.size,
                mtime=file.mtime,
            ),
            [StoreLink(delivery.kind, delivery.url) for delivery in deliveries],
            analysis=analysis,
            sidecar=sidecar,
            headers=headers,
            extracted=extracted,
            analysis_links=links or (),
        )

    def read(self, topic: str, path: str) -> bytes | None:
        """Return a delivered file's first bytes from the disk store."""
        for store in self.stores:
            root = getattr(store, "root", None)
            if store.kind == "disk" and root is not None and store.wants(topic):
                try:
                    with open(Path(root) / topic / path, "rb") as source:
                        return source.read(SIDECAR_BYTES)
                except OSError:
                    return None
        return None

    def _stored(self, file: Verified, made: RecordSet) -> list[Record]:
        if made.document:
            self.store_beside(file, f"{file.relative.rpartition('/')[2]}.gemd.json", made.document)
        return [(beside(file.topic, "gemd"), key, value) for key, value in made.messages]

    def store_beside(self, file: Verified, name: str, data: bytes) -> list[StoreLink]:
        """Put a derived file beside its file, into every store that has it."""
        media = MEDIA_TYPES.get(Path(name).suffix, "application/octet-stream")
        links = []
        for store in self.stores:
            if store.wants(file.topic):
                put = store.put_beside(file, name, data, media)
                links.append(StoreLink(put.kind, put.url))
        return links


def local_path(deliveries: Iterable[Delivery]) -> Path | None:
    """Return where the disk store put a file."""
    for delivery in deliveries:
        if delivery.kind == "disk" and delivery.note != "superseded":
            return Path(unquote(urlsplit(delivery.url).path))
    return None


def verified(version: FileVersion, path: Path | None = None) -> Verified:
    """Return a delivered file version as the stores take it."""
    return Verified(
        path=path or Path(),
        file_id=version.file_id,
        topic=version.topic,
        relative=version.path,
        sha512=version.sha512,
        size=version.bytes,
        mtime=version.mtime,
        timestamp=version.mtime or 0.0,
    )
