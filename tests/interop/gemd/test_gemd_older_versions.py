"""Records load in the versions of gemd that other programs pin: 2.0.0, and 1.13.0 of openmsimodel."""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from openmsi_streams.gemd import read

pytestmark = [pytest.mark.interop, pytest.mark.timeout(600)]

GOLDEN = Path(__file__).parents[2] / "golden" / "gemd"
SCRIPT = """
import json, sys
import gemd.json
from gemd.util import flatten
counts = []
for path in sys.argv[1:]:
    counts.append(len(flatten(gemd.json.loads(open(path, encoding="utf-8").read()))))
print(json.dumps(counts))
"""


@pytest.mark.parametrize("version", ["2.0.0", "1.13.0"])
def test_records_load_in_older_gemd(version: str, tmp_path: Path) -> None:
    if version == "1.13.0" and sys.version_info >= (3, 12):
        pytest.skip("gemd 1.13.0 wants a Pint that does not know Python 3.12")
    home = tmp_path / "venv"
    venv.create(home, with_pip=True)
    python = home / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", f"gemd=={version}"], check=True, timeout=500)
    paths = sorted(GOLDEN.glob("*.gemd.json"))
    done = subprocess.run([python, "-c", SCRIPT, *paths], capture_output=True, text=True, check=True, timeout=100)
    wanted = [len(read.merge(read.iter_records(path))) for path in paths]
    assert json.loads(done.stdout) == wanted
