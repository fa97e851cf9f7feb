"""How long a worker with an empty disk needs until it is ready: its table comes back from the changelog.

    python bench/recovery.py [--rows 100000] [--rounds 3] [--broker embedded|kafka] [--json FILE]

The rows are made with the tables' own codec and sent to the changelog topic, one message a row, as a worker does; then
a worker starts with an empty folder, and again with the folder that the first run left. "Ready" is its own line
"worker ready"; the clock starts when the process is started, so Python's imports count.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from confluent_kafka import Producer
from producer import broker

from openmsi_streams.chunks.keys import file_id, home_partition
from openmsi_streams.chunks.messages import Delivery
from openmsi_streams.config import load
from openmsi_streams.config.topics import ensure_topics
from openmsi_streams.tables.rows import Row, Span, State, encode
from tests.support.kafka import make_topics
from tests.support.workers import Worker

TOPIC, ID, PARTITIONS = "lab", "recovery", 3


def fill(bootstrap: str, rows: int) -> int:
    """Send so many delivered rows to the changelog; return their bytes."""
    from openmsi_streams.chunks.topics import table_names

    make_topics(bootstrap, TOPIC, partitions=PARTITIONS)
    settings = load(flags={"broker.bootstrap": bootstrap, "worker.id": ID}, environment={})
    ensure_topics(settings, [TOPIC], tables=table_names(TOPIC))
    changelog = f"{ID}-{table_names(TOPIC)[0]}-changelog"
    # One request in flight and one message a batch: the embedded broker counts only such batches right.
    producer = Producer(
        {"bootstrap.servers": bootstrap, "batch.num.messages": 1, "linger.ms": 0,
         "queue.buffering.max.messages": 1_000_000}
    )  # fmt: skip
    now, size = time.time(), 0
    for number in range(rows):
        path = f"2026/11/{number % 28 + 1:02}/run {number % 97}/scan_{number:06}.dat"
        digest = hashlib.sha512(path.encode())
        partition = home_partition(path, PARTITIONS)
        row = Row(
            topic=TOPIC, path=path, sha512=digest.digest(), partition=partition, state=State.DELIVERED, since=now,
            updated=now, timestamp=now, mtime=now, size=12_000_000, ranges=(0, 12_000_000),
            log=Span(number * 23, number * 23 + 22), chunks=23,
            deliveries=(Delivery("disk", "main", f"file:///data/{TOPIC}/{path}", digest.hexdigest(), 12_000_000, now),),
            times={"verifying": now, "delivering": now, "delivered": now},
        )  # fmt: skip
        key, value = file_id(TOPIC, path, digest.hexdigest()).encode(), encode(row)
        size += len(key) + len(value)
        producer.produce(changelog, value, key, partition=partition)
        if number % 1000 == 0:
            producer.poll(0)
    assert producer.flush(300) == 0
    return size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--broker", choices=["embedded", "kafka"], default="embedded")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    found: dict[str, list[float]] = {"no rows": [], "empty disk": [], "own table": []}
    with tempfile.TemporaryDirectory() as name:
        tmp = Path(name)

        def start(bootstrap: str, folder: str, what: str) -> None:
            profile = "embedded" if chosen.broker == "embedded" else ""
            with Worker(bootstrap, TOPIC, tmp, folder, worker__id=ID, worker__profile=profile) as worker:
                began = time.perf_counter()
                worker.start(wait=False)
                worker.wait_ready(300)
                found[what].append(time.perf_counter() - began)
                if what != "no rows":
                    shown = worker.get("/api/v1/overview")
                    assert str(chosen.rows) in json.dumps(shown), shown
                worker.stop()

        for number in range(chosen.rounds):
            with broker(chosen.broker) as bootstrap:
                make_topics(bootstrap, TOPIC, partitions=PARTITIONS)
                start(bootstrap, f"none{number}", "no rows")
        with broker(chosen.broker) as bootstrap:
            size = fill(bootstrap, chosen.rows)
            for number in range(chosen.rounds):
                start(bootstrap, f"w{number}", "empty disk")
                start(bootstrap, f"w{number}", "own table")
    print(f"{chosen.rows} rows, {size / 1e6:.1f} MB in the changelog ({size / chosen.rows:.0f} bytes a row)")
    for what, seconds in found.items():
        print(f"{what:12} ready after {statistics.median(seconds):.1f} s (median of {len(seconds)}: "
              f"{', '.join(f'{one:.1f}' for one in seconds)})")  # fmt: skip
    if chosen.json:
        row = {"rows": chosen.rows, "bytes": size, "seconds": found}
        chosen.json.write_text(json.dumps(row, indent=1))


if __name__ == "__main__":
    main()
