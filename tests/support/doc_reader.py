"""A person who reads a page of the documentation and types its commands into a shell, in a home folder of their own."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from openmsi_streams.embedded import EmbeddedBroker, EmbeddedS3
from openmsi_streams.embedded.ports import free_port
from tests.support.doc_blocks import Block, blocks, cannot_run, commands
from tests.support.fake_systemctl import FAKE
from tests.support.programs import Program, spawn

# Seconds for one command on a machine with other work.
PATIENCE = 120.0

# What stands for a laboratory's own addresses and folders in the pages, and what it is here.
PLACEHOLDERS = {
    # addresses
    "kafka.example.org:9092": "{bootstrap}",
    "kafka.example.org:9093": "{bootstrap}",
    "kafka.lab.example:9092": "{bootstrap}",
    "broker.lab:9092": "{bootstrap}",
    "http://lab-server:6066": "{web}",
    "http://127.0.0.1:6066": "{web}",
    "http://127.0.0.1:9000": "http://127.0.0.1:{s3_port}",
    "--port 9092": "--port {broker_port}",
    "--port 9000": "--port {s3_port}",
    # The embedded broker has neither TLS nor passwords; tests/broker/config has both.
    '"SASL_SSL"': '"PLAINTEXT"',
    # folders of Windows, with "/" for "\"
    "C:\\Data": "{home}/Data",
    "D:\\Data": "{home}/Data",
    "D:\\Sent": "{home}/Sent",
    "C:\\lab": "{home}/lab",
    # folders of Linux
    "/data/store": "{store}",
    "/data/lab": "{home}/delivered",
    "/var/lib/openmsi-streams": "{home}/state",
    "/mnt/instrument/data": "{home}/instrument",
    # what is another one for everybody
    "s3://bucket/prefix": "s3://lab-data/lasershock-pdv",
    "3f2b8c...e1": "{file_id}",
}
# What the shell adds, so that nothing outside the home folder is touched and no fixed port is used.
ADDED = {
    r"openmsi-streams service \w+": "--root {home}/root",
    r"openmsi-streams broker(?!.*--port)": "--port {broker_port}",
    r"openmsi-streams s3(?!.*--port)": "--port {s3_port}",
    r"curl": "--silent --show-error",
}
# Commands that run until they are stopped, with what they say once they are at work.
STAYS = {"worker": "worker ready", "watch": "watching ", "broker": "Ctrl-C", "s3": "Ctrl-C"}
# Exit codes other than 0 that the pages tell of.
ALSO_RIGHT = {
    r"openmsi-streams status( --instrument| --state .*)?": {4},
    r"openmsi-streams service status": {3},
}


class Reader:
    """Reads one page."""

    def __init__(self, home: Path, bootstrap: str, web: str, store: Path) -> None:
        """Prepare a home folder with a shell's programs; ``web`` is the address of a worker, ``store`` its folder."""
        self.home = home
        self.name = reader_name(home.name)
        self.values = {
            "home": str(home),
            "bootstrap": bootstrap,
            "web": web,
            "store": str(store),
            "broker_port": str(free_port()),
            "s3_port": str(free_port()),
            "file_id": "",
        }
        self.before: dict[int, Callable[[], None]] = {}
        """What the reader does of their own accord before a block, by the block's number."""
        self.files: dict[int, str] = {}
        """Names of files that blocks of settings are saved under."""
        self.more: dict[str, str] = {}
        """Further placeholders of the page."""
        self.more_python = ""
        """What the reader writes below the page's Python, which may define without calling."""
        self.programs: dict[str, Program] = {}
        self.said: dict[str, str] = {}
        """What each command printed, by its line in the page; of one that stays until it was at work."""
        tools = home / "bin"
        tools.mkdir(parents=True)
        python = shlex.quote(sys.executable)
        for name, text in {
            "openmsi-streams": f'#!/bin/sh\nexec {python} -m openmsi_streams "$@"\n',
            "python": f'#!/bin/sh\nexec {python} "$@"\n',
            "systemctl": FAKE,
        }.items():
            (tools / name).write_text(text)
            (tools / name).chmod(0o755)
        root = Path(__file__).parents[2]
        self.env = {
            "HOME": str(home),
            "XDG_DATA_HOME": str(home / ".local/share"),
            "XDG_CONFIG_HOME": str(home / ".config"),
            "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": f"{root}{os.pathsep}{home / 'python'}",
            "FAKE_LOG": str(home / "systemctl.log"),
            "FAKE_STATE": str(home / "systemctl.state"),
            # Of what the pages leave at its default, only what must differ here.
            "OPENMSI_STREAMS__BROKER__BOOTSTRAP": bootstrap,
            "OPENMSI_STREAMS__WEB__PORT": web.rpartition(":")[2],
            "OPENMSI_STREAMS__DISK__FREE_FLOOR": "1000000",
        }

    def has_a_worker(self) -> None:
        """Let the page's own worker be one apart from the one that all readers share."""
        self.env |= {
            "OPENMSI_STREAMS__WEB__PORT": str(free_port()),
            "OPENMSI_STREAMS__WORKER__PROFILE": "embedded",
            "OPENMSI_STREAMS__WORKER__ID": self.name,
            "OPENMSI_STREAMS__WORKER__DATA": str(self.home / "state"),
        }

    def has_a_topic(self, name: str) -> None:
        """Use a topic of the page's own: two laboratories' workers on one topic would both give receipts for it."""
        own = self.name
        self.more |= {f"--topic {name}": f"--topic {own}", f'topics = ["{name}"]': f'topics = ["{own}"]'}

    def translated(self, text: str) -> str:
        """Return a command or settings with this machine's addresses and folders."""
        for theirs, ours in {**self.more, **PLACEHOLDERS}.items():
            if "\\" in theirs:
                text = re.sub(
                    re.escape(theirs) + r"[\w\\.]*",
                    lambda match, theirs=theirs, ours=ours: match[0].replace(theirs, ours).replace("\\", "/"),
                    text,
                )
            else:
                text = text.replace(theirs, ours)
        for pattern, option in ADDED.items():
            text = re.sub(f"^{pattern}", lambda match, option=option: f"{match[0]} {option}", text)
        for name, value in self.values.items():
            text = text.replace(f"{{{name}}}", value)
        return re.sub(r"^setx (\w+) (\S+)$", r"export \1=\2", text)

    def read(self, page: Path) -> None:
        """Do what a page says, from its top to its end."""
        for block in blocks("sh", "bat", "toml", "python", page=page):
            if block.made:
                continue
            if block.number in self.before:
                self.before[block.number]()
            if block.language == "python":
                script = self.put(f"block{block.number}.py", self.translated(block.text) + self.more_python)
                self.do(f"python -c 'import {script.stem}'", block)
                continue
            if block.language == "toml":
                if block.number in self.files:
                    path = self.home / self.files[block.number]
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_text(self.translated(block.text), encoding="utf-8")
                continue
            for command in commands(block.text):
                if not cannot_run(command):
                    self.do(command, block)

    def do(self, command: str, block: Block | None = None) -> str:
        """Type one command; fail if it does. One that stays runs on until the same is typed again or the page ends.

        Returns:
            What it printed.
        """
        where = block.name if block is not None else "before"
        line = self.translated(command)
        words = command.split()
        if words[0] == "openmsi-streams" and words[1] in STAYS and "--list" not in words:
            self.leave(words[1])
            program = spawn("sh", "-c", f"exec {line}", name=command, env=self.env, cwd=self.home)
            self.programs[words[1]] = program
            text = program.wait_for(STAYS[words[1]], PATIENCE)
        else:
            kept = self.home / ".environment"
            script = line + (f"\nenv -0 > {shlex.quote(str(kept))}" if words[0] in ("export", "setx") else "")
            with spawn("sh", "-c", script, name=command, env=self.env, cwd=self.home) as program:
                code, text = program.wait(PATIENCE), program.text
            right = {0}.union(*(codes for one, codes in ALSO_RIGHT.items() if re.fullmatch(one, command)))
            assert code in right, f"{where}: `{command}`, here `{line}`, exits with {code}:\n{text}"
            if kept.exists():
                pairs = (one.partition("=") for one in kept.read_text().split("\0"))
                self.env |= {name: value for name, _, value in pairs if name}
                kept.unlink()
        self.said[command] = text
        return text

    def leave(self, name: str) -> None:
        """Stop a command that stays, as Ctrl-C does, and look that it ends well."""
        program = self.programs.pop(name, None)
        if program is not None:
            code = program.interrupt(PATIENCE)
            text = program.text
            program.__exit__(None, None, None)
            assert code in (0, 130) and "Traceback" not in text, f"{name} ended with {code}:\n{text}"

    def close(self) -> None:
        """Stop all that runs; used when the page has been read, well or not."""
        try:
            # Who writes to the servers goes first.
            for name in ("watch", "worker", "s3", "broker"):
                self.leave(name)
        finally:
            for program in self.programs.values():
                program.__exit__(None, None, None)

    def put(self, name: str, content: bytes | str = "") -> Path:
        """Write a file below the home folder."""
        path = self.home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def copy(self, source: Path, name: str) -> None:
        """Copy a file or folder of the repository to the home folder."""
        target = self.home / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copy2(source, target)


def reader_name(page: str) -> str:
    """Return the name of a page's own topic and worker."""
    return re.sub(r"[^a-z0-9]+", "-", page.lower())


def settings_of(broker: EmbeddedBroker, s3: EmbeddedS3, bucket: str, **tables: str) -> str:
    """Return a settings file for a broker and a bucket, with further lines by table."""
    return "\n".join(
        [
            f'[broker]\nbootstrap = "{broker.bootstrap}"',
            f'[s3.main]\nbucket = "{bucket}"\nendpoint = "{s3.endpoint}"',
            f'access_key_id = "{s3.access_key}"\nsecret_access_key = "{s3.secret_key}"',
            *(f"[{name}]\n{text}" for name, text in tables.items()),
            "",
        ]
    )
