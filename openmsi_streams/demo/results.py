"""What the demo knows of each file: what was written, what the worker says, and what the stores really hold."""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha512
from pathlib import Path
from typing import Any
from urllib.request import url2pathname

from openmsi_streams.chunks.codec import count
from openmsi_streams.config.settings import MIB
from openmsi_streams.demo.laboratory import Written
from openmsi_streams.storage.keys import KeyTemplate

# A local worker answers in milliseconds; one that is busy with a rebalance may take seconds.
ANSWER_SECONDS = 10.0


@dataclass
class Row:
    """What the worker says of one file version."""

    path: str
    sha512: str
    bytes: int
    received: int
    state: str
    reason: str
    urls: dict[str, str]
    """URL by kind of store."""
    delivered: float
    """When the last store confirmed it, seconds since the epoch; 0: not yet."""


@dataclass
class Result:
    """One file at the end."""

    path: str
    bytes: int
    sha512: str
    chunks: int
    disk_path: str = ""
    s3_url: str = ""
    disk_sha512: str = ""
    s3_sha512: str = ""
    seconds: float | None = None
    """From the moment the instrument closed the file until the last store confirmed it."""
    state: str = "not seen"

    @property
    def equal(self) -> bool:
        """Whether both stores hold exactly what was written."""
        return self.disk_sha512 == self.sha512 == self.s3_sha512


def get_json(url: str) -> Any:
    """Return the JSON that an address of the local worker answers with; None if it does not answer."""
    # No proxy from the environment may stand between us and the loopback address.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=ANSWER_SECONDS) as answer:
            return json.load(answer)
    except (OSError, ValueError, urllib.error.URLError):
        return None


def rows(web: str) -> list[Row]:
    """Return all rows of the worker's table; none while it does not answer."""
    found: list[Row] = []
    cursor = ""
    while True:
        parameters = {"limit": "200", **({"cursor": cursor} if cursor else {})}
        page = get_json(f"{web}/api/v1/files?{urllib.parse.urlencode(parameters)}")
        if not isinstance(page, dict):
            return found
        for item in page.get("items", ()):
            deliveries = item.get("deliveries") or ()
            found.append(
                Row(
                    path=item["path"],
                    sha512=item["sha512"],
                    bytes=int(item.get("bytes") or 0),
                    received=int(item.get("received") or 0),
                    state=item["state"],
                    reason=item.get("reason") or "",
                    urls={delivery["kind"]: delivery["url"] for delivery in deliveries},
                    delivered=max((float(delivery.get("time") or 0) for delivery in deliveries), default=0.0),
                )
            )
        cursor = page.get("next") or ""
        if not cursor:
            return found


def newest(found: Iterable[Row], written: Iterable[Written]) -> dict[str, Row]:
    """Return each path's row of the version that was written; another version only while that one is not there."""
    wanted = {file.path: file.sha512 for file in written}
    chosen: dict[str, Row] = {}
    for row in found:
        if row.path not in chosen or row.sha512 == wanted.get(row.path):
            chosen[row.path] = row
    return chosen


def local_path(url: str) -> Path:
    """Return the path of a ``file:`` URL; a plain path is taken as it is."""
    if url.startswith("file:"):
        return Path(url2pathname(urllib.parse.urlsplit(url).path))
    return Path(url)


def hash_disk(path: Path) -> str:
    """Return the SHA-512 of a file in hex, or an empty text if it is not there."""
    digest = sha512()
    try:
        with path.open("rb") as file:
            while piece := file.read(MIB):
                digest.update(piece)
    except OSError:
        return ""
    return digest.hexdigest()


def hash_s3(client: Any, bucket: str, key: str) -> str:
    """Return the SHA-512 of an object in hex, or an empty text if it is not there."""
    from botocore.exceptions import BotoCoreError, ClientError

    digest = sha512()
    try:
        for piece in client.get_object(Bucket=bucket, Key=key)["Body"].iter_chunks(MIB):
            digest.update(piece)
    except (BotoCoreError, ClientError):
        return ""
    return digest.hexdigest()


def check(file: Written, row: Row | None, chunk_bytes: int, client: Any, topic: str, bucket: str, root: Path) -> Result:
    """Read a file back from both stores, whatever the worker says, and compare."""
    result = Result(file.path, file.bytes, file.sha512, count(file.bytes, chunk_bytes))
    disk = root / topic / file.path
    key = KeyTemplate("{topic}/{subdir}/{filename}").key(topic, file.path)
    if row is not None:
        result.state = row.state if row.sha512 == file.sha512 else "an older version"
        if "disk" in row.urls:
            disk = local_path(row.urls["disk"])
        if row.delivered and row.sha512 == file.sha512:
            result.seconds = round(max(0.0, row.delivered - file.time), 3)
    result.disk_sha512 = hash_disk(disk)
    result.s3_sha512 = hash_s3(client, bucket, key)
    result.disk_path = str(disk) if result.disk_sha512 else ""
    result.s3_url = f"s3://{bucket}/{key}" if result.s3_sha512 else ""
    return result


def as_data(results: list[Result], worker_ready_s: float, seconds: float) -> dict[str, Any]:
    """Return everything as data for ``--json``."""
    return {
        "files": [
            {
                "path": result.path,
                "bytes": result.bytes,
                "sha512": result.sha512,
                "chunks": result.chunks,
                "disk_path": result.disk_path,
                "disk_sha512": result.disk_sha512,
                "s3_url": result.s3_url,
                "s3_sha512": result.s3_sha512,
                "seconds": result.seconds,
                "state": result.state,
                "equal": result.equal,
            }
            for result in results
        ],
        "totals": {
            "files": len(results),
            "bytes": sum(result.bytes for result in results),
            "mismatches": sum(not result.equal for result in results),
            "worker_ready_s": round(worker_ready_s, 3),
            "seconds": round(seconds, 3),
        },
    }
