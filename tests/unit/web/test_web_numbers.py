"""Values are rounded to what their error bars allow."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openmsi_streams.web.numbers import measured


@pytest.mark.parametrize(
    ("value", "sigma", "unit", "text"),
    [
        (3.4187, 0.1134, "GPa", "3.42 ± 0.11 GPa"),
        (819.391, 2.317, "m/s", "819.4 ± 2.3 m/s"),
        (12345.0, 678.0, "m/s", "12340 ± 680 m/s"),
        (2.38152e6, 31930.0, "1/s", "(2.382 ± 0.032) × 10⁶ 1/s"),
        (1.73343e-8, 3.335e-10, "s", "17.33 ± 0.33 ns"),
        (2.2339842e9, 1138.0, "Hz", "2.2339842 ± 0.0000011 GHz"),
        (1.96e-10, 2.857e-10, "s", "200 ± 290 ps"),
        (58.2, 2.925, "um", "58.2 ± 2.9 µm"),
        (-5.0, 0.0, "GPa", "-5 GPa"),
        (0.0, None, "s", "0 s"),
        (12345678.0, None, "byte", "12345678 byte"),
        (24, None, "", "24"),
        (1.5, float("nan"), "GPa", "1.5 GPa"),
    ],
)
def test_rounding(value: float, sigma: Any, unit: str, text: str) -> None:
    assert measured({"value": value, "sigma": sigma, "unit": unit}) == text


def test_nothing_is_nothing() -> None:
    assert measured(None) == "" and measured({}) == ""


@given(
    st.floats(allow_nan=False, allow_infinity=False),
    st.one_of(st.none(), st.floats()),
    st.sampled_from(["s", "Hz", "m", "GPa", ""]),
)
def test_no_number_is_too_odd(value: float, sigma: float | None, unit: str) -> None:
    assert measured({"value": value, "sigma": sigma, "unit": unit})
