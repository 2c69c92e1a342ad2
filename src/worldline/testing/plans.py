"""Clauses on plans under a deadline, plans that start from proposals, and plans for a batch of worlds."""

from __future__ import annotations

from functools import partial

import numpy as np

from worldline.episode import Arrays
from worldline.planning.costs import AtMost
from worldline.testing.clauses import Clause, as_float, difference
from worldline.testing.world_case import WorldCase, logged_plans, one_of
from worldline.world.base import Plan, PlanStatus

BUDGET = Clause(name="world.plan_budget", look="World.plan, budget_s; the best so far, whole and inside the bounds")
PROPOSALS = Clause(name="world.plan_proposals", look="World.plan, proposals; never worse than the best of them")
PLAN_BATCH = Clause(
    name="world.plan_batch", look="Plan of W worlds; actions [W, T, *shape], and the worst of the statuses"
)
TRUST_SAME = Clause(
    name="world.trust_same", look="Scores.trust and Plan.trust; what Prediction.trust is of the history"
)

PLAN_COUNTS = Clause(
    name="world.plan_counts", look="Card.heeds_actions and World.plan; where every plan is as good, none is given"
)

TINY_S = 1e-6
"""A budget in which nothing can be searched."""


def plan_in_time(case: WorldCase) -> None:
    """Where there is no time to search there still is a whole plan, whose status says how the search ended."""
    if not case.card.action_conditioned:
        return
    here = one_of(case.cut(), 0)
    found = case.plan_one(here, budget_s=TINY_S)
    ended = (PlanStatus.CONVERGED, PlanStatus.BUDGET_EXHAUSTED)
    BUDGET.holds(found.status in ended, f"status {found.status.value} after {TINY_S} s, without a constraint")
    BUDGET.holds(not found.reason, f"status {found.status.value}, and the reason {found.reason!r}")
    for signal in case.card.schema.actions:
        value, due = as_float(found.actions[signal.name]), (case.horizon, *signal.shape)
        BUDGET.holds(value.shape == due, f"{signal.name!r} has shape {value.shape} after {TINY_S} s, {due} is due")
        low, high = np.asarray(signal.low or -np.inf), np.asarray(signal.high or np.inf)
        inside = difference(value, np.clip(value, low, high)) <= 1e-6
        BUDGET.holds(inside, f"{signal.name!r} is outside {signal.low} to {signal.high} after {TINY_S} s")
    due_cost = case.score_one(here, {name: value[None] for name, value in found.actions.items()}).cost[0]
    seen = f"the cost of a plan after {TINY_S} s is not what score says of it"
    BUDGET.equal(found.cost, due_cost, within=case.tolerance, seen=seen)


def plan_heeds_proposals(case: WorldCase) -> None:
    """A plan is no dearer than the best proposal, with and without the time to search."""
    if not case.card.action_conditioned:
        return
    cut = case.cut()
    for world in range(min(2, cut.num_worlds)):
        here = one_of(cut, world)
        good = [case.plan_one(here, seed=case.seed + 1 + number).actions for number in range(2)]
        logged = logged_plans(cut, world, 2, case.seed)
        proposals = {
            name: np.concatenate([value, np.stack([plan[name] for plan in good])]) for name, value in logged.items()
        }
        costs = as_float(case.score_one(here, proposals).cost)
        for budget_s in (None, TINY_S):
            cost = float(case.plan_one(here, proposals=proposals, budget_s=budget_s).cost)
            seen = f"a plan of cost {cost:.6g} within {budget_s} s, and the best proposal costs {costs.min():.6g}"
            PROPOSALS.holds(cost <= costs.min() + 1e-5 * abs(costs.min()) + 1e-9, seen)


def plan_of_batch(case: WorldCase) -> None:
    """Plans of W worlds come with a leading axis, cost what they cost alone, and one status tells of the worst."""
    if not case.card.action_conditioned:
        return
    cut = case.cut()
    name = case.vectors[0] if case.vectors else None
    chosen, rules = [0, 1], []
    if name is not None:
        first = as_float(case.predict(cut).signals[name].mean)[:, 0, 0]
        chosen = [int(first.argmin()), int(first.argmax())]
        # On the first component it holds easily in the first of the two worlds, and hardly in the second.
        bound = (float(first[chosen].mean()), *(np.inf,) * (case.card.schema[name].size - 1))
        rules = [AtMost(signal=name, bound=bound)]
    here, goal = cut.select(chosen), case.batch_goal(2)
    found = case.world.plan(
        here.history, goal, constraints=rules, horizon=case.horizon, exogenous=here.exogenous or None, seed=case.seed
    )
    for signal in case.card.schema.actions:
        shape, due = found.actions[signal.name].shape, (2, case.horizon, *signal.shape)
        PLAN_BATCH.holds(shape == due, f"{signal.name!r} has shape {shape} where {due} is due")
    for label, value, due in (("cost", found.cost, (2,)), ("violation", found.violation, (2, len(rules)))):
        shape = np.shape(value)
        PLAN_BATCH.holds(shape == due, f"{label} has shape {shape} where {due} is due")
    for world in range(2):
        alone: Arrays = {name: value[world][None] for name, value in found.actions.items()}
        scores = case.score_one(one_of(here, world), alone, constraints=rules)
        for label, whole, part in (
            ("cost", as_float(found.cost)[world], scores.cost[0]),
            ("violation", found.violation[world], scores.violation[0]),
        ):
            seen = f"the {label} of the plan for world {world} of a batch is not what score says of it"
            PLAN_BATCH.equal(whole, part, within=case.tolerance, seen=seen)
    _check_status(found)


def trust_is_one(case: WorldCase) -> None:
    """Scores and plans of a history are trusted as its predictions are (plans, where nothing is drawn)."""
    here = one_of(case.cut(), 0)
    due = case.predict_one(here).trust
    told = {"score": case.score_one(here, {name: value[None] for name, value in here.actions.items()}).trust}
    if case.card.deterministic and case.card.action_conditioned:
        told["plan"] = case.plan_one(here).trust
    for verb, trust in told.items():
        both = [np.nan_to_num(as_float(value), nan=-1.0) for value in (trust, due)]
        TRUST_SAME.equal(both[0], both[1], within=case.tolerance, seen=f"trust in {verb} is not that of predict")


def plan_counts(case: WorldCase) -> None:
    """A world that heeds no actions refuses to plan, and says so: it could give any plan, and be none the worse."""
    if case.card.action_conditioned:
        return
    refused = PLAN_COUNTS.lacks("a plan", partial(case.plan_one, one_of(case.cut(), 0)), "heed actions")
    PLAN_COUNTS.holds(refused, "a plan was given, though the card says that actions are not heeded")


def _check_status(found: Plan) -> None:
    """Raises AssertionError unless one status stands for all worlds of a batch."""
    violates = bool(np.any(found.violation > 0))
    seen = f"status {found.status.value}, and the reason {found.reason!r}, with violations {found.violation.tolist()}"
    PLAN_BATCH.holds((found.status is PlanStatus.INFEASIBLE) == violates, seen)
    PLAN_BATCH.holds(bool(found.reason) == violates, seen)
