"""What encryption costs: sealing, opening, and a worker's path with and without it, on this machine.

    python bench/crypto.py [--messages 400] [--size 524288] [--worker [--turns 2]]

The path is the work between the stream and the disk: take a message, (open it), decode the chunk, hash it. Event-loop
stalls are the gaps between turns of a task that wants one every millisecond. With ``--worker``, workers as processes
read files from an embedded broker, plain and encrypted in turns, with the data key already there, and the time from
readiness to the last file is taken. The stalls are the worker's own metrics: "stall" is how long its loop was not free,
"hold" the part of that in which the worker computed; beside them stands what an idle loop in a process of its own
suffered at the same time. "first file" is the time of a producer's first message, its data key's way included.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from hashlib import sha512
from pathlib import Path
from typing import Any

from idle_loop import IdleLoop

from openmsi_streams.chunks.codec import Chunk, decode, encode
from openmsi_streams.chunks.keys import home_partition
from openmsi_streams.config import Settings
from openmsi_streams.crypto import authority, library, provision
from openmsi_streams.crypto.messages import Opened, Opener, parse
from openmsi_streams.crypto.node import open_node

MIB = 1 << 20


def messages(count: int, size: int) -> list[tuple[bytes, bytes]]:
    """Return chunk messages of one file of noise."""
    rng = random.Random(8)
    made = []
    for index in range(1, count + 1):
        data = rng.randbytes(size)
        chunk = Chunk(
            "a.dat", bytes(64), sha512(data).digest(), (index - 1) * size, index, count, "", "", memoryview(data)
        )
        made.append((f"a.dat_chunk_{index}_of_{count}".encode(), encode(chunk)))
    return made


async def path(opener: Opener | None, sent: list[tuple[bytes, bytes]], digest: bool) -> tuple[float, float]:
    """Return seconds for the path, and the worst stall of the loop in seconds."""
    worst = 0.0
    ended = False

    async def watch() -> None:
        nonlocal worst
        before = time.perf_counter()
        while not ended:
            await asyncio.sleep(0.001)
            now = time.perf_counter()
            worst = max(worst, now - before - 0.001)
            before = now

    watcher = asyncio.create_task(watch())
    await asyncio.sleep(0.05)
    loop = asyncio.get_running_loop()
    begun = time.perf_counter()
    for key, value in sent:
        if opener is not None:
            opened = await loop.run_in_executor(None, opener.open, "bench.files", key, value)
            assert isinstance(opened, Opened) and opened.value is not None
            value = opened.value
        else:
            await asyncio.sleep(0)
        chunk, _ = decode(value, largest_chunk=64 * MIB, max_file_bytes=1 << 42)
        if digest:
            await loop.run_in_executor(None, lambda data=chunk.data: hashlib.sha512(data).digest())
    seconds = time.perf_counter() - begun
    ended = True
    await watcher
    return seconds, worst


def run_worker(folder: Path, bootstrap: str, topic: str, node: str, files: int) -> dict[str, float]:
    """Return what a worker takes for the files of a topic: seconds from its readiness on, CPU seconds, stalls."""
    root = folder / f"store-{topic}"
    variables = {
        "BROKER__BOOTSTRAP": bootstrap,
        "WORKER__TOPICS": json.dumps([topic]),
        "WORKER__PROFILE": "embedded",
        "WORKER__DATA": str(folder / topic),
        "WORKER__ID": topic,
        "DISK__ROOT": str(root),
        "WEB__PORT": "0",
        "GEMD__ENABLED": "false",
        "PDV__ENABLED": "false",
        "CRYPTO__NODE": node,
        "DISK__FREE_FLOOR": "1000000",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "openmsi_streams", "worker"],
        env={**os.environ, **{f"OPENMSI_STREAMS__{name}": value for name, value in variables.items()}},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        url = ""
        for line in process.stdout:
            url = line.split()[-1] if "web views at" in line else url
            if "worker ready" in line:
                break

        def metric(name: str) -> float:
            with urllib.request.urlopen(url + "metrics", timeout=30) as answer:
                lines = answer.read().decode().splitlines()
            return next(float(line.split()[-1]) for line in lines if line.startswith(f"{name} "))

        used, begun = metric("process_cpu_seconds_total"), time.perf_counter()
        with IdleLoop() as idle:
            while len([one for one in root.glob(f"{topic}/*.dat") if one.is_file()]) < files:
                assert process.poll() is None, f"the worker ended with {process.returncode}"
                assert time.perf_counter() - begun < 300, "the worker did not deliver"
                time.sleep(0.01)
            seconds = time.perf_counter() - begun
        return {
            "seconds": seconds,
            "cpu": metric("process_cpu_seconds_total") - used,
            "stall": metric("openmsi_streams_loop_stall_seconds"),
            "hold": metric("openmsi_streams_loop_hold_seconds"),
            "idle": idle.worst,
        }
    finally:
        process.terminate()
        process.wait(60)


def send(bootstrap: str, topic: str, node: Any, files: dict[str, bytes], size: int) -> None:
    """Send files in chunks of ``size`` bytes, sealed if there is a node."""
    from confluent_kafka import Producer

    producer = Producer({"bootstrap.servers": bootstrap, "message.max.bytes": 8 * MIB, "log_level": 0})
    for path, data in files.items():
        digest, total = sha512(data).digest(), -(-len(data) // size)
        for index in range(1, total + 1):
            start = (index - 1) * size
            piece = memoryview(data)[start : start + size]
            chunk = Chunk(path, digest, sha512(piece).digest(), start, index, total, "", "", piece)
            key, value = path.encode(), encode(chunk)
            if node is not None:
                key, value = node.seal(topic, key, value)
            producer.produce(topic, value, key, partition=home_partition(path, 3))
            producer.poll(0)
        producer.flush(60)


def worker(files: int, megabytes: int, size: int, turns: int) -> dict[str, Any]:
    """Compare workers as processes, plain and encrypted in turns, over an embedded broker."""
    from openmsi_streams.config.topics import ensure_topics
    from openmsi_streams.embedded import EmbeddedBroker

    runs: dict[str, list[dict[str, float]]] = {"plain": [], "encrypted": []}
    first: list[float] = []
    loads = [os.getloadavg()[0]]
    for turn in range(turns):
        for name, found in runs.items():
            # A broker of its own for each run: it keeps everything in memory.
            with tempfile.TemporaryDirectory() as temporary, EmbeddedBroker() as broker:
                folder, topic = Path(temporary), f"bench{turn}"
                settings = Settings()
                settings.broker.bootstrap = broker.bootstrap
                ensure_topics(settings, [topic])
                node, config = None, ""
                if name == "encrypted":
                    lab = authority.create(folder / "authority")
                    config = str(
                        provision.provision(lab, "reader", "both", [topic], folder / "reader", settings).config
                    )
                    maker = provision.provision(lab, "maker", "both", [topic], folder / "maker", settings)
                    settings.crypto.node = str(maker.config)
                    node = open_node(settings, "producer")
                # The exchange of the data key is timed by itself: it happens once a producer and day, not once a file.
                send(broker.bootstrap, topic, node, {"first.dat": b"first"}, size)
                alone = run_worker(folder, broker.bootstrap, topic, config, 1)
                if node is not None:
                    first.append(alone["seconds"])
                rng = random.Random(turn)
                for number in range(files):
                    # One at a time: the broker's memory is what this machine has to spare.
                    made = {f"{number}.dat": rng.randbytes(megabytes * MIB)}
                    send(broker.bootstrap, topic, node, made, size)
                found.append(run_worker(folder, broker.bootstrap, topic, config, files + 1))
                if node is not None:
                    node.close()
            loads.append(os.getloadavg()[0])

    def worst(what: str) -> dict[str, float]:
        return {name: round(max(run[what] for run in found) * 1000, 1) for name, found in runs.items()}

    seconds = {name: statistics.median(run["seconds"] for run in found) for name, found in runs.items()}
    cpu = {name: statistics.median(run["cpu"] for run in found) for name, found in runs.items()}
    return {
        "load": [round(load, 1) for load in loads],
        **{
            f"worker_{name}_mib_s": [round(files * megabytes / run["seconds"], 1) for run in found]
            for name, found in runs.items()
        },
        "worker_ratio": round(seconds["plain"] / seconds["encrypted"], 3),
        "worker_cpu_s_per_gib": {name: round(used * 1024 / (files * megabytes), 2) for name, used in cpu.items()},
        "worker_worst_stall_ms": worst("stall"),
        "worker_worst_hold_ms": worst("hold"),
        "idle_loop_worst_stall_ms": worst("idle"),
        "first_file_of_a_producer_s": [round(found, 2) for found in first],
    }


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--worker", action="store_true", help="compare workers as processes, too")
    parser.add_argument("--turns", type=int, default=2, help="turns of the workers")
    parser.add_argument("--messages", type=int, default=400)
    parser.add_argument("--size", type=int, default=512 << 10)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings()
        settings.broker.bootstrap = "127.0.0.1:1"
        lab = authority.create(Path(folder) / "authority")
        made = provision.provision(lab, "bench1", "both", ["bench.files"], Path(folder) / "bench1", settings)
        settings.crypto.node = str(made.config)
        node = open_node(settings, "worker")
        plain = messages(given.messages, given.size)
        node.seal("bench.files", b"first", b"first")
        begun = time.perf_counter()
        sealed = [node.seal("bench.files", key, value) for key, value in plain]
        sealing = time.perf_counter() - begun
        opening = []
        for _, value in sealed[:100]:
            begun = time.perf_counter()
            envelope = parse(value)
            assert envelope is not None
            node.decrypt("bench", "value", envelope)
            opening.append(time.perf_counter() - begun)
        opener = Opener(node)
        total = given.messages * given.size / MIB
        runs: dict[str, list[float]] = {"plain": [], "encrypted": []}
        stalls: dict[str, float] = {"plain": 0.0, "encrypted": 0.0}
        for _ in range(3):
            for name, door, sent in (("plain", None, plain), ("encrypted", opener, sealed)):
                seconds, stall = asyncio.run(path(door, sent, digest=True))
                runs[name].append(total / seconds)
                stalls[name] = max(stalls[name], stall)
        node.close()
    compared = worker(8, 64, given.size, given.turns) if given.worker else {}
    best = {name: max(rates) for name, rates in runs.items()}
    print(
        json.dumps(
            {
                "libsodium": library.backend(),
                "message_bytes": given.size,
                "seal_ms": round(sealing / given.messages * 1000, 3),
                "open_ms": round(statistics.median(opening) * 1000, 3),
                "path_plain_mib_s": round(best["plain"], 1),
                "path_encrypted_mib_s": round(best["encrypted"], 1),
                "ratio": round(best["encrypted"] / best["plain"], 3),
                "worst_stall_ms": {name: round(stall * 1000, 1) for name, stall in stalls.items()},
                **compared,
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
