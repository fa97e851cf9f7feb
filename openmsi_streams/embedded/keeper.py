"""Runs one program and ends it when its own parent is gone, however the parent went.

This file is run by path, with the standard library alone (``python -I -S keeper.py ...``), so that it starts in
milliseconds and needs nothing installed. It stands between a parent and the program because no other way ends a
program on every system after its parent was killed with SIGKILL: the parent holds the writing end of our standard
input, and the operating system closes that when the parent dies.

On our standard output, which the parent reads: ``pid N`` or ``error TEXT``, later ``exit CODE`` (minus the signal's
number where a signal ended it).
"""

from __future__ import annotations

import contextlib
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from types import FrameType

POSIX = os.name == "posix"
# <linux/prctl.h>
_PR_SET_PDEATHSIG = 1


def _death_signal() -> Callable[[], None] | None:
    """Return what the program runs before exec so that it also dies if this keeper is killed with SIGKILL (Linux)."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        import ctypes

        prctl = ctypes.CDLL(None).prctl
    except (ImportError, OSError, AttributeError):
        return None
    keeper = os.getpid()

    def arrange() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != keeper:
            os._exit(1)

    return arrange


def _end_group(pid: int) -> None:
    """Kill what the program left of its own children."""
    if POSIX:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)


def _wait_for(program: subprocess.Popen[bytes], events: queue.SimpleQueue[str]) -> None:
    if hasattr(os, "waitid"):
        # The group is ended while the program's process number is still reserved, so that it cannot be another's.
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PID, program.pid, os.WEXITED | os.WNOWAIT)
        _end_group(program.pid)
    program.wait()
    events.put("exit")


def _read_until_closed(events: queue.SimpleQueue[str]) -> None:
    with contextlib.suppress(OSError):
        while os.read(0, 4096):
            pass
    events.put("end")


def _say(line: str) -> None:
    with contextlib.suppress(OSError):
        os.write(1, f"{line}\n".encode())


def main(argv: list[str]) -> int:
    """Run ``GRACE LOG REMOVE -- PROGRAM...``: seconds between SIGTERM and SIGKILL, log file, folder to remove."""
    grace, log, remove, _, *command = argv
    events: queue.SimpleQueue[str] = queue.SimpleQueue()

    def asked(number: int, frame: FrameType | None) -> None:
        events.put("end")

    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), asked)
    # Ctrl-C in the terminal is for the parent, which ends its children in its own order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def unignore() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if arrange is not None:
            arrange()

    arrange = _death_signal()
    parent = os.getppid()
    try:
        with open(log, "ab", buffering=0) as output:
            program = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=POSIX,
                preexec_fn=unignore if POSIX else None,
            )
    except OSError as error:
        _say(f"error {error.strerror or error}: {command[0]}")
        if remove:
            shutil.rmtree(remove, ignore_errors=True)
        return 1
    _say(f"pid {program.pid}")
    threading.Thread(target=_wait_for, args=(program, events), daemon=True).start()
    threading.Thread(target=_read_until_closed, args=(events,), daemon=True).start()
    running, wanted = True, False
    while running or not wanted:
        try:
            event = events.get(timeout=float(grace) if wanted else 1.0)
        except queue.Empty:
            # A pipe that another process inherited stays open when the parent dies; the parent's number tells then.
            event = "kill" if wanted else "end" if POSIX and os.getppid() != parent else ""
        if event == "exit":
            running = False
            _say(f"exit {program.returncode}")
        elif event == "end" and not wanted:
            wanted = True
            if running:
                program.terminate()
        elif event == "kill" and running:
            _end_group(program.pid) if POSIX else program.kill()
    if remove:
        shutil.rmtree(remove, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
