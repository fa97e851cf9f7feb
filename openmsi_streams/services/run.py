"""What a service runs: the command, with word to systemd when it is ready and as long as it is alive."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path


def notify(state: str) -> bool:
    """Send one message to systemd (``READY=1``, ``WATCHDOG=1``); return whether there was someone to take it."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address or not hasattr(socket, "AF_UNIX"):
        return False
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        # An address that starts with @ is in Linux's abstract namespace.
        channel.connect("\0" + address[1:] if address.startswith("@") else address)
        channel.sendall(state.encode())
        return True
    return False


def watchdog_seconds() -> float:
    """Return how often systemd wants a sign of life, 0 for never."""
    pid = os.environ.get("WATCHDOG_PID")
    if pid and pid != str(os.getpid()):
        return 0.0
    with contextlib.suppress(ValueError):
        return int(os.environ.get("WATCHDOG_USEC", "0")) / 1e6
    return 0.0


def start_watchdog(is_alive: Callable[[], bool] = lambda: True) -> threading.Event:
    """Say that the service is ready, then give a sign of life at half the asked interval while ``is_alive``.

    The thread shares the interpreter with the command: one that holds it for ever, or a process that is stopped, gives
    no sign, and systemd starts it again.

    Returns:
        An event that ends the thread.
    """
    stop = threading.Event()
    notify("READY=1")
    interval = watchdog_seconds() / 2
    if interval > 0:

        def beat() -> None:
            while not stop.wait(interval):
                if is_alive():
                    notify("WATCHDOG=1")

        threading.Thread(target=beat, name="watchdog", daemon=True).start()
    return stop


def liveness(words: Sequence[str]) -> Callable[[], bool]:
    """Return what tells whether a command is alive.

    For a worker: its event loop answers `/health/live`, once it has answered for the first time; a loop that hangs
    while other threads run would else never be found. For everything else: that this interpreter runs.
    """
    if not words or words[0] != "worker":
        return lambda: True
    address = _live_address(words[1:])
    answered = False

    def is_alive() -> bool:
        nonlocal answered
        try:
            with urllib.request.urlopen(address, timeout=10) as answer:
                answered = answered or answer.status == 200
                return True
        except urllib.error.HTTPError:
            # It answers, if only to say that it is busy.
            return True
        except OSError:
            return not answered

    return is_alive


def _live_address(words: Sequence[str]) -> str:
    from openmsi_streams.config.load import load
    from openmsi_streams.errors import ConfigurationError

    def given(option: str) -> str | None:
        for word, after in zip(words, [*words[1:], ""], strict=True):
            if word == option or word.startswith(f"{option}="):
                return word.partition("=")[2] or after
        return None

    try:
        web = load(given("--config")).web
    except ConfigurationError:
        # The command itself says what is wrong, and ends.
        return "http://127.0.0.1:0/"
    host = "127.0.0.1" if web.host in ("", "0.0.0.0", "::", "localhost") else web.host
    return f"http://{f'[{host}]' if ':' in host else host}:{given('--web-port') or web.port}/health/live"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run ``--spec FILE`` (Windows, launchd: words and secrets come from the file) or a command of openmsi-streams."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["--spec"]:
        from openmsi_streams.services.spec import read

        spec = read(Path(words[1]))
        os.environ.update(spec.environment)
        os.chdir(spec.workdir)
        words = spec.command
        if not spec.is_ours:
            if sys.platform == "win32":
                sys.exit(subprocess.call(words))
            os.execv(words[0], words)
    stop = start_watchdog(liveness(words))
    from openmsi_streams.cli import main as command_line

    try:
        command_line(words)
    finally:
        stop.set()
        notify("STOPPING=1")


if __name__ == "__main__":
    main()
