"""A child process that never outlives its parent, with its output in a file."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from openmsi_streams.embedded import keeper
from openmsi_streams.errors import ServiceError

# Longer than the keeper needs to start a program on a loaded machine; it reports within milliseconds.
_START_SECONDS = 60.0

_running: weakref.WeakSet[Child] = weakref.WeakSet()


def running_children() -> list[Child]:
    """Return the children of this process that have not been ended yet."""
    return [child for child in _running if not child.ended]


class Child:
    """One program, run by a keeper that ends it when this process ends for whatever reason.

    The program is in a session of its own, so Ctrl-C in the terminal does not reach it: whoever holds the child
    decides in which order things end. Its standard output and standard error go to ``log``.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        name: str,
        log: str | Path | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | Path | None = None,
        grace: float = 10.0,
        folder: Path | None = None,
    ) -> None:
        """Start ``command``.

        Args:
            command: program and arguments.
            name: what messages call it.
            log: file for its output, appended to; None: in a temporary folder that goes when the child ends.
            env: the whole environment; None: this process's.
            cwd: its working directory.
            grace: seconds between asking it to end (SIGTERM) and killing it.
            folder: a temporary folder to remove when the child has ended, also if this process is killed before.

        Raises:
            ServiceError: if the program cannot be started.
        """
        self.name = name
        self.command = [str(part) for part in command]
        self._grace = grace
        if log is None:
            folder = folder or Path(tempfile.mkdtemp(prefix="openmsi-streams-"))
            log = folder / "output.log"
        self.log = Path(log)
        self.ended = False
        self.returncode: int | None = None
        self._exited = threading.Event()
        self._last_text = ""
        self._keeper = subprocess.Popen(
            # -I -S: neither the environment nor site-packages slow the keeper down or change what it does.
            [
                *(sys.executable, "-I", "-S", keeper.__file__),
                *(str(grace), str(self.log), str(folder or ""), "--", *self.command),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=dict(env) if env is not None else None,
            cwd=cwd,
            start_new_session=os.name == "posix",
        )
        assert self._keeper.stdout is not None
        first = self._keeper.stdout.readline().decode(errors="replace").strip()
        word, _, rest = first.partition(" ")
        if word != "pid":
            self._keeper.communicate()
            raise ServiceError(
                f"{name} cannot be started: {rest or 'its keeper ended at once'}. Check its installation."
            )
        self.pid = int(rest)
        _running.add(self)
        threading.Thread(target=self._read_end, name=f"{name}-end", daemon=True).start()

    def _read_end(self) -> None:
        assert self._keeper.stdout is not None
        for line in self._keeper.stdout:
            word, _, rest = line.decode(errors="replace").strip().partition(" ")
            if word == "exit":
                self.returncode = int(rest)
                self._exited.set()
        # A keeper that was killed takes its program along (Linux) but reports nothing.
        if self.returncode is None:
            self.returncode = -int(getattr(signal, "SIGKILL", 9))
        self._exited.set()

    def poll(self) -> int | None:
        """Return the exit code (minus the signal's number after a signal), or None while the program runs."""
        return self.returncode if self._exited.is_set() else None

    def wait(self, timeout: float) -> int:
        """Return the exit code once the program has ended.

        Raises:
            TimeoutError: with the end of its output, if it still runs after ``timeout`` seconds.
        """
        if not self._exited.wait(timeout):
            raise TimeoutError(f"{self.name} still runs after {timeout:g} s. Its last output:\n{self.tail()}")
        assert self.returncode is not None
        return self.returncode

    @property
    def text(self) -> str:
        """All output so far."""
        with contextlib.suppress(OSError):
            self._last_text = self.log.read_text(encoding="utf-8", errors="replace")
        return self._last_text

    def tail(self, lines: int = 20) -> str:
        """Return the last lines of the output."""
        return "\n".join(self.text.splitlines()[-lines:])

    def signal(self, number: int) -> None:
        """Send a signal to the program itself; nothing happens if it has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def end(self) -> int:
        """Ask the program to end, kill it after the grace time, and return its exit code. May be called again."""
        if not self.ended:
            _ = self.text
            assert self._keeper.stdin is not None
            with contextlib.suppress(OSError):
                self._keeper.stdin.close()
            self._exited.wait(self._grace + _START_SECONDS)
            try:
                self._keeper.wait(_START_SECONDS)
            except subprocess.TimeoutExpired:
                self._keeper.kill()
                self._keeper.wait()
            self.ended = True
            _running.discard(self)
        return self.returncode if self.returncode is not None else -1

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()
