from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.testing.exact_world import Drawing, Exact, toy_case, toy_episodes, toy_goal
from tests.testing.planted import named

from worldline.planning.costs import Price
from worldline.testing.clauses import breaches


@pytest.mark.parametrize(
    "change",
    [{"discount": 0.5}, {"last_only": True}, {"risk": 0.25}, {"costs": (Price(signal="push", price=1.0),)}],
    ids=str,
)
@pytest.mark.parametrize(
    "clause", ["batch_is_loop", "plan_of_batch", "costs_add_up", "plan_honest", "plan_uses_proposals"]
)
def test_a_goal_may_say_how_costs_add_up(clause: str, change: dict[str, Any]) -> None:
    world = Drawing() if "risk" in change else Exact()
    case = replace(toy_case(world, toy_episodes()[:6]), goal=replace(toy_goal(), **change))
    assert breaches(case, [named("world", clause)]) == []
