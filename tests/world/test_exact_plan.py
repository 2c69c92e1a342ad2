"""Plans over a world that is linear in the actions. The toy is position' = 0.9 position + push, per component."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.world.wrapped import Wrapped

from worldline.engines.base import Card, EngineBelief, Samples
from worldline.episode import Future, History
from worldline.planning.base import Chance, Constraint, Goal
from worldline.planning.costs import AtLeast, AtMost, Change, KeepOut, Price, Track, Within
from worldline.planning.planners.cem import CrossEntropy
from worldline.world.base import Plan
from worldline.world.local import LocalWorld

HORIZON = 5
PLACES = st.floats(-3, 3).map(lambda place: round(place, 2))
TERMS = (
    Price(signal="push", price=(0.3, -0.2)),
    Change(signal="push", tolerance=0.5),
    Track(signal="position", reference=np.linspace([0, 1], [1, 0], HORIZON), tolerance=0.5),
    Within(signal="position", low=-0.5, high=np.full((HORIZON, 2), 0.25), tolerance=0.3),
)


class Claims(Wrapped):
    """The linear engine, which says so."""

    def describe(self) -> Card:
        return replace(super().describe(), abilities=("linear",))


class Bends(Claims):
    """An engine that claims to be linear and is not."""

    def imagine(self, belief: EngineBelief, future: Future, **rest: Any) -> Samples:
        samples = super().imagine(belief, future, **rest)
        return replace(samples, signals={name: np.tanh(value) for name, value in samples.signals.items()})


@pytest.fixture(scope="module")
def linear(world: LocalWorld) -> LocalWorld:
    return replace(world, engine=Claims(world.engine))


def solved(world: LocalWorld, history: History, goal: Goal, *rules: Constraint, **rest: Any) -> Plan:
    plan = world.plan(history, goal, constraints=rules, horizon=HORIZON, expected=False, **rest)
    assert plan.status.value in ("optimal", "infeasible")
    return plan


def at(*place: float) -> Goal:
    return Goal(targets={"position": np.array(place, np.float32)})


def test_the_optimum_of_a_target(linear: LocalWorld, history: History) -> None:
    plan = solved(linear, history, at(0.5, 0.0))
    # From (1, -1): one push to get there, then what is lost each step.
    np.testing.assert_allclose(plan.actions["push"], [[-0.4, 0.9], *[[0.05, 0]] * (HORIZON - 1)], atol=0.02)
    assert plan.cost == pytest.approx(0, abs=1e-5)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    place=st.tuples(PLACES, PLACES), chosen=st.sets(st.sampled_from(range(len(TERMS)))), bound=st.none() | PLACES,
    discount=st.sampled_from([1.0, 0.7]), last_only=st.booleans(),
)  # fmt: skip
def test_no_search_finds_a_better_plan(
    linear: LocalWorld,
    history: History,
    place: tuple[float, float],
    chosen: set[int],
    bound: float | None,
    discount: float,
    last_only: bool,
) -> None:
    goal = replace(at(*place), costs=[TERMS[i] for i in sorted(chosen)], discount=discount, last_only=last_only)
    rules = [] if bound is None else [AtMost(signal="position", bound=(bound, np.inf))]
    plan = solved(linear, history, goal, *rules)
    thorough = replace(linear, engine=linear.engine.engine, planner=CrossEntropy(num_candidates=256, num_iterations=15))
    other = thorough.plan(history, goal, constraints=rules, horizon=HORIZON, expected=False)
    slack = 1e-3 * (1 + abs(float(other.cost)))
    # One Gauss-Newton step from a poor plan solves the same problem without the claim that the world is linear.
    newton = replace(thorough, planner=CrossEntropy(num_candidates=8, num_iterations=1, num_newton_steps=1))
    stepped = newton.plan(history, goal, constraints=rules, horizon=HORIZON, expected=False)
    np.testing.assert_allclose(stepped.violation, plan.violation, atol=1e-3)
    # It keeps some distance to constraints, and least violations.
    assert plan.violation.any() or stepped.cost <= plan.cost + (30 if rules else 1) * slack
    if plan.violation.sum() < other.violation.sum() - 1e-5:
        return
    np.testing.assert_allclose(plan.violation, other.violation, atol=1e-3)
    assert plan.cost <= other.cost + slack
    assert np.abs(plan.actions["push"]).max() <= 1


def test_the_smallest_violation_comes_before_the_cost(linear: LocalWorld, history: History) -> None:
    # At most 0.9 * 1 - 1 = -0.1 after one step, so -2 is violated by 1.9 there.
    plan = solved(linear, history, at(3.0, 0.5), AtMost(signal="position", bound=(-2.0, np.inf)))
    assert (plan.status.value, plan.violation[0]) == ("infeasible", pytest.approx(1.9, abs=0.03))
    assert plan.actions["push"][0, 0] == pytest.approx(-1, abs=1e-3)
    assert plan.actions["push"][1, 1] == pytest.approx(1, abs=1e-3)  # what is left is spent on the target


def test_a_chance_constraint_keeps_its_margin(linear: LocalWorld, history: History) -> None:
    rule = AtMost(signal="position", bound=0.4)
    plain, careful = (
        float(linear.predict(history, solved(linear, history, at(3, 3), limit).actions).signals["position"].mean.max())
        for limit in (rule, Chance(constraint=rule, level=0.8))
    )
    band = linear.predict(history, {"push": np.zeros((HORIZON, 2), np.float32)}, level=0.8).signals["position"]
    assert band.half_width is not None
    assert plain == pytest.approx(0.4, abs=1e-3)
    assert careful <= 0.4 - float(band.half_width.min()) + 1e-3


def test_pending_actions_and_batches(linear: LocalWorld, histories: History) -> None:
    targets = np.array([[0.5, 0.0], [1.0, 1.0], [0.5, 0.0]], np.float32)
    sent = {"push": np.array([[[1, 0]], [[0, 0]], [[0, -1]]], np.float32)}
    rule = AtLeast(signal="push", bound=-0.6)
    together = solved(linear, histories, Goal(targets={"position": targets}), rule, pending=sent)
    for number in range(3):
        one = histories.map(lambda value, n=number: value[n])
        alone = solved(linear, one, at(*targets[number]), rule, pending={"push": sent["push"][number]})
        np.testing.assert_allclose(together.actions["push"][number], alone.actions["push"], atol=1e-4)


def test_newton_steps_on_a_bent_world(linear: LocalWorld, histories: History) -> None:
    """They find what a long search finds, for each world of a batch."""
    world = replace(linear, engine=Bends(linear.engine.engine))
    goal = Goal(targets={"position": np.array([[0.5, 0.0], [0.3, 0.6], [-0.2, 0.1]], np.float32)})
    costs = list[Any]()
    short, long = CrossEntropy(num_candidates=64, num_iterations=2), CrossEntropy(num_candidates=256, num_iterations=30)
    for planner in (short, replace(short, num_newton_steps=1), replace(short, num_newton_steps=4), long):
        plan = replace(world, planner=planner).plan(histories, goal, horizon=HORIZON, expected=False)
        costs.append(plan.cost)
        assert plan.status.value == "searched"
    assert (costs[1] < costs[0]).all()
    assert (costs[2] < costs[3] + 1e-3).all()


def test_newton_steps_without_time_are_left_out(linear: LocalWorld, history: History) -> None:
    planner = CrossEntropy(num_candidates=8, num_iterations=1, num_newton_steps=100)
    world = replace(linear, engine=linear.engine.engine, planner=planner)
    plan = world.plan(history, at(0.5, 0.0), horizon=HORIZON, expected=False, budget_s=0.01)
    assert plan.status.value == "out_of_time"


@pytest.mark.parametrize("rule", [KeepOut(low={"position": 5.0}, high={"position": 6.0}), None])
def test_other_problems_are_searched(linear: LocalWorld, history: History, rule: Constraint | None) -> None:
    """A constraint that is not convex, and a world that is not linear."""
    world = linear if rule else replace(linear, engine=Bends(linear.engine.engine))
    plan = world.plan(history, at(0.5, 0.0), constraints=[rule] if rule else [], horizon=HORIZON, expected=False)
    assert plan.status.value == "searched"
