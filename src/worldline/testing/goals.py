"""Clauses on goals, costs and constraints: what they see of a plan, and how they are computed."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from worldline.episode import Arrays
from worldline.planning.base import Chance, Constraint, Cost, Goal
from worldline.planning.costs import AtLeast, AtMost, Change, Price, Track
from worldline.schema import Kind, Signal
from worldline.testing.clauses import Clause, as_float
from worldline.testing.world_case import Query, WorldCase, logged_plans, query_of

TOLERANCE = Clause(
    name="world.tolerance", look="Goal.tolerance; the error that counts as 1, by default a standard deviation"
)
ROLLOUT = Clause(name="world.rollout", look="Rollout; predicted signals, inputs and the present, by name")
CHANCE = Clause(name="world.chance", look="Chance; the constraint holds for the whole prediction band of its level")
PERIODS = Clause(name="world.periods", look="Signal.period; targets and costs use the shorter way round")
SAMPLES = Clause(
    name="world.samples",
    look="Goal.risk, quantile and Card.deterministic; deterministic worlds have equal samples",
)


def tolerance_scales(case: WorldCase) -> None:
    """Twice the tolerance gives a quarter of the cost; the default tolerance is a standard deviation."""
    query, plans = _question(case)
    calibrated = case.predict_one(query).calibrated
    for name in case.vectors:
        target = as_float(case.cut().truth[name][1, -1]).astype(case.card.schema[name].dtype)
        spread = np.nanstd(np.concatenate([as_float(one.observations[name]) for one in case.episodes]), axis=0)
        goal, unit = Goal(targets={name: target}), float(spread.max()) or 1.0

        def cost(tolerance: float | None, goal: Goal = goal, name: str = name) -> NDArray[np.floating]:
            scaled = goal if tolerance is None else replace(goal, tolerance={name: tolerance})
            return as_float(case.score_one(query, plans, scaled).cost)

        problem = f"twice the tolerance of {name!r} does not give a quarter of the cost"
        TOLERANCE.equal(4 * cost(2 * unit), cost(unit), within=case.tolerance, problem=problem)
        if calibrated and spread.min() > 0:
            low, usual, high = cost(2 * float(spread.max())), cost(None), cost(float(spread.min()) / 2)
            problem = f"{name!r} by default tolerance costs {usual[0]:.4g}, expected {low[0]:.4g} to {high[0]:.4g}"
            TOLERANCE.holds(bool(((low <= usual) & (usual <= high)).all()), problem)


def rollout_is_complete(case: WorldCase) -> None:
    """Constraints see the predictions; costs see actions, exogenous inputs and the last action before the plan."""
    query, plans = _question(case)
    for name in _plain(case):
        means = np.stack([_mean(case, query, plans, number, name) for number in range(_num(plans))])
        bound = float(np.quantile(means, 0.3))
        low, high = ((sign * (means - bound)).max((1, 2)).clip(0) for sign in (-1, 1))
        for rule, expected in ((AtMost(signal=name, bound=bound), high), (AtLeast(signal=name, bound=bound), low)):
            found = _violation(case, query, plans, rule)
            word = f"{type(rule).__name__}({name!r}, {bound:.4g})"
            if case.card.deterministic:
                problem = f"the violation of {word} is not that of the prediction"
                ROLLOUT.equal(found, expected, within=case.tolerance, problem=problem)
            else:
                problem = f"the violation of {word} is {found}, below that of the mean prediction, {expected}"
                ROLLOUT.holds(bool((found >= expected - case.tolerance * (1 + abs(expected))).all()), problem)
    for signal in case.card.schema.exogenous:
        if signal.kind is Kind.VECTOR:
            paid = as_float((query.exogenous or {})[signal.name]).sum()
            _costs(case, query, plans, Price(signal=signal.name, price=1.0), np.full(_num(plans), paid), signal)
    for signal in case.card.schema.actions:
        if signal.kind is Kind.VECTOR and len(query.history.actions[signal.name]):
            last = as_float(query.history.actions[signal.name])[-1]
            values = as_float(plans[signal.name])
            before = np.broadcast_to(last, (len(values), 1, *last.shape))
            steps = signal.difference(values, np.concatenate([before, values[:, :-1]], 1))
            expected = np.square(steps).mean(-1).sum(-1)
            _costs(case, query, plans, Change(signal=signal.name, tolerance=1.0), expected, signal)


def periods_respected(case: WorldCase) -> None:
    """A target or reference of a periodic signal costs the same after a shift by one period."""
    query, plans = _question(case)
    for name in case.vectors:
        signal = case.card.schema[name]
        if signal.period is None:
            continue
        target = as_float(case.cut().truth[name][1, -1])
        costs: list[NDArray[np.floating]] = []
        for aim in (target, target + signal.period):
            track = Track(signal=name, reference=np.tile(aim, (case.horizon, 1)), tolerance=1.0)
            goals = Goal(targets={name: aim.astype(signal.dtype)}, tolerance={name: 1.0}), Goal(costs=(track,))
            costs.append(np.stack([as_float(case.score_one(query, plans, goal).cost) for goal in goals]))
        for number, word in enumerate(("target", "reference")):
            problem = f"a shift of the {word} of {name!r} by one period, {signal.period:g}, changes the cost"
            PERIODS.equal(costs[1][number], costs[0][number], within=case.tolerance, problem=problem)


def chance_uses_the_band(case: WorldCase) -> None:
    """Under `Chance` a constraint must hold for the band of its level; a world without bands refuses it."""
    query, plans = _question(case)
    for name in _plain(case):
        bound = float(np.median(_mean(case, query, plans, 0, name)))
        rule = Chance(constraint=AtMost(signal=name, bound=bound), level=0.8)
        if not case.predict_one(query).calibrated:
            CHANCE.refuses("Chance in a world without bands", partial(_violation, case, query, plans, rule), 0.8)
            return
        found = _violation(case, query, plans, rule)
        for number in range(_num(plans)):
            forecast = case.predict_one(_with_plan(query, plans, number)).signals[name]
            assert forecast.high is not None  # calibrated, as other clauses demand
            expected = max(0.0, float(forecast.high.max()) - bound)
            problem = f"the violation of {name!r} <= {bound:.4g} with probability 0.8 is not that of its band"
            CHANCE.equal(found[number], expected, within=10 * case.tolerance, problem=problem)


def worst_samples(case: WorldCase) -> None:
    """The worst samples cost at least the mean; all samples are equal if and only if the card states deterministic."""
    query, plans = _question(case)
    apart = 0.0
    for name in _plain(case):
        means = _mean(case, query, plans, 0, name)
        bound = float(means.min() - 10 * np.ptp(means) - 1)
        best, worst = (
            _violation(case, query, plans, AtMost(signal=name, bound=bound, quantile=share)) for share in (0.0, 1.0)
        )
        problem = f"the violation of a bound on {name!r} is {worst} for the worst sample, but {best} for the best"
        SAMPLES.holds(bool((worst >= best - 1e-6 * abs(best)).all()), problem)
        goal = Goal(targets={name: means[-1].astype(case.card.schema[name].dtype)}, tolerance={name: 1.0})
        every, few = (as_float(case.score_one(query, plans, replace(goal, risk=risk)).cost) for risk in (1.0, 0.1))
        problem = f"plans cost {few} with risk 0.1, but {every} with all samples"
        SAMPLES.holds(bool((few >= every - 1e-6 * (1 + abs(every))).all()), problem)
        differs = max(
            float((worst - best).max() / abs(best).max()), float((few - every).max() / (1 + abs(every).max()))
        )
        apart = max(apart, differs)
        if case.card.deterministic:
            problem = f"the card states deterministic, but samples of {name!r} differ by {differs:.2g} (relative)"
            SAMPLES.holds(differs <= 1e-5, problem)
    if _plain(case) and not case.card.deterministic:
        SAMPLES.holds(apart > 0, "the card does not state deterministic, but the worst sample is as good as the best")


def _question(case: WorldCase) -> tuple[Query, Arrays]:
    cut = case.cut()
    return query_of(cut, 0), logged_plans(cut, 0, 4, case.seed)


def _plain(case: WorldCase) -> list[str]:
    """The predicted vector signals without a period: a maximum is meaningful for them."""
    return [name for name in case.vectors if case.card.schema[name].period is None]


def _num(plans: Arrays) -> int:
    return len(next(iter(plans.values())))


def _with_plan(query: Query, plans: Arrays, number: int) -> Query:
    return replace(query, actions={name: value[number] for name, value in plans.items()})


def _mean(case: WorldCase, query: Query, plans: Arrays, number: int, name: str) -> NDArray[np.floating]:
    return as_float(case.predict_one(_with_plan(query, plans, number)).signals[name].mean)


def _violation(case: WorldCase, query: Query, plans: Arrays, rule: Constraint) -> NDArray[np.floating]:
    return as_float(case.score_one(query, plans, constraints=[rule]).violation)[:, 0]


def _costs(
    case: WorldCase, query: Query, plans: Arrays, cost: Cost, expected: NDArray[np.floating], signal: Signal
) -> None:
    found = case.score_one(query, plans, Goal(targets={}, costs=(cost,))).cost
    problem = f"{type(cost).__name__} of {signal.role.value} {signal.name!r} is not computed from its values"
    ROLLOUT.equal(found, expected, within=case.tolerance, problem=problem)
