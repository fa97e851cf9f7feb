"""Reading an object back: in pieces, going on after a broken connection, hashed on the way."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError

from openmsi_streams.errors import IntegrityError
from openmsi_streams.storage.base import READ_BYTES, StoreUnavailable
from openmsi_streams.storage.checksums import Throttle

if TYPE_CHECKING:
    from openmsi_streams.storage.s3objects import S3Objects

# A read that breaks off goes on where it was; so many breaks without a byte in between are a server that is down.
_TRIES = 5


def read_object(store: S3Objects, key: str, take: Callable[[bytes], object]) -> int:
    """Hand every byte of an object to ``take``, in order, once each.

    Returns:
        The number of bytes.

    Raises:
        Absent, StoreUnavailable: as the server says.
        IntegrityError: the object was replaced while it was being read.
    """
    place, etag, breaks = 0, "", 0
    throttle = Throttle(store.settings.bandwidth)
    while True:
        more = {"Range": f"bytes={place}-"} if place else {}
        answer = store.calls.run(
            f"give {key!r}",
            lambda: store.client.get_object(Bucket=store.settings.bucket, Key=key, **more),  # noqa: B023
        )
        if place and answer["ETag"] != etag:
            raise IntegrityError(f"{store.url(key)} was replaced while it was being read. Read it again.")
        etag = str(answer["ETag"])
        expected = place + int(answer["ContentLength"])
        body = answer["Body"]
        try:
            with contextlib.closing(body):
                for block in body.iter_chunks(READ_BYTES):
                    throttle.take(len(block))
                    take(block)
                    place += len(block)
                    breaks = 0
            if place >= expected:
                return place
            said: object = f"it ended after {place} of {expected} bytes"
        except (BotoCoreError, ClientError, OSError) as error:
            said = error
        breaks += 1
        if breaks >= _TRIES:
            raise StoreUnavailable(
                f"The {store.calls.where} did not give all of {key!r}: {store.calls.clean(said)}. Check that it runs.",
                5.0,
            )
        time.sleep(0.1 * 2**breaks)


def sha512_of(store: S3Objects, key: str) -> str:
    """Return the sha512 of an object's bytes, in hex. Raises as `read_object`."""
    h = hashlib.sha512()
    read_object(store, key, h.update)
    return h.hexdigest()


def fetch_object(store: S3Objects, key: str, target: Path, sha512: str, mtime: float | None = None) -> int:
    """Write an object to ``target``, which gets its name only when the sha512 is right.

    Args:
        store: where it is.
        key: the object.
        target: path of the file; what is there is replaced.
        sha512: that it must have, in hex.
        mtime: modification time to set, seconds since the epoch.

    Returns:
        The number of bytes.

    Raises:
        IntegrityError: the object has other bytes; nothing is at ``target`` then.
        Absent, StoreUnavailable: as the server says.
        OSError: the target cannot be written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".partial-{secrets.token_hex(8)}")
    try:
        h = hashlib.sha512()
        with partial.open("wb") as stream:

            def take(block: bytes) -> None:
                h.update(block)
                stream.write(block)

            size = read_object(store, key, take)
            stream.flush()
            os.fsync(stream.fileno())
        if h.hexdigest() != sha512:
            raise IntegrityError(
                f"{store.url(key)} has the sha512 {h.hexdigest()[:16]}… instead of {sha512[:16]}…; the object was "
                "changed after its delivery. `openmsi-streams verify --deep` lists all such objects."
            )
        if mtime is not None and mtime > 0:
            os.utime(partial, (mtime, mtime))
        os.replace(partial, target)
        return size
    finally:
        partial.unlink(missing_ok=True)
