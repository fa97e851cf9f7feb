"""Mixed load with restarts: memory, handles and lag stay flat; nothing is lost or wrong.

    python bench/soak.py [--minutes 30] [--restart-every 300] [--json FILE]

A watching producer gets files of 0 B to 8 MB as instruments write them (many small, some large, some rewritten); two
workers share the topic. Every ``--restart-every`` seconds the second worker is killed with SIGKILL and started again;
the first runs through and is what is measured: resident memory, open files and lag, every 5 s. Growth is the median of
the last fifth against the median of what came after the first sixth (5 of 30 minutes).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import time
from hashlib import sha512
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from openmsi_streams.embedded import EmbeddedBroker
from tests.support.files import tree
from tests.support.kafka import make_topics
from tests.support.programs import spawn_cli
from tests.support.waiting import wait_until
from tests.support.workers import Worker, wait_delivered

TOPIC = "lab"
SAMPLE_SECONDS = 5.0


def rss_mb(pid: int) -> float:
    """Return a process's resident megabytes (Linux)."""
    line = next(x for x in Path(f"/proc/{pid}/status").read_text().splitlines() if x.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def handles(pid: int) -> int:
    """Return how many files a process has open (Linux)."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--restart-every", type=float, default=300.0)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    rng = random.Random(9)
    samples: list[dict[str, float]] = []
    wanted: dict[str, str] = {}
    written = restarts = 0
    with tempfile.TemporaryDirectory() as name, EmbeddedBroker() as broker:
        tmp = Path(name)
        folder = tmp / "data"
        folder.mkdir()
        make_topics(broker.bootstrap, TOPIC)
        steady = Worker(broker.bootstrap, TOPIC, tmp, "w0", worker__stall_after=30)
        other = Worker(broker.bootstrap, TOPIC, tmp, "w1", worker__stall_after=30)
        watch = spawn_cli("watch", folder, "--topic", TOPIC, "--broker", broker.bootstrap, "--state", tmp / "state",
                          "--quiet-seconds", "1")  # fmt: skip
        with steady.start(), other.start(), watch:
            watch.wait_for("watching")
            assert steady.program is not None
            pid = steady.program.pid
            began = sampled = restarted = time.monotonic()
            number = 0
            while time.monotonic() - began < chosen.minutes * 60:
                size = rng.choice([0, 500, 10_000, 10_000, 10_000, 200_000, 2_000_000, 8_000_000])
                again = number > 50 and rng.random() < 0.05
                path = (
                    folder / f"run {rng.randrange(40)}" / f"scan_{rng.randrange(number) if again else number:06d}.dat"
                )
                path.parent.mkdir(exist_ok=True)
                data = rng.randbytes(size)
                path.write_bytes(data)
                wanted[path.relative_to(folder).as_posix()] = sha512(data).hexdigest()
                number += 1
                written += size
                time.sleep(rng.uniform(0.1, 0.6))  # the pace of the instruments
                now = time.monotonic()
                if now - sampled >= SAMPLE_SECONDS:
                    sampled = now
                    samples.append(
                        {
                            "at": round(now - began, 1),
                            "rss_mb": rss_mb(pid),
                            "producer_rss_mb": rss_mb(watch.pid),
                            "handles": handles(pid),
                            "lag": steady.metric("openmsi_streams_lag_messages"),
                        }
                    )
                if now - restarted >= chosen.restart_every:
                    restarted = now
                    restarts += 1
                    other.kill9()
                    other.start(wait=False)
            said = wait_delivered(broker.bootstrap, TOPIC, wanted, 300, steady, other)
            wait_until(
                lambda: tree(tmp / "store" / TOPIC) == wanted, 60, "every file is equal", lambda: steady.text[-3000:]
            )
            assert steady.program.poll() is None
    print(f"{len(wanted)} files, {written / 1e6:.0f} MB in {chosen.minutes:g} minutes, {restarts} kills of the second "
          f"worker: 0 lost, 0 wrong, {len(said)} receipts")  # fmt: skip
    first = [s for s in samples if s["at"] > chosen.minutes * 10] or samples
    early, late = first[: max(1, len(first) // 5)], first[-max(1, len(first) // 5) :]
    growth = {}
    for key in ("rss_mb", "producer_rss_mb", "handles", "lag"):
        before, after = (statistics.median(s[key] for s in part) for part in (early, late))
        growth[key] = {"early": before, "late": after}
        change = f"{100 * (after / before - 1):+.1f} %" if before else "-"
        print(f"{key:16} {before:8.1f} -> {after:8.1f}   {change}")
    if chosen.json:
        kept = {"minutes": chosen.minutes, "files": len(wanted), "bytes": written, "kills": restarts}
        chosen.json.write_text(json.dumps({**kept, "growth": growth, "samples": samples}, indent=1))


if __name__ == "__main__":
    main()
