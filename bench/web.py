"""How quick the views are with 100,000 rows, how long they hold up the event loop, and what they cost a transfer.

    python bench/web.py [--rows 100000] [--seconds 10] [--viewers 10] [--transfer]

Prints latencies of each address while rows change 500 times a second and ``--viewers`` ask without pause, the longest
time that the event loop was not free, and with ``--transfer`` the throughput of a real worker (embedded broker) with
and without viewers. A latency includes the client's share of the same two cores.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import http.client
import os
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import msgspec
from idle_loop import IdleLoop

from openmsi_streams.tables.rows import State
from openmsi_streams.web.fake import FakeServer, FakeSource, make_row

ADDRESSES = (
    "/api/v1/overview",
    "/api/v1/files",
    "/api/v1/files?state=delivered&topic=lab-3",
    "/api/v1/files?topic=lab-1&prefix=2026/11/07/",
    "/api/v1/files?prefix=2026/11/07/&limit=50",
    "/api/v1/files?prefix=nowhere",
    "/",
    "/files/",
    "/metrics",
)


def fill(rows: int) -> FakeSource:
    """Return a source with so many rows: mostly delivered, some of every state."""
    source = FakeSource(*(f"lab-{i}" for i in range(5)))
    now = time.time()
    items = {}
    for number in range(rows):
        state = State.DELIVERED if number % 50 else list(State)[number // 50 % 6]
        row = make_row(
            f"2026/11/{number % 28 + 1:02}/run {number % 97}/scan_{number:06}.dat",
            state,
            topic=f"lab-{number % 5}",
            now=now - (number * 7919 % rows),
        )
        items[f"{number:032x}"] = row
    source.rows = items
    begin = time.perf_counter()
    source.index.begin()
    for file_id, row in items.items():
        source.index.add(file_id, row)
    source.index.complete()
    print(f"index of {rows:,} rows loaded in {time.perf_counter() - begin:.2f} s")
    return source


def percentile(values: list[float], share: float) -> float:
    """Return a percentile of a list."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


class Viewers:
    """A process with threads that ask for addresses in turn, on kept connections, as browsers do."""

    def __init__(self, url: str, addresses: tuple[str, ...], count: int, pause: float = 0.0) -> None:
        self.times: dict[str, list[float]] = {}
        # A process of its own: clients in this one would hold up the event loop that is measured.
        command = [sys.executable, __file__, "--load", url, "--viewers", str(count), "--pause", str(pause), *addresses]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def __enter__(self) -> Viewers:
        return self

    def __exit__(self, *_: object) -> None:
        out, _ = self._process.communicate(b"stop\n", timeout=60)
        self.times = msgspec.json.decode(out)


def load(url: str, addresses: list[str], count: int, pause: float) -> None:
    """Ask until a line comes on the standard input; then print the seconds of every answer."""
    times: dict[str, list[float]] = {address: [] for address in addresses}
    stop = threading.Event()

    def run(start: int) -> None:
        connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
        # Each begins elsewhere in the list, so that all addresses are asked for all the time.
        mine = addresses[start % len(addresses) :] + addresses[: start % len(addresses)]
        while not stop.is_set():
            for address in mine:
                accept = "application/json" if address.startswith(("/api", "/metrics")) else "text/html"
                begin = time.perf_counter()
                connection.request("GET", address, headers={"Accept": accept})
                answer = connection.getresponse()
                answer.read()
                assert answer.status == 200, (address, answer.status)
                times[address].append(time.perf_counter() - begin)
                if stop.wait(pause):
                    return

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    sys.stdin.readline()
    stop.set()
    for thread in threads:
        thread.join()
    sys.stdout.buffer.write(msgspec.json.encode(times))


def views(rows: int, seconds: float, viewers: int) -> None:
    """Measure latencies and stalls."""
    source = fill(rows)
    stalls: list[float] = []
    work: list[float] = []
    busy = {"on": True}

    async def pulse() -> None:
        while busy["on"]:
            before, used = time.perf_counter(), time.thread_time()
            await asyncio.sleep(0.005)
            stalls.append(time.perf_counter() - before - 0.005)
            work.append(time.thread_time() - used)

    async def change() -> None:
        ids = list(source.rows)
        number = 0
        while busy["on"]:
            for _ in range(10):
                file_id = ids[number * 31 % len(ids)]
                row = msgspec.structs.replace(source.rows[file_id], updated=time.time())
                source.rows[file_id] = row
                source.index.note(file_id, row)
                number += 1
            await asyncio.sleep(0.02)

    with FakeServer(source) as server:
        # One after the other first: what one person waits for.
        with Viewers(server.url, ADDRESSES, 1) as quiet:
            time.sleep(seconds / 2)
        tasks = [asyncio.run_coroutine_threadsafe(task, server._loop) for task in (pulse(), change())]
        with Viewers(server.url, ADDRESSES, viewers, pause=1.0 / len(ADDRESSES)) as crowd:
            time.sleep(seconds)
        busy["on"] = False
        for task in tasks:
            task.result(10)
    crowd_head = f"{viewers} viewers: median"
    print(f"\n{'ms':<50} {'alone: median':>14} {'95 %':>8}   {crowd_head:>20} {'95 %':>8} {'worst':>8}")
    for address in ADDRESSES:
        one, many = quiet.times[address], crowd.times[address]
        if not one or not many:
            print(f"{address:<50} no answer in that time: give more --seconds")
            continue
        print(
            f"{address:<50} {statistics.median(one) * 1e3:>14.1f} {percentile(one, 0.95) * 1e3:>8.1f}   "
            f"{statistics.median(many) * 1e3:>20.1f} {percentile(many, 0.95) * 1e3:>8.1f} {max(many) * 1e3:>8.1f}"
        )
    asked = sum(len(times) for times in crowd.times.values())
    print(f"\n{asked} requests in {seconds:g} s, rows changing 500 times a second")
    for what, values in (("most work in one turn", work), ("longest stall, other programs included", stalls)):
        print(f"event loop: {what}: {max(values) * 1e3:.1f} ms, 99.9 % below {percentile(values, 0.999) * 1e3:.1f} ms")


def preload(bootstrap: str, rows: int) -> None:
    """Write so many delivered rows to the worker's changelog, as if it had worked for weeks."""
    from confluent_kafka import Producer
    from confluent_kafka.admin import AdminClient

    from openmsi_streams.chunks.keys import file_id, home_partition
    from openmsi_streams.tables.rows import encode

    names = AdminClient({"bootstrap.servers": bootstrap}).list_topics(timeout=20).topics
    changelog = next(name for name in names if name.endswith("files-bench-changelog"))
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 50, "queue.buffering.max.messages": 200_000})
    now = time.time()
    last: dict[int, tuple[bytes, bytes]] = {}
    for number in range(rows):
        path = f"2026/11/{number % 28 + 1:02}/run {number % 97}/scan_{number:06}.dat"
        where = home_partition(path, 3)
        row = msgspec.structs.replace(make_row(path, topic="bench", now=now - number), partition=where)
        key = file_id("bench", path, row.sha512.hex()).encode()
        last[where] = (key, encode(row))
        producer.produce(changelog, value=last[where][1], key=key, partition=where)
        if number % 1000 == 0:
            producer.poll(0)
    assert producer.flush(120) == 0
    # The embedded broker gives the first offset of the last batch as the end, so that is a batch of one, a repeat.
    for number, (key, value) in last.items():
        producer.produce(changelog, value=value, key=key, partition=number)
        assert producer.flush(120) == 0


def transfer(rows: int, rounds: int, files: int, size: int, viewers: int) -> None:
    """Measure a worker with a full table: latencies during a transfer, and throughput with and without viewers."""
    from openmsi_streams.chunks.keys import home_partition
    from openmsi_streams.embedded import EmbeddedBroker
    from tests.support.kafka import make_topics, produce
    from tests.support.waiting import wait_until
    from tests.support.workers import Worker
    from tests.support.world import World

    rates: dict[bool, list[float]] = {False: [], True: []}
    work: dict[bool, list[float]] = {False: [], True: []}
    times: dict[str, list[float]] = {}
    stalls: dict[str, dict[bool, list[float]]] = {
        what: {False: [], True: []} for what in ("stall", "hold", "idle loop")
    }
    print(f"\nload of the machine before the transfers: {os.getloadavg()[0]:.1f}")
    with TemporaryDirectory() as folder, EmbeddedBroker() as broker:
        tmp = Path(folder)
        make_topics(broker.bootstrap, "bench")
        with Worker(broker.bootstrap, "bench", tmp) as worker:
            preload(broker.bootstrap, rows)
            begin = time.perf_counter()
            worker.start(wait=False)
            worker.wait_ready(300)
            wait_until(lambda: worker.metric("openmsi_streams_table_rows") >= rows, 120, "all rows are back")
            print(f"\nworker with {rows:,} rows ready {time.perf_counter() - begin:.1f} s after its start")
            done = 0
            spent = worker.metric("process_cpu_seconds_total")
            world = World(tmp)
            for turn in range(2 * rounds):
                messages: dict[int, list[Any]] = {}
                for number in range(files):
                    path = f"turn{turn}/f{number}.dat"
                    data = hashlib.sha512(path.encode()).digest() * (size // 64)
                    for key, value, where in world.chunks(path, data, chunk_bytes=512 * 1024):
                        messages.setdefault(home_partition(where, 3), []).append((key, value))

                def run(wanted: int = done + files, messages: dict[int, list[Any]] = messages) -> float:
                    begin = time.perf_counter()
                    for partition, chunks in messages.items():
                        produce(broker.bootstrap, "bench", chunks, partition=partition)
                    wait_until(
                        lambda: worker.metric("openmsi_streams_delivered_files_total") >= wanted, 120, "all delivered"
                    )
                    return files * size / (time.perf_counter() - begin) / 1e6

                watched_now = bool(turn % 2)
                with IdleLoop() as idle:
                    if watched_now:
                        # As open pages do: each asks for the overview once a second; a script now and then for the API.
                        addresses = ("/",) * 8 + ("/api/v1/overview", "/api/v1/files")
                        with Viewers(worker.url, addresses, viewers, pause=1.0) as crowd:
                            rates[True].append(run())
                        for address, found in crowd.times.items():
                            times.setdefault(address, []).extend(found)
                    else:
                        rates[False].append(run())
                used = worker.metric("process_cpu_seconds_total")
                work[watched_now].append(used - spent)
                spent = used
                stalls["idle loop"][watched_now].append(idle.worst)
                for what in ("stall", "hold"):
                    stalls[what][watched_now].append(worker.metric(f"openmsi_streams_loop_{what}_seconds"))
                done += files
    alone, watched = statistics.median(rates[False]), statistics.median(rates[True])
    print(f"transfer of {files} files of {size / 1e6:g} MB, {rounds} turns each, MB/s:")
    print(f"  without viewers  {alone:6.1f}  {[round(rate, 1) for rate in rates[False]]}")
    print(f"  with {viewers:>2} viewers  {watched:6.1f}  {[round(rate, 1) for rate in rates[True]]}")
    print(f"  loss             {100 * (1 - watched / alone):6.1f} %")
    cost = statistics.median(work[True]) / statistics.median(work[False]) - 1
    print(
        f"  worker's CPU     {statistics.median(work[False]):.2f} s a turn without, "
        f"{statistics.median(work[True]):.2f} s with viewers ({100 * cost:+.1f} %)"
    )
    for address, found in times.items():
        if not found:
            continue
        print(
            f"  {address:<20} median {statistics.median(found) * 1e3:.1f} ms, "
            f"95 % {percentile(found, 0.95) * 1e3:.1f} ms, {len(found)} answers during the transfer"
        )
    print(f"  load of the machine after them: {os.getloadavg()[0]:.1f}; event loop, each turn, ms:")
    for what, explained in (
        ("stall", "longest time in the last minute in which it was not free"),
        ("hold", "the part of it in which the worker computed, at most"),
        ("idle loop", "a loop without work in another process, meanwhile"),
    ):
        without, with_ = ([round(stall * 1e3) for stall in stalls[what][seen]] for seen in (False, True))
        print(f"    {what:<10} without viewers {without}, with {with_}  ({explained})")


def main() -> None:
    """Run the measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--viewers", type=int, default=10)
    parser.add_argument("--transfer", action="store_true")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--files", type=int, default=40)
    parser.add_argument("--file-bytes", type=int, default=4_000_000)
    parser.add_argument("--load", metavar="URL", help=argparse.SUPPRESS)
    parser.add_argument("--pause", type=float, default=0.0, help=argparse.SUPPRESS)
    parser.add_argument("addresses", nargs="*", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.load:
        load(chosen.load, chosen.addresses, chosen.viewers, chosen.pause)
        return
    views(chosen.rows, chosen.seconds, chosen.viewers)
    if chosen.transfer:
        transfer(chosen.rows, chosen.rounds, chosen.files, chosen.file_bytes, chosen.viewers)


if __name__ == "__main__":
    main()
