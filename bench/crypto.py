"""What encryption costs: sealing, opening, and a worker's path with and without it, on this machine.

    python bench/crypto.py [--messages 400] [--size 524288] [--worker]

The path is the work between the stream and the disk: take a message, (open it), decode the chunk, hash it. Event-loop
stalls are the gaps between turns of a task that wants one every millisecond. With ``--worker``, workers as processes
read files from an embedded broker, plain and encrypted in turns, and the time from the first byte on disk to the last
file is taken; the stall is the worker's own metric.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from hashlib import sha512
from pathlib import Path
from typing import Any

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


def run_worker(folder: Path, bootstrap: str, topic: str, node: str, files: int) -> tuple[float, float]:
    """Return seconds that a worker takes for the files of a topic from its readiness on, and its worst loop stall."""
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
        begun = time.perf_counter()
        while len([one for one in root.glob(f"{topic}/*.dat") if one.is_file()]) < files:
            assert process.poll() is None and time.perf_counter() - begun < 300, "the worker did not deliver"
            time.sleep(0.01)
        seconds = time.perf_counter() - begun
        with urllib.request.urlopen(url + "metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        stall = max(float(line.split()[-1]) for line in lines if re.match(r"openmsi_streams_\w*loop_stall\w* ", line))
        return seconds, stall
    finally:
        process.terminate()
        process.wait(60)


def worker(files: int, megabytes: int, size: int, turns: int) -> dict[str, Any]:
    """Compare workers as processes, plain and encrypted in turns, over an embedded broker."""
    from confluent_kafka import Producer

    from openmsi_streams.config.topics import ensure_topics
    from openmsi_streams.embedded import EmbeddedBroker

    rates: dict[str, list[float]] = {"plain": [], "encrypted": []}
    stalls: dict[str, list[float]] = {"plain": [], "encrypted": []}
    for turn in range(turns):
        for name in rates:
            # A broker of its own for each run: it keeps everything in memory.
            with tempfile.TemporaryDirectory() as temporary, EmbeddedBroker() as broker:
                folder, topic = Path(temporary), f"bench{turn}"
                settings = Settings()
                settings.broker.bootstrap = broker.bootstrap
                ensure_topics(settings, [topic])
                node, config = None, ""
                if name == "encrypted":
                    lab = authority.create(folder / "authority")
                    for one in ("maker", "reader"):
                        made = provision.provision(lab, one, "both", [topic], folder / one, settings)
                        settings.crypto.node = config = str(made.config) if one == "reader" else ""
                        if one == "maker":
                            settings.crypto.node = str(made.config)
                            node = open_node(settings, "producer")
                producer = Producer(
                    {"bootstrap.servers": broker.bootstrap, "message.max.bytes": 8 * MIB, "log_level": 0}
                )
                rng = random.Random(turn)
                for number in range(files):
                    data = rng.randbytes(megabytes * MIB)
                    digest = sha512(data).digest()
                    total = -(-len(data) // size)
                    for index in range(1, total + 1):
                        piece = memoryview(data)[(index - 1) * size : index * size]
                        chunk = Chunk(
                            *(
                                f"{number}.dat",
                                digest,
                                sha512(piece).digest(),
                                (index - 1) * size,
                                index,
                                total,
                                "",
                                "",
                            ),
                            piece,
                        )
                        key, value = f"{number}.dat".encode(), encode(chunk)
                        where = home_partition(f"{number}.dat", 3)
                        if node is not None:
                            key, value = node.seal(topic, key, value)
                        producer.produce(topic, value, key, partition=where)
                        producer.poll(0)
                    producer.flush(60)
                seconds, stall = run_worker(folder, broker.bootstrap, topic, config, files)
                if node is not None:
                    node.close()
                rates[name].append(files * megabytes / seconds)
                stalls[name].append(stall)
    return {
        "worker_plain_mib_s": [round(rate, 1) for rate in rates["plain"]],
        "worker_encrypted_mib_s": [round(rate, 1) for rate in rates["encrypted"]],
        "worker_ratio": round(max(rates["encrypted"]) / max(rates["plain"]), 3),
        "worker_worst_stall_ms": {name: round(max(found) * 1000, 1) for name, found in stalls.items()},
    }


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--worker", action="store_true", help="compare workers as processes, too")
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
    compared = worker(8, 32, given.size, 2) if given.worker else {}
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
