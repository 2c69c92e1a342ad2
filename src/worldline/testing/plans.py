"""Clauses on plans with a time budget, plans from proposals, and plans for a batch of worlds."""

from __future__ import annotations

from functools import partial

import numpy as np

from worldline.episode import Arrays
from worldline.planning.costs import AtMost
from worldline.testing.clauses import Clause, as_float, difference
from worldline.testing.world_case import WorldCase, logged_plans, query_of
from worldline.world.base import Plan, PlanStatus

BUDGET = Clause(name="world.plan_budget", look="World.plan, budget_s; the best plan so far, complete and in bounds")
PROPOSALS = Clause(name="world.plan_proposals", look="World.plan, proposals; the plan is never worse than these")
PLAN_BATCH = Clause(
    name="world.plan_batch", look="Plan of W worlds; actions [W, T, *shape], one status, the worst of all"
)
TRUST_SAME = Clause(name="world.trust_same", look="Scores.trust and Plan.trust; equal Prediction.trust of the history")

PLAN_COUNTS = Clause(
    name="world.plan_counts", look="Card.action_conditioned and World.plan; UnsupportedError if actions have no effect"
)

TINY_S = 1e-6
"""A budget that is too short for any search."""


def plan_in_time(case: WorldCase) -> None:
    """Without time for a search there is still a complete plan, and its status states how the search ended."""
    if not case.card.action_conditioned:
        return
    query = query_of(case.cut(), 0)
    found = case.plan_one(query, budget_s=TINY_S)
    ended = (PlanStatus.CONVERGED, PlanStatus.BUDGET_EXHAUSTED)
    BUDGET.holds(found.status in ended, f"budget {TINY_S} s, no constraint: status {found.status.value}")
    BUDGET.holds(not found.reason, f"status {found.status.value} with the reason {found.reason!r}, expected none")
    for signal in case.card.schema.actions:
        value, expected = as_float(found.actions[signal.name]), (case.horizon, *signal.shape)
        BUDGET.holds(
            value.shape == expected, f"budget {TINY_S} s: {signal.name!r} has shape {value.shape}, not {expected}"
        )
        low, high = np.asarray(signal.low or -np.inf), np.asarray(signal.high or np.inf)
        inside = difference(value, np.clip(value, low, high)) <= 1e-6
        BUDGET.holds(inside, f"budget {TINY_S} s: {signal.name!r} is outside {signal.low} to {signal.high}")
    due_cost = case.score_one(query, {name: value[None] for name, value in found.actions.items()}).cost[0]
    problem = f"budget {TINY_S} s: Plan.cost differs from World.score of its actions"
    BUDGET.equal(found.cost, due_cost, within=case.tolerance, problem=problem)


def plan_uses_proposals(case: WorldCase) -> None:
    """A plan costs at most as much as the best proposal, with and without time for a search."""
    if not case.card.action_conditioned:
        return
    cut = case.cut()
    for world in range(min(2, cut.num_worlds)):
        query = query_of(cut, world)
        good = [case.plan_one(query, seed=case.seed + 1 + number).actions for number in range(2)]
        logged = logged_plans(cut, world, 2, case.seed)
        proposals = {
            name: np.concatenate([value, np.stack([plan[name] for plan in good])]) for name, value in logged.items()
        }
        costs = as_float(case.score_one(query, proposals).cost)
        for budget_s in (None, TINY_S):
            cost = float(case.plan_one(query, proposals=proposals, budget_s=budget_s).cost)
            problem = f"budget {budget_s} s: the plan costs {cost:.6g}, but the best proposal costs {costs.min():.6g}"
            PROPOSALS.holds(cost <= costs.min() + 1e-5 * abs(costs.min()) + 1e-9, problem)


def plan_of_batch(case: WorldCase) -> None:
    """Plans of W worlds have a leading axis, cost the same as alone, and share the worst status."""
    if not case.card.action_conditioned:
        return
    cut = case.cut()
    name = case.vectors[0] if case.vectors else None
    chosen, rules = [0, 1], []
    if name is not None:
        first = as_float(case.predict(cut).signals[name].mean)[:, 0, 0]
        chosen = [int(first.argmin()), int(first.argmax())]
        # A bound on the first component that the first of the two worlds satisfies easily, the second hardly.
        bound = (float(first[chosen].mean()), *(np.inf,) * (case.card.schema[name].size - 1))
        rules = [AtMost(signal=name, bound=bound)]
    query, goal = cut.select(chosen), case.batch_goal(2)
    found = case.world.plan(
        query.history, goal, constraints=rules, horizon=case.horizon, exogenous=query.exogenous or None, seed=case.seed
    )
    for signal in case.card.schema.actions:
        shape, expected = found.actions[signal.name].shape, (2, case.horizon, *signal.shape)
        PLAN_BATCH.holds(shape == expected, f"{signal.name!r} has shape {shape}, expected {expected}")
    for label, value, expected in (("cost", found.cost, (2,)), ("violation", found.violation, (2, len(rules)))):
        shape = np.shape(value)
        PLAN_BATCH.holds(shape == expected, f"{label} has shape {shape}, expected {expected}")
    for world in range(2):
        alone: Arrays = {name: value[world][None] for name, value in found.actions.items()}
        scores = case.score_one(query_of(query, world), alone, constraints=rules)
        for label, batched, alone_value in (
            ("cost", as_float(found.cost)[world], scores.cost[0]),
            ("violation", found.violation[world], scores.violation[0]),
        ):
            problem = f"the {label} of the plan for world {world} of a batch differs from World.score"
            PLAN_BATCH.equal(batched, alone_value, within=case.tolerance, problem=problem)
    _check_status(found)


def trust_agrees(case: WorldCase) -> None:
    """`trust` of scores and plans equals that of predictions from the same history (plans: if deterministic)."""
    query = query_of(case.cut(), 0)
    expected = case.predict_one(query).trust
    trusts = {"score": case.score_one(query, {name: value[None] for name, value in query.actions.items()}).trust}
    if case.card.deterministic and case.card.action_conditioned:
        trusts["plan"] = case.plan_one(query).trust
    for verb, trust in trusts.items():
        both = [np.nan_to_num(as_float(value), nan=-1.0) for value in (trust, expected)]
        TRUST_SAME.equal(both[0], both[1], within=case.tolerance, problem=f"{verb} has another trust than predict")


def plan_needs_actions(case: WorldCase) -> None:
    """A world that is not action-conditioned raises UnsupportedError from `plan`: all plans would be equal."""
    if case.card.action_conditioned:
        return
    refused = PLAN_COUNTS.lacks("a plan", partial(case.plan_one, query_of(case.cut(), 0)), "action-conditioned")
    PLAN_COUNTS.holds(refused, "a plan was returned, but the card states that the world is not action-conditioned")


def _check_status(found: Plan) -> None:
    """Raises AssertionError unless the status is that of the worst world of a batch."""
    violates = bool(np.any(found.violation > 0))
    problem = f"status {found.status.value}, reason {found.reason!r}, violations {found.violation.tolist()}"
    PLAN_BATCH.holds((found.status is PlanStatus.INFEASIBLE) == violates, problem)
    PLAN_BATCH.holds(bool(found.reason) == violates, problem)
