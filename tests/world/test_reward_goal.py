"""Goals with a predicted reward. The toy is position' = 0.9 position + push, per component, without noise."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from tests.world.test_objective import CALM_ORIGIN, Steep

from worldline.engines.base import Card
from worldline.errors import InputError, UnsupportedError
from worldline.planning.base import Goal, Rollout
from worldline.planning.calls import PlanCall, ScoreCall
from worldline.planning.costs import AtMost, Price
from worldline.planning.planners.base import Planner
from worldline.planning.planners.cem import CrossEntropy
from worldline.planning.planners.gradient import GradientPlanner
from worldline.world.local import LocalWorld
from worldline.world.session import Session
from worldline.world.wire import decode, decode_json, encode_call, encode_json_answer

Outcomes = Callable[[torch.Tensor], torch.Tensor]
"""From the position along x [W, N, T] to a reward or a probability, which can be expanded to it."""


class Paid(Steep):
    """The engine in torch, with a reward for the position along x."""

    def __init__(self, reward: Outcomes, termination: Outcomes | None = None, *, linear: bool = False) -> None:
        super().__init__()
        self.reward, self.termination, self.linear = reward, termination, linear

    def describe(self) -> Card:
        card = super().describe()
        return replace(card, abilities=(*card.abilities, "linear")) if self.linear else card

    def rollout(self, *args: Any, **kwargs: Any) -> Rollout:
        found, ends = super().rollout(*args, **kwargs), self.termination
        place = found.signals["position"][..., 0].mean(2)
        return replace(
            found, reward=lambda: self.reward(place), termination=None if ends is None else lambda: ends(place)
        )


def paid(*outcomes: Outcomes, planner: Planner | None = None, linear: bool = False) -> LocalWorld:
    return LocalWorld(Paid(*outcomes, linear=linear), None, planner or CrossEntropy())


def position(place: torch.Tensor) -> torch.Tensor:
    return place


def near_one(place: torch.Tensor) -> torch.Tensor:
    """At most 2, at x = 1."""
    return 2 - (place - 1).square()


def quarter(place: torch.Tensor) -> torch.Tensor:
    return torch.full((1, 1, 1), 0.25)


def path_of(world: LocalWorld, push: np.ndarray) -> np.ndarray:
    return world.predict(CALM_ORIGIN, {"push": push}).signals["position"].mean[:, 0]


REWARD = Goal(reward=True)
PUSHES = {"push": np.array([[[1, 0], [0, 0], [1, 0]], [[0, 1], [0, 0], [0, 0]]], np.float32)}
PLACES = np.array([[1, 0.9, 1.81], [0, 0, 0]])
AT_ONE = Goal(targets={"position": np.array([1.0, 0.0])}, tolerance={"position": 1.0})


@pytest.mark.parametrize("discount", [1.0, 0.5])
def test_the_cost_is_minus_the_discounted_return(discount: float) -> None:
    found = paid(position).score(CALM_ORIGIN, PUSHES, replace(REWARD, discount=discount))
    np.testing.assert_allclose(found.cost, -(PLACES * discount ** np.arange(3)).sum(1), rtol=1e-5)
    assert "the best is 0 at cost −" in repr(found)


def test_termination_cuts_off_later_rewards() -> None:
    """A step that ends the episode still has its reward."""
    found = paid(position, quarter).score(CALM_ORIGIN, PUSHES, replace(REWARD, discount=0.5))
    np.testing.assert_allclose(found.cost, -(PLACES * (0.75 * 0.5) ** np.arange(3)).sum(1), rtol=1e-5)
    np.testing.assert_allclose(found.survival, [0.75**3] * 2, rtol=1e-5)
    ends = paid(position, lambda place: (place > 0.95).float()).score(CALM_ORIGIN, PUSHES, REWARD)
    np.testing.assert_allclose(ends.cost, [-1, 0], rtol=1e-5)
    np.testing.assert_allclose(ends.survival, [0, 1])
    assert paid(position).score(CALM_ORIGIN, PUSHES, REWARD).survival is None


def test_targets_and_costs_are_not_cut_off() -> None:
    goal = replace(AT_ONE, costs=(Price(signal="push", price=1.0),))
    both, rest, reward = (
        paid(position, quarter).score(CALM_ORIGIN, PUSHES, one).cost
        for one in (replace(goal, reward=True), goal, REWARD)
    )
    np.testing.assert_allclose(both, rest + reward, rtol=1e-5)


def test_the_last_step_alone_counts_if_the_episode_goes_on_until_then() -> None:
    found = paid(position, quarter).score(CALM_ORIGIN, PUSHES, replace(REWARD, last_only=True))
    np.testing.assert_allclose(found.cost, -(PLACES[:, 2] * 0.75**2), rtol=1e-5)


@pytest.mark.parametrize("planner", [CrossEntropy(num_iterations=12), GradientPlanner(num_iterations=100)])
@pytest.mark.parametrize("linear", [True, False])
def test_a_plan_maximises_the_reward(planner: Planner, linear: bool) -> None:
    """Also over a linear world, whose plans are exact without a reward."""
    world = paid(near_one, planner=planner, linear=linear)
    plan = world.plan(CALM_ORIGIN, REWARD, horizon=4)
    np.testing.assert_allclose(path_of(world, plan.actions["push"]), 1, atol=0.1)
    assert (plan.status.value, plan.cost) == ("searched", pytest.approx(-8, abs=0.02))
    assert re.search("searched, cost −(8|7.9)", repr(plan))


def test_a_plan_earns_what_it_can_before_the_end() -> None:
    """Beyond 1.5 the episode ends, so it goes there with the last step."""
    free, ending = paid(position), paid(position, lambda place: (20 * (place - 1.5)).sigmoid())
    plans = [world.plan(CALM_ORIGIN, REWARD, horizon=4) for world in (free, ending)]
    greedy, careful = (path_of(free, plan.actions["push"]) for plan in plans)
    np.testing.assert_allclose(greedy, [1, 1.9, 2.71, 3.439], atol=0.1)
    assert careful[:3].max() < 1.5 < careful[3]
    assert plans[1].cost < ending.score(CALM_ORIGIN, {"push": plans[0].actions["push"][None]}, REWARD).cost[0] - 1


def test_a_constraint_comes_before_the_reward() -> None:
    rule = AtMost(signal="position", bound=(0.5, np.inf))
    free, plan = (paid(position).plan(CALM_ORIGIN, REWARD, constraints=rules, horizon=2) for rules in ([], [rule]))
    assert plan.violation.tolist() == [0]
    assert (free.cost, plan.cost) == (pytest.approx(-2.9, abs=0.05), pytest.approx(-1, abs=0.3))


def test_pending_actions_have_their_reward() -> None:
    sent = {"push": np.array([[1, 0]], np.float32)}
    plan = paid(position).plan(CALM_ORIGIN, REWARD, horizon=2, pending=sent)
    assert plan.cost == pytest.approx(-(1 + 1.9 + 2.71), abs=0.05)


def test_a_batch_and_a_session_plan_for_reward() -> None:
    world = paid(near_one)
    plans = world.plan(CALM_ORIGIN.map(lambda value: np.stack([value, value])), REWARD, horizon=3)
    np.testing.assert_allclose(plans.cost, -6, atol=0.05)
    session = Session(world)
    session.observe({"position": np.zeros(2, np.float32)})
    assert session.plan(REWARD, horizon=3).cost == pytest.approx(-6, abs=0.05)


def test_a_world_without_a_reward_head_names_it() -> None:
    world = LocalWorld(Steep(), None, CrossEntropy())
    for goal in (REWARD, replace(AT_ONE, reward=True)):
        with pytest.raises(UnsupportedError, match=r"steep has no reward head, .*logs with a signal of role 'reward'"):
            world.score(CALM_ORIGIN, PUSHES, goal)
        with pytest.raises(UnsupportedError, match="no reward head"):
            world.plan(CALM_ORIGIN, goal, horizon=2)


def test_a_reward_has_no_worst_samples() -> None:
    for goal in (REWARD, replace(AT_ONE, reward=True)):
        with pytest.raises(InputError, match=r"risk is 0\.1, but a predicted reward is a mean .* Set risk to 1"):
            paid(position).score(CALM_ORIGIN, PUSHES, replace(goal, risk=0.1))


def test_messages_hold_the_reward() -> None:
    call = ScoreCall(history=CALM_ORIGIN, actions=PUSHES, goal=replace(AT_ONE, reward=True))
    received = (decode(ScoreCall, "score", encode_call(call)), decode_json(ScoreCall, encode_json_answer(vars(call))))
    for other in received:
        assert other.goal.reward is True
        np.testing.assert_array_equal(paid(position).answer(other).cost, paid(position).answer(call).cost)
    text = b'{"history": {"observations": {"position": [[0, 0]]}, "actions": {}}, "goal": {"reward": %s}, "horizon": 3}'
    assert decode_json(PlanCall, text % b"true").goal == REWARD
    with pytest.raises(InputError, match="reward"):
        decode_json(PlanCall, text % msgspec.json.encode("yes"))
