from __future__ import annotations

import numpy as np
import pytest

from worldline.errors import InputError
from worldline.stats import separation, tails


def test_tails_of_a_fair_coin() -> None:
    found = tails(1, 3, 0.5)
    assert found.low == pytest.approx(4 / 8)
    assert found.high == pytest.approx(7 / 8)


def test_tails_after_calibration_are_those_of_split_conformal_prediction() -> None:
    rng, level, num_calibration, trials = np.random.default_rng(0), 0.8, 19, 30
    scores = np.sort(rng.random((20_000, num_calibration)), axis=1)
    edge = scores[:, int(np.ceil(level * (num_calibration + 1))) - 1]
    counts = (rng.random((20_000, trials)) <= edge[:, None]).sum(1)
    for count in (15, 20, 24, 28):
        found = tails(count, trials, level, num_calibration)
        assert found.low == pytest.approx((counts <= count).mean(), abs=0.015)
        assert found.high == pytest.approx((counts >= count).mean(), abs=0.015)


def test_a_level_beyond_the_calibration_covers_everything() -> None:
    assert tails(10, 10, 0.95, 10).high == 1.0
    assert tails(9, 10, 0.95, 10).low == 0.0


def test_impossible_counts_are_refused() -> None:
    with pytest.raises(InputError, match="11 of 10"):
        tails(11, 10, 0.5)


def test_separation_is_the_share_of_ordered_pairs() -> None:
    low, high = np.array([0.0, 1.0]), np.array([1.0, 2.0])
    assert separation(low, high) == pytest.approx(7 / 8)
    assert separation(low, low) == 0.5
