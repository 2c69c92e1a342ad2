from __future__ import annotations

import itertools

import pytest
import torch
from tests.planning.planners.toys import free
from torch import Tensor
from torch.nn.functional import one_hot

from worldline.errors import UnsupportedError
from worldline.planning.planners.base import ActionSpace, CostFunction, PlanCosts, PlannedActions
from worldline.planning.planners.cem import Categorical, CrossEntropy

WAYS = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
SPACE = ActionSpace(low=torch.zeros(4), high=torch.ones(4), choices=((0, 4),))
MIXED = ActionSpace(low=torch.tensor([-1.0, 0, 0, 0]), high=torch.tensor([1.0, 1, 1, 1]), choices=((1, 4),))


def plan(
    cost: CostFunction,
    space: ActionSpace,
    horizon: int,
    *,
    planner: Categorical | None = None,
    proposals: Tensor | None = None,
) -> PlannedActions:
    return (planner or Categorical()).plan(
        cost, space, batch=1, horizon=horizon, proposals=proposals, generator=torch.Generator().manual_seed(0)
    )


def walk(actions: Tensor) -> PlanCosts:
    """A walk in four ways from (0, 0) to (2, 1), round the field (1, 0): the squared distance after each step."""
    place = (actions @ WAYS).cumsum(2)
    away = (place - torch.tensor([2.0, 1.0])).square().sum((2, 3))
    inside = (place == torch.tensor([1.0, 0.0])).all(-1).any(-1, keepdim=True)
    return PlanCosts(cost=away, violation=inside.float())


def test_finds_the_best_of_all_sequences() -> None:
    every = one_hot(torch.tensor(list(itertools.product(range(4), repeat=5))), 4).float()[None]
    value = walk(every)
    least = value.cost[value.violation[..., 0] == 0].min()
    found = plan(walk, SPACE, 5)
    assert (found.cost.item(), found.violation.item()) == (least, 0)
    assert torch.equal(found.actions, one_hot(found.actions.argmax(-1), 4).float())


def test_draws_each_value_as_often_as_it_is_probable() -> None:
    asked: list[Tensor] = []

    def cost(actions: Tensor) -> PlanCosts:
        asked.append(actions)
        return free(-actions[..., 0, 1])

    planner = Categorical(num_candidates=4001, num_iterations=2, num_elites=1500, momentum=0.2)
    plan(cost, SPACE, 2, planner=planner)
    shares = [actions[0, 1:].mean(0) for actions in asked]
    assert shares[0] == pytest.approx(torch.full((2, 4), 0.25), abs=0.03)
    chosen = 1000 / 1500  # the elites that chose value 1 at the first step; the others are any
    due = 0.8 * torch.tensor([(1 - chosen) / 3, chosen, (1 - chosen) / 3, (1 - chosen) / 3]) + 0.2 * 0.25
    assert shares[1][0] == pytest.approx(due, abs=0.06)


def test_choices_beside_numbers() -> None:
    def cost(actions: Tensor) -> PlanCosts:
        aim = actions[..., 1:] @ torch.tensor([-0.5, 0.0, 0.7])
        return free(((actions[..., 0] - aim).square() - actions[..., 3]).sum(-1))

    found = plan(cost, MIXED, 3, planner=Categorical(num_iterations=20))
    assert (found.actions[..., 3] == 1).all()
    assert found.actions[..., 0] == pytest.approx(torch.full((1, 3), 0.7), abs=0.05)


def test_proposals_become_choices() -> None:
    wanted = one_hot(torch.tensor([3, 1, 3, 2, 0, 3, 1, 1]), 4)[None].float()

    def needle(actions: Tensor) -> PlanCosts:
        return free(1 - (actions == wanted[:, None]).all(3).all(2).float())

    assert plan(needle, SPACE, 8, proposals=0.4 * wanted[:, None]).cost.item() == 0


def test_planners_of_numbers_say_who_can_choose() -> None:
    with pytest.raises(UnsupportedError, match=r"components 1 to 3 .* 3 values.*'categorical'"):
        CrossEntropy().plan(walk, MIXED, batch=1, horizon=2, generator=torch.Generator())
