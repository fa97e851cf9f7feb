"""The producer beside OpenMSIStream 1.8.8 and a bare librdkafka producer, in one run on this machine.

    python bench/producer.py [--broker embedded|kafka] [--peer DIR_OR_PYTHON] [--files 5000] [--large-mb 512] [--runs 3]

The peer is the published program in an environment of its own: ``--peer`` names that environment's Python or ``bin``
folder; without it, ``.venv-openmsistream`` is made from the package index. All send to the embedded broker, or to
Apache Kafka with one broker (``--broker kafka``; needs Java and Maven). Small files are counted at the broker, theirs
from the first on, ours from the program's start, until 98 % are there or ``--patience`` seconds have passed.

The large file, in chunks of 512 KiB and (a smaller one) of 16 KiB, has one clock for all programs: from the start of
the process until the broker has its last chunk, so Python's start and hashing count. `start_up` is the same with a file
of one byte, and the rates are given with and without it; they are medians of alternating runs. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from openmsi_streams.embedded import EmbeddedBroker

CHUNK = 524288
SMALL_CHUNK = 16384
PARTITIONS = 3
PEER = "openmsistream==1.8.8"
PEER_CONFIG = """[broker]
bootstrap.servers = {bootstrap}
[producer]
batch.size = 200000
linger.ms = 100
compression.type = lz4
key.serializer = StringSerializer
value.serializer = DataFileChunkSerializer
"""
BARE = """
import sys
from confluent_kafka import Producer
p = Producer({"bootstrap.servers": sys.argv[1], "enable.idempotence": True, "acks": "all", "linger.ms": 10,
              "queue.buffering.max.kbytes": 65536})
with open(sys.argv[3], "rb", buffering=0) as f:
    while block := f.read(int(sys.argv[4])):
        while True:
            try:
                p.produce(sys.argv[2], block, partition=0)
                break
            except BufferError:
                p.poll(0.01)
        p.poll(0)
p.flush()
"""
# What the format asks of a simple producer: the whole file's SHA-512 stands in every chunk's message, so it is computed
# before the first one goes. Chunks are not hashed here at all. A reference, not a bound: single runs of ours beat it.
HASHING = BARE.replace(
    "with open",
    """import hashlib
p.list_topics(timeout=10)
with open(sys.argv[3], "rb", buffering=0) as f:
    whole, block = hashlib.sha512(), bytearray(4 << 20)
    while size := f.readinto(block):
        whole.update(memoryview(block)[:size])
with open""",
    1,
)


def peer_program(peer: str) -> Path:
    """Return the peer's DataFileUploadDirectory, making its environment if there is none."""
    place = Path(peer) if peer else Path(__file__).parent.parent / ".venv-openmsistream" / "bin"
    if place.is_file():
        place = place.parent
    program = place / "DataFileUploadDirectory"
    if not program.exists():
        subprocess.run([sys.executable, "-m", "venv", place.parent], check=True)
        subprocess.run([place / "python", "-m", "pip", "install", "--quiet", PEER], check=True)
    return program


class Topic:
    """A topic and how many messages it has."""

    def __init__(self, bootstrap: str, name: str) -> None:
        self.name = name
        admin = AdminClient({"bootstrap.servers": bootstrap})
        new = NewTopic(name, PARTITIONS, 1, config={"max.message.bytes": "2000000"})
        for future in admin.create_topics([new]).values():
            future.result()
        self._consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "bench", "log_level": 0})
        # Apache Kafka has a topic some time before its partitions have a leader.
        deadline = time.monotonic() + 60
        while True:
            try:
                self.count()
                return
            except KafkaException:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def count(self) -> int:
        """Return the messages so far; the embedded broker tells those of the last batch late."""
        ends = (
            self._consumer.get_watermark_offsets(TopicPartition(self.name, p), timeout=60) for p in range(PARTITIONS)
        )
        return sum(high for _, high in ends)


def rate(topic: Topic, command: list[str], messages: int, patience: float, log: IO[bytes]) -> tuple[float, float]:
    """Run a program; return messages a second from the first on, and the seconds from its start to the last."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log) as program:
        began, first, at_first, last, at_last = time.monotonic(), 0.0, 0, 0.0, 0
        while time.monotonic() - (first or began) < patience + (0 if first else 60):
            have = topic.count()
            now = time.monotonic()
            if have and not first:
                first, at_first = now, have
            if have > at_last:
                last, at_last = now, have
            if have >= 0.98 * messages or (program.poll() is not None and now - last > 2):
                break
            time.sleep(0.02)
        quit_(program)
        try:
            program.wait(60)
        except subprocess.TimeoutExpired:
            program.kill()
    if not first or last <= first:
        log.seek(0)
        # All came between two looks: then the time of a look is the least that can be said.
        if at_last >= 0.98 * messages:
            return at_last / 0.05, last - began
        raise SystemExit(f"{command[0]} sent {at_last} of {messages}:\n{log.read()[-2000:].decode(errors='replace')}")
    return (at_last - at_first) / (last - first), last - began


def quit_(program: Any) -> None:
    """Ask as their users do."""
    try:
        program.stdin.write(b"q\n")
        program.stdin.flush()
    except BrokenPipeError:
        pass
    time.sleep(1.0)
    if program.poll() is None:
        program.send_signal(signal.SIGTERM)


def status(pid: int, key: str) -> int:
    """Return a figure of /proc/PID/status in kB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1])
    return 0


def cpu(pid: int) -> float:
    """Return the CPU seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def random_file(path: Path, size: int) -> None:
    """Write a file that does not compress."""
    with path.open("wb") as file:
        for start in range(0, size, 1 << 20):
            file.write(os.urandom(min(1 << 20, size - start)))


def ours(folder: Path, topic: str, bootstrap: str, state: Path, *more: str) -> list[str]:
    """Return our command line."""
    command = [sys.executable, "-m", "openmsi_streams", "watch", str(folder), "--topic", topic, "--broker", bootstrap]
    return [*command, "--state", str(state), "--no-heartbeats", *more]


def wait_for_state(state: Path, condition: Callable[[dict[str, Any]], bool], seconds: float) -> None:
    """Wait until the state file tells something."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for file in state.glob("*/state.json"):
            if condition(json.loads(file.read_text())):
                return
        time.sleep(0.2)
    raise SystemExit("the state file did not tell what was waited for")


@contextmanager
def broker(kind: str) -> Iterator[str]:
    """Run a broker of its own for each program (the embedded one keeps all in memory); yield its address."""
    if kind == "embedded":
        with EmbeddedBroker() as embedded:
            yield embedded.bootstrap
    else:
        from tests.support.apache_kafka import ApacheKafka

        with tempfile.TemporaryDirectory() as folder, ApacheKafka(Path(folder)) as kafka:
            yield kafka.bootstrap


def theirs(program: Path, folder: Path, bootstrap: str, work: Path, *more: str) -> list[str]:
    """Return the peer's command line."""
    config = work / "peer.config"
    config.write_text(PEER_CONFIG.format(bootstrap=bootstrap))
    command = [str(program), str(folder), "--config", str(config), "--topic_name", "bench", "--upload_existing"]
    return [*command, *more]


def small(given: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Send the same small files with ours and the peer's."""
    folder = work / "data"
    folder.mkdir()
    for number in range(given.files):
        random_file(folder / f"file{number:05d}.dat", given.small_bytes)
    # Theirs and ours wait until a file was quiet; that is no part of the rate.
    time.sleep(3.5)
    messages = given.files * max(1, -(-given.small_bytes // CHUNK))
    program = peer_program(given.peer)
    found: dict[str, Any] = {"unit": "files/s"}
    for name in ("ours", "openmsistream_1.8.8"):
        with broker(given.broker) as bootstrap, tempfile.TemporaryFile() as log:
            topic = Topic(bootstrap, "bench")
            if name == "ours":
                command = ours(folder, "bench", bootstrap, work / "state")
            else:
                command = theirs(program, folder, bootstrap, work)
            a_second, seconds = rate(topic, command, messages, given.patience, log)
        if name == "ours":
            # In our disfavour: all small files may come between two looks, so our start counts and theirs does not.
            a_second = min(a_second, 0.98 * messages / seconds)
        found[name] = round(a_second, 1)
    found["ratio"] = round(found["ours"] / found["openmsistream_1.8.8"], 1)
    return found


def arrival(topic: Topic, command: list[str], messages: int, patience: float) -> tuple[float, float]:
    """Run a program; return the seconds from its start until the broker has all messages, and its CPU seconds."""
    with tempfile.TemporaryFile() as log:
        began = time.monotonic()
        program = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log)
        used = 0.0
        try:
            while (have := topic.count()) < messages:
                used = cpu(program.pid) if program.poll() is None else used
                if time.monotonic() - began > patience:
                    log.seek(0)
                    text = log.read()[-2000:].decode(errors="replace")
                    raise SystemExit(f"{command[0]} sent {have} of {messages} in {patience:g} s:\n{text}")
                time.sleep(0.02)
            seconds = time.monotonic() - began
            quit_(program)
            program.wait(60)
        finally:
            program.kill()
            program.wait()
    return seconds, used


def warm(path: Path) -> None:
    """Read a file into the page cache, where a new one is; ours lets go of it after sending."""
    with path.open("rb") as file:
        while file.read(1 << 20):
            pass


def large(given: argparse.Namespace, work: Path, megabytes: int, chunk: int) -> dict[str, Any]:
    """Send one file with all programs, in turn; one clock for all."""
    size = megabytes << 20
    files = {1: work / "start.dat", size: work / "data.dat"}
    for bytes_, file in files.items():
        random_file(file, bytes_)
    time.sleep(3.5)
    program = peer_program(given.peer)
    names = ("ours", "openmsistream_1.8.8", "bare_librdkafka", "bare_after_sha512")
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for _ in range(given.runs):
        for name in names:
            run = {}
            for bytes_, file in files.items():
                with broker(given.broker) as bootstrap, tempfile.TemporaryDirectory(dir=work) as place:
                    # The peer books in the folder what it has sent, so each run has a folder of its own.
                    folder, state = Path(place, "data"), Path(place, "state")
                    folder.mkdir()
                    os.link(file, folder / "file.dat")
                    topic = Topic(bootstrap, "bench")
                    # The topics beside it are made once in a lab's life, not at each start.
                    apply = ["topics", "apply", "bench", "--bootstrap", bootstrap]
                    subprocess.run([sys.executable, "-m", "openmsi_streams", *apply], check=True, capture_output=True)
                    if name == "ours":
                        command = ours(folder, "bench", bootstrap, state, "--chunk-bytes", str(chunk))
                    elif name.startswith("bare"):
                        text = BARE if name == "bare_librdkafka" else HASHING
                        command = [sys.executable, "-c", text, bootstrap, "bench", str(folder / "file.dat"), str(chunk)]
                    else:
                        command = theirs(program, folder, bootstrap, work, "--chunk_size", str(chunk))
                    messages = -(-bytes_ // chunk)
                    # The embedded broker never tells all of the last batch; only small chunks share one.
                    wanted = messages if chunk >= CHUNK else max(1, int(0.98 * messages))
                    warm(folder / "file.dat")
                    seconds, used = arrival(topic, command, wanted, 600.0)
                if bytes_ == 1:
                    run["start_up"] = seconds
                else:
                    run |= {"seconds": seconds, "cpu": used, "load": os.getloadavg()[0]}
            runs[name].append({key: round(value, 2) for key, value in run.items()})
            print(f"{name}: {runs[name][-1]}", file=sys.stderr, flush=True)
    found: dict[str, Any] = {"unit": "MB/s", "mb": round(size / 1e6, 1), "chunk_bytes": chunk, "runs": runs}
    for name in names:
        found[name] = {
            "from_start": round(statistics.median(size / 1e6 / run["seconds"] for run in runs[name]), 1),
            "without_start_up": round(
                statistics.median(size / 1e6 / max(0.01, run["seconds"] - run["start_up"]) for run in runs[name]), 1
            ),
        }
    for name in names[1:]:
        found[f"ratio_to_{name}"] = {key: round(found["ours"][key] / found[name][key], 2) for key in found[name]}
    peer, hashing = found["openmsistream_1.8.8"], found["bare_after_sha512"]
    found["bare_after_sha512_to_openmsistream_1.8.8"] = {key: round(hashing[key] / peer[key], 2) for key in hashing}
    return found


def idle(given: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Measure a producer that has nothing to do."""
    folder, state = work / "data", work / "state"
    folder.mkdir()
    for number in range(given.idle_files):
        path = folder / f"{number // 500}" / f"file{number}.dat"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"%d" % number)
    with broker(given.broker) as bootstrap:
        Topic(bootstrap, "idle")
        command = ours(folder, "idle", bootstrap, state)
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as program:
            wait_for_state(state, lambda found: found["files"].get("sent", 0) == given.idle_files, 300)
            time.sleep(5)
            before, began = cpu(program.pid), time.monotonic()
            time.sleep(given.idle_seconds)
            used, took = cpu(program.pid) - before, time.monotonic() - began
            found = {
                "files": given.idle_files,
                "seconds": round(took, 1),
                "cpu_percent": round(100 * used / took, 2),
                "rss_mb": round(status(program.pid, "VmRSS") / 1000, 1),
            }
            quit_(program)
    return found


def memory(given: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Measure the memory of a producer that sends a large file."""
    folder, state = work / "data", work / "state"
    folder.mkdir()
    random_file(folder / "huge.dat", int(given.sending_gb * 1e9))
    with broker(given.broker) as bootstrap:
        Topic(bootstrap, "memory")
        began = time.monotonic()
        command = ours(folder, "memory", bootstrap, state, "--quiet-seconds", "0")
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as program:
            wait_for_state(state, lambda found: found["files"].get("sent", 0) == 1, 900)
            took = time.monotonic() - began
            found = {
                "gb": given.sending_gb,
                "peak_rss_mb": round(status(program.pid, "VmHWM") / 1000, 1),
                "mb_per_second_with_start_and_hashing": round(given.sending_gb * 1000 / took, 1),
            }
            quit_(program)
    return found


def main() -> None:
    """Run what was asked for and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", default="", help="Python or bin folder of an environment with openmsistream 1.8.8")
    parser.add_argument("--files", type=int, default=5000)
    parser.add_argument("--small-bytes", type=int, default=10_000)
    parser.add_argument("--large-mb", type=int, default=512)
    parser.add_argument("--idle-files", type=int, default=10_000)
    parser.add_argument("--idle-seconds", type=float, default=60.0)
    parser.add_argument("--sending-gb", type=float, default=4.0)
    parser.add_argument("--patience", type=float, default=30.0, help="seconds after which a slow program is stopped")
    parser.add_argument("--broker", choices=["embedded", "kafka"], default="embedded")
    parser.add_argument("--runs", type=int, default=3, help="alternating runs of the large file")
    parser.add_argument("--small-chunks-mb", type=int, default=64, help="size of the file sent in chunks of 16 KiB")
    parser.add_argument("--only", choices=["small", "large", "small_chunks", "idle", "memory"])
    given = parser.parse_args()
    found: dict[str, Any] = {"cpus": os.cpu_count(), "load": round(os.getloadavg()[0], 2), "broker": given.broker}
    parts: dict[str, Callable[[Path], dict[str, Any]]] = {
        "small": lambda work: small(given, work),
        "large": lambda work: large(given, work, given.large_mb, CHUNK),
        "small_chunks": lambda work: large(given, work, given.small_chunks_mb, SMALL_CHUNK),
        "idle": lambda work: idle(given, work),
        "memory": lambda work: memory(given, work),
    }
    os.environ.setdefault("XDG_DATA_HOME", tempfile.mkdtemp())
    for name, part in parts.items():
        if given.only in (None, name):
            with tempfile.TemporaryDirectory() as work:
                found[name] = part(Path(work))
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
