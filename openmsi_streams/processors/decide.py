"""What follows from an outcome: done, another try, or quarantine. A pure function."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from openmsi_streams.processors.runner import Outcome

# The first wait, in seconds: longer than a hiccup of a share or a database, short beside a measurement.
FIRST_WAIT = 5.0
# Waits double; after five minutes more patience costs more than it brings.
LONGEST_WAIT = 300.0


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do with a file after a try."""

    action: Literal["done", "retry", "quarantine"]
    wait: float = 0.0
    """Seconds before the next try."""
    message: str = ""
    """For the quarantine: one line, then the traceback and what the function printed."""


def decide(outcome: Outcome, attempt: int, retries: int) -> Decision:
    """Say what follows from the outcome of a try.

    Args:
        outcome: what happened.
        attempt: which try it was, from 1.
        retries: how many more there may be in all (`processors.retries`).

    What will never work (`RejectFile`, a result that is none) is not tried again. Everything else is, also an excess
    of time or memory: a busy machine is a common cause of both.
    """
    if outcome.status == "ok":
        return Decision("done")
    if outcome.status in ("rejected", "nonsense") or attempt > retries:
        return Decision("quarantine", message=explain(outcome, attempt))
    return Decision("retry", wait=min(LONGEST_WAIT, FIRST_WAIT * 2 ** (attempt - 1)), message=outcome.error)


def explain(outcome: Outcome, attempt: int) -> str:
    """Return the text that goes into quarantine with the file."""
    parts = [f"{outcome.error} (try {attempt}, {outcome.seconds:.1f} s)"]
    if outcome.traceback:
        parts.append(outcome.traceback.rstrip())
    if outcome.output:
        parts.append(f"It printed:\n{outcome.output.rstrip()}")
    return "\n".join(parts)
