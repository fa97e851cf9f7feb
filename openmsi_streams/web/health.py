"""Whether this worker should get work and be believed: assigned, recovered, committing, stores reachable."""

from __future__ import annotations

from typing import Any

# Faust commits every few seconds; a partition with something to commit that stands still for so long is stuck.
STUCK_SECONDS = 120.0


def ready(health: dict[str, Any]) -> tuple[bool, list[str]]:
    """Return whether the worker is ready, and every reason why not, each with its cure.

    Args:
        health: as `Source.health` gives it.
    """
    reasons: list[str] = []
    if not health.get("assigned"):
        reasons.append(
            "No partitions are assigned yet: the worker is joining its group, or there are more workers "
            "than partitions."
        )
    if not health.get("recovered"):
        reasons.append("The table is being recovered from its changelog; wait.")
    for store, problem in sorted(dict(health.get("stores") or {}).items()):
        if problem:
            reasons.append(f"Store {store}: {problem}")
    for partition, age in sorted(dict(health.get("commit_age") or {}).items()):
        if age > STUCK_SECONDS:
            reasons.append(
                f"{partition} has not committed for {age:.0f} s though work waits; restart this worker if it goes on."
            )
    if health.get("paused"):
        reasons.append(f"Intake is paused: {health['paused']}")
    reasons += [str(problem) for problem in health.get("problems") or ()]
    return not reasons, reasons
