from __future__ import annotations

import pytest
import torch
from tests.planning.planners.toys import Listening, free, solve
from torch import Tensor

from worldline.planning.planners.base import PlanCosts
from worldline.planning.planners.cem import CrossEntropy
from worldline.planning.planners.lagrangian import AugmentedLagrangian


def thin(actions: Tensor) -> PlanCosts:
    """Six numbers, each 1 away from 0 at best, in turns up and down; but they may only add up to 0.02 at most."""
    numbers = actions[..., 0]
    aim = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0, -1.0])
    violation = (numbers.sum(-1, keepdim=True).abs() - 0.02).clamp(min=0)
    return PlanCosts(cost=(numbers - aim).square().sum(-1), violation=violation)


def test_it_finds_the_way_along_a_thin_set_where_sorting_by_violation_is_stuck() -> None:
    planners = AugmentedLagrangian(search=CrossEntropy(num_iterations=4)), CrossEntropy(num_iterations=21)
    found = [[solve(planner, thin, 2.0, 6, seed) for seed in range(5)] for planner in planners]
    assert found[0][0].num_evaluated <= found[1][0].num_evaluated
    assert all(plan.violation.item() == 0 for plans in found for plan in plans)
    costs = [torch.stack([plan.cost for plan in plans]) for plans in found]
    assert costs[0].max() < 0.5
    assert costs[1].min() > 3


def test_where_nothing_is_allowed_the_least_violation_is_returned() -> None:
    def never(actions: Tensor) -> PlanCosts:
        total = actions.sum((2, 3))
        return PlanCosts(cost=-total, violation=(total[..., None] + 10).clamp(min=0))

    found = solve(AugmentedLagrangian(), never, 1.0, 3)
    assert found.violation.item() == pytest.approx(7.0, abs=1e-3)


def test_rules_have_a_price_where_nothing_else_costs() -> None:
    aim = torch.tensor([0.5, -0.5, 0.9, 0.0, -0.9, 0.3])

    def flat(actions: Tensor) -> PlanCosts:
        away = (actions[..., 0] - aim).abs().sum(-1, keepdim=True)
        return PlanCosts(cost=torch.zeros(actions.shape[:2]), violation=(away - 0.3).clamp(min=0))

    for seed in range(3):
        assert solve(AugmentedLagrangian(), flat, 1.0, 6, seed).violation.item() == 0


def test_proposals_are_costed_first_and_rounds_are_counted() -> None:
    cost = Listening(lambda actions: free(actions.square().sum((2, 3))))
    planner = AugmentedLagrangian(search=CrossEntropy(num_candidates=10, num_iterations=2), num_rounds=2, num_probes=3)
    found = solve(planner, cost, 1.0, 2, proposals=torch.full((1, 1, 2, 1), 0.25))
    assert cost.asked[0][0, 0, :, 0].tolist() == [0.25, 0.25]
    assert [asked.shape[1] for asked in cost.asked] == [1 + 3, 1 + 10, 10, 1, 2 + 10, 10]
    assert found.num_evaluated == 48
    assert found.cost.item() <= 0.125
