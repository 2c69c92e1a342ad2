from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from tests.testing.exact_world import Exact
from tests.testing.planted import altered, catches, world_case

from worldline.errors import UnsupportedError
from worldline.testing.plans import (
    plan_after_pending,
    plan_constrained,
    plan_holds_path,
    plan_honest,
    plan_in_time,
    plan_needs_actions,
    plan_of_batch,
    plan_refuses,
    plan_uses_proposals,
    trust_agrees,
)
from worldline.world.base import Plan, PlanStatus


def changing(name: str, change: Callable[[Plan], Plan], *, hurried: bool = False) -> type[Exact]:
    """A world that changes its plans, or only those with a budget."""

    class Changing(Exact):
        def plan(self, *args, **rest):
            found = super().plan(*args, **rest)
            return found if hurried and not rest.get("budget_s") else change(found)

    Changing.__name__ = name
    return Changing


IgnoresActions = altered(Exact, "IgnoresActions", describe=lambda card: replace(card, action_conditioned=False))


def converged(found: Plan) -> Plan:
    status = PlanStatus.CONVERGED if found.status is PlanStatus.INFEASIBLE else found.status
    return replace(found, status=status, reason="")


class PlansAtRandom(Exact):
    def search(self, history, goal, constraints, horizon, exogenous, seed, *rest):
        return -np.sign(goal.targets["position"]) * np.ones((horizon, 2))


class PlansUnseeded(Exact):
    def search(self, history, goal, constraints, horizon, exogenous, seed, *rest):
        seed = np.random.default_rng().integers(9999)
        return super().search(history, goal, constraints, horizon, exogenous, seed, *rest)


class AlwaysRefuses(Exact):
    def refused(self, trust, min_trust):
        return min_trust > 0


class ForgetsPendingActions(Exact):
    def plan(self, *args, horizon, exogenous=None, pending=None, **rest):
        shown = {name: value[:horizon] for name, value in exogenous.items()}
        return super().plan(*args, horizon=horizon, exogenous=shown, **rest)


class IgnoresProposals(Exact):
    def started(self, proposals, horizon):
        return super().started(None, horizon)


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


class OnePlanForAll(Exact):
    def stacked(self, plans):
        return super().stacked([plans[0]] * len(plans))


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
    (ExpectsWithoutPending, plan_holds_path, "has shape"),
    (ExpectsIdleness, plan_holds_path, "is not the prediction under the plan"),
    (changing("NoPath", lambda plan: replace(plan, prediction=None)), plan_holds_path, "no prediction"),
    (
        changing("Nothing", lambda found: replace(found, actions={"push": found.actions["push"][:0]}), hurried=True),
        plan_in_time,
        r"budget 1e-06 s: 'push' has shape \(0, 2\)",
    ),
    (
        changing("Infeasible", lambda found: replace(found, status=PlanStatus.INFEASIBLE), hurried=True),
        plan_in_time,
        "budget 1e-06 s, no constraint: status infeasible",
    ),
    (
        changing("Excuse", lambda found: replace(found, reason="there was no time."), hurried=True),
        plan_in_time,
        "reason 'there was no time.'",
    ),
    (
        changing("StaleCost", lambda found: replace(found, cost=found.cost + 1.0), hurried=True),
        plan_in_time,
        "budget 1e-06 s: Plan.cost differs",
    ),
    (
        changing("Outside", lambda found: replace(found, actions={"push": found.actions["push"] + 2}), hurried=True),
        plan_in_time,
        "budget 1e-06 s: 'push' is outside",
    ),
    (
        changing("PlansOutside", lambda found: replace(found, actions={"push": 2 * found.actions["push"]})),
        plan_honest,
        "'push' is outside",
    ),
    (
        changing("PlanCostLies", lambda found: replace(found, cost=0.9 * found.cost)),
        plan_honest,
        "Plan.cost differs from World.score",
    ),
    (PlansAtRandom, plan_honest, "but sequences from the log cost"),
    (PlansUnseeded, plan_honest, "equal seeds gave different plans"),
    (ForgetsPendingActions, plan_after_pending, "the cost is not that of the whole sequence"),
    (changing("ConvergedThoughInfeasible", converged), plan_constrained, "status converged"),
    (changing("NoReason", lambda found: replace(found, reason="")), plan_constrained, "status infeasible, reason ''"),
    (altered(Exact, "NeverRefuses", refused=lambda _: False), plan_refuses, "not refused"),
    (AlwaysRefuses, plan_refuses, "refused, but trust"),
    (IgnoresProposals, plan_uses_proposals, "budget .* the plan costs .* the best proposal costs"),
    (TakesTheFirstProposal, plan_uses_proposals, r"budget None s: the plan costs"),
    (IgnoresProposalsInAHurry, plan_uses_proposals, r"budget 1e-06 s: the plan costs"),
    (StatusOfTheFirst, plan_of_batch, r"status converged, reason ''"),
    (OnePlanForAll, plan_of_batch, r"the cost of the plan for world 1"),
    (CostOfTheBatch, plan_of_batch, r"cost has shape \(\), expected \(2,\)"),
    (IgnoresActions, plan_needs_actions, r"a plan was returned"),
    (RefusesForNoReason, plan_needs_actions, "a plan: the message 'not today.*' names none of"),
    (
        altered(Exact, "TrustOfScores", score=lambda found: replace(found, trust=0.99)),
        trust_agrees,
        r"score has another trust than predict",
    ),
    (
        altered(Exact, "TrustOfPlans", plan=lambda found: replace(found, trust=0.99)),
        trust_agrees,
        r"plan has another trust than predict",
    ),
]
test_a_planted_fault_is_caught = catches(WORLD_FAULTS, world_case)
