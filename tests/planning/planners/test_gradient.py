from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.planning.planners.toys import Listening, free, pushed_cart, solve
from torch import Tensor

from worldline.errors import UnsupportedError
from worldline.planning.planners.base import ActionSpace, PlanCosts
from worldline.planning.planners.gradient import GradientPlanner

LONG = GradientPlanner(num_restarts=2, num_iterations=300, learning_rate=0.05)


def test_restarts_find_the_deeper_of_two_valleys() -> None:
    def cost(actions: Tensor) -> PlanCosts:
        first = actions[..., 0, 0]
        return free((first.square() - 1).square() + 0.3 * first)

    depths = [solve(replace(LONG, num_restarts=count), cost, 2.0, 1, seed=3).cost.item() for count in (1, 8)]
    assert depths[1] == pytest.approx(-0.306, abs=1e-3)
    assert depths[0] >= depths[1]
    shallow = torch.full((1, 1, 1, 1), 1.0)
    assert solve(replace(LONG, num_restarts=8), cost, 2.0, 1, proposals=shallow).cost.item() < 0


def test_steps_stay_inside_and_are_counted() -> None:
    cost = Listening(lambda actions: free((actions - 5).square().sum((2, 3))))
    found = solve(GradientPlanner(num_restarts=3, num_iterations=40), cost, 1.0, 2)
    assert [len(asked[0]) for asked in cost.asked] == 41 * [3]
    assert found.num_evaluated == 41 * 3
    assert max(asked.abs().max().item() for asked in cost.asked) <= 1.0
    assert (found.actions == 1.0).all()


def test_a_sequence_at_its_bound_can_leave_it() -> None:
    """-4 + 1 * (-1.6 + 4) is above -1.6, and a clip has no slope there."""
    space = ActionSpace(low=torch.tensor([-4.0]), high=torch.tensor([-1.6]))
    planner = GradientPlanner(num_restarts=1, num_iterations=100)
    cost = Listening(lambda actions: free((actions + 2.8).square().sum((2, 3))))
    edge = torch.full((1, 1, 1, 1), -1.6)
    planner.plan(cost, space, batch=1, horizon=1, proposals=edge, generator=torch.Generator().manual_seed(0))
    assert cost.asked[-1][0, 0].item() == pytest.approx(-2.8, abs=0.01)


def test_refuses_a_cost_without_gradient() -> None:
    with pytest.raises(UnsupportedError, match="no gradient"):
        solve(GradientPlanner(), lambda actions: pushed_cart(actions.detach()), 1.0, 2)
