"""Clauses on scores: goals, costs and constraints, what they see of a plan, and how they are computed."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from operator import itemgetter

import numpy as np

from worldline.episode import Arrays
from worldline.errors import UnsupportedError
from worldline.planning.base import Chance, Constraint, Cost, Goal
from worldline.planning.costs import AtLeast, AtMost, Change, Price, Track
from worldline.schema import Kind, Signal
from worldline.testing.cases import WorldCase
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
    problem, known = "violation is not that of the constraints", ~np.isnan(expected)
    equal(np.where(known, scores.violation, 0.0), np.where(known, expected, 0.0), problem, within=1e-6)
    holds(scores.violation[~known] > 0, problem)
    turned = {name: value[::-1] for name, value in plans.items()}
    other = case.score(query, turned, constraints=rules)
    case.equal(other.cost[::-1], scores.cost, "another order of plans changes their costs")


@clause("world", "Goal.costs, discount, last_only; costs see actions by name and are summed over steps")
def costs_add_up(case: WorldCase) -> None:
    """Costs of inputs are added to the error to the targets, with discount and `last_only` of the goal.

    Not checked without a vector input, because no other cost is known in advance.
    """
    vector_input = _vector_input(case, case.plans())
    if vector_input is None:
        return
    name, values = vector_input
    taken, dear = values.sum(-1), Price(signal=name, price=1.0)
    half, steps = 0.5 ** np.arange(taken.shape[1]), taken.sum(1)
    plain, only = replace(case.goal, discount=1.0, last_only=False), Goal(costs=(dear,))
    both = replace(plain, costs=(*plain.costs, dear))
    for goal, expected, problem in (
        (both, _cost(case, plain) + steps, "the cost is not the sum of targets and a cost"),
        (replace(only, costs=(dear, dear)), 2 * steps, "the cost is not the sum of two costs"),
        (replace(only, discount=0.5), (taken * half).sum(1), "discount 0.5 does not halve the weight of each step"),
        (replace(only, last_only=True), taken[:, -1], "last_only does not use the last step alone"),
    ):
        case.equal(_cost(case, goal), expected, problem)


@clause("world", "Goal.tolerance; the error that counts as 1, by default a standard deviation")
def tolerance_scales(case: WorldCase) -> None:
    """Twice the tolerance gives a quarter of the cost; the default tolerance is a standard deviation."""
    calibrated = case.calibrated()
    for name in case.vectors:
        target = as_float(case.windows().truth[name][1, -1]).astype(case.card.schema[name].dtype)
        spread = observed_values(case.episodes, name).std(0)
        goal, widest = Goal(targets={name: target}), float(spread.max())
        once, twice = (_cost(case, replace(goal, tolerance={name: more * (widest or 1.0)})) for more in (1, 2))
        case.equal(4 * twice, once, f"twice the tolerance of {name!r} does not give a quarter of the cost")
        if calibrated and spread.min() > 0:
            usual, high = _cost(case, goal), _cost(case, replace(goal, tolerance={name: float(spread.min()) / 2}))
            problem = f"{name!r} by default tolerance costs {usual[0]:.4g}, expected {twice[0]:.4g} to {high[0]:.4g}"
            holds((twice <= usual) & (usual <= high), problem)


@clause("world", "Rollout; predicted signals, inputs and the present, by name")
def rollout_is_complete(case: WorldCase) -> None:
    """Constraints see the predictions; costs see actions, exogenous inputs and the last action before the plan."""
    for name in _plain(case):
        means = _means(case, name)
        bound = float(np.quantile(means, 0.3))
        low, high = ((sign * (means - bound)).max((1, 2)).clip(0) for sign in (-1, 1))
        for rule, expected in ((AtMost(signal=name, bound=bound), high), (AtLeast(signal=name, bound=bound), low)):
            violation, word = _violation(case, rule), f"{type(rule).__name__}({name!r}, {bound:.4g})"
            if case.card.deterministic:
                case.equal(violation, expected, f"the violation of {word} is not that of the prediction")
            else:
                problem = f"the violation of {word} is {violation}, below that of the mean prediction, {expected}"
                holds(violation >= expected - case.tolerance * (1 + abs(expected)), problem)
    for signal in case.card.schema.exogenous:
        if signal.kind is Kind.VECTOR:
            paid = as_float(case.query().exogenous[signal.name]).sum()
            _pays(case, Price(signal=signal.name, price=1.0), np.full(4, paid), signal)
    for signal in case.card.schema.actions:
        past = case.query().history.actions[signal.name]
        if signal.kind is Kind.VECTOR and len(past):
            values = as_float(case.plans()[signal.name])
            before = np.concatenate([np.broadcast_to(past[-1], values[:, :1].shape), values[:, :-1]], 1)
            steps = np.square(signal.difference(values, before)).mean(-1)
            _pays(case, Change(signal=signal.name, tolerance=1.0), steps.sum(-1), signal)


@clause("world", "Signal.period; targets and costs use the shorter way round")
def periods_respected(case: WorldCase) -> None:
    """A target or reference of a periodic signal costs the same after a shift by one period."""
    for name in case.vectors:
        signal = case.card.schema[name]
        if signal.period is None:
            continue
        target, costs = as_float(case.windows().truth[name][1, -1]), list[list[Floats]]()
        for aim in (target, target + signal.period):
            track = Track(signal=name, reference=np.tile(aim, (case.horizon, 1)), tolerance=1.0)
            goals = Goal(targets={name: aim.astype(signal.dtype)}, tolerance={name: 1.0}), Goal(costs=(track,))
            costs.append([_cost(case, goal) for goal in goals])
        for word, before, after in zip(("target", "reference"), *costs, strict=True):
            problem = f"a shift of the {word} of {name!r} by one period, {signal.period:g}, changes the cost"
            case.equal(after, before, problem)


@clause("world", "Chance; the constraint holds for the whole prediction band of its level")
def chance_uses_the_band(case: WorldCase) -> None:
    """Under `Chance` a constraint must hold for the band of its level; a world without bands refuses it."""
    for name in _plain(case):
        bound = float(np.median(_means(case, name)[0]))
        rule = Chance(constraint=AtMost(signal=name, bound=bound), level=0.8)
        if not case.calibrated():
            refuses("Chance without bands", partial(_violation, case, rule), 0.8, expected=UnsupportedError)
            return
        forecasts = _forecasts(case, name)
        highest = [-np.inf if forecast.high is None else float(forecast.high.max()) for forecast in forecasts]
        problem = f"the violation of {name!r} <= {bound:.4g} with probability 0.8 is not that of its band"
        equal(_violation(case, rule), np.maximum(0.0, np.subtract(highest, bound)), problem, within=10 * case.tolerance)


@clause("world", "Goal.risk, quantile and Card.deterministic; deterministic worlds have equal samples")
def worst_samples(case: WorldCase) -> None:
    """The worst samples cost at least the mean; all samples are equal if and only if the card states deterministic."""
    apart = list[float]()
    for name in _plain(case):
        means = _means(case, name)[0]
        bound = float(means.min() - 10 * np.ptp(means) - 1)
        best, worst = (_violation(case, AtMost(signal=name, bound=bound, quantile=share)) for share in (0.0, 1.0))
        problem = f"the violation of a bound on {name!r} is {worst} for the worst sample, but {best} for the best"
        holds(worst >= best - 1e-6 * abs(best), problem)
        goal = Goal(targets={name: means[-1].astype(case.card.schema[name].dtype)}, tolerance={name: 1.0})
        every, few = (_cost(case, replace(goal, risk=risk)) for risk in (1.0, 0.1))
        holds(few >= every - 1e-6 * (1 + abs(every)), f"plans cost {few} with risk 0.1, but {every} with all samples")
        differs = max((worst - best).max() / abs(best).max(), (few - every).max() / (1 + abs(every).max()))
        problem = f"the card states deterministic, but samples of {name!r} differ by {differs:.2g} (relative)"
        holds(not case.card.deterministic or differs <= 1e-5, problem)
        apart.append(differs)
    if apart and not case.card.deterministic:
        holds(max(apart) > 0, "the card does not state deterministic, but the worst sample is as good as the best")


def rules_of(case: WorldCase, plans: Arrays) -> tuple[list[Constraint], Floats]:
    """A constraint that every plan satisfies, one that none can, and the violations of `plans` [N, 2].

    They are on a vector input, else on a predicted vector, with NaN for violations that are not known in advance.
    Empty if the world has neither.
    """
    vector_input, num = _vector_input(case, plans), len(next(iter(plans.values())))
    if vector_input is not None:
        name, values = vector_input
        low = case.card.schema[name].low
        bound = min(low or (-np.inf,)) - 2.0
        bound = bound if np.isfinite(bound) else float(values.min()) - 2.0
        worst = values.max((1, 2)) - bound
    elif case.vectors:
        name, worst = case.vectors[0], np.full(num, np.nan)
        seen = observed_values(case.episodes, name)
        bound = float(seen.min() - 1e3 * (1 + np.ptp(seen)))
    else:
        return [], np.zeros((num, 0))
    rules: list[Constraint] = [AtMost(signal=name, bound=math.inf), AtMost(signal=name, bound=bound)]
    return rules, np.stack([np.zeros(num), worst], 1)


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


def _means(case: WorldCase, name: str) -> Floats:
    """Of a signal under each of four plans [N, T, size]."""
    return np.stack([as_float(forecast.mean) for forecast in _forecasts(case, name)])


def _pays(case: WorldCase, cost: Cost, expected: Floats, signal: Signal) -> None:
    """Raises BreachError if a cost alone is another one."""
    problem = f"{type(cost).__name__} of {signal.role.value} {signal.name!r} is not computed from its values"
    case.equal(_cost(case, Goal(costs=(cost,))), expected, problem)


def _vector_input(case: WorldCase, plans: Arrays) -> tuple[str, Floats] | None:
    """A vector input with its values [N, T, size], an action if possible; None if there is none."""
    schema, num = case.card.schema, len(next(iter(plans.values())))
    values = {**map_arrays(case.query().exogenous, lambda value: np.stack([value] * num)), **plans}
    names = [signal.name for signal in (*schema.actions, *schema.exogenous) if signal.kind is Kind.VECTOR]
    return next(((name, as_float(values[name])) for name in names), None)


def _plain(case: WorldCase) -> list[str]:
    """The predicted vector signals without a period: a maximum is meaningful for them."""
    return [name for name in case.vectors if case.card.schema[name].period is None]
