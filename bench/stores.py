"""How fast the stores are: beside boto3's own upload_file of the same bytes to the same server, and many small files.

    python bench/stores.py [--size MB] [--small COUNT] [--rounds N]

Uses the embedded S3 server, or the one that OPENMSI_TEST_S3 names (https://KEY:SECRET@host/bucket). Rounds of ours and
of boto3 alternate, so that a busy machine slows both. Each size is the best of the rounds.
"""

from __future__ import annotations

import argparse
import os
import resource
import secrets
import shutil
import tempfile
import time
from contextlib import ExitStack
from hashlib import sha512
from pathlib import Path

from openmsi_streams.config.settings import MIB, DiskSettings, S3Settings
from openmsi_streams.embedded import EmbeddedS3
from openmsi_streams.storage import DiskStore, Verified
from openmsi_streams.storage.s3 import S3Store

# What arrives between two looks of the engine at an upload, in bytes: as many parts as go up side by side.
STEP = 32 * MIB


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


def large(store: S3Store, folder: Path, size: int, rounds: int) -> None:
    """Compare one large file with upload_file, sent whole and streamed while it arrives."""
    file = make(folder, "large", size)
    best = {"boto3 upload_file": 1e9, "put": 1e9, "streamed": 1e9}
    after = inside = 0.0
    for number in range(rounds):
        key = f"boto3/{number}"
        started = time.perf_counter()
        store.client.upload_file(str(file.path), store.settings.bucket, key)
        best["boto3 upload_file"] = min(best["boto3 upload_file"], time.perf_counter() - started)
        store.client.delete_object(Bucket=store.settings.bucket, Key=key)

        file.relative = f"put/{number}"
        started = time.perf_counter()
        store.put(file)
        best["put"] = min(best["put"], time.perf_counter() - started)
        store.remove("bench", file.relative)

        file.relative = f"streamed/{number}"
        started = time.perf_counter()
        state = store.begin(file.file_id, "bench", file.relative, file.sha512)
        for reached in range(STEP, size, STEP):
            state = store.advance(state, file.path, (0, reached), None)
        last = time.perf_counter()
        server = 0.0
        finish = store.client.complete_multipart_upload

        def timed(**call: object) -> object:
            nonlocal server
            begun = time.perf_counter()
            answer = finish(**call)  # noqa: B023
            server = time.perf_counter() - begun
            return answer

        store.client.complete_multipart_upload = timed
        store.complete(state, file)
        store.client.complete_multipart_upload = finish
        best["streamed"] = min(best["streamed"], time.perf_counter() - started)
        after, inside = max((after, inside), (time.perf_counter() - last, server))
        wrong = store.verify("bench", file.relative, file.sha512, size, deep=True)
        assert not wrong, wrong
        store.remove("bench", file.relative)
    boto3 = best["boto3 upload_file"]
    for what, seconds in best.items():
        print(f"{what:18} {size / MIB:7.0f} MiB {rate(size, seconds)}   {boto3 / seconds:4.2f} of upload_file")
    print(
        f"complete {after:.2f} s after the last byte (slowest; {inside:.2f} s of it the server's own completion), "
        f"{len(state.parts)} parts, row {len(state.encode())} B"
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
    parser.add_argument("--rounds", type=int, default=3, help="rounds; the best counts (default 3)")
    options = parser.parse_args()
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
