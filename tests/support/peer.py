"""The published OpenMSIStream, in a virtual environment of its own."""

from __future__ import annotations

import os
import subprocess
import venv
from pathlib import Path

import pytest

from tests.support.programs import Program, spawn

VERSION = "1.8.8"
# Made once and kept, outside of what a test removes: installing it takes half a minute.
FOLDER = Path(__file__).resolve().parents[2] / ".venv-openmsistream"


def peer_bin() -> Path:
    """Return the folder of its programs, installed on first use; skip the test where that is not possible."""
    chosen = os.environ.get("OPENMSI_TEST_PEER")
    if chosen:
        return Path(chosen)
    programs = FOLDER / "bin"
    if not (programs / "DataFileUploadDirectory").exists():
        venv.create(FOLDER, with_pip=True, clear=True)
        install = [str(programs / "python"), "-m", "pip", "install", "--quiet", f"openmsistream=={VERSION}"]
        done = subprocess.run(install, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"openmsistream {VERSION} cannot be installed here: {done.stderr[-300:]}")
    return programs


def config(path: Path, bootstrap: str, endpoint: str = "", keys: tuple[str, str] = ("", "")) -> Path:
    """Write its configuration file, as a lab has it."""
    lines = [
        *("[broker]", f"bootstrap.servers = {bootstrap}"),
        *("[producer]", "batch.size = 200000", "linger.ms = 100", "compression.type = lz4"),
        *("key.serializer = StringSerializer", "value.serializer = DataFileChunkSerializer"),
        *("[consumer]", "group.id = create_new", "auto.offset.reset = earliest", "enable.auto.commit = False"),
        # The embedded broker answers the first join after half of the session timeout.
        *("fetch.min.bytes = 1", "session.timeout.ms = 6000"),
        *("key.deserializer = StringDeserializer", "value.deserializer = DataFileChunkDeserializer"),
    ]
    if endpoint:
        lines += ["[s3]", f"access_key_id = {keys[0]}", f"secret_key_id = {keys[1]}", f"endpoint_url = {endpoint}"]
        lines += ["region = us-east-1"]
    path.write_text("\n".join(lines) + "\n")
    return path


def run_peer(name: str, *args: str | Path) -> Program:
    """Start one of its programs. It ends when ``q`` comes on its standard input, or by a signal."""
    return spawn(peer_bin() / name, *args, name=name, env={"PYTHONPATH": "", "PATH": os.environ["PATH"]})
