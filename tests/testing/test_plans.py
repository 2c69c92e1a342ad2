from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from tests.testing.exact_world import Exact, toy_case, toy_episodes

from worldline.episode import Episode
from worldline.errors import UnsupportedError
from worldline.testing.plans import plan_in_time, plan_needs_actions, plan_of_batch, plan_uses_proposals, trust_agrees
from worldline.testing.world_case import WorldCase
from worldline.world.base import PlanStatus


class NothingInTime(Exact):
    """Where there is no time there is no plan."""

    def plan(self, *args, **rest):
        found = super().plan(*args, **rest)
        return replace(found, actions={"push": found.actions["push"][:0]}) if rest.get("budget_s") else found


class InfeasibleForWantOfTime(Exact):
    def plan(self, *args, **rest):
        found = super().plan(*args, **rest)
        return replace(found, status=PlanStatus.INFEASIBLE) if rest.get("budget_s") else found


class ExcusesItself(Exact):
    def plan(self, *args, **rest):
        found = super().plan(*args, **rest)
        return replace(found, reason="there was no time.") if rest.get("budget_s") else found


class AStaleCost(Exact):
    """That of an earlier plan."""

    def plan(self, *args, **rest):
        found = super().plan(*args, **rest)
        return replace(found, cost=found.cost + 1.0) if rest.get("budget_s") else found


class OutsideInTime(Exact):
    def plan(self, *args, **rest):
        found = super().plan(*args, **rest)
        return replace(found, actions={"push": found.actions["push"] + 2}) if rest.get("budget_s") else found


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


class TrustOfScoresConstant(Exact):
    def score(self, *args, **rest):
        return replace(super().score(*args, **rest), trust=0.99)


class TrustOfPlansConstant(Exact):
    def plan(self, *args, **rest):
        return replace(super().plan(*args, **rest), trust=0.99)


class PlansWithoutHeeding(Exact):
    """It says that actions do not count, and plans all the same."""

    def describe(self):
        return replace(super().describe(), action_conditioned=False)


class RefusesForNoReason(PlansWithoutHeeding):
    def plan(self, *args, **rest):
        raise UnsupportedError("not today. Come again.")


@pytest.fixture(scope="module")
def episodes() -> Sequence[Episode]:
    return toy_episodes()


@pytest.mark.parametrize(
    ("fault", "clause", "seen"),
    [
        (NothingInTime, plan_in_time, r"\[world.plan_budget\] budget 1e-06 s: 'push' has shape \(0, 2\)"),
        (
            InfeasibleForWantOfTime,
            plan_in_time,
            r"\[world.plan_budget\] budget 1e-06 s, no constraint: status infeasible",
        ),
        (ExcusesItself, plan_in_time, r"\[world.plan_budget\] .*the reason 'there was no time.'"),
        (AStaleCost, plan_in_time, r"\[world.plan_budget\] budget 1e-06 s: Plan.cost differs"),
        (OutsideInTime, plan_in_time, r"\[world.plan_budget\] budget 1e-06 s: 'push' is outside"),
        (
            IgnoresProposals,
            plan_uses_proposals,
            r"\[world.plan_proposals\] budget .* the plan costs .* the best proposal costs",
        ),
        (TakesTheFirstProposal, plan_uses_proposals, r"\[world.plan_proposals\] budget None s: the plan costs"),
        (IgnoresProposalsInAHurry, plan_uses_proposals, r"\[world.plan_proposals\] budget 1e-06 s: the plan costs"),
        (StatusOfTheFirst, plan_of_batch, r"\[world.plan_batch\] status converged, reason ''"),
        (OnePlanForAll, plan_of_batch, r"\[world.plan_batch\] the cost of the plan for world 1"),
        (CostOfTheBatch, plan_of_batch, r"\[world.plan_batch\] cost has shape \(\), expected \(2,\)"),
        (PlansWithoutHeeding, plan_needs_actions, r"\[world.plan_counts\] a plan was returned"),
        (
            RefusesForNoReason,
            plan_needs_actions,
            r"\[world.plan_counts\] a plan: the message 'not today.*' names none of",
        ),
        (TrustOfScoresConstant, trust_agrees, r"\[world.trust_same\] score has another trust than predict"),
        (TrustOfPlansConstant, trust_agrees, r"\[world.trust_same\] plan has another trust than predict"),
    ],
)
def test_a_planted_fault_is_caught(
    fault: type[Exact], clause: Callable[[WorldCase], None], seen: str, episodes: Sequence[Episode]
) -> None:
    clause(toy_case(Exact(), episodes))
    with pytest.raises(AssertionError, match=seen):
        clause(toy_case(fault(), episodes))
