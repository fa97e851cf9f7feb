"""Whatever text a value is: it comes out of a file as it went in."""

from __future__ import annotations

import tempfile
import tomllib
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from openmsi_streams.config import describe, load
from openmsi_streams.errors import ConfigurationError

# Everything that UTF-8 can hold; TOML forbids NUL and other controls only unescaped.
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
# One line of an INI file: no line ends, no blanks at the ends, and no sign that means something at the front.
LINE = st.text(st.characters(min_codepoint=33, max_codepoint=0x2FF, exclude_characters="\x7f\x85\xa0\xad"), min_size=1)


@settings(max_examples=60)
@given(st.dictionaries(TEXT, TEXT | st.integers(-(2**60), 2**60) | st.booleans() | st.lists(TEXT)))
def test_toml_that_is_written_is_read_the_same(table: dict[str, object]) -> None:
    read = tomllib.loads(describe.write_toml({"worker": table}))
    assert read.get("worker", {}) == table


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_are_written_so_that_they_are_read_near_enough(number: float) -> None:
    assert abs(tomllib.loads(f"x = {describe.toml(number)}")["x"] - number) <= 1e-5 * abs(number)


@given(LINE.filter(lambda text: text[0] not in "$@"))
@settings(max_examples=50)
def test_a_legacy_password_is_never_mangled(password: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "lab.config"
        path.write_text(f"[broker]\nbootstrap.servers = a:1\nsasl.password = {password}\n", encoding="utf-8")
        assert load(path, environment={}).broker.options["sasl.password"] == password


@given(st.binary(max_size=300))
@settings(max_examples=100)
def test_any_bytes_as_a_settings_file_give_settings_or_one_error(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name in ("a.toml", "a.config"):
            path = Path(folder) / name
            path.write_bytes(content)
            try:
                load(path, environment={})
            except ConfigurationError as error:
                assert "\n" not in str(error) or name in str(error)
