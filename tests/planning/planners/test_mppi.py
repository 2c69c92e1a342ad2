from __future__ import annotations

import math

import pytest
import torch

from worldline.planning.planners.base import ActionSpace, PlanCosts
from worldline.planning.planners.mppi import PathIntegral
from worldline.planning.planners.population import Population, evaluated


def population(cost: list[float], violation: list[float]) -> Population:
    space = ActionSpace(low=torch.tensor([-1.0]), high=torch.tensor([1.0]))
    value = PlanCosts(cost=torch.tensor([cost]), violation=torch.tensor([violation]).float()[..., None])
    return evaluated(lambda _: value, space, torch.linspace(-1, 1, len(cost)).reshape(1, -1, 1, 1))


def test_weights_by_hand() -> None:
    planner = PathIntegral(temperature=0.5)
    spread = math.sqrt(2 / 3)
    due = [1.0, math.exp(-1 / (0.5 * spread)), math.exp(-2 / (0.5 * spread))]
    assert planner._weight(population([1.0, 2.0, 3.0], [0, 0, 0]))[0] == pytest.approx(due)
    shifted = planner._weight(population([101.0, 102.0, 103.0], [0, 0, 0]))
    assert shifted[0] == pytest.approx(due, rel=1e-4)


def test_what_breaks_a_constraint_counts_only_where_all_do() -> None:
    planner = PathIntegral()
    assert planner._weight(population([5.0, 1.0, 7.0], [0, 2, 0]))[0, 2].item() == 0  # ranked last
    weight = planner._weight(population([5.0, 1.0, 3.0], [3.0, 2.0, 4.0]))[0]
    assert weight[0] == 1
    assert (weight.diff() < 0).all()
