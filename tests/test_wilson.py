from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worldline.errors import InputError
from worldline.stats import wilson


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        # Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (29, 29, 0.8830, 1.0000),
    ],
)
def test_agrees_with_published_values(successes: int, trials: int, low: float, high: float) -> None:
    rate = wilson(successes, trials)
    assert (rate.low, rate.high) == pytest.approx((low, high), abs=5e-5)
    assert (rate.successes, rate.trials) == (successes, trials)


@given(trials=st.integers(1, 10**6), data=st.data())
def test_holds_the_share_and_mirrors(trials: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, trials))
    rate, mirrored = wilson(successes, trials), wilson(trials - successes, trials)
    assert 0 <= rate.low <= rate.value <= rate.high <= 1
    assert rate.low < rate.high
    assert rate.low == pytest.approx(1 - mirrored.high, abs=1e-9)


@pytest.mark.parametrize(("successes", "trials"), [(0, 0), (-1, 5), (6, 5)])
def test_refuses_impossible_counts(successes: int, trials: int) -> None:
    with pytest.raises(InputError, match="trials"):
        wilson(successes, trials)


def test_fewer_effective_trials_widen_the_interval() -> None:
    whole, part = wilson(90, 100), wilson(90, 100, effective_trials=20.0)
    assert part.low < whole.low
    assert part.high > whole.high
    assert part.trials == 100
    assert (whole.low, whole.high) == pytest.approx(
        (wilson(90, 100, effective_trials=100.0).low, wilson(90, 100, effective_trials=100.0).high)
    )
