from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worldline.errors import InputError
from worldline.stats import wilson


@pytest.mark.parametrize(
    ("successes", "trials", "level", "low", "high"),
    [
        # Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3.
        (81, 263, 0.95, 0.2553, 0.3662),
        (15, 148, 0.95, 0.0624, 0.1605),
        (0, 20, 0.95, 0.0000, 0.1611),
        (1, 29, 0.95, 0.0061, 0.1718),
        (29, 29, 0.95, 0.8830, 1.0000),
        (5, 10, 0.90, 0.2693, 0.7307),
    ],
)
def test_agrees_with_published_values(successes: int, trials: int, level: float, low: float, high: float) -> None:
    rate = wilson(successes, trials, level)
    assert (rate.low, rate.high) == pytest.approx((low, high), abs=5e-5)
    assert (rate.successes, rate.trials) == (successes, trials)


@given(trials=st.integers(1, 10**6), data=st.data())
def test_holds_the_share_and_mirrors(trials: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, trials))
    rate, mirrored = wilson(successes, trials), wilson(trials - successes, trials)
    assert 0 <= rate.low <= rate.value <= rate.high <= 1
    assert rate.low < rate.high
    assert rate.low == pytest.approx(1 - mirrored.high, abs=1e-9)


@given(successes=st.integers(0, 50), trials=st.integers(50, 100), levels=st.tuples(*[st.floats(0.01, 0.99)] * 2))
def test_a_higher_level_and_fewer_trials_give_a_wider_interval(
    successes: int, trials: int, levels: tuple[float, float]
) -> None:
    narrow, wide = (wilson(successes, trials, level) for level in sorted(levels))
    assert wide.low <= narrow.low
    assert narrow.high <= wide.high
    more = wilson(4 * successes, 4 * trials, min(levels))
    assert more.high - more.low < narrow.high - narrow.low


@pytest.mark.parametrize(("successes", "trials"), [(0, 0), (-1, 5), (6, 5)])
def test_refuses_impossible_counts(successes: int, trials: int) -> None:
    with pytest.raises(InputError, match="trials"):
        wilson(successes, trials)


@pytest.mark.parametrize("level", [0.0, 1.0, 95.0, float("nan")])
def test_refuses_impossible_levels(level: float) -> None:
    with pytest.raises(InputError, match="level"):
        wilson(1, 2, level)


def test_fewer_effective_trials_widen_the_interval() -> None:
    whole, part = wilson(90, 100), wilson(90, 100, effective_trials=20.0)
    assert part.low < whole.low
    assert part.high > whole.high
    assert part.trials == 100
    assert (whole.low, whole.high) == pytest.approx(
        (wilson(90, 100, effective_trials=100.0).low, wilson(90, 100, effective_trials=100.0).high)
    )


@pytest.mark.parametrize("effective_trials", [0.0, -1.0, float("nan")])
def test_refuses_impossible_effective_trials(effective_trials: float) -> None:
    with pytest.raises(InputError, match="effective_trials"):
        wilson(1, 2, effective_trials=effective_trials)
