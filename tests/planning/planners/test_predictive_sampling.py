from __future__ import annotations

import pytest
import torch
from tests.planning.planners.toys import Listening, pushed_cart, solve

from worldline.planning.planners.predictive_sampling import PredictiveSampling


def test_noise_is_straight_between_knots() -> None:
    cost = Listening(pushed_cart)
    solve(PredictiveSampling(num_candidates=5, num_iterations=1, deviation=0.01, num_knots=3), cost, 2.0, 9)
    noise = cost.asked[1][0, :, :, 0] - cost.asked[0][0, 0, :, 0]
    bends = noise.diff(n=2).abs()
    assert bends[:, 3].min() > 1e-4  # at the knot in the middle
    assert bends[:, [0, 1, 2, 4, 5, 6]].max() < 1e-5


def test_each_population_varies_the_best_so_far() -> None:
    cost = Listening(pushed_cart)
    solve(PredictiveSampling(num_candidates=200, num_iterations=3, deviation=0.05), cost, 2.0, 4)
    for number in (1, 2, 3):
        seen = torch.cat(cost.asked[:number], 1)
        best = seen[0, pushed_cart(seen).cost[0].argmin()]
        assert cost.asked[number][0].mean(0) == pytest.approx(best, abs=0.06)
