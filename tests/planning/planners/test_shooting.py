from __future__ import annotations

import pytest
import torch
from torch import Tensor

from worldline.planning.planners.base import ActionSpace, PlanCosts
from worldline.planning.planners.shooting import Shooting

SPACE = ActionSpace(low=torch.tensor([1.0]), high=torch.tensor([3.0]))


def plan(planner: Shooting, asked: list[Tensor], proposals: Tensor | None = None) -> Tensor:
    def cost(actions: Tensor) -> PlanCosts:
        asked.append(actions)
        value = actions.sum((2, 3))
        return PlanCosts(cost=value, violation=value.new_zeros(*value.shape, 0))

    generator = torch.Generator().manual_seed(0)
    found = planner.plan(cost, SPACE, batch=2, horizon=3, proposals=proposals, generator=generator)
    assert found.num_evaluated == sum(actions.shape[1] for actions in asked)
    return found.actions


def test_draws_evenly_from_the_whole_range() -> None:
    asked: list[Tensor] = []
    plan(Shooting(num_candidates=3000, chunk=3000), asked)
    shares = (asked[0] - 1) / 2
    assert shares.mean().item() == pytest.approx(0.5, abs=0.02)
    assert shares.std().item() == pytest.approx(12**-0.5, abs=0.02)


def test_chunks_bound_what_is_costed_at_once() -> None:
    asked: list[Tensor] = []
    plan(Shooting(num_candidates=10, chunk=4), asked, proposals=torch.ones(2, 3, 3, 1))
    assert [actions.shape[1] for actions in asked] == [3 + 4, 4, 2]
