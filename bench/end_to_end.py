"""From a file that is ready to the receipt that it is delivered: p50 and p99, idle and under load.

    python bench/end_to_end.py [--small 60] [--medium 60] [--large 5] [--load-mb-s 20] [--json FILE]

A watching producer, the embedded broker and one worker with a disk store. A file is moved whole into the watched
folder; it is ready after `producer.quiet_seconds` (0.5 s here) without change: that wait is the readiness rule and is
taken off; what is left is noticing, hashing, sending, placing, verifying, fsync, renaming and the receipt. That is
timed when a consumer of `<topic>.receipts` has it. Under load another producer sends 4 MB files at ``--load-mb-s``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from confluent_kafka import Consumer, TopicPartition

from openmsi_streams.chunks.messages import receipt_from
from openmsi_streams.embedded import EmbeddedBroker
from tests.support.kafka import make_topics
from tests.support.programs import spawn_cli
from tests.support.waiting import wait_until
from tests.support.workers import Worker

TOPIC = "lab"
QUIET = 0.5
SIZES = {"10 kB": 10_000, "1 MB": 1_000_000, "100 MB": 100_000_000}


class Receipts:
    """Notes when the first receipt of each path comes."""

    def __init__(self, bootstrap: str) -> None:
        self.seen: dict[str, float] = {}
        self._consumer = Consumer(
            {"bootstrap.servers": bootstrap, "group.id": "bench", "fetch.wait.max.ms": 10, "enable.auto.commit": False}
        )
        self._consumer.assign([TopicPartition(f"{TOPIC}.receipts", p, 0) for p in range(3)])
        self._stop = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop:
            message = self._consumer.poll(0.1)
            if message is not None and message.error() is None:
                self.seen.setdefault(receipt_from(message.value()).path, time.time())

    def close(self) -> None:
        self._stop = True
        self._thread.join(5.0)
        self._consumer.close()


@contextlib.contextmanager
def load(bootstrap: str, tmp: Path, mb_s: float) -> Iterator[None]:
    """Keep a second producer busy with 4 MB files."""
    folder = tmp / "load"
    folder.mkdir()
    stop = threading.Event()

    def make() -> None:
        number = 0
        while not stop.wait(4.0 / mb_s):
            (folder / f"load_{number:05d}.bin").write_bytes(os.urandom(4_000_000))
            number += 1

    thread = threading.Thread(target=make, daemon=True)
    watch = spawn_cli("watch", folder, "--topic", TOPIC, "--broker", bootstrap, "--state", tmp / "load-state",
                      "--quiet-seconds", "0.2")  # fmt: skip
    with watch:
        watch.wait_for("watching")
        thread.start()
        time.sleep(3)
        yield
        stop.set()
        thread.join()


def percentile(values: list[float], share: float) -> float:
    """Return the nearest-rank percentile."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -(-int(share * 100) * len(ordered) // 100) - 1))]


def measure(counts: dict[str, int], mb_s: float) -> list[dict[str, object]]:
    """Return a row for each size, idle or under load."""
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as name, EmbeddedBroker() as broker:
        tmp = Path(name)
        make_topics(broker.bootstrap, TOPIC)
        watched, staged = tmp / "watched", tmp / "staged"
        watched.mkdir()
        staged.mkdir()
        receipts = Receipts(broker.bootstrap)
        with Worker(broker.bootstrap, TOPIC, tmp).start():
            watch = spawn_cli(
                *("watch", watched, "--topic", TOPIC, "--broker", broker.bootstrap, "--state", tmp / "state"),
                *("--quiet-seconds", str(QUIET)),
            )
            with watch, load(broker.bootstrap, tmp, mb_s) if mb_s else contextlib.nullcontext():
                watch.wait_for("watching")
                for title, size in SIZES.items():
                    taken = []
                    for number in range(-2, counts[title]):
                        path = f"{size}_{number + 2:04d}.dat"
                        (staged / path).write_bytes(os.urandom(size))
                        os.utime(staged / path)
                        ready = time.time()
                        (staged / path).rename(watched / path)
                        wait_until(lambda: path in receipts.seen, 120, "the receipt comes", lambda: watch.text)  # noqa: B023
                        # The first two warm up.
                        if number >= 0:
                            taken.append(receipts.seen[path] - ready)
                    row = {
                        "size": title,
                        "load_mb_s": mb_s,
                        "files": len(taken),
                        "p50_s": round(statistics.median(taken), 3),
                        "p99_s": round(percentile(taken, 0.99), 3),
                        "beyond_rule_p50_s": round(statistics.median(taken) - QUIET, 3),
                        "beyond_rule_p99_s": round(percentile(taken, 0.99) - QUIET, 3),
                    }
                    rows.append(row)
                    print(
                        f"{title:>7} {'idle' if not mb_s else f'{mb_s:g} MB/s beside':14} {len(taken):4d} files  "
                        f"p50 {row['p50_s']:.3f} s  p99 {row['p99_s']:.3f} s   beyond the readiness rule: "
                        f"{row['beyond_rule_p50_s']:.3f} / {row['beyond_rule_p99_s']:.3f} s",
                        flush=True,
                    )
        receipts.close()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", type=int, default=60)
    parser.add_argument("--medium", type=int, default=60)
    parser.add_argument("--large", type=int, default=5)
    parser.add_argument("--load-mb-s", type=float, default=20.0)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    counts = dict(zip(SIZES, (chosen.small, chosen.medium, chosen.large), strict=True))
    rows = measure(counts, 0.0) + measure(counts, chosen.load_mb_s)
    if chosen.json:
        chosen.json.write_text(json.dumps({"rows": rows}, indent=1))


if __name__ == "__main__":
    main()
