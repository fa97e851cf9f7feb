"""Our readers handle our own records and GEMD that others wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gemd.json
import networkx
import pandas
import pytest
from gemd.demo.cake import make_cake
from gemd.demo.strehlow_and_cook import make_strehlow_objects

from openmsi_streams.errors import ExtraMissing, RecordError
from openmsi_streams.gemd import lint, read
from openmsi_streams.gemd.bounds import out_of_bounds
from openmsi_streams.gemd.emit import StoreLink, records_for_file
from openmsi_streams.gemd.mapping import Mapping


@pytest.fixture(scope="module")
def cake() -> str:
    text: str = gemd.json.dumps(make_cake(seed=42))
    return text


@pytest.fixture(scope="module")
def strehlow() -> str:
    text: str = gemd.json.dumps(make_strehlow_objects())
    return text


@pytest.fixture
def shots(lab: Mapping, make_facts: Any, result: dict[str, Any], sidecar: dict[str, Any]) -> list[bytes]:
    """Messages of three shots with analyses, one file without, a replay, and a tombstone."""
    messages: list[bytes] = []
    for number in (1, 2, 3):
        path = f"2026/11/22/HTM-000{number}/F2--20261122--0000{number}.csv"
        one = json.loads(json.dumps(result))
        if number == 2:
            del one["quantities"]["spall_strength"]
        energy = (
            {"laser": {"energy_mJ": 800 + number}}
            if number < 3
            else {"laser": {"energy_mJ": {"value": 0.803, "unit": "J"}}}
        )
        made = records_for_file(
            lab,
            make_facts(path, sha512=str(number) * 128),
            [StoreLink("s3", f"s3://b/{number}")],
            one,
            json.dumps({**sidecar, **energy, "sample": {"igsn": f"IGSN{number}"}}).encode(),
        )
        messages += [value for _, value in made.messages]
    messages += [
        value for _, value in records_for_file(lab, make_facts("log.txt"), [StoreLink("s3", "s3://b/l")]).messages
    ]
    return [*messages, messages[0], b""]


def test_the_rules_find_what_is_known_about_the_published_models(cake: str, strehlow: str) -> None:
    of_cake = lint.lint(read.merge(read.iter_records([cake])))
    assert [item.rule for item in of_cake] == ["specified", "specified"]
    assert lint.lint(read.merge(read.iter_records([strehlow]))) == []


@pytest.mark.parametrize(("model", "count"), [("cake", 139), ("strehlow", 726)])
def test_published_models_pass_through_all_readers(
    model: str, count: int, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    text = request.getfixturevalue(model)
    objects = read.merge(read.iter_records([text]))
    assert len(objects) == count
    graph = read.to_networkx(objects)
    assert graph.number_of_nodes() == count and networkx.is_directed_acyclic_graph(graph)
    networkx.write_graphml(graph, tmp_path / "graph.graphml")
    table = read.to_dataframe(objects)
    assert len(table) == sum(item["type"] == "measurement_run" for item in objects)
    paths = read.explode(objects, tmp_path / "thin")
    assert len(set(paths)) == count
    again = read.merge(read.iter_records(tmp_path / "thin"))
    assert again == objects
    loaded = read.load(objects)
    assert {type(item).__name__ for item in loaded} and len(loaded) == count
    ours = {next(iter(item.uids.items())): item for item in loaded}
    for item in gemd.util.flatten(gemd.json.loads(text)):
        mine = gemd.util.substitute_links(ours[next(iter(item.uids.items()))])
        assert dict(mine.uids.items()) == dict(item.uids.items()) and mine.name == item.name


def test_messages_become_one_connected_graph(shots: list[bytes]) -> None:
    objects = read.merge(read.iter_records(shots))
    assert lint.lint(objects) == []
    graph = read.to_networkx(objects)
    assert networkx.is_directed_acyclic_graph(graph)
    types = networkx.get_node_attributes(graph, "type")
    analyses = [item for item in objects if "openmsi.record::analysis" in (item.get("tags") or [])]
    assert len(analyses) == 3
    for item in analyses:
        reached = [types[node] for node in networkx.descendants(graph, item["uids"]["auto"])]
        assert reached.count("measurement_run") == 1  # the raw file's record
        assert {"material_run", "measurement_spec", "measurement_template", "property_template"} <= set(reached)


def test_the_table_has_one_row_per_shot_with_units_in_the_columns(shots: list[bytes]) -> None:
    table = read.to_dataframe(read.merge(read.iter_records(shots)))
    assert len(table) == 4
    rows = table.set_index("name")
    one = rows.loc["PDV trace 20261122-00001"]
    assert (one["Peak velocity [m/s]"], one["Peak velocity std [m/s]"]) == (746.2183, 3.1)
    assert one["Spall strength [GPa]"] == 0.917
    assert pandas.isna(rows.loc["PDV trace 20261122-00002", "Spall strength [GPa]"])
    # A value that came in joule stands in the same column, in the same unit.
    assert list(rows["Drive laser energy [mJ]"].dropna()) == [801.0, 802.0, 803.0]
    assert one["sample lab.sample_id"] == "HTM-0001" and one["shot"] == "20261122-00001"
    assert one["url"] == "s3://b/1" and one["class"] == "spall"
    assert list(table.columns[:4]) == ["name", "shot", "class", "date"]


def test_gemd_loads_the_merged_objects_as_one_model(shots: list[bytes]) -> None:
    objects = read.merge(read.iter_records(shots))
    runs = [item for item in read.load(objects) if item.typ == "measurement_run"]
    samples = {id(item.material): item.material for item in runs}
    assert sorted(len(item.measurements) for item in samples.values()) == [1, 2, 2, 2]


def test_shuffled_messages_give_the_same_objects(shots: list[bytes]) -> None:
    straight = read.merge(read.iter_records(shots))
    assert read.merge(read.iter_records(shots[::-1])) == straight
    context = [item for record in read.iter_records(shots) for item in record["context"]]
    assert read.merge([{"context": context[::-1]}]) == straight


def test_a_real_sample_replaces_the_stub_whatever_comes_first(shots: list[bytes]) -> None:
    sample = {
        "context": [
            {"type": "process_spec", "name": "Casting", "uids": {"lims": "ps"}},
            {"type": "material_spec", "name": "Alloy", "uids": {"lims": "ms"}, "process": link("lims", "ps")},
            {"type": "process_run", "name": "Casting", "uids": {"lims": "pr"}, "spec": link("lims", "ps")},
            {
                "type": "material_run",
                "name": "Alloy 7",
                "uids": {"auto": "their-own", "lab.sample_id": "HTM-0001"},
                "spec": link("lims", "ms"),
                "process": link("lims", "pr"),
            },
        ],
        "object": None,
    }
    for records in ([sample, *read.iter_records(shots)], [*read.iter_records(shots), sample]):
        objects = read.merge(records)
        assert lint.lint(objects) == []
        names = [item["name"] for item in objects if item["type"] == "material_run"]
        assert "Alloy 7" in names and "Sample HTM-0001" not in names
        run = next(item for item in read.load(objects) if item.name == "PDV trace 20261122-00001")
        assert run.material.name == "Alloy 7" and run.material.process.name == "Casting"
        assert run.material.uids["igsn"] == "IGSN1"  # what the stub knew is kept


def link(scope: str, identifier: str) -> dict[str, str]:
    return {"type": "link_by_uid", "scope": scope, "id": identifier}


def test_a_linked_sample_is_found_in_another_message(tmp_path: Path, make_facts: Any, shots: list[bytes]) -> None:
    (tmp_path / "lab.toml").write_text(
        "[sample]\nmaterial = 'link'\nidentity = { scope = 'lab.sample_id', from = 'header:sample' }\n"
    )
    linked = Mapping.load(tmp_path / "lab.toml")
    camera = records_for_file(
        linked, make_facts("cam.tif", "camera"), [StoreLink("s3", "s3://b/c")], headers={"sample": "HTM-0001"}
    )
    objects = read.merge(read.iter_records([camera.document, *shots]))
    run = next(item for item in read.load(objects) if item.name == "cam.tif")
    assert run.material.name == "Sample HTM-0001"


def test_the_fuller_revision_wins_whatever_comes_last(lab: Mapping, make_facts: Any, sidecar: dict[str, Any]) -> None:
    bare = records_for_file(lab, make_facts(), []).document
    full = records_for_file(lab, make_facts(), [], sidecar=json.dumps(sidecar).encode()).document
    for order in ([bare, full], [full, bare]):
        run = next(item for item in read.merge(read.iter_records(order)) if item["type"] == "measurement_run")
        assert "openmsi.rev::1" in run["tags"] and run["conditions"]


def test_files_folders_and_lines_are_read_and_rubbish_is_named(tmp_path: Path, shots: list[bytes]) -> None:
    with pytest.raises(RecordError, match="does not exist"):
        list(read.iter_records(tmp_path / "none"))
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.csv.gemd.json").write_bytes(shots[0])
    (tmp_path / "a" / "other.json").write_text("{}")
    assert len(list(read.iter_records(tmp_path))) == 1
    (tmp_path / "all.jsonl").write_bytes(b"\n".join(shots))
    assert len(list(read.iter_records(tmp_path))) == len(shots)  # one file, and all messages but the tombstone
    (tmp_path / "bad.gemd.json").write_text("{")
    with pytest.raises(RecordError, match=r"bad\.gemd\.json"):
        list(read.iter_records(tmp_path))
    for wrong in (b"[1", b"3", b'{"a": 1}'):
        with pytest.raises(RecordError):
            list(read.iter_records([wrong]))
    with pytest.raises(RecordError, match="no uid"):
        read.merge([{"context": [{"type": "process_spec", "name": "x"}]}])


def test_what_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch, shots: list[bytes]) -> None:
    import sys

    objects = read.merge(read.iter_records(shots))
    monkeypatch.setitem(sys.modules, "networkx", None)
    monkeypatch.setitem(sys.modules, "pandas", None)
    for function in (read.to_networkx, read.to_dataframe):
        with pytest.raises(ExtraMissing, match=r"openmsi-streams\[records\]"):
            function(objects)
    assert read.to_rows(objects)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"name": "x" * 129}, "name-long"),
        ({"name": ""}, "name-missing"),
        ({"tags": [str(number) for number in range(101)]}, "tags-many"),
        ({"tags": ["x" * 257]}, "tag-long"),
        ({"uids": {}}, "uid-missing"),
        ({"uids": {str(number): "x" for number in range(9)}}, "uids-many"),
        ({"uids": {"a::b": "x"}}, "scope"),
        ({"uids": {"id": "x"}}, "scope"),
        ({"uids": {"a": "x" * 513}}, "id-long"),
        ({"file_links": [{"filename": "x", "url": None}]}, "file-link"),
        ({"spec": None}, "no-spec"),
        ({"material": None}, "no-material"),
        ({"source": {"performed_date": "11/08/2021"}}, "date"),
        ({"properties": [{"name": "a"}, {"name": "a"}]}, "attribute-twice"),
        (
            {"properties": [{"name": "a", "template": link("x", "t")}, {"name": "b", "template": link("x", "t")}]},
            "template-twice",
        ),
        ({"properties": [{"name": "a", "origin": "specified"}]}, "specified"),
        ({"properties": [{"name": "a", "value": {"type": "normal_real", "std": -1}}]}, "std"),
        ({"properties": [{"name": "a", "value": {"type": "nominal_real", "nominal": float("nan")}}]}, "not-finite"),
        ({"spec": link("auto", "gone")}, "open-link"),
    ],
)
def test_each_rule_is_applied(change: dict[str, Any], rule: str) -> None:
    run: dict[str, Any] = {"type": "measurement_run", "name": "m", "uids": {"auto": "m"}, "spec": link("auto", "s")}
    run["material"] = link("auto", "r")
    rest: list[dict[str, Any]] = [
        {"type": "measurement_spec", "name": "s", "uids": {"auto": "s"}},
        {"type": "process_spec", "name": "p", "uids": {"auto": "p"}},
        {"type": "material_spec", "name": "q", "uids": {"auto": "q"}, "process": link("auto", "p")},
        {"type": "process_run", "name": "o", "uids": {"auto": "o"}, "spec": link("auto", "p")},
        {
            "type": "material_run",
            "name": "r",
            "uids": {"auto": "r"},
            "spec": link("auto", "q"),
            "process": link("auto", "o"),
        },
        {"type": "property_template", "name": "t", "uids": {"x": "t"}},
    ]
    assert lint.lint([run, *rest]) == []
    assert [item.rule for item in lint.lint([{**run, **change}, *rest])] == [rule]


def test_the_square_and_double_uids_are_found() -> None:
    objects: list[dict[str, Any]] = [
        {"type": "process_spec", "name": "p", "uids": {"auto": "p"}},
        {"type": "process_spec", "name": "p2", "uids": {"auto": "p2"}},
        {"type": "material_spec", "name": "q", "uids": {"auto": "q"}, "process": link("auto", "p")},
        {"type": "process_run", "name": "o", "uids": {"auto": "o"}, "spec": link("auto", "p2")},
        {
            "type": "material_run",
            "name": "r",
            "uids": {"auto": "r"},
            "spec": link("auto", "q"),
            "process": link("AUTO", "o"),
        },
        {"type": "process_spec", "name": "p3", "uids": {"auto": "p"}},
    ]
    assert sorted(item.rule for item in lint.lint(objects)) == ["square", "uid-twice"]


def test_the_examples_of_the_record_model_load(request: pytest.FixtureRequest) -> None:
    """The golden records are read by all readers; they are what consumers will have in their stores for years."""
    folder = Path(__file__).parents[2] / "golden" / "gemd"
    objects = read.merge(read.iter_records(folder))
    assert lint.lint(objects) == [] and len(read.to_rows(objects)) == 1
    assert len(read.load(objects)) == len(objects)


def test_values_outside_their_templates_are_found(shots: list[bytes], cake: str, strehlow: str) -> None:
    objects = read.merge(read.iter_records(shots))
    assert out_of_bounds(objects) == []
    for text in (cake, strehlow):
        assert out_of_bounds(read.merge(read.iter_records([text]))) == []
    text = json.dumps(objects)
    for old, new, words in (
        ('"mean": 746.2183', '"mean": 1e9', "allows 0 to 20000"),
        ('"category": "spall"', '"category": "odd"', "is odd, which is not among"),
        ('"units": "byte"', '"units": "meter"', "measure different things"),
        ('"lower_bound": 95', '"lower_bound": -95', "is -95 to 105 millitorr"),
        ('"type": "nominal_real", "units": "byte"', '"type": "nominal_integer"', "wants a real number"),
    ):
        assert old in text
        findings = out_of_bounds(json.loads(text.replace(old, new)))
        assert findings and all(item.rule == "bounds" and words in item.message for item in findings)
