"""S3 stores and verified files for tests."""

from __future__ import annotations

import os
import random
import secrets
from collections.abc import Callable
from hashlib import sha512
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from openmsi_streams.chunks import ranges as rg
from openmsi_streams.chunks.keys import file_id
from openmsi_streams.config.settings import MIB, S3Settings
from openmsi_streams.embedded import EmbeddedS3
from openmsi_streams.storage import Verified


def s3_settings(server: EmbeddedS3, bucket: str = "", **more: Any) -> S3Settings:
    """Return settings for a new bucket of a server, or of the server that ``OPENMSI_TEST_S3`` names.

    That variable is a URL like ``https://KEY:SECRET@host:port/bucket``; an existing bucket, under a topic of its own.
    """
    other = urlsplit(os.environ.get("OPENMSI_TEST_S3", ""))
    if other.hostname:
        port = f":{other.port}" if other.port else ""
        base: dict[str, Any] = {
            "endpoint": f"{other.scheme}://{other.hostname}{port}",
            "bucket": other.path.strip("/"),
            "access_key_id": unquote(other.username or ""),
            "secret_access_key": unquote(other.password or ""),
        }
    else:
        base = {
            "endpoint": server.endpoint,
            "bucket": server.make_bucket(bucket or f"b-{secrets.token_hex(6)}"),
            "access_key_id": server.access_key,
            "secret_access_key": server.secret_key,
        }
    return S3Settings(**{**base, "part_bytes": 5 * MIB, **more})


def arrived(*ranges: int) -> Callable[[], rg.Ranges]:
    """Return what tells a store which bytes of a partial file are there: always these."""
    return lambda: ranges


def new_topic() -> str:
    """Return a topic that no other test uses."""
    return f"t{secrets.token_hex(5)}"


def verified(folder: Path, relative: str, data: bytes | int, topic: str = "scans", **more: Any) -> Verified:
    """Write a partial file and return what the engine would hand to a store; a number stands for so many bytes."""
    content = random.Random(f"{relative}{data}").randbytes(data) if isinstance(data, int) else data
    digest = sha512(content).hexdigest()
    identity = file_id(topic, relative, digest)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / identity
    path.write_bytes(content)
    return Verified(
        path=path,
        file_id=identity,
        topic=topic,
        relative=relative,
        sha512=digest,
        size=len(content),
        mtime=more.pop("mtime", 1_600_000_000.25),
        timestamp=1_700_000_000.0,
        **more,
    )
