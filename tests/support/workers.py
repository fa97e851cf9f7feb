"""Workers as a lab runs them: processes of our command line, with a folder of their own each and a shared store."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any

from openmsi_streams.chunks.messages import Receipt, receipt_from
from tests.support.brokers import worker_settings
from tests.support.kafka import read_all
from tests.support.programs import Program, spawn_cli
from tests.support.waiting import wait_until

# What tests of transfers leave off: records and analyses have tests of their own.
PLAIN = {"gemd__enabled": "false", "pdv__enabled": "false"}


class Worker:
    """One worker; `start` it as often as it is killed. Settings are ``section__key=value``."""

    def __init__(self, bootstrap: str, topic: str, tmp: Path, name: str = "w0", **settings: Any) -> None:
        self.name = name
        self.data = tmp / name
        self.root = tmp / "store"
        chosen = {
            **PLAIN,
            "broker__bootstrap": bootstrap,
            "worker__topics": json.dumps([topic]),
            "worker__data": str(self.data),
            **worker_settings(),
            "disk__root": str(self.root),
            "disk__free_floor": "1000000",
            "web__port": "0",
            **settings,
        }
        self.env = {f"OPENMSI_STREAMS__{key.upper()}": str(value) for key, value in chosen.items()}
        self.program: Program | None = None
        self.past: list[str] = []
        self.log_level = "info"
        self.topic = topic
        self.bootstrap = bootstrap

    def start(self, wait: bool = True) -> Worker:
        """Start the process; with ``wait`` return when it is ready."""
        self.program = spawn_cli("worker", "--log-level", self.log_level, env=self.env)
        if wait:
            self.wait_ready()
        return self

    def wait_ready(self, timeout: float = 60.0) -> None:
        """Wait until it has taken its partitions over."""
        assert self.program is not None
        self.program.wait_for("worker ready", timeout)

    def kill9(self) -> None:
        """Kill it without warning."""
        assert self.program is not None
        self.program.kill9()
        self._over()

    def stop(self, timeout: float = 60.0) -> int:
        """End it with SIGTERM and return the exit code."""
        assert self.program is not None
        code = self.program.terminate(timeout)
        self._over()
        return code

    def _over(self) -> None:
        assert self.program is not None
        self.past.append(self.program.text)
        self.program.__exit__(None, None, None)
        self.program = None

    @property
    def text(self) -> str:
        """All output of all its runs."""
        return "".join(self.past) + (self.program.text if self.program is not None else "")

    @property
    def url(self) -> str:
        """Address of its views."""
        assert self.program is not None
        line = next(line for line in self.program.lines if "web views at " in line)
        return line.partition("web views at ")[2].strip()

    def get(self, path: str) -> Any:
        """Return the JSON of one of its pages."""
        with urllib.request.urlopen(self.url.rstrip("/") + path, timeout=10) as answer:
            return json.loads(answer.read())

    def metric(self, name: str) -> float:
        """Return the sum of a metric's samples."""
        with urllib.request.urlopen(self.url.rstrip("/") + "/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((name + "{", name + " ")))

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        if self.program is not None:
            self.program.__exit__(None, None, None)


def receipts(bootstrap: str, topic: str) -> list[Receipt]:
    """Return every receipt of a topic."""
    return [receipt_from(m.value() or b"") for m in read_all(bootstrap, f"{topic}.receipts")]


def wait_delivered(
    bootstrap: str, topic: str, hashes: dict[str, str], timeout: float, *workers: Worker
) -> list[Receipt]:
    """Wait until every file (path -> sha512) has a receipt of delivery; return all receipts."""

    def look() -> list[Receipt] | None:
        found = receipts(bootstrap, topic)
        done = {(r.path, r.sha512) for r in found if r.state == "delivered"}
        return found if set(hashes.items()) <= done else None

    def detail() -> str:
        done = {r.path for r in receipts(bootstrap, topic)}
        lacking = sorted(set(hashes) - done)
        return f"{len(lacking)} lack a receipt: {lacking[:5]}\n" + "\n".join(w.text[-3000:] for w in workers)

    found: list[Receipt] = wait_until(look, timeout, "every file has a receipt", detail)  # type: ignore[assignment]
    return found
