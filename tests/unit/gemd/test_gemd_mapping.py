"""A mapping with a mistake is refused before start, with a message that says where and what to do."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

import pytest

from openmsi_streams.errors import RecordError
from openmsi_streams.gemd import extract, ids, sources
from openmsi_streams.gemd.emit import records_for_file
from openmsi_streams.gemd.mapping import Mapping
from openmsi_streams.gemd.vocabulary import Vocabulary, shipped


def load(tmp_path: Path, text: str) -> Mapping:
    path = tmp_path / "lab.toml"
    path.write_text(textwrap.dedent(text), "utf-8")
    return Mapping.load(path)


MAP = "[[map]]\nid = 'a'\npath = '(?P<n>.*)'\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("not toml", "is not TOML"),
        ("[gmed]", r"\[gmed\] is unknown"),
        ("[gemd]\nname_space = 'x'", "name_space"),
        ("[gemd]\nembed = 'fat'", "embed"),
        ("[gemd]\nvocabulary = 'none_such'", "laser_shock"),
        ("[gemd]\nurls = { s3 = '{bucket}' }", "bucket"),
        ("[property]\nx = { min = 0, max = 1, unit = 'blorp' }", "blorp"),
        ("[property]\nx = { min = 0, max = 1, unit = 'GS/s' }", "siemens"),
        ("[property]\nx = { min = 0, max = 1, unit = 'GH' }", "henry"),
        ("[property]\nx = { min = 0, max = 1, unit = 'A_it' }", "ampere"),
        ("[property]\nx = { min = 0, max = 1, unit = 'at%' }", "atmosphere"),
        ("[property]\nx = { min = 0, max = 1, unit = 'mol%' }", "mole"),
        ("[property]\nx = { min = 0, max = 1, unit = 'px' }", "pixel"),
        ("[property]\nx = { min = 0, max = 1, unit = 'kg', base = 'm/s' }", "does not measure what"),
        ("[property]\nx = { min = 1, max = 0, unit = 'm' }", "in order"),
        ("[property]\nx = { min = 0, max = inf, unit = 'm' }", "finite"),
        ("[property]\nx = { unit = 'm' }", "min and max"),
        ("[property]\nx = { min = 0, max = 1 }", "exactly one"),
        ("[property]\nx = { choices = [] }", "text = true"),
        ("[property]\nx = { choices = ['a'], integer = true }", "exactly one"),
        ("[property]\nx = { text = true, colour = 'red' }", "colour"),
        ("[property]\n'' = { text = true }", "1 to 120 bytes"),
        ("[measurement.M]\nproperties = ['Peak velocty']", "Peak velocity"),
        ("[material.M]\nparameters = ['File size']", "no parameters"),
        (MAP.replace("(?P<n>.*)", "("), "regular expression"),
        (MAP + "measurement = 'PDV tarce'", "PDV trace"),
        (MAP + "name = '{m}'", "{m}"),
        (MAP + "name = '{n!r}'", "unknown"),
        (MAP + "name = '{n'", "expected '}'"),
        (MAP + "sidecar = ['{dir}/{steam}.json']", "steam"),
        (MAP + "extract = 'none'", "lecroy"),
        (MAP + "extract = 'os:nothing'", "cannot be loaded"),
        (MAP + "extract = 'os:sep'", "not a function"),
        (MAP + "analyses = ['XRD']", "PDV spall analysis"),
        (MAP + "[map.attributes]\n'Peak velocty' = { value = 1 }", "Peak velocity"),
        (MAP + "[map.attributes]\n'File size' = { from = 'path:m', unit = 'byte' }", "no group 'm'"),
        (MAP + "[map.attributes]\n'File size' = { from = 'sidecar', unit = 'byte' }", "no source"),
        (MAP + "[map.attributes]\n'File size' = { from = 'sidecar:a', unit = 'm' }", "different things"),
        (MAP + "[map.attributes]\n'File size' = { unit = 'byte' }", "either from or value"),
        (MAP + "[map.attributes]\n'File size' = { value = 1, origin = 'specified' }", "settings"),
        (MAP + "[map.attributes]\n'File size' = { value = 1, resolution = 0 }", "above 0"),
        (MAP + "[map.attributes]\n'Chunk count' = { value = 1, unit = 'm' }", "real numbers"),
        (MAP + "[map.settings]\n'File size' = { value = -1, unit = 'byte' }", "out_of_bounds"),
        (MAP + "[map.settings]\n'File size' = { from = 'sidecar:a' }", "constant"),
        (MAP + "[map.tags]\n'openmsi.topic' = 'path:n'", "ours"),
        (MAP + "[map.sample]\nmaterial = 'link'\nalso = {}", "identity"),
        (MAP + "[map.sample]\nidentity = { scope = 'abc', from = 'path:n' }", "sort after"),
        (MAP + "[map.sample]\nidentity = { scope = 'id', from = 'path:n' }", "cannot be used"),
        (MAP + "[map.sample]\nidentity = { scope = 'x::y', from = 'path:n' }", "cannot be used"),
        (MAP + MAP, "two"),
        ("[analysis.X]\nprogram = 'x'", "measurement"),
        ("[analysis.'PDV spall analysis'.properties]\n'File size' = { key = 'a' }", "parameter"),
        (
            "[analysis.'PDV spall analysis'.properties]\n'Spall strength' = { key = 'a', unit = 'm' }",
            "different things",
        ),
    ],
)
def test_a_mistake_is_refused_and_named(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(RecordError, match=words):
        load(tmp_path, text)


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="cannot be read"):
        Mapping.load(tmp_path / "none.toml")


def test_templates_are_addressed_by_content(tmp_path: Path) -> None:
    text = "[property]\n'Colour' = {{ min = 0, max = {}, unit = 'nm' }}\n[measurement.M]\nproperties = ['Colour']\n"
    one, same, other = (load(tmp_path, text.format(limit)) for limit in (700, 700.0, 800))
    key = ("property", "Colour")
    assert one.vocabulary.attributes[key].uid == same.vocabulary.attributes[key].uid  # type: ignore[index]
    assert one.vocabulary.attributes[key].uid != other.vocabulary.attributes[key].uid  # type: ignore[index]
    template = ("measurement", "M")
    assert one.vocabulary.templates[template].uid != other.vocabulary.templates[template].uid  # type: ignore[index]


def test_another_namespace_gives_other_uids(tmp_path: Path, make_facts: Any) -> None:
    one = load(tmp_path, "[gemd]\nnamespace = 'https://one.example'")
    two = load(tmp_path, "[gemd]\nnamespace = 'https://two.example'")
    assert records_for_file(one, make_facts(), []).file_uid != records_for_file(two, make_facts(), []).file_uid


def test_the_first_entry_that_fits_is_used_and_others_are_generic_or_skipped(tmp_path: Path, make_facts: Any) -> None:
    text = "[[map]]\nid = 'one'\ntopic = 'a-*'\npath = 'x'\n[[map]]\nid = 'two'\npath = 'y'\n"
    lab = load(tmp_path, text)

    def used(topic: str, path: str) -> str:
        found = lab.match(topic, path)
        return found[0].id if found else ""

    assert [used("a-1", "xy"), used("b", "xy"), used("b", "z")] == ["one", "two", "generic"]
    skipping = load(tmp_path, "[gemd]\nunmatched = 'skip'\n" + text)
    made = records_for_file(skipping, make_facts("z", "b"), [])
    assert (made.messages, made.document, made.flags) == ([], b"", [])


def test_sidecar_paths_come_nearest_first_and_never_the_file_itself(lab: Mapping) -> None:
    folder = "2026/11/22/HTM-0042"
    path = f"{folder}/F2--20261122--00025.csv"
    assert lab.sidecar_paths("lasershock-pdv", path) == [
        f"{folder}/F2--20261122--00025.json",
        f"{folder}/F2--20261122--00025.toml",
        f"{folder}/metadata.json",
    ]
    assert lab.sidecar_paths("lasershock-pdv", "other.csv") == []
    assert lab.wants_bytes("lasershock-pdv", path) and not lab.wants_bytes("lasershock-pdv", "other.csv")


def test_values_come_from_the_first_source_that_has_one() -> None:
    written = ["header:A", "sidecar:x.1.y", "path:g", "extract:E"]
    places = sources.parse(written, "here", ["g"])
    facts = sources.Facts({"a": ""}, {"x": [0, {"y": None}]}, {"g": None}, {"E": 5})
    assert sources.look_up(places, facts) == 5
    facts.sidecar = {"x": [0, {"y": 7}]}
    assert sources.look_up(places, facts) == 7
    assert sources.dig({"a.b": 1}, "a.b") == 1
    assert sources.dig({"a": 1}, "a.b") is None


def test_path_fields() -> None:
    assert sources.path_fields("t", "a/b/c.tar.gz")["stem"] == "c.tar"
    assert sources.path_fields("t", ".hidden")["stem"] == ".hidden"
    assert sources.path_fields("t", "x")["dir"] == ""


def test_the_shared_sample_rule_may_name_groups_of_some_paths_only(tmp_path: Path, make_facts: Any) -> None:
    lab = load(
        tmp_path,
        """
        [sample]
        identity = { scope = "lab.sample_id", from = ["path:sample", "header:sample"] }
        [[map]]
        id = "with"
        path = '^(?P<sample>S\\d+)/'
        """,
    )
    with_group = records_for_file(lab, make_facts("S7/x.csv"), [])
    without = records_for_file(lab, make_facts("x.csv"), [], headers={"sample": "S7"})
    assert with_group.sample_uid == without.sample_uid != ""


def test_settings_become_the_spec(tmp_path: Path, make_facts: Any) -> None:
    lab = load(
        tmp_path, MAP + "measurement = 'PDV trace'\n[map.settings]\n'Laser wavelength' = { value = 1550, unit = 'nm' }"
    )
    document = records_for_file(lab, make_facts(), []).document
    assert b'"origin":"specified"' in document and b'"nominal":1550.0' in document


def test_urls_can_be_given_by_the_laboratory(tmp_path: Path, make_facts: Any, stores: Any) -> None:
    lab = load(tmp_path, "[gemd]\nurls = { disk = 'https://files.example/{topic}/{path}' }")
    document = records_for_file(lab, make_facts("a b/ü.csv"), stores[:1]).document
    assert b"https://files.example/lasershock-pdv/a%20b/%C3%BC.csv" in document and b"file:///" not in document


def test_a_laboratorys_own_extractor_is_used_and_may_fail(tmp_path: Path, make_facts: Any) -> None:
    text = (
        MAP
        + "measurement = 'PDV trace'\nextract = 'json:loads'\n"
        + "[map.attributes]\n'Sampling rate' = { from = 'extract:r', unit = 'Hz' }"
    )
    lab = load(tmp_path, text)
    extracted = lab.extract("t", "p", b'{"r": 5e9}')
    assert b"5000000000.0" in records_for_file(lab, make_facts(), [], extracted=extracted).document
    assert lab.extract("t", "p", b"{") == {}


def test_lecroy_text_header() -> None:
    head = (
        "LECROYWR640Zi,21234,Waveform\nSegments,1,SegmentSize,5\nSegment,TrigTime,TimeSinceSegment1\n"
        "#1,29-May-2021 10:11:12,0\nTime,Ampl\n-1e-8,0.1\n-0.9875e-8,0.2\n-0.975e-8,0.1\n-0.9625e-8,"
    )
    found = extract.lecroy(head.encode())
    assert found["sampling_rate"] == pytest.approx(8e9, rel=1e-3) and found["points"] == 5
    assert found["trigger_time"] == "29-May-2021 10:11:12"
    assert extract.lecroy(b"") == {} and extract.lecroy(b"Time,Ampl\n1,2\n") == {}


def test_lecroy_binary_header() -> None:
    import struct

    for order, mark in (("<", 1), (">", 0)):
        block = bytearray(346)
        block[0:8] = b"WAVEDESC"
        struct.pack_into(order + "hh", block, 32, 1, mark)
        block[76:88] = b"LECROYWR64Xi"
        struct.pack_into(order + "i", block, 116, 502)
        struct.pack_into(order + "f", block, 156, 1e-6)
        struct.pack_into(order + "f", block, 176, 1e-10)
        struct.pack_into(order + "dbbbbh", block, 296, 12.5, 11, 10, 29, 5, 2021)
        found = extract.lecroy(b"#9000000346" + bytes(block))
        assert found == {
            "scope": "LECROYWR64Xi",
            "points": 502,
            "sample_interval": 1e-10,
            "sampling_rate": 1e10,
            "vertical_range": pytest.approx(0.065536),
            "trigger_time": "2021-05-29T10:11:12",
        }
    assert extract.run(extract.lecroy, b"WAVEDESC short") == {}


def test_xrd_headers() -> None:
    text = b'; Anode = Cu\n# Scan rate: 2.5\n*MEAS_COND_XG_VOLTAGE "40"\n10.00 123\n20.0 = 3\n'
    assert extract.header_lines(text) == {"Anode": "Cu", "Scan rate": 2.5, "MEAS_COND_XG_VOLTAGE": 40}


def test_shipped_vocabularies_load_and_every_unit_measures_what_it_says() -> None:
    for name in ("base", "laser_shock"):
        made = Vocabulary.build([shipped("base"), shipped(name)], ids.namespace("x"))
        assert all(
            line.base or line.read_as in ("integer", "choice", "composition", "text") for line in made.unit_report()
        )


def test_the_laser_shock_vocabulary_is_whole() -> None:
    """126 attributes and 26 object templates, as the laboratory's model has them."""
    table = shipped("laser-shock")[1]
    assert {kind: len(table[kind]) for kind in ("property", "parameter", "condition")} == {
        "property": 37,
        "parameter": 52,
        "condition": 37,
    }
    assert {kind: len(table[kind]) for kind in ("material", "process", "measurement")} == {
        "material": 9,
        "process": 16,
        "measurement": 1,
    }


def test_results_of_another_program_are_mapped_as_the_manual_shows(tmp_path: Path, make_facts: Any) -> None:
    """The blocks of docs/records.md are read from there, so the manual cannot be wrong about them."""
    page = (Path(__file__).parents[3] / "docs" / "records.md").read_text("utf-8")
    block = next(part.split("```")[0] for part in page.split("```toml\n")[1:] if part.startswith("[analysis"))
    lab = load(tmp_path, block)
    result = {
        "Spall Strength": 9.17e8,
        "Spall Strength Uncertainty": 2.1e7,
        "provenance": {"version": "1.8.0", "settings": {"lam": 1.547461e-06}},
    }
    made = records_for_file(lab, make_facts(), [], result)
    run = json.loads(made.messages[1][1])["context"]
    assert run[-1]["properties"][0]["value"] == {
        "mean": 0.917,
        "std": 0.021,
        "type": "normal_real",
        "units": "gigapascal",
    }
    spec = next(item for item in run if item["type"] == "measurement_spec")
    assert spec["parameters"][0]["value"] == {"nominal": 1547.461, "type": "nominal_real", "units": "nanometer"}
    assert "openmsi.software::alpss::1.8.0" in run[-1]["tags"]


def test_sidecars_are_recognised_and_found(lab: Mapping) -> None:
    folder = "2026/11/22/HTM-0042"
    path = f"{folder}/F2--20261122--00025.csv"
    for sidecar in lab.sidecar_paths("lasershock-pdv", path):
        assert lab.may_be_sidecar("lasershock-pdv", sidecar)
    assert lab.may_be_sidecar("lasershock-pdv", "metadata.json")
    assert not lab.may_be_sidecar("lasershock-pdv", path) and not lab.may_be_sidecar("xrd-1", "metadata.json")
    there = {
        f"{folder}/F2--20261122--00025.json": b'{"laser": {"energy_mJ": 812}}',
        f"{folder}/metadata.json": b'{"operator": "op", "laser": {"energy_mJ": 1, "energy_sd_mJ": 9}}',
    }
    found = lab.find_sidecar("lasershock-pdv", path, there.get)
    assert found is not None
    assert json.loads(found) == {"operator": "op", "laser": {"energy_mJ": 812, "energy_sd_mJ": 9}}
    there[f"{folder}/metadata.json"] = b"broken"
    assert lab.find_sidecar("lasershock-pdv", path, there.get) == there[f"{folder}/F2--20261122--00025.json"]
    assert lab.find_sidecar("lasershock-pdv", path, {}.get) is None
