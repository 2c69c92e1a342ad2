"""A planner prefers the pushes that led to a place if its world knows what pushes do."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.audit.carts import Cart, cart, carts, world
from tests.report.test_audit_page import material

from worldline.audit.advice import decide
from worldline.audit.baselines import as_world
from worldline.audit.goal_ranking import check_goals, default_goals, goal_ranking
from worldline.audit.measured import Advice, Audit, GoalRanking
from worldline.audit.run import measure
from worldline.errors import UnknownNameError
from worldline.report.audit_page import render_audit

EPISODES = carts(0, 30)


def ranked(engine: Cart) -> GoalRanking:
    return goal_ranking(as_world(engine), EPISODES, goals=("place",), context=3, horizon=6, seed=0)


def test_the_law_prefers_what_led_to_the_goal_and_its_opposite_prefers_what_did_not() -> None:
    right, deaf, wrong = (ranked(Cart(gain=gain)) for gain in (1.0, 0.0, -1.0))
    assert right.preferred.low > 0.8
    assert deaf.preferred.value == 0.5
    assert wrong.preferred.high < 0.5
    assert (right.steps, right.num_segments, right.num_episodes, right.num_others) == (6, 120, 30, 24)


def test_goals_that_were_not_observed_are_left_out() -> None:
    seen = np.arange(31) != 8  # the goal of the segment that starts with the history
    some = [replace(one, observed={"place": seen}) for one in EPISODES[:4]]
    found = goal_ranking(as_world(Cart()), some, goals=("place",), context=3, horizon=6, seed=0)
    assert found.num_segments == 12
    short = [cart(number, num_steps=6) for number in range(4)]
    assert goal_ranking(as_world(Cart()), short, goals=("place",), context=3, horizon=6, seed=0) is None


def test_only_worlds_that_measure_distances_have_goals_by_default() -> None:
    card = Cart().describe()
    assert default_goals(card) == ()
    assert default_goals(replace(card, abilities=("reaches",))) == ("place",)
    assert default_goals(replace(card, abilities=("reaches",), action_conditioned=False)) == ()
    with pytest.raises(UnknownNameError, match="plase"):
        check_goals(card, ("plase",))


def test_the_verdict_of_a_world_that_plans_depends_on_its_goals() -> None:
    def audited(gain: float) -> Audit:
        asked = replace(material(carts(0, 40)), goals=("place",))
        found = measure(world(Cart(gain=gain)), asked, source=None, seed=0)
        return Audit(world="cart", logs="logs", decision=decide(found), measured=found, facts={})

    right, wrong = audited(1.0), audited(-0.2)
    assert right.decision.advice is not Advice.NO
    assert "to logged goals of place, 6\u00a0steps ahead" in right.decision.reasons[0]
    assert wrong.decision.advice is Advice.NO
    assert any(one.startswith("The world cannot plan to logged goals of place") for one in wrong.decision.reasons)
    assert "Plans to logged goals" in render_audit(right)
