from __future__ import annotations

import pytest
import torch

from worldline.errors import InputError
from worldline.planning.planners.base import ActionSpace, CostFunction, PlanCosts
from worldline.planning.planners.population import Population, check, evaluated

SPACE = ActionSpace(low=torch.tensor([-1.0]), high=torch.tensor([1.0]))


def table(cost: list[float], violation: list[list[float]]) -> CostFunction:
    """A cost that is looked up by position, whatever the actions."""
    return lambda _: PlanCosts(cost=torch.tensor([cost]), violation=torch.tensor([violation]))


def population(cost: list[float], violation: list[list[float]]) -> Population:
    actions = torch.linspace(-1, 1, len(cost)).reshape(1, -1, 1, 1)
    return evaluated(table(cost, violation), SPACE, actions)


def test_orders_by_total_violation_then_by_cost_then_as_they_came() -> None:
    ranked = population([1.0, 5.0, 4.0, 5.0, 0.0], [[0.5, 0.5], [0, 0], [0, 0.9], [0, 0], [2, 0]])
    assert ranked.cost.tolist() == [[5.0, 5.0, 4.0, 1.0, 0.0]]
    assert ranked.actions.flatten().tolist() == [-0.5, 0.5, 0.0, -1.0, 1.0]


def test_merge_keeps_the_earlier_of_two_equals() -> None:
    first, second = population([1.0], [[0.0]]), population([1.0, 0.5], [[0.0], [0.0]])
    merged = first.merge(second)
    assert merged.cost.tolist() == [[0.5, 1.0, 1.0]]
    assert merged.actions.flatten().tolist() == [1.0, -1.0, -1.0]
    assert merged.first(2).cost.tolist() == [[0.5, 1.0]]


@pytest.mark.parametrize(
    ("low", "high", "batch", "horizon", "proposals", "message"),
    [
        (-torch.inf, 1.0, 1, 1, None, "finite low and high"),
        (2.0, 1.0, 1, 1, None, "low at most high"),
        (0.0, 1.0, 0, 1, None, "at least 1"),
        (0.0, 1.0, 1, 0, None, "at least 1"),
        (0.0, 1.0, 1, 2, torch.zeros(1, 1, 3, 1), r"\(1, 1, 3, 1\).*\(1, 1, 2, 1\)"),
        (0.0, 1.0, 1, 2, torch.zeros(1, 0, 2, 1), "P >= 1"),
        (0.0, 1.0, 1, 2, torch.full((1, 1, 2, 1), torch.nan), "NaN"),
    ],
)
def test_check_refuses_what_cannot_be_searched(
    low: float, high: float, batch: int, horizon: int, proposals: torch.Tensor | None, message: str
) -> None:
    space = ActionSpace(low=torch.tensor([low]), high=torch.tensor([high]))
    with pytest.raises(InputError, match=message):
        check(space, proposals, batch=batch, horizon=horizon)
