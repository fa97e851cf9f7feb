"""The process that runs processors: kept warm between files, killed and replaced when one misbehaves."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

import msgspec

from openmsi_streams.processors import frames
from openmsi_streams.processors.api import DeliveredFile, Nonsense, NotNow, RejectFile, settle

# Address space is not memory: NumPy's threads and shared libraries reserve far more than they use.
ADDRESS_SLACK = 2 << 30
# Frames kept of a traceback's text: enough to see the lab's own lines, bounded for a runaway recursion.
MAX_TRACEBACK = 20_000


def main() -> None:
    """Serve jobs from stdin until it closes."""
    channel_in = os.fdopen(os.dup(0), "rb")
    channel_out = os.fdopen(os.dup(1), "wb")
    # What a function prints, also from C code, goes to a file that the worker reads; our channel stays clean.
    captured = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(captured, 1)
    os.dup2(captured, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    start = frames.read(channel_in)
    if start is None:
        return
    _settle_down(start)
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    for name in start["warm"]:
        # The job that needs it says why it is missing.
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    frames.write(channel_out, {"ready": os.getpid()})
    while (job := frames.read(channel_in)) is not None:
        answer = perform(job)
        sys.stdout.flush()
        sys.stderr.flush()
        frames.write(channel_out, answer)


def _settle_down(start: dict[str, Any]) -> None:
    sys.path[:] = start["path"]
    if hasattr(os, "nice"):
        # The worker's event loop has to answer Kafka in time; analysis can wait.
        with contextlib.suppress(OSError):
            os.nice(5)


def _end_with_parent(parent: int) -> None:
    """End when the worker is gone, also in the middle of a job: a killed worker closes no pipe that a job reads."""
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)


def perform(job: dict[str, Any]) -> dict[str, Any]:
    """Run one job and return its answer; never raises for what a function does, short of ending the process."""
    try:
        _limit_memory(job["memory_limit"])
        if job["kind"] == "call":
            return {"status": "ok", "value": _find(job["reference"])(**job["arguments"])}
        file = DeliveredFile(
            **{**job["file"], "path": Path(job["file"]["path"]), "urls": tuple(job["file"]["urls"])},
            out=Path(job["out"]),
        )
        produced = settle(_find(job["reference"])(file), file.out, file.name)
        return {"status": "ok", "produced": msgspec.to_builtins(produced)}
    except RejectFile as error:
        return _failed("rejected", error)
    except NotNow as error:
        return _failed("not_now", error)
    except Nonsense as error:
        return {**_failed("nonsense", error), "error": str(error), "traceback": ""}
    except MemoryError as error:
        return _failed("memory", error)
    except BaseException as error:
        # SystemExit and KeyboardInterrupt from a lab's code must not end the process in silence.
        return _failed("failed", error)


def _find(reference: str) -> Any:
    module, _, name = reference.partition(":")
    thing: Any = importlib.import_module(module)
    for part in name.split("."):
        thing = getattr(thing, part)
    return thing


def _failed(status: str, error: BaseException) -> dict[str, Any]:
    # The first frame is our own call; a lab wants to see its lines.
    tail = error.__traceback__.tb_next if error.__traceback__ else None
    text = "".join(traceback.format_exception(type(error), error, tail))
    return {
        "status": status,
        "error": f"{type(error).__name__}: {error}" if str(error) else type(error).__name__,
        "traceback": text
        if len(text) <= MAX_TRACEBACK
        else f"{text[: MAX_TRACEBACK // 2]}\n...\n{text[-MAX_TRACEBACK // 2 :]}",
    }


def _limit_memory(limit: int) -> None:
    """Let one huge allocation fail inside the function; growth in steps is watched from outside."""
    if sys.platform != "linux" or limit <= 0:
        return
    import resource

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    wanted = pages * resource.getpagesize() + limit + ADDRESS_SLACK
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (wanted if hard < 0 else min(wanted, hard), hard))


if __name__ == "__main__":
    main()
