"""Clauses on what goals, costs and constraints of `worldline.planning.costs` are shown of a plan, and how they count."""

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
from worldline.testing.world_case import One, WorldCase, logged_plans, one_of

TOLERANCE = Clause(
    name="world.tolerance", look="Goal.tolerance; the error that counts as 1, a standard deviation where it is left out"
)
OUTLOOK = Clause(name="world.outlook", look="Outlook; what is predicted, the inputs, and the present, by their names")
CHANCE = Clause(name="world.chance", look="Chance; the constraint holds for the whole joint band of its level")
PERIODS = Clause(name="world.periods", look="Signal.period; targets and costs count the shorter way round")
SAMPLES = Clause(
    name="world.samples",
    look="Goal.risk, quantile and Card.deterministic; the worst samples, which are all alike if so",
)


def tolerance_scales(case: WorldCase) -> None:
    """Twice the tolerance is a quarter of the cost; without one, a standard deviation of the signal counts as 1."""
    here, plans = _question(case)
    calibrated = case.predict_one(here).calibrated
    for name in case.vectors:
        target = as_float(case.cut().truth[name][1, -1]).astype(case.card.schema[name].dtype)
        spread = np.nanstd(np.concatenate([as_float(one.observations[name]) for one in case.episodes]), axis=0)
        goal, unit = Goal(targets={name: target}), float(spread.max()) or 1.0

        def cost(tolerance: float | None, goal: Goal = goal, name: str = name) -> NDArray[np.floating]:
            asked = goal if tolerance is None else replace(goal, tolerance={name: tolerance})
            return as_float(case.score_one(here, plans, asked).cost)

        seen = f"twice the tolerance of {name!r} is not a quarter of the cost"
        TOLERANCE.equal(4 * cost(2 * unit), cost(unit), within=case.tolerance, seen=seen)
        if calibrated and spread.min() > 0:
            low, usual, high = cost(2 * float(spread.max())), cost(None), cost(float(spread.min()) / 2)
            seen = f"{name!r} without a tolerance costs {usual[0]:.4g}; by its standard deviation it is between "
            TOLERANCE.holds(bool(((low <= usual) & (usual <= high)).all()), f"{seen}{low[0]:.4g} and {high[0]:.4g}")


def outlook_shows(case: WorldCase) -> None:
    """Constraints see what is predicted, costs see actions, exogenous inputs and the last action before the plan."""
    here, plans = _question(case)
    for name in _plain(case):
        means = np.stack([_mean(case, here, plans, number, name) for number in range(_num(plans))])
        bound = float(np.quantile(means, 0.3))
        low, high = ((sign * (means - bound)).max((1, 2)).clip(0) for sign in (-1, 1))
        for rule, due in ((AtMost(signal=name, bound=bound), high), (AtLeast(signal=name, bound=bound), low)):
            found = _violation(case, here, plans, rule)
            word = f"{type(rule).__name__}({name!r}, {bound:.4g})"
            if case.card.deterministic:
                seen = f"{word} is not broken by as much as what is predicted breaks it"
                OUTLOOK.equal(found, due, within=case.tolerance, seen=seen)
            else:
                seen = f"{word} is broken by {found}, and what is predicted on average breaks it by {due}"
                OUTLOOK.holds(bool((found >= due - case.tolerance * (1 + abs(due))).all()), seen)
    for signal in case.card.schema.exogenous:
        if signal.kind is Kind.VECTOR:
            paid = as_float((here.exogenous or {})[signal.name]).sum()
            _costs(case, here, plans, Price(signal=signal.name, price=1.0), np.full(_num(plans), paid), signal)
    for signal in case.card.schema.actions:
        if signal.kind is Kind.VECTOR and len(here.history.actions[signal.name]):
            last = as_float(here.history.actions[signal.name])[-1]
            values = as_float(plans[signal.name])
            before = np.broadcast_to(last, (len(values), 1, *last.shape))
            steps = signal.difference(values, np.concatenate([before, values[:, :-1]], 1))
            due = np.square(steps).mean(-1).sum(-1)
            _costs(case, here, plans, Change(signal=signal.name, tolerance=1.0), due, signal)


def periods_heeded(case: WorldCase) -> None:
    """Of a signal that repeats, a target or a reference a whole turn away costs the same."""
    here, plans = _question(case)
    for name in case.vectors:
        signal = case.card.schema[name]
        if signal.period is None:
            continue
        target = as_float(case.cut().truth[name][1, -1])
        costs: list[NDArray[np.floating]] = []
        for aim in (target, target + signal.period):
            track = Track(signal=name, reference=np.tile(aim, (case.horizon, 1)), tolerance=1.0)
            goals = Goal(targets={name: aim.astype(signal.dtype)}, tolerance={name: 1.0}), Goal(costs=(track,))
            costs.append(np.stack([as_float(case.score_one(here, plans, goal).cost) for goal in goals]))
        for number, word in enumerate(("target", "reference")):
            seen = f"a {word} of {name!r} that is {signal.period:g} {signal.unit} further costs something else"
            PERIODS.equal(costs[1][number], costs[0][number], within=case.tolerance, seen=seen)


def chance_by_the_band(case: WorldCase) -> None:
    """Under `Chance` a constraint has to hold for the band of its level; a world without bands refuses it."""
    here, plans = _question(case)
    for name in _plain(case):
        bound = float(np.median(_mean(case, here, plans, 0, name)))
        rule = Chance(constraint=AtMost(signal=name, bound=bound), level=0.8)
        if not case.predict_one(here).calibrated:
            CHANCE.refuses("Chance in a world without bands", partial(_violation, case, here, plans, rule), 0.8)
            return
        found = _violation(case, here, plans, rule)
        for number in range(_num(plans)):
            forecast = case.predict_one(_with_plan(here, plans, number)).signals[name]
            assert forecast.high is not None  # calibrated, as other clauses demand
            due = max(0.0, float(forecast.high.max()) - bound)
            seen = f"{name!r} at most {bound:.4g} with probability 0.8 is not broken by as much as its band breaks it"
            CHANCE.equal(found[number], due, within=10 * case.tolerance, seen=seen)


def worst_samples(case: WorldCase) -> None:
    """The worst samples cost no less than all of them; all are alike if and only if the card says deterministic."""
    here, plans = _question(case)
    apart = 0.0
    for name in _plain(case):
        means = _mean(case, here, plans, 0, name)
        bound = float(means.min() - 10 * np.ptp(means) - 1)
        best, worst = (
            _violation(case, here, plans, AtMost(signal=name, bound=bound, quantile=share)) for share in (0.0, 1.0)
        )
        seen = f"the worst sample breaks a rule on {name!r} by {worst}, the best by {best}"
        SAMPLES.holds(bool((worst >= best - 1e-6 * abs(best)).all()), seen)
        goal = Goal(targets={name: means[-1].astype(case.card.schema[name].dtype)}, tolerance={name: 1.0})
        every, few = (as_float(case.score_one(here, plans, replace(goal, risk=risk)).cost) for risk in (1.0, 0.1))
        seen = f"with risk 0.1 plans cost {few}, and {every} with all samples"
        SAMPLES.holds(bool((few >= every - 1e-6 * (1 + abs(every))).all()), seen)
        differs = max(
            float((worst - best).max() / abs(best).max()), float((few - every).max() / (1 + abs(every).max()))
        )
        apart = max(apart, differs)
        if case.card.deterministic:
            seen = f"the card says deterministic, and samples of {name!r} differ (by {differs:.2g} of their magnitude)"
            SAMPLES.holds(differs <= 1e-5, seen)
    if _plain(case) and not case.card.deterministic:
        SAMPLES.holds(apart > 0, "the card does not say deterministic, and the worst sample is as good as the best")


def _question(case: WorldCase) -> tuple[One, Arrays]:
    """A history, and four plans from the log."""
    cut = case.cut()
    return one_of(cut, 0), logged_plans(cut, 0, 4, case.seed)


def _plain(case: WorldCase) -> list[str]:
    """The predicted vector signals that do not repeat: of those the greatest value means something."""
    return [name for name in case.vectors if case.card.schema[name].period is None]


def _num(plans: Arrays) -> int:
    return len(next(iter(plans.values())))


def _with_plan(here: One, plans: Arrays, number: int) -> One:
    return replace(here, actions={name: value[number] for name, value in plans.items()})


def _mean(case: WorldCase, here: One, plans: Arrays, number: int, name: str) -> NDArray[np.floating]:
    """What a plan leads to, [T, size]."""
    return as_float(case.predict_one(_with_plan(here, plans, number)).signals[name].mean)


def _violation(case: WorldCase, here: One, plans: Arrays, rule: Constraint) -> NDArray[np.floating]:
    """By how much each plan breaks a rule, [N]."""
    return as_float(case.score_one(here, plans, constraints=[rule]).violation)[:, 0]


def _costs(case: WorldCase, here: One, plans: Arrays, cost: Cost, due: NDArray[np.floating], signal: Signal) -> None:
    found = case.score_one(here, plans, Goal(targets={}, costs=(cost,))).cost
    seen = f"{type(cost).__name__} of {signal.role.value} {signal.name!r} is not what its values cost"
    OUTLOOK.equal(found, due, within=case.tolerance, seen=seen)
