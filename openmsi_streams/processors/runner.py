"""Runs processors in processes of their own, with limits on time and memory."""

from __future__ import annotations

import contextlib
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import msgspec

from openmsi_streams.errors import OpenMSIStreamsError, ServiceError
from openmsi_streams.processors import frames
from openmsi_streams.processors.api import DeliveredFile, Processor, Produced

Status = Literal["ok", "failed", "rejected", "not_now", "nonsense", "time", "memory", "crashed"]

# Bytes of what a function prints that are kept: the end, where the error is.
KEPT_OUTPUT = 16 << 10
# Seconds between two looks at a process's memory.
LOOK = 0.1
# Importing NumPy, SciPy and matplotlib for the first time takes seconds on a busy machine, and is not the file's fault.
START_LIMIT = 120.0
# A process is replaced after so many jobs: a slow leak in a lab's code then ends before it matters.
JOBS = 500
# One library thread per process: `processes` says how many cores analysis may use.
QUIET = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "MPLBACKEND": "Agg"}


class RunnerClosed(OpenMSIStreamsError):
    """The runner was closed while it ran, or before; the file is to be tried again by the next worker."""


@dataclass(frozen=True)
class Outcome:
    """What happened to one job. Close it when its files have been stored."""

    status: Status
    produced: Produced = field(default_factory=Produced)
    value: Any = None
    """What `Runner.call`'s function returned."""
    error: str = ""
    """One line; empty when all is well."""
    traceback: str = ""
    output: str = ""
    """The end of what the function printed."""
    seconds: float = 0.0
    out: Path | None = None
    """The folder with the produced files."""

    @property
    def ok(self) -> bool:
        """Whether it worked."""
        return self.status == "ok"

    def close(self) -> None:
        """Remove the produced files."""
        if self.out is not None:
            shutil.rmtree(self.out, ignore_errors=True)

    def __enter__(self) -> Outcome:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Runner:
    """Up to ``processes`` processes, started when needed and kept warm. Its methods may be called from any thread."""

    def __init__(self, processes: int = 1, *, work: Path | None = None, warm: Sequence[str] = ()) -> None:
        """Start nothing yet.

        Args:
            processes: how many jobs run at the same time; further calls wait.
            work: folder for what functions write; None: the system's folder for temporary files.
            warm: modules that each process imports at its start.
        """
        if work is not None:
            work.mkdir(parents=True, exist_ok=True)
        self._folder = Path(tempfile.mkdtemp(prefix="processors-", dir=work))
        self._warm = list(warm)
        self._slots: queue.LifoQueue[_Child | None] = queue.LifoQueue()
        for _ in range(processes):
            self._slots.put(None)
        self._busy: set[_Child] = set()
        self._lock = threading.Lock()
        self._closed = False
        self._count = 0

    def run(self, by: Processor, file: DeliveredFile, *, time_limit: float, memory_limit: int) -> Outcome:
        """Run a processor on a file and wait for it; the limits are used where the processor has none of its own.

        Args:
            by: the processor.
            file: the file; ``out`` is set here.
            time_limit: seconds.
            memory_limit: bytes of resident memory (watched on Linux).

        Returns:
            The outcome, whatever the function did: it never raises for that.

        Raises:
            RunnerClosed: the runner was closed.
            ServiceError: no process can be started.
        """
        out = self._new_folder()
        facts = {
            "path": str(file.path),
            "topic": file.topic,
            "relative": file.relative,
            "sha512": file.sha512,
            "size": file.size,
            "file_id": file.file_id,
            "mtime": file.mtime,
            "headers": dict(file.headers),
            "urls": list(file.urls),
        }
        job = {"kind": "process", "reference": by.reference, "file": facts, "out": str(out)}
        try:
            outcome = self._perform(job, by.time_limit or time_limit, by.memory_limit or memory_limit)
        except BaseException:
            shutil.rmtree(out, ignore_errors=True)
            raise
        return replace(outcome, out=out, error=outcome.error and f"{by.name}: {outcome.error}")

    def call(self, reference: str, arguments: Mapping[str, Any], *, time_limit: float, memory_limit: int) -> Outcome:
        """Call ``module:function`` with plain arguments in a process; its plain result is ``Outcome.value``.

        Raises as `run`.
        """
        job = {"kind": "call", "reference": reference, "arguments": dict(arguments)}
        return self._perform(job, time_limit, memory_limit)

    def close(self) -> None:
        """End all processes, running or not, and remove their files; calls that wait raise RunnerClosed."""
        with self._lock:
            self._closed = True
            busy = list(self._busy)
        for child in busy:
            child.kill()
        while True:
            try:
                idle = self._slots.get_nowait()
            except queue.Empty:
                break
            if idle is not None:
                idle.kill()
        # Wakes whoever waits for a slot; each puts it back for the next.
        self._slots.put(None)
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _new_folder(self) -> Path:
        self._alive()
        return Path(tempfile.mkdtemp(prefix="out-", dir=self._folder))

    def _alive(self) -> None:
        if self._closed:
            raise RunnerClosed("The processors were stopped.")

    def _perform(self, job: dict[str, Any], time_limit: float, memory_limit: int) -> Outcome:
        child = self._slots.get()
        keep: _Child | None = None
        try:
            self._alive()
            if child is None or not child.alive:
                child = self._start()
            with self._lock:
                if self._closed:
                    child.kill()
                self._alive()
                self._busy.add(child)
            outcome = child.perform({**job, "memory_limit": memory_limit}, time_limit, memory_limit)
            self._alive()
            if child.alive and child.jobs < JOBS:
                keep = child
            return outcome
        finally:
            # Under the lock, so that `close` meets every process either as busy or in its slot.
            with self._lock:
                if child is not None:
                    self._busy.discard(child)
                if self._closed:
                    keep = None
                self._slots.put(keep)
            if child is not None and keep is None:
                child.kill()

    def _start(self) -> _Child:
        with self._lock:
            self._count += 1
            captured = self._folder / f"output-{self._count}"
        return _Child(captured, self._warm)


class _Child:
    """One process and the thread that reads its answers."""

    def __init__(self, captured: Path, warm: Sequence[str]) -> None:
        self.jobs = 0
        self._captured = captured
        captured.touch(mode=0o600)
        # Secrets of the worker are none of a processor's business.
        environment = {
            key: value for key, value in os.environ.items() if not key.upper().startswith("OPENMSI_STREAMS__")
        }
        for key, value in QUIET.items():
            environment.setdefault(key, value)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "openmsi_streams.processors.child", str(captured)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**environment, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
                # A group of its own: what a function starts is ended with it, and Ctrl-C reaches the worker alone.
                start_new_session=True,
            )
        except OSError as error:
            raise ServiceError(
                f"No process for processors can be started: {error.strerror}. Is memory short?"
            ) from None
        self._answers: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._send({"path": [path for path in sys.path if path], "warm": list(warm)})
        try:
            ready = self._answers.get(timeout=START_LIMIT)
        except queue.Empty:
            ready = None
        if ready is None:
            self.kill()
            raise ServiceError(
                f"A process for processors did not start: {self._output().strip() or 'it said nothing'}. "
                "Check the installation: python -m openmsi_streams.processors.child"
            )

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def perform(self, job: dict[str, Any], time_limit: float, memory_limit: int) -> Outcome:
        self.jobs += 1
        with contextlib.suppress(OSError):
            os.truncate(self._captured, 0)
        began = time.monotonic()
        self._send(job)
        answer: dict[str, Any] | None = None
        excess: tuple[Status, str] | None = None
        while True:
            left = began + time_limit - time.monotonic()
            try:
                answer = self._answers.get(timeout=max(0.0, min(LOOK, left)))
                break
            except queue.Empty:
                pass
            if left <= 0:
                excess = "time", f"It took longer than {time_limit:g} s and was ended."
                break
            used = self._memory()
            if 0 < memory_limit < used:
                excess = "memory", f"It took {used >> 20} MiB of memory, more than {memory_limit >> 20}, and was ended."
                break
        seconds = time.monotonic() - began
        if excess is not None:
            self.kill()
            return Outcome(excess[0], error=excess[1], output=self._output(), seconds=seconds)
        if answer is None:
            self.kill()
            return Outcome("crashed", error=self._how_it_ended(), output=self._output(), seconds=seconds)
        if answer["status"] == "memory":
            # An allocation failed inside: the heap of that process is best left behind.
            self.kill()
        return Outcome(
            answer["status"],
            msgspec.convert(answer.get("produced") or {}, Produced),
            answer.get("value"),
            answer.get("error", ""),
            answer.get("traceback", ""),
            self._output(),
            seconds,
        )

    def kill(self) -> None:
        # Not yet reaped, its number cannot be another's; what it started is in its group and ends too.
        if self._process.returncode is None:
            with contextlib.suppress(OSError):
                if sys.platform == "win32":
                    self._process.kill()
                else:
                    os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        with contextlib.suppress(OSError):
            if self._process.stdin is not None:
                self._process.stdin.close()
        self._reader.join(timeout=5)
        if self._process.stdout is not None and not self._reader.is_alive():
            self._process.stdout.close()

    def _read(self) -> None:
        stream = self._process.stdout
        assert stream is not None
        message: dict[str, Any] | None = None
        while True:
            try:
                message = frames.read(stream)
            except (OSError, ValueError, msgspec.MsgspecError):
                message = None
            self._answers.put(message)
            if message is None:
                return

    def _send(self, message: dict[str, Any]) -> None:
        # A process that is gone is noticed by its answer, which is then None.
        with contextlib.suppress(OSError, ValueError):
            assert self._process.stdin is not None
            frames.write(self._process.stdin, message)

    def _memory(self) -> int:
        """Return resident bytes; 0 where the system does not tell."""
        try:
            return int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except (OSError, ValueError, IndexError, AttributeError):
            return 0

    def _output(self) -> str:
        try:
            with self._captured.open("rb") as stream:
                size = stream.seek(0, os.SEEK_END)
                stream.seek(max(0, size - KEPT_OUTPUT))
                text = stream.read().decode("utf-8", errors="replace")
        except OSError:
            return ""
        return text if size <= KEPT_OUTPUT else f"[{size - KEPT_OUTPUT} bytes before]\n{text}"

    def _how_it_ended(self) -> str:
        code = self._process.returncode
        if code is not None and code < 0:
            with contextlib.suppress(ValueError):
                return f"Its process was ended by {signal.Signals(-code).name} (out of memory, or a fault in C code)."
        return f"Its process ended by itself with exit code {code}."
