from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worldline import formatting as wording
from worldline.stats import Estimate


def plain(text: str) -> str:
    """With ordinary spaces."""
    return text.replace("\u00a0", " ").replace("\u202f", " ")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (1.0, "1"),
        (0.5, "0.500"),
        (12.345, "12.3"),
        (1234.56, "1 235"),
        (1200.0, "1 200"),
        (-0.02, "−0.0200"),
        (1e-6, "1.00e−6"),
        (1.5e8, "1.50e8"),
        (math.nan, "–"),
        (math.inf, "∞"),
        (-math.inf, "−∞"),
    ],
)
def test_numbers(value: float, text: str) -> None:
    assert plain(wording.number(value)) == text


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_every_number_can_be_written(value: float) -> None:
    assert wording.number(value)
    assert wording.percent(value).endswith("%")
    assert wording.tick(value)


@given(st.floats(1e-4, 1e6))
def test_numbers_are_right_to_three_digits(value: float) -> None:
    assert float(wording.number(value).replace("\u202f", "")) == pytest.approx(value, rel=6e-3)


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.0, "0 %"),
        (0.0004, "0 %"),
        (0.985, "98.5 %"),
        (0.9, "90.0 %"),
        (1.0, "100 %"),
        (-0.2, "−20.0 %"),
        (6.4, "640 %"),
    ],
)
def test_shares(share: float, text: str) -> None:
    assert plain(wording.percent(share)) == text


def test_signs_levels_and_intervals() -> None:
    assert plain(wording.percent(0.2, signed=True)) == "+20.0 %"
    assert plain(wording.percent(0.0, signed=True)) == "0 %"
    assert plain(wording.round_percent(0.9)) == "90 %"
    assert plain(wording.between(Estimate(value=0.5, low=-0.01, high=0.753))) == "−1.0 to 75.3 %"


def test_ticks_have_no_needless_zeros() -> None:
    assert [wording.tick(value) for value in (0.001, 0.25, 0.8, 1.0)] == ["0.001", "0.25", "0.8", "1"]


def test_units_and_names() -> None:
    assert plain(wording.quantity(21.5, "degC")) == "21.5 °C"
    assert wording.quantity(0.5, "1") == "0.500"
    assert wording.with_unit("heat", "W/m2") == "heat [W/m²]"
    assert wording.with_unit("count", "?") == "count"
    assert wording.label("action_blind") == "action-blind baseline"
    assert wording.label("air_temperature") == "air temperature"
    assert wording.listing(["a"]) == "a"
    assert wording.listing(["a", "b", "c"]) == "a, b and c"
    assert plain(wording.plural(1, "trajectory")) == "1 trajectory"
    assert plain(wording.plural(2, "trajectory")) == "2 trajectories"


@pytest.mark.parametrize(
    ("steps", "step_s", "text"),
    [
        (8, None, "8 steps"),
        (1, None, "1 step"),
        (8, 1.0, "8 steps"),
        (1, 300.0, "5 min"),
        (72, 300.0, "6 h"),
        (288, 300.0, "24 h"),
    ],
)
def test_spans(steps: int, step_s: float | None, text: str) -> None:
    assert plain(wording.span(steps, step_s)) == text


def test_clocks() -> None:
    assert wording.clock(24, None) == (1.0, "steps")
    assert wording.clock(24, 1.0) == (1.0, "steps")
    assert wording.clock(60, 60.0) == (1.0, "minutes")
    assert wording.clock(288, 300.0) == (300.0 / 3600.0, "hours")
    assert wording.clock(20, 86400.0) == (1.0, "days")


def test_durations() -> None:
    assert [plain(wording.duration(s)) for s in (3.21, 94.0, 252.0, 9000.0)] == ["3.2 s", "94 s", "4 min 12 s", "2.5 h"]
