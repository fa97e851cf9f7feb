"""A small run of the fault suite, so that every change meets kills and broken connections."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.producer_faults import torture

pytestmark = pytest.mark.broker


def test_files_survive_a_kill_a_stop_and_a_cut(tmp_path: Path) -> None:
    print(torture(tmp_path, files=24, kills=2, terms=1, cuts=1, cut_seconds=1.0, seed=7))
