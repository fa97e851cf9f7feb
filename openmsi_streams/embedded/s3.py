"""The embedded S3 server: nanio, which checks signatures and keeps objects as plain files."""

from __future__ import annotations

import os
import re
import secrets
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from openmsi_streams.embedded.server import EmbeddedServer
from openmsi_streams.errors import ExtraMissing, UsageError

# Beside the buckets; a bucket's name cannot begin with a dot.
KEYS_FILE = ".keys"
# What nanio calls an object while it is being written.
_UNFINISHED = re.compile(r"\.tmp\.[0-9a-f]{32}")


def remove_leftovers(data: Path) -> int:
    """Remove what a killed server left half written, before another starts; return how many files.

    nanio 0.1.5 makes a sidecar as ``KEY.json.tmp`` and refuses to when it is there: every later write of that object
    would fail with InternalError, for ever.
    """
    removed = 0
    for bucket in data.iterdir() if data.is_dir() else ():
        sidecars = bucket / ".nanio-meta"
        left = [path for path in sidecars.rglob("*.json.tmp") if path.is_file()] if sidecars.is_dir() else []
        if bucket.is_dir():
            left += [path for path in bucket.rglob(".tmp.*") if _UNFINISHED.fullmatch(path.name) and path.is_file()]
        for path in left:
            path.unlink(missing_ok=True)
            removed += 1
    return removed


def kept_keys(data: Path, access_key: str, secret_key: str) -> tuple[str, str]:
    """Return the keys that an earlier server with this folder had; if there are none, keep these for a later one.

    Raises:
        UsageError: the file of the keys cannot be read or is not one.
    """
    path = data / KEYS_FILE
    try:
        # Only its owner may read it, from its first moment on.
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(f"{access_key}\n{secret_key}\n")
        return access_key, secret_key
    except FileExistsError:
        pass
    try:
        access, secret = path.read_text(encoding="utf-8").split()
    except (OSError, ValueError):
        raise UsageError(
            f"{path} should hold the S3 server's two keys and cannot be used. Delete it; new keys are made then."
        ) from None
    return access, secret


class EmbeddedS3(EmbeddedServer):
    """An S3 server that lives as long as the ``with`` block.

    Attributes:
        endpoint: its URL.
        access_key: the one user's access key.
        secret_key: the one user's secret key, made anew for each server; with ``data`` kept there in `KEYS_FILE`.
        data: folder that holds a folder per bucket.
    """

    what = "The embedded S3 server"
    region = "us-east-1"

    def __init__(self, *, port: int | None = None, data: Path | None = None) -> None:
        """Prepare a server.

        Args:
            port: port to listen on; None: a free one.
            data: folder for the buckets, kept after the end; None: a temporary one, removed at the end.
        """
        super().__init__(port=port)
        self.access_key, self.secret_key = f"embedded-{secrets.token_hex(6)}", secrets.token_urlsafe(32)
        self._wanted_data = data
        self.data = data or Path()

    @property
    def endpoint(self) -> str:
        """URL of the server."""
        return f"http://{self.address}"

    def command(self, folder: Path) -> list[str]:
        """Return the command line of nanio with our uploads."""
        if find_spec("nanio") is None:
            raise ExtraMissing(self.what, "embedded", "nanio")
        self.data = self._wanted_data or folder / "buckets"
        self.data.mkdir(parents=True, exist_ok=True)
        remove_leftovers(self.data)
        if self._wanted_data is not None:
            self.access_key, self.secret_key = kept_keys(self.data, self.access_key, self.secret_key)
        return [
            *(sys.executable, "-m", "openmsi_streams.embedded.placed_s3", "serve", "--no-access-log"),
            *("--data-dir", str(self.data), "--region", self.region),
            *("--host", "127.0.0.1", "--port", str(self.port)),
        ]

    def environment(self) -> Mapping[str, str]:
        """Return the environment with the user's keys, which so never stand in a list of processes."""
        rest = {name: value for name, value in os.environ.items() if not name.startswith("NANIO_")}
        return {**rest, "NANIO_ACCESS_KEY": self.access_key, "NANIO_SECRET_KEY": self.secret_key}

    def answers(self) -> bool:
        """Ask without a signature and expect to be refused, once the program has said that it listens."""
        assert self.child is not None
        if "Uvicorn running on" not in self.child.text:
            return False
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            opener.open(self.endpoint, timeout=5.0).close()
        except urllib.error.HTTPError as error:
            error.close()
            return error.code == 403
        except OSError:
            return False
        return False

    def make_bucket(self, name: str) -> str:
        """Make a bucket if it is not there, and return its name.

        Raises:
            UsageError: if S3 does not allow the name.
        """
        from nanio.errors import S3Error
        from nanio.storage.filesystem import FilesystemStorage

        if (self.data / name).is_dir():
            return name
        try:
            FilesystemStorage(self.data).create_bucket(name)
        except S3Error:
            raise UsageError(
                f"{name!r} cannot be a bucket's name: 3 to 63 lower-case letters, digits, '-' and '.' are allowed."
            ) from None
        return name
