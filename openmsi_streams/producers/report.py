"""What a producer tells: heartbeats and logs on topics, a state file, a rotating log, progress in a terminal."""

from __future__ import annotations

import json
import logging
import logging.handlers
import os
import platform
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from openmsi_streams.chunks.topics import beside
from openmsi_streams.producers.registry import Row

if TYPE_CHECKING:
    from openmsi_streams.config.settings import Settings
    from openmsi_streams.producers.engine import Engine

log = logging.getLogger(__name__)
PACKAGE = "openmsi_streams"

# A monitoring agent that reads the state file every minute sees a fresh one.
STATE_SECONDS = 5.0
# Five files of 5 MB hold months of a normal producer's lines.
LOG_BYTES, LOG_FILES = 5_000_000, 5
# Lines that wait for the next log message; in an outage the oldest are left out there, not in the log file.
LOG_LINES = 2000


def heartbeat(now: float, messages: int, size: int) -> bytes:
    """Return an uploader's heartbeat as OpenMSIStream 1.8 writes it: counts since the last one, time with zone."""
    stamp = datetime.fromtimestamp(now, UTC).isoformat()
    return json.dumps({"timestamp": stamp, "n_messages_produced": messages, "n_bytes_produced": size}).encode()


def log_message(now: float, lines: list[str]) -> bytes:
    """Return a log message as OpenMSIStream 1.8 writes it."""
    return json.dumps({"timestamp": now, "messages": lines}).encode()


class _Lines(logging.Handler):
    """Keeps log lines until they are sent."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: deque[str] = deque(maxlen=LOG_LINES)

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def state_of(engine: Engine) -> dict[str, Any]:
    """Return what the state file and `check` show."""
    sender = engine.sender
    problem = engine.folder_problem or engine.connect_error or (sender.down_reason if sender.down_since else "")
    condition = "ok"
    if engine.folder_problem:
        condition = "folder away"
    elif engine.connect_error or sender.down_since:
        condition = "broker away"
    counts = engine.registry.counts()
    if condition == "ok" and counts["failed"]:
        condition = "files failed"
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "pid": os.getpid(),
        "topic": engine.topic,
        "condition": condition,
        "problem": problem,
        "files": {state: count for state, count in counts.items() if count},
        "waiting_to_be_whole": len(engine.tracker),
        "bytes_in_flight": sender.in_flight,
        "messages_sent": sender.messages,
        "bytes_sent": sender.bytes,
        "running_seconds": round(time.time() - engine.started),
    }


class Reporter:
    """Tells about one engine; `tick` is called from its loop."""

    def __init__(self, settings: Settings, topic: str, folder: Path, root: Path) -> None:
        self._settings, self._folder = settings, folder
        producer = settings.producer
        self.id = producer.producer_id or f"{platform.node() or 'producer'}-{root.name or 'root'}"
        self.heartbeat_topic = producer.heartbeat_topic or beside(topic, "heartbeats")
        self.log_topic = producer.log_topic or beside(topic, "logs")
        self._lines = _Lines()
        self._file: logging.Handler | None = None
        now = time.monotonic()
        self._next_state = self._next_heartbeat = now
        self._next_log = now + min(5.0, producer.log_seconds)
        self._messages = self._bytes = 0
        self._last_state = ""

    def start(self) -> None:
        """Write the log to a rotating file, and gather lines for the log topic."""
        package = logging.getLogger(PACKAGE)
        # What the console shows stays as it was; the file has more.
        for handler in logging.getLogger().handlers:
            if handler.level == logging.NOTSET:
                handler.setLevel(logging.getLogger().level)
        package.setLevel(min(logging.INFO, package.getEffectiveLevel()))
        try:
            self._file = logging.handlers.RotatingFileHandler(
                self._folder / "producer.log", maxBytes=LOG_BYTES, backupCount=LOG_FILES, encoding="utf-8",
                errors="backslashreplace",
            )  # fmt: skip
            self._file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
            package.addHandler(self._file)
        except OSError as error:
            log.warning("no log file in %s: %s", self._folder, error.strerror)
        package.addHandler(self._lines)

    def tick(self, engine: Engine) -> None:
        """Do what is due."""
        now = time.monotonic()
        if now >= self._next_state:
            self._next_state = now + STATE_SECONDS
            self._write_state(engine)
        if not self._settings.producer.heartbeats:
            return
        if now >= self._next_heartbeat and engine.sender.partitions:
            self._next_heartbeat = now + self._settings.producer.heartbeat_seconds
            messages, size = engine.sender.messages, engine.sender.bytes
            value = heartbeat(time.time(), messages - self._messages, size - self._bytes)
            self._messages, self._bytes = messages, size
            engine.sender.publish(self.heartbeat_topic, f"{self.id}_heartbeat".encode(), value)
        if now >= self._next_log:
            self._next_log = now + self._settings.producer.log_seconds
            self._send_lines(engine)

    def _send_lines(self, engine: Engine) -> None:
        lines = list(self._lines.lines)
        # In an outage the lines wait here, bounded, and not in the client's queue.
        if lines and engine.sender.partitions and not engine.sender.down_since:
            self._lines.lines.clear()
            engine.sender.publish(self.log_topic, f"{self.id}_log".encode(), log_message(time.time(), lines))

    def _write_state(self, engine: Engine) -> None:
        state = json.dumps(state_of(engine))
        target = self._folder / "state.json"
        part = target.with_name("state.json.part")
        try:
            part.write_text(state + "\n", encoding="utf-8")
            os.replace(part, target)
        except OSError as error:
            # On Windows a monitoring agent may just be reading it: the next one will do.
            log.debug("state file: %s", error)

    def last_words(self, engine: Engine) -> None:
        """Write the last state and send the last lines, before the engine closes."""
        self._write_state(engine)
        if self._settings.producer.heartbeats:
            self._send_lines(engine)

    def stop(self) -> None:
        """Detach from the log."""
        package = logging.getLogger(PACKAGE)
        package.removeHandler(self._lines)
        if self._file is not None:
            package.removeHandler(self._file)
            self._file.close()


class Progress:
    """Progress for a person: a bar in a terminal, a line for each file elsewhere."""

    def __init__(self, stream: IO[str] | None = None) -> None:
        self._stream = stream or sys.stderr
        self._bar: Any = None
        self._total = 0
        self._sizes: dict[str, int] = {}
        self.terminal = self._stream.isatty()

    def row(self, row: Row) -> None:
        """Note that a row's state changed."""
        text = ""
        if row.state == "ready" and row.path not in self._sizes:
            self._sizes[row.path] = row.size
            self._total += row.size
        elif row.state in ("sent", "delivered", "cleaned", "failed"):
            self._sizes.pop(row.path, None)
            text = f"{row.state} {row.path} ({row.size} bytes)"
            if row.reason:
                text += f": {row.reason}"
        if text:
            self.line(text)

    def line(self, text: str) -> None:
        """Print a line, above the bar if there is one."""
        import click

        # A name may hold what this console cannot show.
        shown = text.encode(sys.stdout.encoding or "utf-8", "backslashreplace").decode(sys.stdout.encoding or "utf-8")
        if self._bar is not None:
            self._bar.write(shown)
        else:
            click.echo(shown)

    def tick(self, engine: Engine) -> None:
        """Move the bar."""
        if not self.terminal:
            return
        if self._bar is None:
            from tqdm import tqdm

            self._bar = tqdm(unit="B", unit_scale=True, file=self._stream, dynamic_ncols=True, leave=False)
        job = engine.current_job
        words = "waiting for the broker" if engine.sender.down_since or engine.connect_error else ""
        if job is not None and job.planned > 1:
            words = f"{job.path} {100 * (job.planned - job.left) // job.planned} %"
        self._bar.total = max(self._total, engine.sender.bytes)
        self._bar.set_postfix_str(words, refresh=False)
        self._bar.update(engine.sender.bytes - self._bar.n)

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _in_background(source: IO[str]) -> bool:
    """Say whether a terminal would stop this program for reading from it, as it does with a job in the background."""
    try:
        return hasattr(os, "tcgetpgrp") and source.isatty() and os.tcgetpgrp(source.fileno()) != os.getpgrp()
    except (OSError, ValueError):
        return True


def listen_to_console(stop: Callable[[], None], check: Callable[[], None], stream: IO[str] | None = None) -> None:
    """Let ``q`` stop and ``c`` or ``check`` show the state, as OpenMSIStream's programs do; in a thread of its own."""
    source = stream or sys.stdin
    if source is None or source.closed or _in_background(source):
        return

    def listen() -> None:
        try:
            for line in source:
                word = line.strip().lower()
                if word[:1] == "q":
                    stop()
                    return
                if word[:1] == "c":
                    check()
        except (OSError, ValueError):
            return

    threading.Thread(target=listen, name="console", daemon=True).start()
