"""Where a producer keeps its registry, log and state file, and the lock that keeps a second one away."""

from __future__ import annotations

import os
import re
from hashlib import sha256
from pathlib import Path
from typing import IO

from openmsi_streams.errors import ConfigurationError, UsageError
from openmsi_streams.producers import system

REGISTRY = "registry.sqlite3"
STATE_FILE = "state.json"
LOG_FILE = "producer.log"


def base_folder(state: str) -> Path:
    """Return the folder that holds the state of all producers of this user: ``--state`` or the platform's place."""
    if state:
        return Path(state).expanduser().absolute()
    from platformdirs import user_data_path

    return user_data_path("openmsi-streams", appauthor=False) / "producers"


def state_folder(state: str, root: Path, topic: str) -> Path:
    """Return the folder of one watched folder and topic; its name tells both, and a hash keeps equal names apart."""
    digest = sha256(f"{os.path.realpath(root)}\0{topic}".encode("utf-8", "surrogateescape")).hexdigest()[:10]
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", f"{root.name}-{topic}")[:60].strip("._")
    return base_folder(state) / f"{name or 'root'}-{digest}"


def lock(folder: Path, root: Path, topic: str, shared: Path | None = None) -> list[IO[str]]:
    """Make this process the only producer of a folder and topic; the locks last until closed or the process ends.

    One lock stands in the state folder, one in the platform's application folder, which finds a producer that was
    started with another ``--state``.

    Raises:
        UsageError: another process has it; the message names its pid.
    """
    places = [folder]
    common = (shared or base_folder("")) / "locks"
    locks: list[IO[str]] = []
    for place, name in ((places[0], "lock"), (common, f"{folder.name}.lock")):
        try:
            taken = system.try_lock(place / name)
        except OSError as error:
            if place == common:
                continue  # a service account may have no folder of its own
            raise ConfigurationError(
                f"The state folder {place} cannot be written: {error.strerror}. Choose another with --state DIR."
            ) from None
        if taken is None:
            pid = _pid(place / name)
            for one in locks:
                one.close()
            raise UsageError(
                f"Another producer{f' (pid {pid})' if pid else ''} already sends {root} to the topic {topic}. Stop it "
                "first, or watch another folder."
            )
        locks.append(taken)
    return locks


def _pid(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return ""
