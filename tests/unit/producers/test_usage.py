"""Wrong usage is told in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from openmsi_streams.cli import main


@pytest.mark.parametrize(
    "arguments",
    [
        ("upload", "gone.dat", "--topic", "t"),
        ("upload", ".", "--topic", "bad topic"),
        ("upload", "."),
        ("watch", "gone", "--topic", "t"),
        ("watch", ".", "--topic", "t", "--when-delivered", "burn"),
        ("watch", ".", "--topic", "t", "--bandwidth", "fast"),
        ("watch", ".", "--topic", "t", "--select", "*.txt"),
        ("watch", ".", "--topic", "t", "--state", "."),
        ("watch", ".", "--topic", "t", "--list"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "xdg"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1
