"""How fast a worker turns chunks into verified files, beside OpenMSIStream's DataFileDownloadDirectory and the limit.

    python bench/worker.py [--mb 512] [--chunk-kb 512] [--small 2000] [--rounds 3] [--only throughput,small,memory]
        [--broker embedded|kafka]

The topic is filled first; then each reader runs alone on the same broker and messages, in turn: ours, the published
OpenMSIStream 1.8.8 (in a virtual environment of its own, made on first use) and a bare librdkafka consumer that only
counts, which is the limit. The clock runs from a reader's first byte to its last file; CPU seconds and peak memory are
those of its process. What a reader wrote stays until all have run (some GB): ext4 without a journal looks for new
inodes past those that were deleted in the last minutes, and the next reader would pay for it. `memory` sends one
file of 4 GB, and 2,000 files at once, and prints our peak memory and what the table's changelog took.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from confluent_kafka import Producer
from producer import broker

from openmsi_streams.chunks.codec import Chunk, count, encode, split
from openmsi_streams.chunks.keys import chunk_key, home_partition
from tests.support.kafka import make_topics, read_all
from tests.support.peer import config, run_peer
from tests.support.programs import Program
from tests.support.workers import Worker

PARTITIONS = 3
TOPIC = "bench"
KIB, MIB = 1 << 10, 1 << 20
TICKS = os.sysconf("SC_CLK_TCK")
LIMIT_PROGRAM = """
import sys, time
from confluent_kafka import Consumer
c = Consumer({"bootstrap.servers": sys.argv[1], "group.id": "limit", "auto.offset.reset": "earliest",
              "enable.auto.commit": False, "session.timeout.ms": 6000})
c.subscribe([sys.argv[2]])
want, got, first = int(sys.argv[3]), 0, 0.0
while got < want:
    m = c.poll(1.0)
    if m is not None and m.error() is None:
        first = first or time.time()
        got += 1
print("seconds", time.time() - first, flush=True)
sys.stdin.read()
"""


@dataclass
class Run:
    """One reader's run."""

    reader: str
    seconds: float
    cpu: float
    rss_mb: float


def files_of(total: int, size: int) -> Iterator[tuple[str, bytes]]:
    """Yield names and random contents of files of ``size`` bytes, ``total`` bytes in all."""
    for number in range(max(1, total // size)):
        yield f"run/{number:05d}.bin", os.urandom(size)


def fill(bootstrap: str, files: Iterable[tuple[str, bytes]], chunk_bytes: int) -> tuple[int, int, int]:
    """Send files' chunks; return files, messages, bytes."""
    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "enable.idempotence": True,
            "linger.ms": 5,
            "message.max.bytes": 20_000_000,
            "queue.buffering.max.kbytes": 256 * 1024,
        }
    )
    made = messages = size = 0
    for path, data in files:
        subdir, _, name = path.rpartition("/")
        digest = hashlib.sha512(data).digest()
        total = count(len(data), chunk_bytes)
        for index, start, end in split(len(data), chunk_bytes):
            piece = data[start:end]
            chunk = Chunk(
                name, digest, hashlib.sha512(piece).digest(), start, index, total, subdir, "", memoryview(piece), 1e9
            )
            while True:
                try:
                    producer.produce(
                        TOPIC, encode(chunk), chunk_key(name, subdir, index, total),
                        partition=home_partition(path, PARTITIONS),
                    )  # fmt: skip
                    break
                except BufferError:
                    producer.poll(0.1)
            messages += 1
        producer.poll(0)
        made += 1
        size += len(data)
    producer.flush()
    return made, messages, size


def usage(pid: int) -> tuple[float, float]:
    """Return CPU seconds and peak resident MB of a process (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    peak = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM"))
    return (int(fields[11]) + int(fields[12])) / TICKS, int(peak.split()[1]) / 1024


def begun(folder: Path) -> bool:
    """Say whether a reader has written anything of a file."""
    return any(not path.name.startswith("check-") for path in folder.rglob("*") if path.is_file())


def whole(folder: Path, files: int, size: int) -> bool:
    """Say whether a folder holds that many files and bytes."""
    try:
        found = list(os.scandir(folder))
        return len(found) == files and sum(entry.stat().st_size for entry in found) == size
    except FileNotFoundError:
        return False


def timed(reader: str, program: Program, root: Path, folder: Path, files: int, size: int) -> Run:
    """Return time and CPU from the first byte below ``root`` until all files are in ``folder``, and the peak memory."""

    def wait(condition: Callable[[], bool], seconds: float, pause: float) -> None:
        # Looked at often: a tenth of a second counts here.
        deadline = time.monotonic() + seconds
        while not condition():
            assert program.poll() is None and time.monotonic() < deadline, program.text[-2000:]
            time.sleep(pause)

    wait(lambda: begun(root), 120, 0.005)
    before, started = usage(program.pid)[0], time.perf_counter()
    wait(lambda: whole(folder, files, size), 900, 0.02)
    seconds = time.perf_counter() - started
    cpu, rss = usage(program.pid)
    return Run(reader, seconds, cpu - before, rss)


def ours(bootstrap: str, tmp: Path, files: int, messages: int, size: int, **settings: object) -> Run:
    """Run our worker over the topic, with a table and a group of its own."""
    name = f"ours{time.monotonic_ns()}"
    options = {"worker__id": name, "disk__root": str(tmp / name / "store"), **settings}
    with Worker(bootstrap, TOPIC, tmp, name, **options) as worker:
        worker.log_level = "warning"
        worker.start(wait=False)
        assert worker.program is not None
        store = tmp / name / "store"
        return timed("openmsi_streams worker", worker.program, store, store / TOPIC / "run", files, size)


def peer(bootstrap: str, tmp: Path, files: int, messages: int, size: int) -> Run:
    """Run DataFileDownloadDirectory over the topic."""
    out = tmp / f"peer{time.monotonic_ns()}"
    settings = config(tmp / "peer.config", bootstrap)
    program: Program = run_peer(
        *("DataFileDownloadDirectory", out, "--config", settings, "--topic_name", TOPIC),
        *("--consumer_group_id", out.name, "--n_threads", "1"),
    )
    with program:
        return timed("OpenMSIStream 1.8.8", program, out / "run", out / "run", files, size)


def limit(bootstrap: str, tmp: Path, files: int, messages: int, size: int) -> Run:
    """Run a bare consumer that counts."""
    command = [sys.executable, "-c", LIMIT_PROGRAM, bootstrap, TOPIC, str(messages)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdin is not None
        seconds = float(process.stdout.readline().split()[1])
        # The start of an interpreter with librdkafka, some 0.05 s, is in it.
        cpu, rss = usage(process.pid)
        process.stdin.close()
    return Run("bare consumer", seconds, cpu, rss)


def compare(
    title: str, files: Callable[[], Iterable[tuple[str, bytes]]], chunk: int, rounds: int, peers: bool, kind: str
) -> dict:
    """Fill a topic, let each reader read it in turn, print medians and ratios."""
    with tempfile.TemporaryDirectory() as folder, broker(kind) as bootstrap:
        tmp = Path(folder)
        make_topics(bootstrap, TOPIC, partitions=PARTITIONS)
        made, messages, size = fill(bootstrap, files(), chunk)
        readers = [partial(ours, worker__profile=profile(kind)), limit, *([peer] if peers else [])]
        runs = [reader(bootstrap, tmp, made, messages, size) for _ in range(rounds) for reader in readers]
    print(f"\n{title}: {made} files, {size / MIB:.0f} MiB in chunks of {chunk // KIB} KiB, median of {rounds}")
    rows: dict[str, dict[str, float]] = {}
    for name in dict.fromkeys(run.reader for run in runs):
        mine = [run for run in runs if run.reader == name]
        seconds = statistics.median(run.seconds for run in mine)
        rows[name] = {
            "mb_s": size / 1e6 / seconds,
            "files_s": made / seconds,
            "cpu_s_per_gb": statistics.median(run.cpu for run in mine) / (size / 1e9),
            "rss_mb": max(run.rss_mb for run in mine),
        }
    base = rows["openmsi_streams worker"]
    print(f"{'':26}{'MB/s':>9}{'files/s':>10}{'CPU s/GB':>10}{'RSS MB':>8}   ours/this: MB/s, CPU, RSS")
    for name, row in rows.items():
        ratio = "   ".join(f"{base[key] / row[key]:.2f}" for key in ("mb_s", "cpu_s_per_gb", "rss_mb"))
        figures = f"{row['mb_s']:9.1f}{row['files_s']:10.1f}{row['cpu_s_per_gb']:10.2f}{row['rss_mb']:8.0f}"
        print(f"{name:26}{figures}   {ratio}")
    return {
        "title": title,
        "files": made,
        "bytes": size,
        "chunk_bytes": chunk,
        "rows": rows,
        "runs": [*map(asdict, runs)],
    }


def profile(kind: str) -> str:
    """Return the worker's profile for a broker."""
    return "embedded" if kind == "embedded" else ""


def memory(big_mb: int, many: int, kind: str) -> dict:
    """One large file, and many files at once: peak memory and changelog."""
    found = {}
    for title, files, interleaved in (
        (f"one file of {big_mb} MiB", lambda: iter([("run/big.bin", None)]), False),
        (f"{many} files of 2 MiB at once", lambda: files_of(many * 2 * MIB, 2 * MIB), True),
    ):
        with tempfile.TemporaryDirectory() as folder, broker(kind) as bootstrap:
            tmp = Path(folder)
            make_topics(bootstrap, TOPIC, partitions=PARTITIONS)
            if interleaved:
                made, messages, size = _interleave(bootstrap, list(files()), 512 * KIB)
            else:
                made, messages, size = _stream_big(bootstrap, big_mb * MIB, 512 * KIB)
            run = ours(bootstrap, tmp, made, messages, size, worker__id="memory", worker__profile=profile(kind))
            changelog = sum(
                len(m.key() or b"") + len(m.value() or b"")
                for m in read_all(bootstrap, f"memory-files-{TOPIC}-changelog")
            )
        print(
            f"\n{title}: worker peak RSS {run.rss_mb:.0f} MB, {size / 1e6 / run.seconds:.0f} MB/s, "
            f"changelog {changelog} bytes = {100 * changelog / size:.4f} % of the data"
        )
        found[title] = {**asdict(run), "bytes": size, "changelog_bytes": changelog}
    return found


def _interleave(bootstrap: str, files: list[tuple[str, bytes]], chunk_bytes: int) -> tuple[int, int, int]:
    """Send the first chunk of every file, then the second of every file, and so on."""
    producer = Producer({"bootstrap.servers": bootstrap, "enable.idempotence": True, "message.max.bytes": 20_000_000})
    digests = {path: hashlib.sha512(data).digest() for path, data in files}
    messages = 0
    total = count(len(files[0][1]), chunk_bytes)
    for index, start, end in split(len(files[0][1]), chunk_bytes):
        for path, data in files:
            subdir, _, name = path.rpartition("/")
            piece = data[start:end]
            chunk = Chunk(
                name, digests[path], hashlib.sha512(piece).digest(), start, index, total, subdir, "", memoryview(piece)
            )
            _produce(producer, path, encode(chunk))
            messages += 1
    producer.flush()
    return len(files), messages, sum(len(data) for _, data in files)


def _stream_big(bootstrap: str, size: int, chunk_bytes: int) -> tuple[int, int, int]:
    """Send one large file whose bytes are made as they are needed."""
    block = os.urandom(chunk_bytes)

    def piece(index: int) -> bytes:
        return index.to_bytes(8, "big") + block[8:]

    total = count(size, chunk_bytes)
    digest = hashlib.sha512()
    for index in range(1, total + 1):
        digest.update(piece(index))
    producer = Producer({"bootstrap.servers": bootstrap, "enable.idempotence": True, "message.max.bytes": 20_000_000})
    for index in range(1, total + 1):
        data = piece(index)
        chunk = Chunk(
            "big.bin", digest.digest(), hashlib.sha512(data).digest(), (index - 1) * chunk_bytes, index, total, "run",
            "", memoryview(data),
        )  # fmt: skip
        _produce(producer, "run/big.bin", encode(chunk))
    producer.flush()
    return 1, total, total * chunk_bytes


def _produce(producer: Producer, path: str, value: bytes) -> None:
    while True:
        try:
            producer.produce(TOPIC, value, b"k", partition=home_partition(path, PARTITIONS))
            producer.poll(0)
            return
        except BufferError:
            producer.poll(0.1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mb", type=int, default=512)
    parser.add_argument("--chunk-kb", type=int, action="append")
    parser.add_argument("--small", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--big-mb", type=int, default=4096)
    parser.add_argument("--many", type=int, default=2000)
    parser.add_argument("--only", default="throughput,small,memory")
    parser.add_argument("--no-peer", action="store_true")
    parser.add_argument("--broker", choices=["embedded", "kafka"], default="embedded")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    results: dict[str, object] = {}
    peers = not chosen.no_peer
    for kib in chosen.chunk_kb or [512, 16] if "throughput" in chosen.only else []:
        total = (chosen.mb if kib >= 128 else min(chosen.mb, 64)) * MIB
        results[f"throughput {kib} KiB"] = compare(
            "throughput",
            lambda total=total: files_of(total, min(total, 64 * MIB)),
            kib * KIB,
            chosen.rounds,
            peers,
            chosen.broker,
        )
    if "small" in chosen.only:
        results["small files"] = compare(
            "small files",
            lambda: files_of(chosen.small * 10_000, 10_000),
            512 * KIB,
            chosen.rounds,
            peers,
            chosen.broker,
        )
    if "memory" in chosen.only:
        results["memory"] = memory(chosen.big_mb, chosen.many, chosen.broker)
    if chosen.json:
        chosen.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
