"""Freed memory goes back to the system, where the C library can do that."""

from __future__ import annotations

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


@pytest.mark.skipif(memory._trim() is None, reason="only glibc can be asked to give memory back")
def test_what_was_freed_goes_back() -> None:
    ran = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert int(ran.stdout) > 50_000_000


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_trim", lambda: None)
    memory.give_back()
