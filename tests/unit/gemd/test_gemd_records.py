"""The records are GEMD for gemd's own loader, the same bytes every time, and flagged where something is wrong."""

from __future__ import annotations

import concurrent.futures
import hashlib
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import gemd
import gemd.json
import gemd.util
import pytest
from gemd.entity.bounds_validation import WarningLevel, get_validation_level, set_validation_level

from openmsi_streams.gemd import lint, read
from openmsi_streams.gemd.emit import RecordSet, StoreLink, performed_date, records_for_file
from openmsi_streams.gemd.mapping import Mapping

HERE = Path(__file__).parent


@pytest.fixture
def full(
    lab: Mapping, make_facts: Any, stores: list[StoreLink], result: dict[str, Any], sidecar: dict[str, Any]
) -> RecordSet:
    return records_for_file(lab, make_facts(), stores, result, json.dumps(sidecar).encode(), {"igsn": "JHXMT00042"})


@pytest.fixture
def everything(full: RecordSet, plain: Mapping, make_facts: Any, result: dict[str, Any]) -> list[bytes]:
    """Records of several shapes: full, plain, without sample, without store, without date, with a failed analysis."""
    documents = [value for _, value in full.messages] + [full.document]
    link = [StoreLink("s3", "s3://bucket/x")]
    for made in (
        records_for_file(plain, make_facts("notes.txt", "misc"), link),
        records_for_file(plain, make_facts("notes.txt", "misc", mtime=None, size=0), []),
        records_for_file(plain, make_facts("notes.txt", "misc"), link, result),
        records_for_file(plain, make_facts("a.trc"), link, {**result, "class": "unreadable", "quantities": {}}),
    ):
        documents += [value for _, value in made.messages] + [made.document]
    return documents


@pytest.fixture
def strict() -> Any:
    before = get_validation_level()
    set_validation_level(WarningLevel.FATAL)
    yield
    set_validation_level(before)


def pruned(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: pruned(value) for key, value in node.items() if value not in (None, [], {})}
    if isinstance(node, list):
        return [pruned(item) for item in node]
    return node


def context_set(document: str | bytes) -> set[str]:
    def plain_numbers(text: str) -> Any:
        return float(text)

    tree = json.loads(document, parse_int=plain_numbers)
    return {json.dumps(pruned(item), sort_keys=True) for item in tree["context"]}


def test_every_record_survives_gemds_own_round_trip(everything: list[bytes]) -> None:
    for document in everything:
        first = gemd.json.loads(document)
        again = gemd.json.dumps(first)
        assert gemd.json.loads(again) == first
        assert context_set(again) == context_set(document)


def test_every_value_is_within_its_template_when_gemd_checks_strictly(everything: list[bytes], strict: None) -> None:
    for document in everything:
        gemd.json.loads(document)


def test_the_strict_check_itself_bites(full: RecordSet, strict: None) -> None:
    """So that the test above means something."""
    text = full.messages[1][1].decode()
    with pytest.raises(ValueError):
        gemd.json.loads(text.replace('"mean":746.2183', '"mean":1e9'))
    with pytest.raises(ValueError):
        gemd.json.loads(
            text.replace('3.1,"type":"normal_real","units":"meter / second"', '3.1,"type":"normal_real","units":"kg"')
        )


def test_loading_gives_no_line_in_gemds_log(everything: list[bytes], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        for document in everything:
            gemd.json.loads(document)
    assert [record.getMessage() for record in caplog.records if record.name.startswith("gemd")] == []


def test_every_object_has_a_uid_of_its_own(everything: list[bytes]) -> None:
    for document in everything:
        assert gemd.util.flatten(gemd.json.loads(document))
        keys = [tuple(item["uids"].items()) for item in json.loads(document)["context"]]
        assert len(keys) == len(set(keys))


def test_the_fast_path_gives_what_gemd_writes_for_nested_objects(full: RecordSet, lab: Mapping) -> None:
    """The record of the file, built slowly with gemd's classes, object by object, is the same set of objects."""
    g = gemd
    key, document = full.messages[0]
    ours = {item["uids"]["auto"]: item for item in json.loads(document)["context"]}

    def template(kind: str, name: str) -> Any:
        attribute = lab.vocabulary.attributes[kind, name]  # type: ignore[index]
        made = {"parameter": g.ParameterTemplate, "condition": g.ConditionTemplate}[kind]
        bounds = g.RealBounds(attribute.low, attribute.high, attribute.unit)
        return made(name, bounds=bounds, uids={"auto": attribute.uid})

    def value(kind: str, name: str, number: Any) -> Any:
        made = {"parameter": g.Parameter, "condition": g.Condition}[kind]
        return made(name, value=number, origin="measured", template=templates[kind, name])

    wanted = lab.vocabulary.templates["measurement", "PDV trace"]
    templates = {(item.kind, item.name): template(item.kind, item.name) for item in wanted.attributes}
    spec = g.MeasurementSpec(
        "PDV trace",
        uids={"auto": lab.entries[0].spec_uid},
        template=g.MeasurementTemplate(
            "PDV trace",
            parameters=[item for (kind, _), item in templates.items() if kind == "parameter"],
            conditions=[item for (kind, _), item in templates.items() if kind == "condition"],
            uids={"auto": wanted.uid},
        ),
    )
    uid = {(item["type"], item["name"]): item["uids"] for item in ours.values()}
    stub = ["openmsi.stub"]
    unknown = "Sample provenance not recorded"
    process_spec = g.ProcessSpec(unknown, tags=stub, uids=uid["process_spec", unknown])
    material_spec = g.MaterialSpec("Sample", process=process_spec, tags=stub, uids=uid["material_spec", "Sample"])
    process = g.ProcessRun(unknown, spec=process_spec, tags=stub, uids=uid["process_run", unknown])
    sample = g.MaterialRun(
        "Sample HTM-0042",
        spec=material_spec,
        process=process,
        sample_type="experimental",
        tags=stub,
        uids={**uid["material_run", "Sample HTM-0042"], "igsn": "JHXMT00042", "lab.sample_id": "HTM-0042"},
    )
    path = "2026/11/22/HTM-0042/F2--20261122--00025.csv"
    run = g.MeasurementRun(
        "PDV trace 20261122-00025",
        spec=spec,
        material=sample,
        uids={"auto": key.decode()},
        file_links=[
            g.FileLink("F2--20261122--00025.csv", "s3://openmsi-raw/lasershock-pdv/" + path),
            g.FileLink("F2--20261122--00025.csv", "file:///data/lasershock-pdv/" + path),
        ],
        source=g.PerformedSource("operator-07", "2026-11-22T10:15:30"),
        parameters=[
            value("parameter", "File size", g.NominalReal(12345678, "byte")),
            value("parameter", "Sampling rate", g.NominalReal(8e10, "Hz")),
            value("parameter", "Laser wavelength", g.NominalReal(1547.461, "nm")),
        ],
        conditions=[
            value("condition", "Drive laser energy", g.NormalReal(812.0, 9.0, "mJ")),
            value("condition", "Base pressure", g.UniformReal(95, 105, "mTorr")),
        ],
        tags=[
            "openmsi.record::file",
            "openmsi.topic::lasershock-pdv",
            "openmsi.path::" + path,
            "openmsi.sha512::" + "26c669cd" * 16,
            "openmsi.file_id::" + "0f" * 16,
            "openmsi.map::pdv-trace",
            "openmsi.media_type::text/csv",
            "openmsi.shot::20261122-00025",
            "openmsi.rev::1",
            "grant::DEMO-1",
        ],
    )
    assert context_set(gemd.json.dumps(run)) == context_set(document)
    assert gemd.json.loads(document) == run


def test_the_slow_way_is_never_taken(
    lab: Mapping,
    make_facts: Any,
    stores: list[StoreLink],
    result: dict[str, Any],
    sidecar: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No gemd object is built and nothing goes through gemd's JSON while records are made: that costs 6 ms each."""
    expected = records_for_file(lab, make_facts(), stores, result, json.dumps(sidecar).encode())

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the slow path")

    monkeypatch.setattr(gemd.json.GEMDJson, "dumps", refuse)
    monkeypatch.setattr(gemd.json.GEMDJson, "raw_dumps", refuse)
    monkeypatch.setattr(gemd.entity.base_entity.BaseEntity, "__init__", refuse)
    assert records_for_file(lab, make_facts(), stores, result, json.dumps(sidecar).encode()) == expected


def test_nothing_breaks_a_rule_of_the_written_specification(everything: list[bytes]) -> None:
    for document in everything:
        findings = lint.lint(json.loads(document)["context"])
        assert [item for item in findings if item.rule != "file-link"] == []


def test_records_are_one_set_of_bytes_in_every_process(tmp_path: Path) -> None:
    script = (
        "import hashlib, importlib.util, json, sys\n"
        f"spec = importlib.util.spec_from_file_location('shapes', {str(HERE / 'conftest.py')!r})\n"
        "shapes = importlib.util.module_from_spec(spec); spec.loader.exec_module(shapes)\n"
        "from openmsi_streams.gemd.emit import records_for_file\n"
        "lab = shapes.Mapping.load(shapes.LAB)\n"
        "sidecar = json.dumps(shapes.SIDECAR).encode()\n"
        "made = records_for_file(lab, shapes.facts(), shapes.STORES, shapes.RESULT, sidecar, {'igsn': 'X'})\n"
        "print(hashlib.sha256(repr(made).encode()).hexdigest())\n"
    )
    seen = set()
    for seed in range(5):
        environment = {**os.environ, "PYTHONHASHSEED": str(seed)}
        done = subprocess.run(
            [sys.executable, "-c", script],
            capture_output=True,
            text=True,
            env=environment,
            cwd=HERE.parents[2],
            check=True,
        )
        seen.add(done.stdout.strip())
    assert len(seen) == 1


def test_threads_do_not_disturb_each_other(
    lab: Mapping, make_facts: Any, stores: list[StoreLink], result: dict[str, Any], sidecar: dict[str, Any]
) -> None:
    def make(number: int) -> RecordSet:
        laser = {"energy_mJ": f"{number} uJ", "energy_sd_mJ": 9}
        text = json.dumps({**sidecar, "laser": laser}).encode()
        return records_for_file(lab, make_facts(), stores, result, text)

    alone = [make(number) for number in range(40)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(make, range(40))) == alone


def test_the_order_of_stores_and_headers_and_the_producer_do_not_show(
    lab: Mapping, make_facts: Any, stores: list[StoreLink]
) -> None:
    one = records_for_file(lab, make_facts(), stores, headers={"igsn": "A", "sample": "S"})
    two = records_for_file(lab, make_facts(producer="other"), stores[::-1], headers={"Sample": "S", "IGSN": "A"})
    assert one == two


def test_all_links_resolve_inside_a_record_and_only_the_sample_is_open_when_linked(
    tmp_path: Path, lab: Mapping, make_facts: Any, everything: list[bytes]
) -> None:
    for document in everything:
        context = json.loads(document)["context"]
        assert [item for item in lint.lint(context) if item.rule == "open-link"] == []
    text = Path(lab_file()).read_text().replace('material = "stub"', 'material = "link"')
    (tmp_path / "lab.toml").write_text(text)
    linked = records_for_file(Mapping.load(tmp_path / "lab.toml"), make_facts(), [])
    context = json.loads(linked.messages[0][1])["context"]
    open_links = [item for item in lint.lint(context) if item.rule == "open-link"]
    assert len(open_links) == 1 and "lab.sample_id::HTM-0042" in open_links[0].message


def lab_file() -> str:
    return str(HERE.parents[2] / "docs" / "examples" / "lab.toml")


def test_the_document_is_the_message_and_holds_both_records_after_the_analysis(
    lab: Mapping, make_facts: Any, stores: list[StoreLink], full: RecordSet
) -> None:
    first = records_for_file(lab, make_facts(), stores)
    assert first.document == first.messages[0][1] and len(first.messages) == 1
    roots = gemd.json.loads(full.document)
    assert [type(root).__name__ for root in roots] == ["MeasurementRun", "MeasurementRun"]
    assert roots[0].material is roots[1].material
    assert [key.decode() for key, _ in full.messages] == [roots[0].uids["auto"], roots[1].uids["auto"]]


def test_the_same_content_under_two_paths_is_two_records(lab: Mapping, make_facts: Any) -> None:
    one, two = (records_for_file(lab, make_facts(path), []) for path in ("a/x.csv", "b/x.csv"))
    assert one.file_uid != two.file_uid
    merged = read.merge(json.loads(item.document) for item in (one, two))
    assert sum(item["type"] == "measurement_run" for item in merged) == 2


def test_the_uid_is_the_version_and_not_what_is_known_about_it(
    lab: Mapping, make_facts: Any, stores: list[StoreLink], full: RecordSet
) -> None:
    bare = records_for_file(lab, make_facts(mtime=None), [])
    assert bare.file_uid == full.file_uid
    assert records_for_file(lab, make_facts(sha512="0" * 128), stores).file_uid != full.file_uid
    assert records_for_file(lab, make_facts(topic="other"), stores).file_uid != full.file_uid


def test_sidecar_after_before_broken_and_never(lab: Mapping, make_facts: Any, sidecar: dict[str, Any]) -> None:
    never = records_for_file(lab, make_facts(), [])
    after = records_for_file(lab, make_facts(), [], sidecar=json.dumps(sidecar).encode())
    toml = b'operator = "operator-07"\ngrant = "DEMO-1"\n[laser]\nenergy_mJ = 812.0\nenergy_sd_mJ = 9.0\n'
    assert never.file_uid == after.file_uid
    assert "openmsi.missing::Drive laser energy" in never.flags and "openmsi.missing::operator" in never.flags
    assert b"openmsi.rev::0" in never.document and b"openmsi.rev::1" in after.document
    assert "openmsi.missing::Drive laser energy" not in after.flags
    assert b'"mean":812.0' in records_for_file(lab, make_facts(), [], sidecar=toml).document
    for broken in (b"{", b"\xff\xfe", b"[1]", b"x" * (2 << 20), b"[" * 100000, b'{"laser": 3}', b""):
        made = records_for_file(lab, make_facts(), [], sidecar=broken)
        assert made.file_uid == never.file_uid and len(made.messages) == 1
        if broken != b'{"laser": 3}' and broken:
            assert any(flag.startswith("openmsi.sidecar_error") for flag in made.flags)


@pytest.mark.parametrize(
    ("energy", "flag"),
    [
        (float("nan"), "missing"),
        (float("inf"), "missing"),
        (None, "missing"),
        ("", "missing"),
        ("N/A", "missing"),
        ("much", "invalid"),
        (True, "invalid"),
        ([1], "invalid"),
        (1e9, "out_of_bounds"),
        (-1, "out_of_bounds"),
        ("3 kg", "unit"),
        ("3 blorps", "unit"),
        ({"value": 5, "unit": "m"}, "unit"),
        (10**400, "invalid"),
    ],
)
def test_a_bad_value_is_flagged_and_left_out(lab: Mapping, make_facts: Any, energy: Any, flag: str) -> None:
    made = records_for_file(lab, make_facts(), [], sidecar=json.dumps({"laser": {"energy_mJ": energy}}).encode())
    assert f"openmsi.{flag}::Drive laser energy" in made.flags
    run = gemd.json.loads(made.document)
    assert "Drive laser energy" not in [item.name for item in run.conditions]
    assert f"openmsi.{flag}::Drive laser energy" in run.tags


@pytest.mark.parametrize(
    ("energy", "mean"),
    [("812 mJ", 812.0), ("0.812 J", 812.0), ("8.12e2", 812.0), ({"value": 0.812, "unit": "J"}, 812.0)],
)
def test_text_with_a_unit_is_understood(lab: Mapping, make_facts: Any, energy: Any, mean: float) -> None:
    made = records_for_file(lab, make_facts(), [], sidecar=json.dumps({"laser": {"energy_mJ": energy}}).encode())
    value = next(item for item in gemd.json.loads(made.document).conditions if item.name == "Drive laser energy").value
    assert (value.nominal, value.units) == (mean, "millijoule")


@pytest.mark.parametrize("std", [float("nan"), -1, None, "x", True])
def test_a_bad_standard_deviation_leaves_the_value(lab: Mapping, make_facts: Any, std: Any) -> None:
    laser = {"energy_mJ": 812, "energy_sd_mJ": std}
    made = records_for_file(lab, make_facts(), [], sidecar=json.dumps({"laser": laser}).encode())
    assert b'"nominal":812.0' in made.document and b'"std"' not in made.document


def test_analysis_values_carry_sigma_and_the_templates_unit(full: RecordSet) -> None:
    run = gemd.json.loads(full.messages[1][1])
    values = {item.name: item.value for item in run.properties}
    assert (values["Spall strength"].mean, values["Spall strength"].std) == (0.917, 0.021)
    assert values["Spall strength"].units == "gigapascal"
    assert (values["Peak velocity"].mean, values["Peak velocity"].std) == (746.2183, 3.1)
    assert {item.origin.value for item in run.properties} == {"computed"}
    assert {item.name: item.value.nominal for item in run.spec.parameters if item.name == "Assumed density"} == {
        "Assumed density": 1730.0
    }
    assert f"openmsi.derived_from::{full.file_uid}" in run.tags and "openmsi.quality::clipped" in run.tags
    assert run.source.performed_date == "2026-11-22T10:15:30"
    assert run.notes.startswith("A pull-back")
    assert "openmsi.software::openmsi_streams::0.1.0" in run.tags and "openmsi.scope::LECROYWM816Zi-B" in run.tags
    assert run.spec.name == "PDV spall analysis, openmsi_streams 0.1.0, 73f6c769"


def test_every_quantity_of_our_analysis_has_its_property(
    plain: Mapping, make_facts: Any, result: dict[str, Any]
) -> None:
    from openmsi_streams.pdv.result import QUANTITIES

    result["quantities"] = {key: {"value": 1.0, "unit": unit, "sigma": 0.1} for key, unit in QUANTITIES.items()}
    made = records_for_file(plain, make_facts(), [StoreLink("s3", "s3://b/x")], result)
    assert [flag for flag in made.flags if "unmapped" in flag or "unit" in flag] == []
    run = json.loads(made.messages[1][1])["context"][-1]
    assert len([item for item in run["properties"] if "std" in item["value"]]) == len(QUANTITIES)


def test_the_recipe_is_one_spec_and_another_setting_another_analysis(
    lab: Mapping, make_facts: Any, result: dict[str, Any]
) -> None:
    one = records_for_file(lab, make_facts(), [], result)
    two = records_for_file(lab, make_facts("other.csv"), [], result)
    changed = json.loads(json.dumps(result))
    changed["provenance"]["material"]["density"] = 1800.0
    changed["provenance"]["settings_hash"] = "0011223344556677"
    three = records_for_file(lab, make_facts(), [], changed)
    specs = [gemd.json.loads(item.messages[1][1]).spec.uids["auto"] for item in (one, three)]
    assert specs[0] != specs[1] and one.analysis_uid != three.analysis_uid
    assert two.flags == ["openmsi.analysis_unknown::openmsi_streams.pdv/1"] or two.analysis_uid


def test_absent_quantities_are_flagged_only_where_the_class_has_them(
    plain: Mapping, make_facts: Any, result: dict[str, Any]
) -> None:
    result["quantities"] = {"peak_velocity": {"value": 60.0, "unit": "m/s"}, "novelty": {"value": 1}}
    result["class"] = "no_spall"
    flags = records_for_file(plain, make_facts(), [], result).flags
    assert "openmsi.missing::Spall strength" not in flags
    assert "openmsi.missing::Carrier frequency" in flags
    assert "openmsi.unmapped::novelty" in flags
    result["class"] = "spall"
    assert "openmsi.missing::Spall strength" in records_for_file(plain, make_facts(), [], result).flags


def test_a_failed_analysis_is_a_record_with_the_reason_and_no_properties(
    plain: Mapping, make_facts: Any, result: dict[str, Any]
) -> None:
    result.update({"class": "unreadable", "reason": "The file holds no numbers."})
    made = records_for_file(plain, make_facts(), [], result)
    run = gemd.json.loads(made.messages[1][1])
    assert run.properties == [] and run.notes == "The file holds no numbers."
    assert "openmsi.status::failed" in run.tags and "openmsi.class::unreadable" in run.tags


@pytest.mark.parametrize(
    "broken",
    [
        {"quantities": None},
        {"quantities": {"peak_velocity": "fast"}},
        {"quantities": {"peak_velocity": {"value": float("nan"), "unit": "m/s"}}},
        {"quantities": {"peak_velocity": {"value": 1, "unit": "blorp"}}},
        {"quantities": {"peak_velocity": {"value": 1, "unit": "kg", "sigma": -3}}},
        {"quality": 3, "provenance": []},
        {"provenance": {"settings": {"density": object()}, "material": 3, "instrument": []}},
        {"class": {"a": 1}},
    ],
)
def test_a_broken_result_never_holds_up_the_file(
    plain: Mapping, make_facts: Any, result: dict[str, Any], broken: dict[str, Any], stores: list[StoreLink]
) -> None:
    made = records_for_file(plain, make_facts(), stores, {**result, **broken})
    assert made.file_uid
    for _, document in made.messages:
        gemd.json.loads(document)


def test_whatever_goes_wrong_inside_the_plain_record_comes_out(
    plain: Mapping, make_facts: Any, result: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("openmsi_streams.gemd.emit.analysis_record", fail)
    made = records_for_file(plain, make_facts(), [], result)
    assert "openmsi.record_error::ZeroDivisionError" in made.flags and len(made.messages) == 1
    gemd.json.loads(made.document)
    monkeypatch.setattr("openmsi_streams.gemd.emit.material_objects", fail)
    assert records_for_file(plain, make_facts(), []).flags == ["openmsi.record_error::ZeroDivisionError"]


def test_dates(caplog: pytest.LogCaptureFixture) -> None:
    assert performed_date(1795342530.25) == "2026-11-22T10:15:30"
    for nothing in (None, 0, 0.0, float("nan"), float("inf"), 1e18):
        assert performed_date(nothing) is None


def test_a_long_path_is_clipped_in_name_and_tag_and_kept_in_the_notes(plain: Mapping, make_facts: Any) -> None:
    path = "/".join("ordner_mit_ümlaut" for _ in range(20)) + "/datei.txt"
    made = records_for_file(plain, make_facts(path), [StoreLink("s3", "s3://b/x")])
    context = json.loads(made.document)["context"]
    assert lint.lint(context) == [] and context[-1]["notes"] == f"Path: {path}"


def test_thin_records_and_the_catalogue_together_are_whole(
    tmp_path: Path, make_facts: Any, result: dict[str, Any]
) -> None:
    (tmp_path / "lab.toml").write_text(Path(lab_file()).read_text().replace('embed = "full"', 'embed = "thin"'))
    thin = Mapping.load(tmp_path / "lab.toml")
    made = records_for_file(thin, make_facts(), [StoreLink("s3", "s3://b/x")], result)
    assert len(made.messages[0][1]) < 3500
    documents = [value for _, value in (*made.messages, *thin.catalogue())]
    merged = read.merge(read.iter_records(documents))
    assert lint.lint(merged) == []


def test_golden_records_do_not_drift(full: RecordSet) -> None:
    """A change here changes every record ever written: new uids, new bytes. Think twice, then run with GOLDEN=write."""
    folder = HERE.parents[1] / "golden" / "gemd"
    for name, (_, document) in zip(("file", "analysis"), full.messages, strict=True):
        path = folder / f"{name}.gemd.json"
        if os.environ.get("GOLDEN") == "write":
            folder.mkdir(parents=True, exist_ok=True)
            path.write_bytes(document)
        assert hashlib.sha256(path.read_bytes()).hexdigest() == hashlib.sha256(document).hexdigest()


def test_importing_the_package_is_cheap_and_a_missing_gemd_is_said_at_start() -> None:
    code = (
        "import sys\n"
        "import openmsi_streams.gemd, openmsi_streams.gemd.emit, openmsi_streams.gemd.read\n"
        "names = 'gemd pint numpy pandas networkx boto3 confluent_kafka'.split()\n"
        "heavy = [name for name in names if name in sys.modules]\n"
        "assert not heavy, heavy\n"
        "sys.modules['gemd'] = None\n"
        "from openmsi_streams.errors import ExtraMissing\n"
        "from openmsi_streams.gemd.mapping import Mapping\n"
        "try:\n    Mapping.load(None)\n"
        "except ExtraMissing as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=HERE.parents[2])
    assert done.returncode == 0, done.stderr
    assert "pip install 'openmsi-streams[server]'" in done.stdout
