from __future__ import annotations

import pytest
import torch
from torch import Tensor

from worldline.errors import UnsupportedError
from worldline.planning.planners.base import ActionSpace, PlanCosts, PlannedActions
from worldline.planning.planners.first_proposal import FirstProposal

SPACE = ActionSpace(low=torch.tensor([-1.0]), high=torch.tensor([1.0]))


def plan(proposals: Tensor | None) -> PlannedActions:
    def cost(actions: Tensor) -> PlanCosts:
        assert actions.shape[1] == 1
        return PlanCosts(cost=actions.square().sum((2, 3)), violation=torch.ones(2, 1, 1))

    return FirstProposal().plan(cost, SPACE, batch=2, horizon=3, proposals=proposals, generator=torch.Generator())


def test_returns_the_first_proposal_inside_the_bounds_however_good_the_others_are() -> None:
    proposals = torch.tensor([5.0, 0.0])[None, :, None, None].expand(2, 2, 3, 1)
    found = plan(proposals)
    assert torch.equal(found.actions, torch.ones(2, 3, 1))
    assert found.cost.tolist() == [3.0, 3.0]
    assert found.violation.tolist() == [[1.0], [1.0]]
    assert found.num_evaluated == 1
    assert found.finished


def test_needs_a_proposal() -> None:
    with pytest.raises(UnsupportedError, match="needs a proposal"):
        plan(None)
