"""Which delivered files are run again, and the commands around processors."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from openmsi_streams.chunks.messages import FileVersion, to_json
from openmsi_streams.cli import cli
from openmsi_streams.errors import ConfigurationError, UsageError
from openmsi_streams.processors.history import Delivered, choose

sys.path.insert(0, str(Path(__file__).parent))
import misbehaving as lab


def one(path: str, content: str = "a", when: float = 1.0, sealed: bool = False) -> Delivered:
    version = FileVersion(file_id=f"{path}{content}", topic="lab", path=path, sha512=content, bytes=1)
    return Delivered(0, version.file_id.encode(), to_json(version), when, None if sealed else version)


def paths(chosen: list[Delivered]) -> list[str]:
    return [each.version.path if each.version else each.key.decode() for each in chosen]


def test_the_newest_version_of_each_path_is_taken() -> None:
    (only,) = choose([one("a.csv", "old", 1.0), one("a.csv", "new", 2.0)])
    assert only.version is not None and only.version.sha512 == "new"


def test_files_are_chosen_by_processor_pattern_and_time() -> None:
    there = [one("a.csv", when=1.0), one("b.txt", when=2.0), one("run/c.csv", when=3.0)]
    assert paths(choose(there, [lab.good])) == ["a.csv", "run/c.csv"]
    assert paths(choose(there, match=["RUN/*"])) == ["run/c.csv"]
    assert paths(choose(there, since=1.5)) == ["b.txt", "run/c.csv"]


def test_encrypted_messages_are_taken_whole_or_the_reason_is_said() -> None:
    sealed = [one("a.csv", sealed=True), one("b.csv", sealed=True)]
    assert len(choose(sealed)) == 2
    with pytest.raises(UsageError, match="encrypted"):
        choose(sealed, match=["*.csv"])


def test_a_processor_is_tried_on_a_file_from_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "scan.csv").write_bytes(b"1,2\n")
    call = ["processors", "try", "misbehaving:good", str(tmp_path / "scan.csv"), "--topic", "lab"]
    result = CliRunner().invoke(cli, [*call, "--to", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert '"bytes": 4' in result.output and (tmp_path / "out" / "scan.csv.count.txt").read_text() == "4"


def test_a_failing_one_shows_its_traceback_and_exits_with_1(tmp_path: Path) -> None:
    (tmp_path / "scan.csv").write_bytes(b"1,2\n")
    result = CliRunner().invoke(cli, ["processors", "try", "misbehaving:raises", str(tmp_path / "scan.csv")])
    assert result.exit_code == 1 and "upside down" in result.output and "misbehaving.py" in result.output


def test_what_is_loaded_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "No processor is loaded" in CliRunner().invoke(cli, ["processors", "list"]).output
    (tmp_path / "openmsi-streams.toml").write_text('[processors]\nload = ["misbehaving:good"]\n')
    told = CliRunner().invoke(cli, ["processors", "list"]).output
    assert told == "good: *.csv on lab; misbehaving:good, version 3, at most 300 s\n"
    with pytest.raises(UsageError, match="good"):
        CliRunner().invoke(
            cli,
            ["processors", "again", "--topic", "lab", "--processor", "x"],
            catch_exceptions=False,
            standalone_mode=False,
        )


def test_an_unknown_module_is_named() -> None:
    with pytest.raises(ConfigurationError, match="nolab"):
        CliRunner().invoke(cli, ["processors", "try", "nolab:x", __file__], catch_exceptions=False)
