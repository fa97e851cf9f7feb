"""Running the system's own service programs, with their refusals turned into errors that name the missing right."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from typing import NamedTuple

from openmsi_streams.errors import ServiceError


class Answer(NamedTuple):
    """What a program said."""

    code: int
    text: str


Run = Callable[[Sequence[str]], Answer]

# Stopping waits for the service: it flushes what it has on its way, and the service file gives it 90 s.
LONGEST_CALL = 180.0

_RIGHTS = (
    "access denied",
    "access is denied",
    "permission denied",
    "not privileged",
    "authentication required",
    "failed 5:",
    "administrator access",
)
_NO_BUS = ("failed to connect to bus", "has not been booted with systemd", "no medium found")


def run(words: Sequence[str]) -> Answer:
    """Run a program and return its exit code and what it said.

    Raises:
        ServiceError: the program is not there, or does not come to an end.
    """
    try:
        done = subprocess.run(
            list(words), capture_output=True, text=True, errors="replace", timeout=LONGEST_CALL, check=False
        )
    except FileNotFoundError:
        raise ServiceError(
            f"The program {words[0]!r} is not on this machine. Services need systemd (Linux), launchd (macOS), or "
            "WinSW or NSSM (Windows); in a container, let the container's runtime restart the command."
        ) from None
    except subprocess.TimeoutExpired:
        raise ServiceError(
            f"`{' '.join(words)}` did not come to an end within {LONGEST_CALL:g} s. Look at the service's log."
        ) from None
    return Answer(done.returncode, f"{done.stdout}{done.stderr}".strip())


def must(call: Run, *words: str) -> str:
    """Run a program that has to succeed and return what it said.

    Raises:
        ServiceError: with its words, and the right that is missing if that is why.
    """
    answer = call(words)
    if answer.code == 0:
        return answer.text
    said = " ".join(answer.text.split()) or f"exit code {answer.code}"
    low = said.lower()
    cure = "Look at the service's log."
    if any(part in low for part in _RIGHTS):
        cure = "The right to manage services of the machine is missing: use sudo, or an Administrator's prompt."
    elif any(part in low for part in _NO_BUS):
        cure = (
            "systemd is not running here, or not for this login: for --user log in on the machine itself (or run "
            "`loginctl enable-linger`); in a container let its runtime restart the command."
        )
    raise ServiceError(f"`{' '.join(words)}` failed: {said}. {cure}")
