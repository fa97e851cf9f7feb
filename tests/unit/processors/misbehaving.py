"""Processors of a lab that has had a bad week."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from openmsi_streams.processors import DeliveredFile, NotNow, RejectFile, Result, processor

CALLS = 0


@processor(topic="lab", match="*.csv", version="3")
def good(file: DeliveredFile) -> Result:
    print("working on", file.name)
    file.beside("count.txt").write_text(str(file.size))
    return Result(files=[file.beside("count.txt")], json={"bytes": file.size}, record={"bytes": file.size})


@processor()
def warm(file: DeliveredFile) -> dict[str, int]:
    global CALLS
    CALLS += 1
    return {"pid": os.getpid(), "calls": CALLS}


@processor()
def hangs(file: DeliveredFile) -> None:
    print("before the hang", flush=True)
    while True:
        time.sleep(3600)


@processor()
def hangs_with_a_child(file: DeliveredFile) -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
    (file.path.parent / "child.pid").write_text(str(child.pid))
    child.wait()


@processor()
def grows(file: DeliveredFile) -> None:
    kept: list[bytearray] = []
    while True:
        # Written to, or it would not be resident.
        kept.append(bytearray(os.urandom(1 << 20)) * 8)


@processor()
def wants_everything(file: DeliveredFile) -> None:
    bytearray(1 << 50)


@processor()
def raises(file: DeliveredFile) -> None:
    print("the last words")
    raise ValueError("the sample was upside down")


@processor()
def exits(file: DeliveredFile) -> None:
    sys.exit(3)


@processor()
def crashes(file: DeliveredFile) -> None:
    print("going down", flush=True)
    os.kill(os.getpid(), signal.SIGSEGV)


@processor()
def leaves(file: DeliveredFile) -> None:
    os._exit(7)


@processor()
def chatters(file: DeliveredFile) -> dict[str, bool]:
    for _ in range(20_000):
        print("noise on stdout")
    os.write(1, b"and from C\n")
    print("noise on stderr", file=sys.stderr)
    return {"ok": True}


@processor()
def reads_stdin(file: DeliveredFile) -> dict[str, str]:
    return {"read": sys.stdin.read()}


@processor()
def rejects(file: DeliveredFile) -> None:
    raise RejectFile("not a scan of ours")


@processor()
def waits_for_a_share(file: DeliveredFile) -> None:
    raise NotNow("the share is away")


@processor()
def returns_nonsense(file: DeliveredFile) -> Any:
    return object()


@processor()
def returns_no_json(file: DeliveredFile) -> Any:
    return {"when": object()}


@processor()
def returns_a_path_elsewhere(file: DeliveredFile) -> Any:
    return Path("/etc/hostname")


@processor()
def takes_the_place_of_the_original(file: DeliveredFile) -> Any:
    return Result(files={file.name: b"mine now"})


@processor()
def climbs_out(file: DeliveredFile) -> Any:
    return Result(files={"../../up.txt": b"x"})


@processor()
def tells_secrets(file: DeliveredFile) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith("OPENMSI_STREAMS__")}


@processor(time_limit=0.3)
def impatient(file: DeliveredFile) -> None:
    time.sleep(3600)


def adds(a: int, b: int) -> dict[str, int]:
    return {"sum": a + b}


def not_a_processor(file: DeliveredFile) -> None:
    pass
