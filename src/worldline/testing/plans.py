"""Clauses on `World.plan`: bounds, cost, status, budget, proposals, refusals and batches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from operator import itemgetter
from typing import Final

import numpy as np

from worldline.data.windows import ForecastWindows
from worldline.planning.base import Constraint
from worldline.planning.costs import AtMost
from worldline.testing.cases import WorldCase, one_plan
from worldline.testing.clauses import clause
from worldline.testing.comparing import equal, existing, has_shape, holds, inside_bounds, lacks, map_arrays
from worldline.testing.goals import rules_of
from worldline.world.base import Plan, PlanStatus

TINY_S: Final = 1e-6
"""A budget that is too short for any search."""


def _plans(case: WorldCase) -> bool:
    """Whether plans differ: `plan_needs_actions` checks other worlds."""
    return case.card.action_conditioned


@clause("world", "World.plan, budget_s; reproducible, and cheaper than sequences from the logs", applies=_plans)
def plan_honest(case: WorldCase) -> None:
    """A plan is inside the bounds, reproducible, and cheaper than the log, and states its true cost.

    Without time for a search there is still a complete plan, and its status states how the search ended.
    """
    for world in (0, case.windows().num_worlds - 1):
        query = case.query(world)
        plan, again, hurried = case.plan(query), case.plan(query), case.plan(query, budget_s=TINY_S)
        _check_plan(case, query, plan)
        costs = case.score(query, case.plans(world)).cost
        problem = f"the plan costs {float(plan.cost):.4g}, but sequences from the log cost {costs.mean():.4g}"
        holds(float(plan.cost) <= costs.mean() + case.tolerance * abs(costs.mean()) + 1e-9, problem)
        equal(again.actions, plan.actions, "equal seeds gave different plans")
        unfinished = hurried.status not in (PlanStatus.INFEASIBLE, PlanStatus.REFUSED)
        holds(unfinished, f"budget {TINY_S} s, no constraint: status {hurried.status.value}")
        _check_plan(case, query, hurried, what=f"budget {TINY_S} s: ")


@clause("world", "World.plan(pending=...) and Plan.prediction; both include the pending actions", applies=_plans)
def plan_after_pending(case: WorldCase) -> None:
    """The plan follows the pending actions; its cost and its expected path include them."""
    query, pending = case.query(), map_arrays(case.query().actions, itemgetter(slice(1)))
    plan = case.plan(query, horizon=case.horizon - 1, pending=pending)
    for signal in case.card.schema.actions:
        has_shape(repr(signal.name), plan.actions[signal.name], (case.horizon - 1, *signal.shape))
    actions = {name: np.concatenate([value, plan.actions[name]]) for name, value in pending.items()}
    cost = case.score(query, one_plan(actions)).cost[0]
    case.equal(plan.cost, cost, "the cost is not that of the whole sequence")
    prediction = case.predict(replace(query, actions=actions))
    expected = prediction.signals
    if case.card.deterministic:
        trust = np.nan_to_num([plan.trust, prediction.trust], nan=-1.0)
        case.equal(trust[0], trust[1], "plan has another trust than predict")
    for name, forecast in existing(plan.prediction, "the plan has no prediction").signals.items():
        has_shape(f"the path of {name!r}", forecast.mean, expected[name].mean.shape)
        if case.card.deterministic:
            case.equal(forecast.mean, expected[name].mean, f"the path of {name!r} is not the prediction under the plan")


@clause("world", "Plan.status and reason; infeasible if and only if violated", applies=_plans)
def plan_constrained(case: WorldCase) -> None:
    """The status states whether constraints hold; an impossible one makes the plan infeasible."""
    query = case.query()
    rules, _ = rules_of(case, case.plans())
    if not rules:
        return
    kept, never = rules[:1], rules[1:]
    for name in case.vectors[:1]:
        # The bound restricts one component to what the log reaches; the others are free.
        reached = case.means(query)[name]
        kept.append(AtMost(signal=name, bound=(float(reached[-1, 0]), *[math.inf] * (reached.shape[1] - 1))))
    _check_plan(case, query, case.plan(query, constraints=kept), kept)
    plan = case.plan(query, constraints=never)
    _check_plan(case, query, plan, never)
    problem = f"status {plan.status.value} with a constraint that cannot hold, expected infeasible"
    holds(plan.status is PlanStatus.INFEASIBLE, problem)


@clause("world", "World.plan, min_trust; refused below it, with a reason and without actions", applies=_plans)
def plan_refuses(case: WorldCase) -> None:
    """A plan is refused, with a reason and without actions, if and only if trust is below `min_trust`."""
    trust = np.asarray(case.predict(case.windows()).trust)
    query, least = case.query(int(trust.argmin())), float(trust.min())
    if np.isnan(least) or least >= 1.0:
        return
    plan = case.plan(query, min_trust=(least + 1) / 2)
    problem = f"status {plan.status.value} for trust {least:.3g} and min_trust {(least + 1) / 2:.3g}, not refused"
    holds(plan.status is PlanStatus.REFUSED, problem)
    empty = not any(len(value) for value in plan.actions.values())
    holds(bool(plan.reason) and empty, f"the plan is refused, with actions or without a reason: {plan.reason!r}")
    allowed = case.plan(query, min_trust=least / 2)
    # The path of a plan may be trusted less than the history.
    enough = float(np.min(allowed.trust)) >= least / 2
    problem = f"status {allowed.status.value} for trust {allowed.trust:.3g} and min_trust {least / 2:.3g}"
    holds((allowed.status is PlanStatus.REFUSED) != enough, problem)


@clause("world", "World.plan, proposals; the plan is never worse than these", applies=_plans)
def plan_uses_proposals(case: WorldCase) -> None:
    """A plan costs at most as much as the best proposal, with and without time for a search."""
    for world in range(min(2, case.windows().num_worlds)):
        query = case.query(world)
        good = [one_plan(case.plan(query, seed=case.seed + 1 + number).actions) for number in range(2)]
        parts = [case.plans(world, 2), *good]
        proposals = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        least = float(case.score(query, proposals).cost.min())
        for budget_s in (None, TINY_S):
            cost = float(case.plan(query, proposals=proposals, budget_s=budget_s).cost)
            problem = f"budget {budget_s} s: the plan costs {cost:.6g}, but the best proposal costs {least:.6g}"
            holds(cost <= least + 1e-5 * abs(least) + 1e-9, problem)


@clause("world", "Plan of W worlds; actions [W, T, *shape], one status, the worst of all", applies=_plans)
def plan_of_batch(case: WorldCase) -> None:
    """Plans of W worlds have a leading axis, cost the same as alone, and share the worst status."""
    windows, chosen, rules = case.windows(), [0, 1], list[Constraint]()
    for name in case.vectors[:1]:
        first = case.means(windows)[name][:, 0, 0]
        chosen = [int(first.argmin()), int(first.argmax())]
        # A bound on the first component that the first of the two worlds satisfies easily, the second hardly.
        bound = (float(first[chosen].mean()), *[math.inf] * (case.card.schema[name].size - 1))
        rules = [AtMost(signal=name, bound=bound)]
    two = windows.select(chosen)
    plan = case.plan(two, case.batch_goal(2), constraints=rules)
    has_shape("cost", plan.cost, (2,))
    for world in range(2):
        alone = map_arrays(replace(plan, prediction=None, schema=None), itemgetter(world))
        _check_plan(case, map_arrays(two, itemgetter(world)), alone, rules, what=f"world {world} of a batch: ")
    _check_status(plan)


@clause("world", "Card.action_conditioned and World.plan; UnsupportedError if actions have no effect")
def plan_needs_actions(case: WorldCase) -> None:
    """A world that is not action-conditioned raises UnsupportedError from `plan`: all plans would be equal."""
    if _plans(case):
        return
    refused = lacks("a plan", partial(case.plan, case.query()), "action-conditioned")
    holds(refused, "a plan was returned, but the card states that the world is not action-conditioned")


def _check_plan(
    case: WorldCase, query: ForecastWindows, plan: Plan, constraints: Sequence[Constraint] = (), what: str = ""
) -> None:
    """Raises BreachError if bounds, cost, violation or status of a plan are wrong."""
    holds(plan.elapsed_s >= 0, f"elapsed_s is {plan.elapsed_s}")
    for signal in case.card.schema.actions:
        has_shape(f"{what}{signal.name!r}", plan.actions[signal.name], (case.horizon, *signal.shape))
        inside_bounds(signal, plan.actions[signal.name], what)
    scores = case.score(query, one_plan(plan.actions), constraints=constraints)
    case.equal(plan.cost, scores.cost[0], f"{what}Plan.cost differs from World.score")
    case.equal(plan.violation, scores.violation[0], f"{what}Plan.violation differs from World.score")
    if not what.startswith("world"):  # a batch has one status
        _check_status(plan)


def _check_status(plan: Plan) -> None:
    """Raises BreachError unless the status is that of the worst world."""
    violates = bool(np.any(plan.violation > 0))
    problem = f"status {plan.status.value}, reason {plan.reason!r}, violations {np.asarray(plan.violation).tolist()}"
    holds((plan.status is PlanStatus.INFEASIBLE) == violates, problem)
    holds(bool(plan.reason) == (violates or plan.status is PlanStatus.GOAL_OUTSIDE_LOGS), problem)
