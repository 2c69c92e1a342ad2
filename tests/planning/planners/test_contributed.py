"""The planner of CONTRIBUTING.md conforms, and its test passes."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from worldline.planning.planners.base import ActionSpace, PlanCosts

PAGE = Path(__file__).parents[3] / "CONTRIBUTING.md"


def test_the_planner_of_the_contribution_page(monkeypatch: pytest.MonkeyPatch) -> None:
    section = PAGE.read_text().partition("## Adding a planner")[2].partition("\n## ")[0]
    code, check = re.findall(r"^```python\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    module = ModuleType("worldline.planning.planners.shrinking_box")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(code, str(PAGE), "exec", dont_inherit=True), vars(module))  # noqa: S102 (our own page)
    test = dict[str, object]()
    exec(compile(check, str(PAGE), "exec", dont_inherit=True), test)  # noqa: S102 (our own page)
    test["test_it_conforms"]()  # type: ignore[operator]  # the page defined it, with its assertions
    space = ActionSpace(low=torch.tensor([-1.0]), high=torch.tensor([1.0]))
    found = module.ShrinkingBox().plan(
        lambda actions: PlanCosts(
            cost=(actions - 0.5).square().sum((2, 3)), violation=actions.new_zeros(1, actions.shape[1], 0)
        ),
        space,
        batch=1,
        horizon=2,
        generator=torch.Generator().manual_seed(0),
    )
    assert float(found.cost[0]) < 0.05  # 0.5 at the middle of the box
