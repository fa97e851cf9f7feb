"""Freed memory goes back to the system, where the C library can do that."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from openmsi_streams.config import memory

# Blocks below glibc's limit for mappings of their own, and one at the end that keeps the heap from shrinking by itself.
PROGRAM = """
from openmsi_streams.config.memory import give_back

def resident():
    with open("/proc/self/statm") as found:
        return int(found.read().split()[1]) * 4096

blocks = [bytearray(100_000) for _ in range(1000)]
last = bytearray(100_000)
for block in blocks:
    block[::4096] = b"x" * len(block[::4096])
del blocks[:], block
before = resident()
give_back()
print(before - resident())
"""


@pytest.mark.skipif(memory._glibc("malloc_trim") is None, reason="only glibc can be asked to give memory back")
def test_what_was_freed_goes_back() -> None:
    ran = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert int(ran.stdout) > 50_000_000


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_glibc", lambda name: None)
    memory.give_back()
    memory.share_heaps(1 << 20)


# Threads that all take and hold memory from the C library at the same time; each would get a heap of its own.
HEAPS = """
import ctypes, sys, tempfile, threading
from openmsi_streams.config.memory import share_heaps

if sys.argv[1] == "share":
    share_heaps(2 << 20)
held, done = threading.Barrier(8), threading.Barrier(8)

def work():
    kept = bytearray(100_000)
    held.wait()
    done.wait()
    return kept

threads = [threading.Thread(target=work) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
library = ctypes.CDLL(None)
library.fopen.restype = ctypes.c_void_p
with tempfile.NamedTemporaryFile() as found:
    stream = ctypes.c_void_p(library.fopen(found.name.encode(), b"w"))
    library.malloc_info(0, stream)
    library.fclose(stream)
    print(found.read().decode().count("<heap nr="))
"""


def heaps(how: str, **environment: str) -> int:
    ran = subprocess.run(
        [sys.executable, "-c", HEAPS, how], capture_output=True, text=True, check=True,
        env={**{k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}, **environment},
    )  # fmt: skip
    return int(ran.stdout)


@pytest.mark.skipif(memory._glibc("mallopt") is None, reason="only glibc has heaps for threads")
def test_threads_share_heaps_unless_the_user_has_set_it() -> None:
    assert heaps("leave") > memory.ARENAS
    assert heaps("share") <= memory.ARENAS
    assert heaps("share", MALLOC_ARENA_MAX="5") == 5
