"""Faults of scores, and goals in other words."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.testing.exact_world import Drawing, Exact, toy_case, toy_episodes, toy_goal
from tests.testing.planted import altered, catches, instead, named, passes, world_case

from worldline.planning.base import Chance
from worldline.planning.costs import Price
from worldline.testing.clauses import breaches

DefaultToleranceOfOneTenth = instead(Exact, tolerance=lambda self, goal: goal.tolerance.get("position", 0.1))


class HidesExogenous(Exact):
    def batched(self, *args, **rest):
        history, push, wind, single = super().batched(*args, **rest)
        return history, push, 0 * wind, single


class PresentOfTheFirstStep(Exact):
    def present(self, history):
        return {**super().present(history), "push": history.actions["push"][:, 0]}


class Turning(Exact):
    """Its position repeats, further out than it ever gets."""

    @property
    def schema(self):
        position, *others = super().schema.signals
        return replace(super().schema, signals=(replace(position, period=50.0), *others))


TargetsTheLongWay = instead(Turning, error=lambda self, values, target: values - target)


class ChanceOfAnotherLevel(Exact):
    def banded(self, rollout, constraint):
        return super().banded(
            rollout,
            Chance(constraint=constraint.constraint, level=0.5) if isinstance(constraint, Chance) else constraint,
        )


ChanceWithoutBands = instead(Exact, calibrated=False, banded=lambda self, rollout, constraint: rollout)


class ForgetsDiscount(Exact):
    def weights(self, goal, horizon):
        return super().weights(replace(goal, discount=1.0), horizon)


class ForgetsLastOnly(Exact):
    def weights(self, goal, horizon):
        return super().weights(replace(goal, last_only=False), horizon)


CostsTheLastOnly = instead(Exact, with_costs=lambda self, steps, costs: steps + costs[-1] if costs else steps)
ForgetsCosts = instead(Exact, with_costs=lambda self, steps, costs: steps)


CLAUSES = ("targets_scale", "rollout_is_complete")


test_a_correct_world_passes = passes([Turning], CLAUSES, world_case)

WORLD_FAULTS = [
    (altered(Exact, "ShuffledScores", total=np.sort), "scores_each_plan", "another order of plans"),
    (
        altered(Exact, "ForgetsConstraints", violations=lambda found: 0 * found),
        "scores_each_plan",
        "not that of the con",
    ),
    (ForgetsCosts, "costs_add_up", "not the sum of targets and the price of 'push'"),
    (CostsTheLastOnly, "costs_add_up", "not the sum of two costs"),
    (ForgetsDiscount, "costs_add_up", "discount 0.5"),
    (ForgetsLastOnly, "costs_add_up", "last_only"),
    (
        altered(Exact, "ShowsOtherActions", inputs=lambda found: {"push": np.roll(found["push"], 1, axis=1)}),
        "costs_add_up",
        "not the sum of",
    ),
    (altered(Exact, "ToleranceNotSquared", tolerance=np.sqrt), "targets_scale", r"twice the tolerance of 'position'"),
    (DefaultToleranceOfOneTenth, "targets_scale", "'position' by default tolerance costs"),
    (
        altered(Exact, "ShowsTheFirstPlan", samples=lambda path: np.broadcast_to(path[:, :1], path.shape)),
        "rollout_is_complete",
        r"the violation of AtMost\('position'",
    ),
    (
        altered(Exact, "ShowsOneStepLess", samples=lambda path: path[:, :, :, [0, *range(path.shape[3] - 1)]]),
        "rollout_is_complete",
        r"the violation of At(Most|Least)\('position'",
    ),
    (HidesExogenous, "costs_add_up", "the price of 'wind'"),
    (altered(Exact, "ForgetsThePresent", present=lambda _: {}), "rollout_is_complete", r"Change of action 'push'"),
    (PresentOfTheFirstStep, "rollout_is_complete", r"Change of action 'push'"),
    (
        altered(Drawing, "BelowTheMean", samples=lambda path: path - np.ptp(path, 2, keepdims=True) - 0.1),
        "rollout_is_complete",
        r"the violation of At(Most|Least)\('position'.* below that of the mean",
    ),
    (TargetsTheLongWay, "targets_scale", r"a shift of the target of 'position' by one period"),
    (ChanceOfAnotherLevel, "rollout_is_complete", "the violation of AtMost.* with probability 0.8"),
    (ChanceWithoutBands, "rollout_is_complete", "Chance without bands: expected UnsupportedError"),
]


@pytest.mark.parametrize(
    "change",
    [{"discount": 0.5}, {"last_only": True}, {"risk": 0.25}, {"costs": (Price(signal="push", price=1.0),)}],
    ids=str,
)
def test_a_goal_may_say_how_costs_add_up(change: dict[str, Any]) -> None:
    names = ("batch_is_loop", "plan_of_batch", "costs_add_up", "plan_honest", "plan_uses_proposals")
    world = Drawing() if "risk" in change else Exact()
    case = replace(toy_case(world, toy_episodes()[:6]), goal=replace(toy_goal(), **change))
    assert breaches(case, [named("world", name) for name in names]) == []


test_a_planted_fault_is_caught = catches(WORLD_FAULTS, world_case)
