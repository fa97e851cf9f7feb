"""How fast the stores are: beside boto3's own upload_file of the same bytes to the same server, and many small files.

    python bench/stores.py [--size MB] [--small COUNT] [--rounds N]

Uses the embedded S3 server, or the one that OPENMSI_TEST_S3 names (https://KEY:SECRET@host/bucket). Each round runs all
ways of sending, in another order each time, so that a busy machine slows all of them; what is printed is the median of
the rounds and of each round's ratio to upload_file.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from hashlib import sha512
from pathlib import Path
from statistics import median

import boto3
from botocore.config import Config

from openmsi_streams.config.settings import MIB, DiskSettings, S3Settings
from openmsi_streams.embedded import EmbeddedS3
from openmsi_streams.storage import DiskStore, Verified
from openmsi_streams.storage.s3 import S3Store

# Bytes a second at which the streamed file arrives: faster than the server takes it, so that the store is measured.
ARRIVAL = 2048 * MIB


def make(folder: Path, relative: str, size: int) -> Verified:
    """Write a file of random bytes without holding it in memory."""
    path = folder / secrets.token_hex(8)
    digest = sha512()
    block = os.urandom(1 * MIB)
    with path.open("wb") as stream:
        for start in range(0, size, len(block)):
            # Each block differs, so that no server can be clever about equal parts.
            piece = (start.to_bytes(8, "big") + block)[: min(len(block), size - start)]
            digest.update(piece)
            stream.write(piece)
    return Verified(
        path=path, file_id=secrets.token_hex(16), topic="bench", relative=relative, sha512=digest.hexdigest(), size=size
    )


def rate(size: int, seconds: float) -> str:
    """Return a throughput for people."""
    return f"{size / MIB / seconds:8.1f} MiB/s"


class Growing:
    """A file that arrives, as a store sees it."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._started = time.perf_counter()

    def __call__(self) -> tuple[int, int]:
        """Return the range that is there now."""
        return 0, min(self._size, int((time.perf_counter() - self._started) * ARRIVAL))


def streamed(store: S3Store, file: Verified) -> tuple[float, float, int]:
    """Send a file while it arrives.

    Returns:
        Seconds from when no whole part was left to our completion call, seconds of that call, bytes of the row's state.
    """
    state = store.begin(file.file_id, file.topic, file.relative, file.sha512)
    there = Growing(file.size)
    while there()[1] < file.size or len(state.parts) < file.size // store.settings.part_bytes:
        state = store.advance(state, file.path, there, None)
    last = time.perf_counter()
    finish = store.client.complete_multipart_upload
    ours = server = 0.0

    def timed(**call: object) -> object:
        nonlocal ours, server
        begun = time.perf_counter()
        ours = begun - last
        answer = finish(**call)
        server = time.perf_counter() - begun
        return answer

    store.client.complete_multipart_upload = timed
    try:
        store.complete(state, file)
    finally:
        store.client.complete_multipart_upload = finish
    return ours, server, len(state.encode())


def large(store: S3Store, folder: Path, size: int, rounds: int) -> None:
    """Compare one large file with upload_file, sent whole and streamed while it arrives."""
    file = make(folder, "large", size)
    one = store.settings
    boto = boto3.client(
        "s3", endpoint_url=one.endpoint, aws_access_key_id=one.access_key_id, region_name=one.region,
        aws_secret_access_key=one.secret_access_key, config=Config(s3={"addressing_style": "path"}),
    )  # fmt: skip
    ends: list[tuple[float, float, int]] = []
    key = store.keys.key("bench", "boto3")
    ways: dict[str, Callable[[], object]] = {
        "boto3 upload_file": lambda: boto.upload_file(str(file.path), one.bucket, key),
        "without its CRC": lambda: store.client.upload_file(str(file.path), one.bucket, key),
        "put": lambda: store.put(file),
        "streamed": lambda: ends.append(streamed(store, file)),
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(rounds):
        for way in random.Random(number).sample(list(ways), len(ways)):
            file.relative = f"{way}/{number}"
            started = time.perf_counter()
            ways[way]()
            seconds[way].append(time.perf_counter() - started)
            if "boto3" in way or "CRC" in way:
                boto.delete_object(Bucket=one.bucket, Key=key)
            else:
                wrong = store.verify("bench", file.relative, file.sha512, size, deep=True)
                assert not wrong, wrong
                store.remove("bench", file.relative)
    for way, times in seconds.items():
        ratios = [base / mine for base, mine in zip(seconds["boto3 upload_file"], times, strict=True)]
        print(
            f"{way:18} {size / MIB:7.0f} MiB {rate(size, median(times))}   {median(ratios):4.2f} of upload_file "
            f"({min(ratios):.2f} to {max(ratios):.2f} in {rounds} rounds)"
        )
    ours, server, row = (max(values) for values in zip(*ends, strict=True))
    print(
        f"end of the streamed upload (slowest): {ours:.2f} s ours, with the last part, then {server:.2f} s the "
        f"server's completion; row {row} B"
    )


def small(store: S3Store, disk: DiskStore, folder: Path, count: int) -> None:
    """Deliver many small files to both stores."""
    files = [make(folder, f"s{number % 10}/{number}", 10_000) for number in range(count)]
    started = time.perf_counter()
    for file in files:
        store.put(file)
    print(f"S3, one thread     {count} files of 10 kB: {count / (time.perf_counter() - started):8.1f} files/s")
    for file in files:
        target = disk.root / ".partial" / file.path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(file.path, target)
        file.path = target
    started = time.perf_counter()
    for start in range(0, count, 64):
        for result in disk.put_many(files[start : start + 64]):
            assert not isinstance(result, BaseException), result
    print(f"disk, groups of 64 {count} files of 10 kB: {count / (time.perf_counter() - started):8.1f} files/s")


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=512, help="MiB of the large file (default 512)")
    parser.add_argument("--small", type=int, default=1000, help="number of small files (default 1000)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds; their median counts (default 5)")
    options = parser.parse_args()
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="openmsi-bench-")))
        server = stack.enter_context(EmbeddedS3(data=folder / "buckets"))
        if os.environ.get("OPENMSI_TEST_S3"):
            from tests.support.stores import s3_settings

            settings = s3_settings(server, part_bytes=8 * MIB)
        else:
            settings = S3Settings(
                bucket=server.make_bucket("bench"),
                endpoint=server.endpoint,
                access_key_id=server.access_key,
                secret_access_key=server.secret_key,
            )
        store = S3Store("bench", settings)
        disk = DiskStore(folder / "disk", DiskSettings(free_floor=0))
        if options.size:
            large(store, folder, options.size * MIB, options.rounds)
        if options.small:
            small(store, disk, folder, options.small)
        print(f"largest memory of this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")
        store.close()


if __name__ == "__main__":
    main()
