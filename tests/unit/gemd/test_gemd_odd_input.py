"""Whatever a path, a sidecar, a header or a result holds: a valid record comes out, and never an exception."""

from __future__ import annotations

import json
import math
import string
from typing import Any

import gemd.json
import numpy
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from openmsi_streams.errors import RecordError
from openmsi_streams.gemd import ids, lint, read
from openmsi_streams.gemd.emit import FileFacts, StoreLink, records_for_file
from openmsi_streams.gemd.mapping import Mapping
from openmsi_streams.gemd.values import data_unit, make
from openmsi_streams.gemd.vocabulary import Attribute

quick = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)

any_text = st.text(st.characters(), max_size=80)  # lone surrogates and control characters too
leaf = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=True, allow_infinity=True),
    any_text,
    st.sampled_from(["812 mJ", "1e999", "nan", "-0.0", "1_0", "٣", "3 at%", "5 m**9**9**9", "2 (m", "1 9**9**9**9 m"]),
)
tree = st.recursive(
    leaf, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(any_text, inner)), max_leaves=8
)


def check(records: Any, *, rules: bool = True) -> None:
    assert records.messages
    for key, document in records.messages:
        root = gemd.json.loads(document)
        assert root.uids["auto"].encode() == key
        text = json.loads(document, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
        if rules:
            assert [item for item in lint.lint(text["context"]) if item.rule != "file-link"] == []
    gemd.json.loads(records.document)


@quick
@given(
    folder=st.lists(st.text(st.characters(exclude_characters="/"), min_size=1, max_size=60), max_size=5),
    filename=st.text(st.characters(exclude_characters="/"), min_size=1, max_size=300),
    sample=any_text,
    size=st.integers(0, 10**14),
    mtime=st.one_of(st.none(), st.floats(allow_nan=True)),
)
def test_odd_paths_names_and_dates(
    lab: Mapping, folder: list[str], filename: str, sample: str, size: int, mtime: float | None
) -> None:
    path = "/".join([*folder, filename])
    file = FileFacts(
        file_id="0" * 32, topic="t", path=path, filename=filename, sha512="a" * 128, size=size, mtime=mtime
    )
    made = records_for_file(lab, file, [StoreLink("s3", "s3://b/" + path)], headers={"igsn": sample})
    check(made)
    assert made == records_for_file(lab, file, [StoreLink("s3", "s3://b/" + path)], headers={"igsn": sample})
    assert not any("record_error" in flag for flag in made.flags)


@quick
@given(content=st.dictionaries(st.sampled_from(["laser", "chamber", "scope", "operator", "grant", "sample"]), tree))
def test_odd_sidecars(lab: Mapping, make_facts: Any, content: dict[str, Any]) -> None:
    laser = content.get("laser")
    content["laser"] = {"energy_mJ": laser, "energy_sd_mJ": content.get("scope")}
    content["scope"] = {"rate_Hz": content.get("scope")}
    made = records_for_file(lab, make_facts(), [StoreLink("s3", "s3://b/x")], sidecar=json.dumps(content).encode())
    check(made)
    assert not any("record_error" in flag for flag in made.flags)


@quick
@given(data=st.binary(max_size=400))
def test_sidecars_of_noise(lab: Mapping, make_facts: Any, data: bytes) -> None:
    check(records_for_file(lab, make_facts(), [StoreLink("s3", "s3://b/x")], sidecar=data))


@quick
@given(
    values=st.dictionaries(
        st.sampled_from(["peak_velocity", "spall_strength", "strain_rate", "start_time", "new"]), tree
    ),
    sigma=leaf,
    unit=st.sampled_from(
        ["m/s", "GPa", "Pa", "1/s", "s", "", "kg", "blorp", "m**9**9**9**9", "3 m", "x" * 99, "degC", "dBm"]
    ),
    kind=st.one_of(st.sampled_from(["spall", "no_shot", "unreadable"]), leaf),
)
def test_odd_results(
    plain: Mapping, make_facts: Any, result: dict[str, Any], values: dict[str, Any], sigma: Any, unit: str, kind: Any
) -> None:
    given_values = {key: {"value": value, "unit": unit, "sigma": sigma} for key, value in values.items()}
    given_values["hel_stress"] = values.get("new")  # not a table at all
    made = records_for_file(
        plain, make_facts(), [StoreLink("s3", "s3://b/x")], {**result, "quantities": given_values, "class": kind}
    )
    check(made)
    assert not any("record_error" in flag for flag in made.flags)


@pytest.mark.parametrize(
    "number",
    [numpy.float32(1.5), numpy.float64(1.5), numpy.int64(2), numpy.array(1.5), numpy.float64("nan"), numpy.bool_(True)],
)
def test_numpy_numbers(plain: Mapping, make_facts: Any, result: dict[str, Any], number: Any) -> None:
    result["quantities"] = {"peak_velocity": {"value": number, "unit": "m/s", "sigma": numpy.float32(0.5)}}
    check(records_for_file(plain, make_facts(), [StoreLink("s3", "s3://b/x")], result))


@quick
@given(value=st.floats(), std=st.floats(), factor=st.sampled_from(["m/s", "km/s", "um/ns", "mm/us"]))
def test_a_made_value_is_finite_and_within_its_limits(plain: Mapping, value: float, std: float, factor: str) -> None:
    attribute: Attribute = plain.vocabulary.attributes["property", "Peak velocity"]
    made = make(attribute, {"value": value, "unit": factor, "sigma": std})
    if made.value is None:
        assert made.problem in ("missing", "out_of_bounds")
    else:
        mean = made.value.get("mean", made.value.get("nominal"))
        assert 0 <= mean <= 2e4
        assert math.isfinite(made.value.get("std", 0)) and made.value.get("std", 0) >= 0


@quick
@given(text=any_text, limit=st.integers(20, 256))
def test_clipped_text_fits_and_differs(text: str, limit: int) -> None:
    clipped = ids.clip(text, limit)
    assert len(clipped.encode()) <= limit
    longer = text + "x" * limit
    assert ids.clip(longer + "1", limit) != ids.clip(longer + "2", limit)


@quick
@given(parts=st.lists(st.text(string.printable + "\0", max_size=5), min_size=1, max_size=3))
def test_what_identifies_differs_so_the_uid_differs(plain: Mapping, parts: list[str]) -> None:
    joined = ids.uid(plain.space, "k", *parts)
    assert joined == ids.uid(plain.space, "k", *parts)
    assert joined != ids.uid(plain.space, "k", *parts, "")
    assert joined != ids.uid(plain.space, "j", *parts)


@quick
@given(order=st.permutations(range(6)))
def test_merging_does_not_depend_on_the_order(
    lab: Mapping, plain: Mapping, make_facts: Any, result: dict[str, Any], order: list[int]
) -> None:
    made = [records_for_file(lab, make_facts(f"x/{number}.csv"), [], headers={"igsn": "S"}) for number in range(4)]
    made += [records_for_file(plain, make_facts(f"x/{number}.csv"), [], result) for number in range(2)]
    documents = [read.merge(read.iter_records([value for _, value in item.messages])) for item in made]
    straight = read.merge({"context": item} for item in documents)
    mixed = read.merge({"context": documents[place]} for place in order)
    assert straight == mixed


@pytest.mark.parametrize(
    "unit", ["m/s", "kg/m^3", "kg / m ** 3", "1/s", "J cm^-2", "%", "°C", "dBm", "µm", "degree_Celsius", "m^0.5"]
)
def test_units_that_people_write_with_data_are_plain(unit: str) -> None:
    assert data_unit(f" {unit} ") == unit


@pytest.mark.parametrize(
    "unit", ["m**9**9", "(m)", "3 m", "m^99", "m;s", "m\n/s" * 20, "2", "m**-", "__import__('os')"]
)
def test_expressions_are_not_worked_out(unit: str) -> None:
    with pytest.raises(RecordError):
        data_unit(unit)
