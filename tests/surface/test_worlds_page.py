"""The page of what each world can do is what they answer."""

from __future__ import annotations

import re

import pytest
import torch
from tests.planning.planners.toys import free, solve
from tests.surface.worlds_shown import PAGE, SHOWN, page
from torch import Tensor

from worldline.planning.planners.base import PlanCosts, Planner
from worldline.registry import load, names


def test_the_page_is_what_the_worlds_say() -> None:
    pytest.importorskip("transformers")  # the family 'features' needs an encoder
    assert PAGE.read_text() == page(), "run `python -m tests.surface.worlds_shown`"


def test_every_family_and_engine_is_on_the_page() -> None:
    shown = " ".join(SHOWN)
    for name in {*names("model"), *names("engine")} - {"learned"}:
        assert f"`{name}`" in shown


def differentiates(planner: Planner) -> bool:
    asked = []

    def cost(actions: Tensor) -> PlanCosts:
        asked.append(actions.requires_grad)
        return free(actions.square().sum((2, 3)))

    solve(planner, cost, bound=1.0, horizon=2, proposals=torch.zeros(1, 1, 2, 1))
    return any(asked)


def test_the_gradient_planners_of_the_page_are_those_that_differentiate_the_cost() -> None:
    (line,) = (line for line in PAGE.read_text().splitlines() if line.startswith("* **Gradient planner"))
    assert set(re.findall("`(.*?)`", line)) == {n for n in names("planner") if differentiates(load("planner", n)())}
