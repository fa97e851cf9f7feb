"""Object keys can be turned back, and any file fits into 10,000 parts."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openmsi_streams.chunks import ranges as rg
from openmsi_streams.chunks.paths import component_problem
from openmsi_streams.errors import StoreError
from openmsi_streams.storage.keys import MAX_KEY_BYTES, KeyTemplate
from openmsi_streams.storage.parts import MAX_OBJECT, MAX_PART, MAX_PARTS, MIB, Plan, plan_for

TEMPLATES = ["{topic}/{subdir}/{filename}", "{topic}/{path}", "lab 1/{topic}/raw/{subdir}/{filename}", "x-{path}"]
names = st.text(min_size=1, max_size=60).filter(lambda name: not component_problem(name))
paths = st.lists(names, min_size=1, max_size=4).map("/".join)
topics = st.from_regex(r"\A[A-Za-z0-9_-][A-Za-z0-9._-]{0,30}\Z")


@pytest.mark.parametrize("template", TEMPLATES)
@settings(deadline=None)
@given(topic=topics, path=paths)
def test_a_key_gives_topic_and_path_back(template: str, topic: str, path: str) -> None:
    keys = KeyTemplate(template, topic if "{topic}" not in template else "")
    key = keys.key(topic, path)
    assert keys.place(key) == (topic, path)
    assert len(key.encode()) <= MAX_KEY_BYTES
    assert key.startswith(keys.prefix(topic))


@settings(deadline=None)
@given(name=names.map(lambda name: name[:12].rstrip(" .")).filter(lambda name: not component_problem(name)))
def test_a_short_key_needs_no_escape_in_a_url(name: str) -> None:
    key = KeyTemplate(TEMPLATES[0]).key("topic", f"folder/{name}")
    assert re.fullmatch(r"[A-Za-z0-9!_.*'()~/-]+", key)


@settings(deadline=None)
@given(first=paths, second=paths)
def test_two_paths_never_share_a_key(first: str, second: str) -> None:
    keys = KeyTemplate(TEMPLATES[0])
    assert (keys.key("t", first) == keys.key("t", second)) == (first == second)


def test_ordinary_names_stay_as_they_are() -> None:
    keys = KeyTemplate(TEMPLATES[0])
    assert keys.key("pdv", "F2--20210529--00013.txt") == "pdv/F2--20210529--00013.txt"
    assert keys.key("pdv", "run_07/raw/scan(1).tif") == "pdv/run_07/raw/scan(1).tif"
    assert keys.key("pdv", "a b/50%!.txt") == "pdv/a!20b/50!25!21.txt"


def test_long_names_of_other_scripts_fit() -> None:
    keys = KeyTemplate(TEMPLATES[0])
    path = "/".join(["測" * 70] * 4)
    assert len(keys.key("t", path).encode()) <= MAX_KEY_BYTES
    assert keys.place(keys.key("t", path)) == ("t", path)


def test_a_key_that_s3_cannot_take_is_refused_with_a_cure() -> None:
    with pytest.raises(StoreError, match=r"S3 allows 1024.*Shorten"):
        KeyTemplate("p" * 200 + "/{topic}/{path}").key("t", "x/" * 440 + "y")


@pytest.mark.parametrize(
    "template",
    [
        "{topic}",
        "{topic}/{filename}",
        "{subdir}/{filename}",
        "{topic}/{nobody}",
        "{topic}{path}",
        "{topic}/{topic}/{path}",
    ],
)
def test_a_template_that_loses_the_path_is_refused(template: str) -> None:
    with pytest.raises(StoreError, match="template"):
        KeyTemplate(template)


def test_foreign_objects_have_a_place_too_or_none() -> None:
    keys = KeyTemplate("lab/{topic}/{path}")
    assert keys.place("other/thing") is None
    assert keys.place("lab/t/50%!zz") is not None


@pytest.mark.parametrize("base", [5 * MIB, 8 * MIB, 64 * MIB])
def test_ten_thousand_parts_hold_the_largest_object(base: int) -> None:
    plan = Plan(base)
    assert plan.count(MAX_OBJECT) <= MAX_PARTS
    first, last = plan.span(1), plan.span(MAX_PARTS)
    assert first == (0, base)
    assert last[1] - last[0] <= MAX_PART


@settings(deadline=None)
@given(base=st.integers(1, 50), step=st.integers(0, 7), size=st.integers(0, 40_000))
def test_parts_are_contiguous_and_cover_the_file(base: int, step: int, size: int) -> None:
    plan = Plan(base, step)
    count = plan.count(size)
    spans = [plan.span(number, size) for number in range(1, count + 1)]
    assert spans[0][0] == 0
    assert spans[-1][1] == size
    assert all(a[1] == b[0] for a, b in pairwise(spans))
    assert all(end > start for start, end in spans) or size == 0


@settings(deadline=None)
@given(
    st.integers(1, 20),
    st.integers(0, 3),
    st.lists(st.tuples(st.integers(0, 900), st.integers(1, 200)), max_size=8),
    st.booleans(),
)
def test_a_part_is_whole_when_all_its_bytes_are_there(
    base: int, step: int, pieces: list[tuple[int, int]], ended: bool
) -> None:
    ranges: rg.Ranges = ()
    for start, length in pieces:
        ranges = rg.add(ranges, start, start + length)
    plan = Plan(base, step)
    size = ranges[-1] if ended and ranges else None
    reach = ranges[-1] if ranges else 0
    expected = []
    for number in range(1, plan.count(reach + 1) + 1):
        start, end = plan.span(number, size)
        if end > start and rg.covers(ranges, start, end):
            expected.append(number)
    assert plan.whole(ranges, size) == expected


def test_equal_parts_are_equal_and_suffice() -> None:
    plan = plan_for(8 * MIB, None, equal=True)
    assert plan.step == 0
    assert plan.count(MAX_OBJECT) <= MAX_PARTS
    assert plan_for(8 * MIB, 20 << 30, equal=True).base == 8 * MIB
