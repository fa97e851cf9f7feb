"""What the worker and the command line get: files, JSON, rows; the same input gives the same bytes."""

from __future__ import annotations

import csv
import io
import json
import pickle
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image, ImageDraw

from openmsi_streams.errors import ConfigurationError
from openmsi_streams.pdv import synthetic
from openmsi_streams.pdv.commands import pdv
from openmsi_streams.pdv.materials import MATERIALS, find_material
from openmsi_streams.pdv.physics import impact_particle_velocity, spall_acoustic, spall_elastic_plastic
from openmsi_streams.pdv.result import Quantity
from openmsi_streams.pdv.run import analyze_to_files, csv_row, matches
from openmsi_streams.pdv.settings import check_rules, choose, constants, read_sidecar, settings_from

SCHEMA = Path(__file__).parents[3] / "docs" / "pdv_result.schema.json"


@pytest.fixture(scope="module")
def shot_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("shots") / "C1--20260628--00007.trc"
    synthetic.write_trc(path, case="HEL foot", seed=3)
    return path


def test_files_are_written_and_the_same_every_time(shot_file: Path, tmp_path: Path) -> None:
    call = pickle.loads(pickle.dumps(analyze_to_files))
    settings = {"material": "copper", "enabled": True, "processes": 2, "time_limit": 120.0}
    first = call(str(shot_file), str(tmp_path / "a"), settings, {"file_id": "f" * 32, "topic": "pdv"})
    again = call(str(shot_file), str(tmp_path / "b"), settings, {"file_id": "f" * 32, "topic": "pdv"})
    stem = shot_file.stem
    assert first["files"] == [f"pdv_spall_plots_{stem}.png", f"{stem}.pdv_velocity.csv", f"{stem}.pdv.json"]
    for name in first["files"]:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert first == again
    assert json.loads((tmp_path / "a" / f"{stem}.pdv.json").read_text()) == first["result"]
    png = (tmp_path / "a" / first["files"][0]).read_bytes()
    assert png.startswith(b"\x89PNG") and len(png) < 400_000
    history = (tmp_path / "a" / first["files"][1]).read_text().splitlines()
    assert history[1] == "time_s,velocity_m_per_s,sigma_m_per_s,displacement_m,amplitude_v"
    record = first["result"]
    assert record["provenance"]["file_id"] == "f" * 32
    assert len(record["provenance"]["sha512"]) == 128
    assert record["provenance"]["instrument"]["scope"] == "LECROYWM816Zi-B"


def test_result_follows_the_documented_schema(shot_file: Path, tmp_path: Path) -> None:
    record = analyze_to_files(str(shot_file), str(tmp_path), {}, {}, plot=False)["result"]
    schema = json.loads(SCHEMA.read_text())
    assert record["schema"] == schema["properties"]["schema"]["const"] == "openmsi_streams.pdv/1"
    assert set(record) == set(schema["required"])
    assert record["class"] in schema["properties"]["class"]["enum"]
    known = set(schema["properties"]["quantities"]["properties"])
    assert set(record["quantities"]) <= known
    for name, quantity in record["quantities"].items():
        assert set(quantity) <= {"value", "unit", "sigma", "parts"}
        assert quantity["unit"] == schema["properties"]["quantities"]["properties"][name]["properties"]["unit"]["const"]


def test_flyers_have_velocity_plots(tmp_path: Path) -> None:
    synthetic.write_trc(tmp_path / "f.trc", case="flyer", seed=1)
    done = analyze_to_files(str(tmp_path / "f.trc"), str(tmp_path), {"standoff_mm": 0.125}, {})
    assert done["files"][0] == "pdv_velocity_plots_f.png"
    assert "impact_velocity" in done["result"]["quantities"]


def test_a_bad_shot_gets_its_result_and_sheet_too(tmp_path: Path) -> None:
    (tmp_path / "bad.trc").write_bytes(b"rubbish")
    done = analyze_to_files(str(tmp_path / "bad.trc"), str(tmp_path / "out"), {}, {"file_id": "1"})
    assert done["result"]["class"] == "unreadable"
    assert done["result"]["reason"]
    assert done["files"] == ["pdv_spall_plots_bad.png", "bad.pdv.json"]
    gone = analyze_to_files(str(tmp_path / "gone.trc"), str(tmp_path / "out"), {}, {})
    assert gone["result"]["class"] == "unreadable"


def test_rows_have_the_same_columns_for_every_class(shot_file: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.txt").write_bytes(b"")
    rows = []
    for path in (shot_file, tmp_path / "bad.txt"):
        record = analyze_to_files(str(path), str(tmp_path), {"material": "Cu"}, {}, plot=False)["result"]
        rows.append(next(csv.DictReader(io.StringIO(csv_row(record, header=True)))))
    assert rows[0].keys() == rows[1].keys()
    assert rows[0]["peak_velocity_unit"] == "m/s"
    assert float(rows[0]["spall_strength"]) > 1
    assert rows[1]["class"] == "unreadable" and rows[1]["peak_velocity"] == ""


def test_matching_files_are_found_by_content(shot_file: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello\n")
    assert matches(str(shot_file))
    assert not matches(str(tmp_path / "notes.txt"))
    assert not matches(str(tmp_path / "nothing.trc"))


def test_command_writes_one_object_or_a_list(shot_file: Path, tmp_path: Path) -> None:
    args = ["analyze", str(shot_file), "--out", str(tmp_path), "--no-plot", "--density", "8960", "--c0", "3940"]
    done = CliRunner().invoke(
        pdv, [*args, "--cl", "4760", "--wavelength-nm", "1550", "--json", str(tmp_path / "r.json")]
    )
    assert done.exit_code == 0, done.output
    record = json.loads((tmp_path / "r.json").read_text())
    assert record["class"] == "spall"
    assert "material_default" not in record["quality"]["flags"]
    assert "spall" in done.output
    (tmp_path / "b.csv").write_bytes(b"")
    done = CliRunner().invoke(pdv, [*args, str(tmp_path / "b.csv"), "--json", "-", "--csv", str(tmp_path / "t.csv")])
    assert [item["class"] for item in json.loads(done.stdout)] == ["spall", "unreadable"]
    assert len((tmp_path / "t.csv").read_text().splitlines()) == 3


def test_wrong_material_is_told_before_any_work(shot_file: Path) -> None:
    done = CliRunner().invoke(pdv, ["analyze", str(shot_file), "--material", "unobtainium"])
    assert isinstance(done.exception, ConfigurationError)
    assert "copper" in str(done.exception)


def test_sidecar_beside_the_file_sets_the_material(shot_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.trc"
    path.write_bytes(shot_file.read_bytes())
    (tmp_path / "x.trc.pdv.toml").write_text('material = "AZ31B"\nwavelength_nm = 1547.461\n')
    CliRunner().invoke(pdv, ["analyze", str(path), "--no-plot", "--json", str(tmp_path / "r.json")])
    assert json.loads((tmp_path / "r.json").read_text())["provenance"]["material"]["name"] == "AZ31B"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('materal = "AZ31B"', "'materal' is not a PDV setting. Did you mean material?"),
        ("[pdv]\nwavelenght_nm = 1547", "Did you mean wavelength_nm?"),
        ("weather = 1", "There are: wavelength_nm"),
        ("material = AZ31B", "not TOML"),
        ("pdv = 3", "not a section"),
    ],
)
def test_a_sidecar_with_a_mistake_is_told_and_not_ignored(shot_file: Path, text: str, said: str) -> None:
    side = shot_file.with_name(shot_file.name + ".pdv.toml")
    side.write_text(text)
    try:
        done = CliRunner().invoke(pdv, ["analyze", str(shot_file), "--no-plot"])
    finally:
        side.unlink()
    assert isinstance(done.exception, ConfigurationError)
    assert str(side) in str(done.exception)
    assert said in str(done.exception)


def test_a_sidecar_may_have_a_section() -> None:
    assert (
        read_sidecar(b'[pdv]\nmaterial = "AZ31B"\n') == read_sidecar(b'material = "AZ31B"\n') == {"material": "AZ31B"}
    )


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ({"path": "*.trc", "materal": "copper"}, "Did you mean material?"),
        ({"wavelength_nm": -3.0}, "wavelength"),
    ],
)
def test_a_rule_with_a_mistake_is_told_with_its_number(rule: dict[str, str | float], said: str) -> None:
    right = {"topic": "a", "path": "*", "material": "copper", "density": 8930.0}
    check_rules([right])
    with pytest.raises(ConfigurationError, match="number 2") as told:
        check_rules([right, rule])
    assert said in str(told.value)


def test_settings_come_from_topic_path_and_sidecar() -> None:
    rules = [{"topic": "laser*", "wavelength_nm": 1547.461}, {"path": "*/AZ/*", "material": "AZ31B"}]
    got = choose({"material": "copper"}, rules, "laser_pdv", "day1/AZ/a.trc", {"standoff_mm": 0.1})
    assert (got.material, got.wavelength_nm, got.standoff_mm) == ("AZ31B", 1547.461, 0.1)
    assert choose({"material": "copper"}, rules, "other", "b/c.trc").material == "copper"
    with pytest.raises(ConfigurationError):
        settings_from({"wavelength_nm": -3})
    assert "material_default" in constants(settings_from({})).flags
    assert constants(settings_from({"wavelength_nm": 1550, "angle_deg": 0, "density": 1, "c0": 1, "cl": 1})).flags == []


def test_formulas_agree_where_they_must() -> None:
    copper = find_material("Cu")
    assert copper is not None
    assert spall_acoustic(copper, 100.0) == pytest.approx(0.5 * 8960 * 3940 * 100)
    # With equal sound speeds the elastic-plastic form becomes the acoustic one.
    same = type(copper)("x", 8960, 3940, 3940, 1.5)
    assert spall_elastic_plastic(same, 100.0) == pytest.approx(spall_acoustic(same, 100.0))
    assert impact_particle_velocity(copper, copper, 500.0) == pytest.approx(250.0)
    assert find_material("AZ-31b") is find_material("az31")
    assert find_material("unobtainium") is None


def test_every_material_is_possible_and_has_its_source() -> None:
    """A longitudinal wave is faster than a bulk one, by the shear modulus of a solid: Poisson's ratio 0.2 to 0.47."""
    for material in MATERIALS.values():
        ratio = (material.cl / material.c0) ** 2
        poisson = (3 - ratio) / (3 + ratio)
        assert 0.2 < poisson < 0.47, material.name
        assert material.source.startswith(("rho0", "C0")) and "CL:" in material.source
        assert min(material.sigma_density, material.sigma_c0, material.sigma_cl, material.sigma_s) > 0
        assert 0.7 < material.s < 2.0


@pytest.mark.parametrize("case", ["HEL foot", "flyer", "no spall, release", "slow 60 m/s", "fast 3 km/s", "no shot"])
def test_the_sheet_says_what_the_json_says(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every quantity stands on the sheet with the JSON's value, sigma and unit, and no two words on each other."""
    from openmsi_streams.pdv import canvas, sheet

    said: list[tuple[str, tuple[float, float, float, float]]] = []

    def note(self: canvas.Canvas) -> bytes:
        draw = ImageDraw.Draw(Image.new("RGB", (canvas.WIDTH, canvas.HEIGHT)))
        for item in self.texts:
            if not item.upright:
                place = (item.x * canvas.WIDTH, (1 - item.y) * canvas.HEIGHT)
                said.append((item.text, draw.textbbox(place, item.text, font=item.font, anchor=item.anchor)))
        return png(self)

    png = canvas.Canvas.png
    monkeypatch.setattr(canvas.Canvas, "png", note)
    synthetic.write_trc(tmp_path / "s.trc", case=case, seed=1)
    done = analyze_to_files(str(tmp_path / "s.trc"), str(tmp_path), {"material": "copper", "standoff_mm": 0.125}, {})
    assert "no_sheet" not in done["result"]["quality"]["flags"]
    texts = [text for text, _ in said]
    for name, item in done["result"]["quantities"].items():
        if name in sheet.LABELS:
            assert sheet.rounded_text(Quantity(item["value"], item["unit"], item.get("sigma"))) in texts, name
    for k, (one, a) in enumerate(said):
        assert a[0] >= 0 and a[2] <= 1800 and a[1] >= 0 and a[3] <= 1013, one
        for other, b in said[k + 1 :]:
            assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1], (one, other)


@pytest.mark.parametrize(
    ("low", "high", "most", "wanted"),
    [
        (-12.1, 98.2, 9, [0, 20, 40, 60, 80]),
        (0.0, 1.0, 5, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (-8.0, 71.0, 6, [0, 20, 40, 60]),
        (-50, -49.5, 6, [-50.0, -49.9, -49.8, -49.7, -49.6, -49.5]),
    ],
)
def test_ticks_are_round_numbers(low: float, high: float, most: int, wanted: list[float]) -> None:
    from openmsi_streams.pdv.sheet import labels_of, ticks

    assert ticks(low, high, most) == pytest.approx(wanted)
    digits = 0 if wanted[1] - wanted[0] >= 1 else 1
    assert labels_of(ticks(low, high, most)) == [f"{at:.{digits}f}".replace("-", "−") for at in wanted]
