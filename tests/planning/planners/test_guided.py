from __future__ import annotations

import pytest
import torch
from tests.planning.planners.toys import Listening, optimum, pushed_cart, solve

from worldline.planning.planners.cem import CrossEntropy
from worldline.planning.planners.guided import Guided


def test_it_improves_a_good_proposal_with_few_sequences() -> None:
    pushes, least = optimum(8)
    proposals = torch.stack([torch.ones(8), pushes + 0.2])[None, ..., None]
    given = pushed_cart(proposals).cost.min().item()
    excess = []
    for planner in (Guided(), CrossEntropy(num_candidates=32, num_iterations=1)):
        costs = [solve(planner, pushed_cart, 2.0, 8, seed, proposals).cost.item() - least for seed in range(10)]
        assert max(costs) <= given - least
        excess.append(sum(costs))
    assert excess[0] < 0.6 * 10 * (given - least)
    assert excess[0] < 0.8 * excess[1]


def test_it_stays_near_the_best_proposal() -> None:
    cost, proposals = Listening(pushed_cart), torch.tensor([1.0, -0.4])[None, :, None, None].expand(1, 2, 5, 1)
    solve(Guided(num_candidates=200, deviation=0.02), cost, 2.0, 5, proposals=proposals)
    best = proposals[0, pushed_cart(proposals).cost[0].argmin(), 0, 0]
    assert torch.equal(cost.asked[0], proposals)
    assert cost.asked[1].mean().item() == pytest.approx(best.item(), abs=0.02)
    assert cost.asked[1].std().item() == pytest.approx(0.08, rel=0.2)


def test_without_a_proposal_it_searches_the_whole_space() -> None:
    found = solve(Guided(num_candidates=64, num_iterations=4), pushed_cart, 2.0, 4)
    assert found.cost.item() < 1.5 * optimum(4)[1]
