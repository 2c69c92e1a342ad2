from __future__ import annotations

import torch
from tests.planning.planners.toys import Listening, optimum, pushed_cart, solve

from worldline.planning.planners.icem import ImprovedCrossEntropy
from worldline.planning.planners.shooting import Shooting


def test_a_small_budget_beats_random_shooting_of_the_same_size() -> None:
    least, icem = optimum(8)[1], ImprovedCrossEntropy(exponent=0.0)
    excess = []
    for planner in (icem, Shooting(num_candidates=64 + 51 + 40)):
        excess.append(sum(solve(planner, pushed_cart, 2.0, 8, seed).cost.item() - least for seed in range(10)))
    assert excess[0] < 0.6 * excess[1]


def test_populations_shrink_and_hold_some_of_the_elites() -> None:
    cost = Listening(pushed_cart)
    planner = ImprovedCrossEntropy(num_candidates=40, num_elites=10, num_iterations=4, decay=1.5)
    solve(planner, cost, 2.0, 5, proposals=torch.zeros(1, 2, 5, 1))
    assert [asked.shape[1] for asked in cost.asked] == [2 + 40, 3 + 26, 3 + 20, 3 + 20]
    for before, after in zip(cost.asked, cost.asked[1:], strict=False):
        best = before[0, pushed_cart(before).cost[0].argsort()[:3]]
        assert torch.equal(after[0, :3], best)


def test_the_last_population_holds_the_mean() -> None:
    cost = Listening(pushed_cart)
    planner = ImprovedCrossEntropy(
        num_candidates=128, num_elites=16, num_iterations=2, momentum=0.0, kept=0.0, decay=1.0
    )
    solve(planner, cost, 2.0, 3)
    elites = cost.asked[0][0, pushed_cart(cost.asked[0]).cost[0].argsort()[:16]]
    torch.testing.assert_close(cost.asked[1][0, 0], elites.mean(0))
