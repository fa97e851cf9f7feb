"""The gemd commands as a person uses them."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import networkx
import pytest
from click.testing import CliRunner, Result

from openmsi_streams.cli import main
from openmsi_streams.gemd.commands import gemd
from openmsi_streams.gemd.emit import StoreLink, records_for_file
from openmsi_streams.gemd.mapping import Mapping

LAB = Path(__file__).parents[3] / "docs" / "examples" / "lab.toml"
EXAMPLE = "2026/11/22/HTM-0042/F2--20261122--00025.csv"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def stored(tmp_path: Path, lab: Mapping, make_facts: Any, result: dict[str, Any]) -> Path:
    folder = tmp_path / "store"
    for number in (1, 2):
        path = f"2026/11/22/HTM-000{number}/F2--20261122--0000{number}.csv"
        made = records_for_file(lab, make_facts(path), [StoreLink("s3", f"s3://b/{number}")], result)
        target = folder / "lasershock-pdv" / f"{path}.gemd.json"
        target.parent.mkdir(parents=True)
        target.write_bytes(made.document)
    return folder


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(gemd, [str(item) for item in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


def test_export_writes_each_form(stored: Path, tmp_path: Path) -> None:
    assert "2 rows" in run("export", stored, "out.csv").output
    rows = list(csv.DictReader((tmp_path / "out.csv").open()))
    assert [row["Spall strength [GPa]"] for row in rows] == ["0.917", "0.917"]
    run("export", stored, "out.json")
    document = json.loads((tmp_path / "out.json").read_text())
    assert len(document["object"]) == 4
    run("export", stored, "out.graphml")
    assert networkx.read_graphml(tmp_path / "out.graphml").number_of_nodes() == len(document["context"])
    run("export", stored, "thin", "--form", "objects")
    assert len(list((tmp_path / "thin").iterdir())) == len(document["context"])
    assert "2 records" in run("export", stored, "folder").output
    assert "0 findings" in run("lint", "folder", "out.json").output


def test_lint_ends_with_1_when_a_rule_is_broken(stored: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = next(stored.rglob("*.gemd.json"))
    file.write_text(file.read_text().replace('"performed_date":"2026-', '"performed_date":"06-'))
    with pytest.raises(SystemExit) as ended:
        main(["gemd", "lint", str(stored)])
    assert ended.value.code == 1
    assert "date: measurement_run" in capsys.readouterr().out


def test_check_prints_the_record_that_would_be_emitted(tmp_path: Path, result: dict[str, Any]) -> None:
    (tmp_path / "shot.csv").write_bytes(
        b"LECROYWR640Zi,1,Waveform\nSegments,1,SegmentSize,3\n\n#1,now,0\nTime,Ampl\n0,1\n1e-10,1\n2e-10,1\n"
    )
    (tmp_path / "side.json").write_text('{"laser": {"energy_mJ": 812}, "operator": "op"}')
    (tmp_path / "result.json").write_text(json.dumps(result))
    output = run(
        "check", LAB, "--path", EXAMPLE, "--topic", "lasershock-pdv", "--file", "shot.csv", "--sidecar", "side.json",
        "--result", "result.json", "--header", "igsn=ABC",
    ).output  # fmt: skip
    assert "entry: pdv-trace" in output and "sample = 'HTM-0042'" in output
    assert "sidecar: 2026/11/22/HTM-0042/metadata.json" in output
    assert "extracted: sampling_rate = 10000000000.0" in output
    assert "flag: openmsi.missing::grant" in output
    record = json.loads(output[output.index("{\n") :])
    assert {item["type"] for item in record["context"]} >= {"measurement_run", "material_run", "measurement_spec"}
    assert len(record["object"]) == 2 and "ABC" in output


def test_check_without_a_path_lists_the_units_as_they_were_read() -> None:
    output = run("check", LAB).output
    assert "Drive laser energy: millijoule = [kilogram * meter ** 2 / second ** 2], 0 to 5000" in output
    assert "Peak velocity: meter / second = [meter / second]" in run("check").output


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["check", "none.toml"], 1, "cannot be read"),
        (["check", "bad.toml"], 1, "gigahenry"),
        (["check", "--path", "a", "--header", "igsn"], 2, "KEY=VALUE"),
        (["export", "none", "out"], 2, "does not exist"),
        (["export", "empty", "out"], 2, "no GEMD records"),
        (["import-laser-shock", "--out", "x"], 2, "Give either"),
        (["import-laser-shock", "empty", "--out", "x"], 2, "holds no records"),
        (["import-laser-shock", "--out", "x", "--server", "https://x"], 2, "--database"),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path, arguments: list[str], code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.toml").write_text("[property]\nx = { min = 0, max = 1, unit = 'GH' }\n")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit) as ended:
        main(["gemd", *arguments])
    error = capsys.readouterr().err
    assert ended.value.code == code and words in error and "Traceback" not in error


def test_the_laboratorys_export_is_imported_and_joined(stored: Path, tmp_path: Path) -> None:
    export = {
        "Launch Package": [{"recordId": "1", "Launch ID": "L-1", "Flyer ID": "F"}],
        "Flyer Stack": [{"recordId": "1", "Flyer ID": "F", "Epoxy Name": "", "Foil Name": "", "New": "x"}],
        "Experiment": [
            {
                "recordId": "1",
                "Launch ID": "L-1",
                "Experiment Type": "Spall",
                "Date": "11/22/2026",
                "Scope Filename": "F2--20261122--00001",
            }
        ],
    }
    (tmp_path / "export.json").write_text(json.dumps(export))
    outputs = []
    for name in ("one.json", "two.json"):
        result = run(
            "import-laser-shock",
            "export.json",
            "--out",
            name,
            "--records",
            stored,
            "--lab",
            LAB,
            "--problems",
            "problems.txt",
        )
        assert "1 of 1 experiments joined" in result.output
        outputs.append((tmp_path / name).read_bytes())
    assert outputs[0] == outputs[1]
    assert "unknown field 'New'" in (tmp_path / "problems.txt").read_text()
    assert "0 findings" in run("lint", "one.json").output
