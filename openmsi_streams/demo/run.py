"""Runs the small laboratory: broker, S3, worker and watching producer as child processes, then the proof."""

from __future__ import annotations

import os
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from openmsi_streams.demo.display import Display, size
from openmsi_streams.demo.findings import Findings, wait_for
from openmsi_streams.demo.laboratory import CAMERA_BYTES, Instrument, Written, laboratory, run
from openmsi_streams.demo.results import Result, as_data, check, get_json, newest, rows
from openmsi_streams.embedded import Child, EmbeddedBroker, EmbeddedS3, free_port
from openmsi_streams.errors import ServiceError

TOPIC = "lab"
BUCKET = "lab"
CHUNK_BYTES = 512 * 1024
# The worker is ready in about five seconds; a machine under heavy load may need a multiple.
READY_SECONDS = 120.0
# All files arrive within seconds of their last byte; after this long without anything new the demo has failed.
PATIENCE_SECONDS = 90.0

CONFIG = """\
# The settings of the demo's worker and producer. The S3 keys are in the environment.
[broker]
bootstrap = {bootstrap}

[chunks]
chunk_bytes = {chunk_bytes}

[topic]
partitions = 3

[producer]
quiet_seconds = 1.0
state = {producer_state}

[worker]
id = "demo"
topics = [{topic}]
data = {data}
session_seconds = 6.0
profile = "embedded"

[disk]
root = {disk}
# The demo needs room for three copies of its files, not the gigabyte that a real store keeps free.
free_floor = 104857600

[s3.main]
bucket = {bucket}
endpoint = {endpoint}

[processors]
# A plot and a table of peaks beside each diffraction scan.
load = ["openmsi_streams.processors.xrd:xrd"]

[web]
port = {port}
"""

_PROGRAM = (sys.executable, "-m", "openmsi_streams")


class Stopped(Exception):
    """Ctrl-C or SIGTERM came."""


def quoted(value: object) -> str:
    """Return a TOML string: JSON's escapes are TOML's too."""
    import json

    return json.dumps(str(value), ensure_ascii=False)


@dataclass
class Demo:
    """One run of the demo in ``folder``."""

    folder: Path
    stop: threading.Event
    display: Display
    camera_bytes: int = CAMERA_BYTES
    encrypted: bool = False
    web: str = ""
    ready_seconds: float = 0.0
    results: list[Result] = field(default_factory=list)
    findings: Findings = field(default_factory=Findings)
    _begun: float = 0.0
    _stack: ExitStack = field(default_factory=ExitStack)

    @property
    def instruments_folder(self) -> Path:
        """The folder that is watched."""
        return self.folder / "instruments"

    @property
    def store_folder(self) -> Path:
        """The root of the disk store."""
        return self.folder / "store"

    def run(self) -> dict[str, Any]:
        """Run everything up to the proof and return it as data; the servers go on until `close`.

        Raises:
            ServiceError: if a part does not start or ends by itself.
            Stopped: if ``stop`` is set before the end.
        """
        start = time.monotonic()
        for name in ("instruments", "prepared", "worker", "producer", "store"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(2) as pool:
            s3 = EmbeddedS3(data=self.folder / "s3")
            self._stack.callback(s3.stop)
            starting = pool.submit(s3.start)
            broker = self._stack.enter_context(EmbeddedBroker())
            starting.result()
            s3.make_bucket(BUCKET)
            if self.encrypted:
                self._provision(broker)
            self.display.say(f"Kafka broker at {broker.bootstrap}, S3 server at {s3.endpoint}")
            worker = self._start_worker(broker, s3)
            # While the worker waits for its turn in the consumer group the processor is free for this.
            prepared: Future[list[Instrument]] = pool.submit(laboratory, self.folder / "prepared", self.camera_bytes)
            self._wait_ready(worker)
            self.display.say(f"worker ready after {self.ready_seconds:.1f} s, its views at {self.web}/")
            watcher = self._start_watcher()
            instruments = prepared.result()
        self.display.say("three instruments start to measure")
        threads, written = run(instruments, self.instruments_folder, self.stop)
        self._follow(threads, written, worker, watcher)
        found = newest(rows(self.web), written)
        client = self._client(s3)
        self.results = [
            check(file, found.get(file.path), CHUNK_BYTES, client, TOPIC, BUCKET, self.store_folder)
            for file in sorted(written, key=lambda file: file.path)
        ]
        shots = sum(file.path.startswith("oscilloscope/") for file in written)
        scans = sum(file.path.startswith("xrd/") and file.path.endswith(".csv") for file in written)
        self.findings = wait_for(self.web, shots, scans, len(written), lambda: self._look_after(worker, watcher))
        return {
            **as_data(self.results, self.ready_seconds, time.monotonic() - start),
            "analyses": self.findings.as_data(),
        }

    def _provision(self, broker: EmbeddedBroker) -> None:
        """Make an authority and a node each for producer and worker, as a lab would with `openmsi-streams crypto`."""
        from openmsi_streams.config import load
        from openmsi_streams.crypto import authority
        from openmsi_streams.crypto.provision import provision

        settings = load(None, {"broker.bootstrap": broker.bootstrap}, environment={})
        made = authority.create(self.folder / "authority")
        provision(made, "instruments", "both", [TOPIC], self.folder / "keys", settings)
        provision(made, "server", "both", [TOPIC], self.folder / "keys", settings)
        self.display.say("messages are encrypted; the broker sees no name and no content")

    def _node(self, name: str) -> dict[str, str]:
        """Return the environment that tells a program its node."""
        return {"OPENMSI_STREAMS__CRYPTO__NODE": str(self.folder / "keys" / f"{name}.config")} if self.encrypted else {}

    def _start_worker(self, broker: EmbeddedBroker, s3: EmbeddedS3) -> Child:
        """Write the configuration, start the worker, and return when it has read it."""
        port = free_port()
        self.web = f"http://127.0.0.1:{port}"
        self._config.write_text(
            CONFIG.format(
                bootstrap=quoted(broker.bootstrap), chunk_bytes=CHUNK_BYTES, topic=quoted(TOPIC), port=port,
                producer_state=quoted(self.folder / "producer"), data=quoted(self.folder / "worker"),
                disk=quoted(self.store_folder), bucket=quoted(BUCKET), endpoint=quoted(s3.endpoint),
            ),
            encoding="utf-8",
        )  # fmt: skip
        environment = {
            **self._environment(),
            **self._node("server"),
            "OPENMSI_STREAMS__S3__MAIN__ACCESS_KEY_ID": s3.access_key,
            "OPENMSI_STREAMS__S3__MAIN__SECRET_ACCESS_KEY": s3.secret_key,
        }
        self._begun = time.monotonic()
        worker = self._stack.enter_context(
            Child((*_PROGRAM, "worker", "--config", self._config), name="The worker", log=self.folder / "worker.log",
                  env=environment)
        )  # fmt: skip
        while not worker.text:
            self._look_after(worker)
            self.stop.wait(0.02)
        return worker

    def _start_watcher(self) -> Child:
        watch = ("watch", self.instruments_folder, "--config", self._config, "--topic", TOPIC)
        options = ("--state", self.folder / "producer", "--quiet-seconds", "1")
        return self._stack.enter_context(
            Child((*_PROGRAM, *watch, *options), name="The producer", log=self.folder / "producer.log",
                  env={**self._environment(), **self._node("instruments")})
        )  # fmt: skip

    @property
    def _config(self) -> Path:
        return self.folder / "openmsi-streams.toml"

    @staticmethod
    def _environment() -> dict[str, str]:
        """A setting in the environment of whoever runs the demo must not lead it to another broker or bucket."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith("OPENMSI_STREAMS__")}
        return {**clean, "PYTHONUNBUFFERED": "1"}

    def _wait_ready(self, worker: Child) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            self._look_after(worker)
            if get_json(f"{self.web}/health/ready") is not None:
                self.ready_seconds = time.monotonic() - self._begun
                return
            if self.stop.wait(0.05):
                raise Stopped
        raise ServiceError(
            f"The worker was not ready within {READY_SECONDS:g} s. The machine may be too busy; try again. "
            f"It said:\n{worker.tail()}"
        )

    def _look_after(self, *children: Child) -> None:
        if self.stop.is_set():
            raise Stopped
        for child in children:
            if child.poll() is not None:
                raise ServiceError(f"{child.name} ended by itself with code {child.poll()}. It said:\n{child.tail(40)}")

    def _follow(self, threads: list[threading.Thread], written: list[Written], worker: Child, watcher: Child) -> None:
        """Show what arrives until everything has, or until nothing new has come for too long."""
        seen: object = None
        last = time.monotonic()
        while time.monotonic() - last < PATIENCE_SECONDS:
            self._look_after(worker, watcher)
            writing = any(thread.is_alive() for thread in threads)
            found = newest(rows(self.web), written)
            self.display.update(found, self._sizes())
            if not writing and all(self._arrived(found.get(file.path), file) for file in written):
                return
            now = [(row.path, row.sha512, row.state, row.received) for row in found.values()]
            if writing or now != seen:
                seen, last = now, time.monotonic()
            self.stop.wait(0.1)

    @staticmethod
    def _arrived(row: Any, file: Written) -> bool:
        return row is not None and row.sha512 == file.sha512 and row.state == "delivered" and len(row.urls) >= 2

    def _sizes(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for path in self.instruments_folder.rglob("*"):
            if path.is_file():
                found[path.relative_to(self.instruments_folder).as_posix()] = path.stat().st_size
        return found

    @staticmethod
    def _client(s3: EmbeddedS3) -> Any:
        import boto3
        from botocore.config import Config

        return boto3.client(
            "s3", endpoint_url=s3.endpoint, region_name=s3.region, aws_access_key_id=s3.access_key,
            aws_secret_access_key=s3.secret_key, config=Config(s3={"addressing_style": "path"}, proxies={}),
        )  # fmt: skip

    def summary(self, data: dict[str, Any]) -> str:
        """Return the last line."""
        totals = data["totals"]
        verdict = "all equal on disk and in S3" if not totals["mismatches"] else f"{totals['mismatches']} NOT EQUAL"
        return f"{totals['files']} files, {size(totals['bytes'])}: {verdict}, in {totals['seconds']:.1f} s"

    def close(self) -> None:
        """End producer, worker, broker and S3, in this order."""
        self._stack.close()
