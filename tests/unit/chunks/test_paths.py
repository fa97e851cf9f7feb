"""No path of a message is used before it is checked: what passes stays below the root and can exist everywhere."""

from __future__ import annotations

from pathlib import PurePosixPath, PureWindowsPath

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from openmsi_streams.chunks.paths import relative_path, shown, with_append
from openmsi_streams.chunks.reasons import Reason, Unusable

TEXT = st.text(st.characters() | st.sampled_from("./\\:~ \0\n"), max_size=30)


@pytest.mark.parametrize(
    ("filename", "subdir", "path"),
    [
        ("a.dat", "", "a.dat"),
        ("a.dat", ".", "a.dat"),
        ("a.dat", "b/c", "b/c/a.dat"),
        ("échantillon 2.csv", "run 07", "run 07/échantillon 2.csv"),
        (".hidden", "", ".hidden"),
        ("tag#1 & 2 (copy) +50%.txt", "", "tag#1 & 2 (copy) +50%.txt"),
        ("console.txt", "auxiliary", "auxiliary/console.txt"),
        ("..a", "...b", "...b/..a"),
        ("x", "a/.partial", "a/.partial/x"),
    ],
)
def test_names_of_a_laboratory_pass(filename: str, subdir: str, path: str) -> None:
    assert relative_path(filename, subdir) == path


@pytest.mark.parametrize(
    ("filename", "subdir"),
    [
        ("", ""), (".", ""), ("..", ""), ("../x", ""), ("x/y", ""), ("x\\y", ""), ("x", ".."), ("x", "a/../.."),
        ("x", "/"), ("x", "/etc"), ("x", "a//b"), ("x", "a/"), ("x", "C:"), ("C:x", ""), ("x\0", ""), ("x\n", ""),
        ("x ", ""), ("x.", ""), ("con", ""), ("NUL.txt", ""), ("com1", "a"), ("lpt9.dat", ""), ("x", "aux"),
        ("x?", ""), ("x|y", ""), ("x", ".partial"), ("x", ".partial/a"), ("\ud800", ""), ("n" * 241, ""),
        ("é" * 121, ""), ("x", "/".join(["d" * 200] * 5)), ("x\x7f", ""), ("x\x85", ""),
    ],
)  # fmt: skip
def test_what_would_leave_the_root_or_cannot_exist_everywhere_is_refused(filename: str, subdir: str) -> None:
    with pytest.raises(Unusable) as caught:
        relative_path(filename, subdir)
    assert caught.value.reason is Reason.UNSAFE_PATH
    assert str(caught.value).isprintable(), "a hostile name must not reach a terminal as it is"


@given(TEXT, TEXT, TEXT)
@example("x", "..", "")
@example(".", "", "/..")
def test_whatever_passes_stays_below_the_root(filename: str, subdir: str, append: str) -> None:
    try:
        path = relative_path(filename, subdir, append)
    except Unusable:
        return
    for kind in (PurePosixPath, PureWindowsPath):
        whole = kind(path)
        assert not whole.is_absolute() and not whole.drive and ".." not in whole.parts
        assert "/".join(whole.parts) == path
    assert 0 < len(path.encode()) <= 900


@pytest.mark.parametrize(
    ("name", "rebuilt"),
    [("a.txt", "a_skimmed.txt"), ("a.b.txt", "a.b_skimmed.txt"), ("plain", "plain_skimmed"), (".rc", ".rc_skimmed")],
)
def test_the_appended_text_goes_before_the_last_suffix_as_openmsistream_does(name: str, rebuilt: str) -> None:
    assert with_append(name, "_skimmed") == rebuilt
    assert with_append(name, "") == name


def test_a_path_in_a_message_is_escaped_and_cut() -> None:
    assert shown("a\x1b[31m") == r"'a\x1b[31m'"
    assert len(shown("x" * 1000)) == 120
