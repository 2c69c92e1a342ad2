"""Clauses on scores: goals, costs and constraints, what they see of a plan, and how they are computed."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from operator import itemgetter

import numpy as np

from worldline.episode import Arrays
from worldline.errors import UnsupportedError
from worldline.planning.base import Chance, Constraint, Goal
from worldline.planning.costs import AtMost, Change, Price
from worldline.schema import Kind
from worldline.testing.cases import WorldCase, one_plan
from worldline.testing.clauses import clause
from worldline.testing.comparing import Floats, as_float, equal, has_shape, holds, map_arrays, refuses
from worldline.testing.log_edits import observed_values
from worldline.world.base import Forecast


@clause("world", "Scores; cost [N], violation [N, C], independent for each plan")
def scores_each_plan(case: WorldCase) -> None:
    """Scores are independent: one cost and C violations per plan, in the order of the plans."""
    query, plans = case.query(), case.plans()
    rules, expected = rules_of(case, plans)
    scores = case.score(query, plans, constraints=rules)
    has_shape("cost", scores.cost, (4,))
    has_shape("violation", scores.violation, (4, len(rules)))
    equal(scores.violation, expected, "violation is not that of the constraints", within=1e-6)
    trust = np.nan_to_num([case.score(query, one_plan(query.actions)).trust, case.predict(query).trust], nan=-1.0)
    case.equal(trust[0], trust[1], "score has another trust than predict")
    turned = {name: value[::-1] for name, value in plans.items()}
    other = case.score(query, turned, constraints=rules)
    case.equal(other.cost[::-1], scores.cost, "another order of plans changes their costs")


@clause("world", "Goal.costs, discount, last_only; costs see inputs by name and are summed over steps")
def costs_add_up(case: WorldCase) -> None:
    """Costs of inputs are added to the error to the targets, with discount and `last_only` of the goal.

    Only prices of vector inputs are known in advance.
    """
    for name, values in _vector_inputs(case, case.plans()).items():
        taken, price = values.sum(-1), Price(signal=name, price=1.0)
        half, steps = 0.5 ** np.arange(taken.shape[1]), taken.sum(1)
        plain, only = replace(case.goal, discount=1.0, last_only=False), Goal(costs=(price,))
        both = replace(plain, costs=(*plain.costs, price))
        for goal, expected, problem in (
            (both, _cost(case, plain) + steps, f"the cost is not the sum of targets and the price of {name!r}"),
            (replace(only, costs=(price, price)), 2 * steps, "the cost is not the sum of two costs"),
            (replace(only, discount=0.5), (taken * half).sum(1), "discount 0.5 does not halve the weight of each step"),
            (replace(only, last_only=True), taken[:, -1], "last_only does not use the last step alone"),
        ):
            case.equal(_cost(case, goal), expected, problem)


@clause("world", "Goal.tolerance and Signal.period; the error that counts as 1, the shorter way round")
def targets_scale(case: WorldCase) -> None:
    """Twice the tolerance quarters the cost, its default is a standard deviation, and a period changes nothing."""
    calibrated = case.calibrated()
    for name in case.vectors:
        signal = case.card.schema[name]
        target = as_float(case.windows().truth[name][1, -1])
        spread = observed_values(case.episodes, name).std(0)
        goal, widest = Goal(targets={name: target.astype(signal.dtype)}), float(spread.max()) or 1.0
        once, twice = (_cost(case, replace(goal, tolerance={name: more * widest})) for more in (1, 2))
        case.equal(4 * twice, once, f"twice the tolerance of {name!r} does not give a quarter of the cost")
        if calibrated and spread.min() > 0:
            usual, high = _cost(case, goal), _cost(case, replace(goal, tolerance={name: float(spread.min()) / 2}))
            problem = f"{name!r} by default tolerance costs {usual[0]:.4g}, expected {twice[0]:.4g} to {high[0]:.4g}"
            holds((twice <= usual) & (usual <= high), problem)
        if signal.period is not None:
            shifted = Goal(targets={name: (target + signal.period).astype(signal.dtype)}, tolerance={name: widest})
            problem = f"a shift of the target of {name!r} by one period, {signal.period:g}, changes the cost"
            case.equal(_cost(case, shifted), once, problem)


@clause("world", "Rollout and Chance; predicted signals, their band and the present, by name")
def rollout_is_complete(case: WorldCase) -> None:
    """Constraints see predictions, under `Chance` their band; costs see the last action before the plan."""
    # A maximum is meaningful for signals without a period.
    for name in [name for name in case.vectors if case.card.schema[name].period is None]:
        forecasts = _forecasts(case, name)
        means = np.stack([as_float(forecast.mean) for forecast in forecasts])
        bound = float(np.quantile(means, 0.3))
        rule, expected = AtMost(signal=name, bound=bound), (means - bound).max((1, 2)).clip(0)
        violation, word = _violation(case, rule), f"AtMost({name!r}, {bound:.4g})"
        if case.card.deterministic:
            case.equal(violation, expected, f"the violation of {word} is not that of the prediction")
        else:
            problem = f"the violation of {word} is {violation}, below that of the mean prediction, {expected}"
            holds(violation >= expected - case.tolerance * (1 + abs(expected)), problem)
        chance = Chance(constraint=rule, level=0.8)
        if not case.calibrated():
            refuses("Chance without bands", partial(_violation, case, chance), 0.8, expected=UnsupportedError)
            continue
        highest = [-np.inf if f.high is None else float(f.high.max()) for f in forecasts]
        problem = f"the violation of {word} with probability 0.8 is not that of its band"
        expected = np.maximum(0.0, np.subtract(highest, bound))
        equal(_violation(case, chance), expected, problem, within=10 * case.tolerance)
    for signal in case.card.schema.actions:
        past = case.query().history.actions[signal.name]
        if signal.kind is Kind.VECTOR and len(past):
            values = as_float(case.plans()[signal.name])
            before = np.concatenate([np.broadcast_to(past[-1], values[:, :1].shape), values[:, :-1]], 1)
            steps = np.square(signal.difference(values, before)).mean(-1).sum(-1)
            cost = _cost(case, Goal(costs=(Change(signal=signal.name, tolerance=1.0),)))
            case.equal(cost, steps, f"Change of action {signal.name!r} is not computed from its values")


def rules_of(case: WorldCase, plans: Arrays) -> tuple[list[Constraint], Floats]:
    """A constraint that every plan satisfies, one that none can, and the violations of `plans` [N, 2].

    They are on a vector input; empty if the world has none.
    """
    for name, values in _vector_inputs(case, plans).items():
        low = case.card.schema[name].low
        bound = (float(values.min()) if low is None or not np.isfinite(low).all() else min(low)) - 2.0
        violation = np.stack([np.zeros(len(values)), values.max((1, 2)) - bound], 1)
        return [AtMost(signal=name, bound=math.inf), AtMost(signal=name, bound=bound)], violation
    return [], np.zeros((len(next(iter(plans.values()))), 0))


def _cost(case: WorldCase, goal: Goal) -> Floats:
    """Of each of four plans [N]."""
    return as_float(case.score(case.query(), case.plans(), goal).cost)


def _violation(case: WorldCase, rule: Constraint) -> Floats:
    """Of each of four plans [N]."""
    return as_float(case.score(case.query(), case.plans(), constraints=[rule]).violation)[:, 0]


def _forecasts(case: WorldCase, name: str) -> list[Forecast]:
    """Of a signal under each of four plans."""
    plans = [map_arrays(case.plans(), itemgetter(number)) for number in range(4)]
    return [case.predict(replace(case.query(), actions=plan)).signals[name] for plan in plans]


def _vector_inputs(case: WorldCase, plans: Arrays) -> dict[str, Floats]:
    """The vector inputs with their values [N, T, size], actions first."""
    schema, num = case.card.schema, len(next(iter(plans.values())))
    values = {**map_arrays(case.query().exogenous, lambda value: np.stack([value] * num)), **plans}
    names = [signal.name for signal in (*schema.actions, *schema.exogenous) if signal.kind is Kind.VECTOR]
    return {name: as_float(values[name]) for name in names}
