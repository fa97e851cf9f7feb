"""Running our command line as a person would: a process of its own, its output kept."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from openmsi_streams.embedded.child import Child
from tests.support.waiting import wait_until


class Program:
    """One run of a program; ended, with all it started, at the end of the ``with`` block."""

    def __init__(self, child: Child) -> None:
        self.child = child

    @property
    def pid(self) -> int:
        """Process number of the program itself."""
        return self.child.pid

    @property
    def text(self) -> str:
        """All output so far, standard output and standard error together."""
        return self.child.text

    @property
    def lines(self) -> list[str]:
        """The output's lines so far."""
        return self.text.splitlines()

    def poll(self) -> int | None:
        """Exit code (minus the signal's number after a signal) or None."""
        return self.child.poll()

    def wait(self, timeout: float = 60.0) -> int:
        """Return the exit code; fail with the output's end if it still runs after ``timeout`` seconds."""
        return self.child.wait(timeout)

    def wait_for(self, condition: str | Callable[[str], object], timeout: float = 60.0) -> str:
        """Wait until the output contains a text (or satisfies a condition) and return the output."""
        met = (lambda text: condition in text) if isinstance(condition, str) else condition

        def look() -> bool:
            # The exit is looked at first: what the program wrote before it ended is then surely in the text.
            ended = self.poll() is not None
            if met(self.text):
                return True
            assert not ended, f"{self.child.name} ended with {self.poll()} before {condition!r}:\n{self.text}"
            return False

        wait_until(look, timeout, f"{self.child.name} says {condition!r}", lambda: self.child.tail(60))
        return self.text

    def signal(self, number: int) -> None:
        """Send a signal to the program."""
        self.child.signal(number)

    def terminate(self, timeout: float = 60.0) -> int:
        """Send SIGTERM, wait, and return the exit code."""
        self.signal(signal.SIGTERM)
        return self.wait(timeout)

    def interrupt(self, timeout: float = 60.0) -> int:
        """Send SIGINT (Ctrl-C), wait, and return the exit code."""
        self.signal(signal.SIGINT)
        return self.wait(timeout)

    def kill9(self) -> int:
        """Kill it without warning and wait until it is gone."""
        self.signal(signal.SIGKILL)
        return self.wait(30.0)

    def freeze(self) -> None:
        """Stop it as a paused virtual machine would (SIGSTOP); `thaw` lets it go on."""
        self.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on after `freeze`."""
        self.signal(signal.SIGCONT)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.poll() is None:
            self.thaw()
        self.child.end()


def spawn(
    *command: str | Path,
    name: str = "",
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    grace: float = 10.0,
) -> Program:
    """Start any program; ``env`` is added to this process's environment."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})}
    return Program(Child(command, name=name or str(command[0]), env=environment, cwd=cwd, grace=grace))


def spawn_cli(
    *args: str | Path, env: Mapping[str, str] | None = None, cwd: Path | None = None, grace: float = 10.0
) -> Program:
    """Start ``openmsi-streams ARGS``."""
    return spawn(
        *(sys.executable, "-m", "openmsi_streams", *args),
        name=f"openmsi-streams {args[0] if args else ''}".strip(),
        env=env,
        cwd=cwd,
        grace=grace,
    )


def run_cli(
    *args: str | Path, env: Mapping[str, str] | None = None, cwd: Path | None = None, timeout: float = 60.0
) -> tuple[int, str]:
    """Run ``openmsi-streams ARGS`` to its end and return exit code and output."""
    with spawn_cli(*args, env=env, cwd=cwd) as program:
        code = program.wait(timeout)
        return code, program.text
