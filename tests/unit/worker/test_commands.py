"""What a worker's process does about itself."""

from __future__ import annotations

import subprocess
import sys

HANGS = """
import threading
from openmsi_streams.worker.commands import end_in_time

class Started:
    def _schedule_shutdown(self, number):
        print("asked to end", flush=True)

started = Started()
end_in_time(started, 0.1)
started._schedule_shutdown(15)
threading.Lock().acquire() and threading.Event().wait()
"""


def test_a_worker_that_hangs_while_it_ends_is_ended_and_says_where() -> None:
    done = subprocess.run([sys.executable, "-c", HANGS], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stdout == "asked to end\n"
    assert "Timeout" in done.stderr and "threading.py" in done.stderr
