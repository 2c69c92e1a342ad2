from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from tests.testing.exact_world import Exact
from tests.testing.planted import altered, catches, changed, instead, replacing, with_card, world_case

from worldline.errors import UnsupportedError
from worldline.world.base import Plan, PlanStatus


def planning(*, hurried: bool = False, **fields: Any) -> type[Exact]:
    """A world with other fields in its plans, or only in those with a budget."""

    class Changing(Exact):
        def plan(self, *args, **rest):
            found = super().plan(*args, **rest)
            return found if hurried and not rest.get("budget_s") else changed(found, **fields)

    return Changing


def hurried(**fields: Any) -> type[Exact]:
    return planning(hurried=True, **fields)


IgnoresActions = with_card(Exact, action_conditioned=False)


def searched(found: Plan) -> PlanStatus:
    return PlanStatus.SEARCHED if found.status is PlanStatus.INFEASIBLE else found.status


class PlansAtRandom(Exact):
    def search(self, history, goal, constraints, horizon, exogenous, seed, *rest):
        return -np.sign(goal.targets["position"]) * np.ones((horizon, 2))


class PlansUnseeded(Exact):
    def search(self, history, goal, constraints, horizon, exogenous, seed, *rest):
        seed = np.random.default_rng().integers(9999)
        return super().search(history, goal, constraints, horizon, exogenous, seed, *rest)


AlwaysRefuses = instead(Exact, refused=lambda self, trust, min_trust: min_trust > 0)


class ForgetsPendingActions(Exact):
    def plan(self, *args, horizon, exogenous=None, pending=None, **rest):
        shown = {name: value[:horizon] for name, value in exogenous.items()}
        return super().plan(*args, horizon=horizon, exogenous=shown, **rest)


class TakesTheFirstProposal(Exact):
    def started(self, proposals, horizon):
        return super().started(proposals, horizon)[:1]


class IgnoresProposalsInAHurry(Exact):
    def search(self, history, goal, constraints, horizon, exogenous, seed, sent, started, num_rounds):
        started = started if num_rounds else 0 * started
        return super().search(history, goal, constraints, horizon, exogenous, seed, sent, started, num_rounds)


class StatusOfTheFirst(Exact):
    def stacked(self, plans):
        return replace(super().stacked(plans), status=plans[0].status, reason=plans[0].reason)


OnePlanForAll = instead(Exact, stacked=lambda self, plans: Exact.stacked(self, [plans[0]] * len(plans)))


class CostOfTheBatch(Exact):
    def stacked(self, plans):
        return replace(super().stacked(plans), cost=float(np.mean([plan.cost for plan in plans])))


class RefusesForNoReason(IgnoresActions):
    def plan(self, *args, **rest):
        raise UnsupportedError("not today. Come again.")


class ExpectsWithoutPending(Exact):
    def expected(self, history, actions, exogenous):
        return super().expected(history, {"push": actions["push"][1:]}, {"wind": exogenous["wind"][1:]})


class ExpectsIdleness(Exact):
    def expected(self, history, actions, exogenous):
        return super().expected(history, {"push": 0 * actions["push"]}, exogenous)


WORLD_FAULTS = [
    (ExpectsWithoutPending, "plan_after_pending", "has shape"),
    (ExpectsIdleness, "plan_after_pending", "is not the prediction under the plan"),
    (planning(prediction=None), "plan_after_pending", "no prediction"),
    (
        hurried(actions=lambda plan: {"push": plan.actions["push"][:0]}),
        "plan_honest",
        r"06 s: 'push' has shape \(0, 2\)",
    ),
    (hurried(status=PlanStatus.INFEASIBLE), "plan_honest", "budget 1e-06 s, no constraint: status infeasible"),
    (hurried(reason="there was no time."), "plan_honest", "reason 'there was no time.'"),
    (hurried(cost=lambda plan: plan.cost + 1.0), "plan_honest", "budget 1e-06 s: Plan.cost differs"),
    (hurried(actions=lambda plan: {"push": plan.actions["push"] + 2}), "plan_honest", "1e-06 s: 'push' is outside"),
    (planning(actions=lambda plan: {"push": 2 * plan.actions["push"]}), "plan_honest", "'push' is outside"),
    (planning(cost=lambda plan: 0.9 * plan.cost), "plan_honest", "Plan.cost differs from World.score"),
    (PlansAtRandom, "plan_honest", "but sequences from the log cost"),
    (PlansUnseeded, "plan_honest", "equal seeds gave different plans"),
    (ForgetsPendingActions, "plan_after_pending", "the cost is not that of the whole sequence"),
    (planning(status=searched, reason=""), "plan_constrained", "status searched"),
    (planning(reason=""), "plan_constrained", "status infeasible, reason ''"),
    (altered(Exact, "NeverRefuses", refused=lambda _: False), "plan_refuses", "not refused"),
    (AlwaysRefuses, "plan_refuses", "status refused for trust"),
    (TakesTheFirstProposal, "plan_uses_proposals", r"budget None s: the plan costs"),
    (IgnoresProposalsInAHurry, "plan_uses_proposals", r"budget 1e-06 s: the plan costs"),
    (StatusOfTheFirst, "plan_of_batch", r"status searched, reason ''"),
    (OnePlanForAll, "plan_of_batch", "world 1 of a batch: Plan.cost differs"),
    (CostOfTheBatch, "plan_of_batch", r"cost has shape \(\), expected \(2,\)"),
    (IgnoresActions, "plan_needs_actions", r"a plan was returned"),
    (RefusesForNoReason, "plan_needs_actions", "a plan: the message 'not today.*' names none of"),
    (replacing(Exact, "score", trust=0.99), "scores_each_plan", "score has another trust than predict"),
    (planning(trust=0.99), "plan_after_pending", "plan has another trust than predict"),
]
test_a_planted_fault_is_caught = catches(WORLD_FAULTS, world_case)
