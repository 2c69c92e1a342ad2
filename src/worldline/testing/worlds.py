"""Checks a `World`: the clauses of `world/base.py`, one function each; `CLAUSES` lists them all.

`check_world(world, episodes, goal)` checks them all; `no_peek(WorldCase(world=world, ...))` checks one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from worldline.data.windows import ForecastWindows as Cut
from worldline.episode import Arrays, Episode, History
from worldline.errors import InputError, UnsupportedError
from worldline.planning.base import Constraint, Goal
from worldline.planning.costs import AtMost, Price
from worldline.schema import Kind
from worldline.testing.cards import card_honest, inputs_honest, short_history
from worldline.testing.clauses import Clause, as_float, difference, run
from worldline.testing.confidence import (
    bands_ordered,
    coverage,
    surprise_is_p_value,
    trust_depends_on_steps,
    trust_is_p_value,
)
from worldline.testing.determinism_checks import any_layout, same_from_eight_threads, same_in_any_order
from worldline.testing.goals import (
    chance_uses_the_band,
    periods_respected,
    rollout_is_complete,
    tolerance_scales,
    worst_samples,
)
from worldline.testing.horizons import horizon_honest
from worldline.testing.log_windows import aligned, alignment_errors, hide, some_hidden, splice, wider
from worldline.testing.plans import plan_in_time, plan_needs_actions, plan_of_batch, plan_uses_proposals, trust_agrees
from worldline.testing.refusals import (
    bounds_kept,
    episodes_fit,
    exogenous_needed,
    messages_name_the_error,
    ranges_kept,
    refusals_name_what_is_missing,
    trust_ahead,
)
from worldline.testing.surprises import (
    moments_in_order,
    surprise_of_missing,
    surprise_parts,
    surprise_together,
    surprise_uniform,
)
from worldline.testing.what_if_checks import abduction_honest
from worldline.testing.world_case import Query, WorldCase, logged_plans, query_of
from worldline.world.base import Abduction, Plan, PlanStatus, Prediction, World

SHAPES = Clause(name="world.prediction", look="Prediction and Forecast; mean [T, *shape] and band of each signal")
BATCH = Clause(name="world.batch", look="the verbs; a batch of W worlds equals W single worlds, without the batch axis")
MASKS = Clause(name="world.masks", look="History.observed; values where it is False, NaN too, have no effect")
PEEK = Clause(name="world.no_peek", look="World.predict; mean[k] may depend on actions 0 to k only")
TIMING = Clause(name="world.timing", look="the transition convention; action t leads from observation t to t+1")
ARGUMENTS = Clause(name="world.arguments", look="the verbs; they do not change arguments or the global random state")
INPUTS = Clause(name="world.input_errors", look="World.predict; InputError if a signal is missing, misshapen or NaN")
SCORES = Clause(name="world.score", look="Scores; cost [N], violation [N, C], independent for each plan")
COSTS = Clause(
    name="world.costs", look="Goal.costs, discount, last_only; costs see actions by name and are summed over steps"
)
PLAN_BOUNDS = Clause(name="world.plan_bounds", look="Plan.actions; [T, *shape] inside the schema's bounds")
PLAN_COST = Clause(name="world.plan_cost", look="Plan.cost and violation; equal World.score of the returned actions")
PENDING = Clause(
    name="world.pending", look="World.plan(pending=...); the cost includes the pending actions and the plan"
)
PLAN_STATUS = Clause(name="world.plan_status", look="Plan.status and reason; infeasible if and only if violated")
PLAN_WORTH = Clause(name="world.plan_worth", look="World.plan; cheaper than sequences from the logs")
REFUSAL = Clause(
    name="world.plan_refusal", look="World.plan, min_trust; refused below it, with a reason and without actions"
)
WHAT_IF = Clause(name="world.what_if", look="WhatIf; the logged actions lead to factual")
LACKS = Clause(
    name="world.unsupported", look="World.score and plan; UnsupportedError for a goal that the world cannot measure"
)


def check_world(
    world: World,
    episodes: Sequence[Episode],
    goal: Goal,
    *,
    horizon: int = 4,
    num_calibration: int | None = None,
    alpha: float = 1e-3,
    tolerance: float = 1e-3,
    seed: int = 0,
) -> None:
    """Checks all clauses; the arguments are those of `WorldCase`.

    Raises:
        AssertionError: lists each broken clause, the violation, and where to look.
        InputError: the episodes are too few or too short.
    """
    case = WorldCase(
        world=world,
        episodes=episodes,
        goal=goal,
        horizon=horizon,
        num_calibration=num_calibration,
        alpha=alpha,
        tolerance=tolerance,
        seed=seed,
    )
    run(type(world).__name__, case, CLAUSES)


def prediction_shapes(case: WorldCase) -> None:
    """A prediction has a mean and a band in the signal's shape for each predicted signal, for one world or W."""
    cut = case.cut()
    alone = case.predict_one(query_of(cut, 0))
    SHAPES.holds(np.ndim(alone.trust) == 0, f"trust of one world has shape {np.shape(alone.trust)}")
    for leading, prediction in (((), alone), ((cut.num_worlds,), case.predict(cut))):
        names = set(prediction.signals)
        SHAPES.holds(names == set(case.card.predicts), f"signals {sorted(names)}, expected {case.card.predicts}")
        SHAPES.holds(prediction.level == 0.8, f"level {prediction.level}, expected 0.8")
        for name, forecast in prediction.signals.items():
            signal = case.card.schema[name]
            expected = (*leading, case.horizon, *signal.shape)
            wants_band = signal.kind is Kind.VECTOR and prediction.calibrated
            for label, value in (("mean", forecast.mean), ("low", forecast.low), ("high", forecast.high)):
                if value is None:
                    SHAPES.holds(label != "mean" and not wants_band, f"{label} of {name!r} is None")
                    continue
                SHAPES.holds(value.shape == expected, f"{label} of {name!r} has shape {value.shape}, not {expected}")
                SHAPES.holds(label != "mean" or bool(np.isfinite(value).all()), f"mean of {name!r} is not finite")
            no_band = signal.kind is Kind.IMAGE or not prediction.calibrated
            SHAPES.holds(not no_band or forecast.low is None, f"{name!r} has a band without a calibration")


def batch_is_loop(case: WorldCase) -> None:
    """Predictions and scores of a batch of W worlds equal those of single worlds."""
    cut = case.cut()
    together, plans = case.predict(cut), _plans(cut, case.seed)
    scores = _score(case, cut, plans)
    for world in (0, cut.num_worlds - 1):
        query = query_of(cut, world)
        alone = case.predict_one(query)
        problem = f"world {world} alone differs from its result in the batch"
        trust = [np.nan_to_num(value, nan=-1.0) for value in (alone.trust, as_float(together.trust)[world])]
        BATCH.equal(trust[0], trust[1], within=case.tolerance, problem=f"{problem}: trust")  # NaN where not calibrated
        for name, forecast in together.signals.items():
            for label, part, whole in (
                ("mean", alone.signals[name].mean, forecast.mean),
                ("low", alone.signals[name].low, forecast.low),
                ("high", alone.signals[name].high, forecast.high),
            ):
                BATCH.holds((part is None) == (whole is None), f"{problem}: {label} of {name!r}")
                if part is not None and whole is not None:
                    BATCH.equal(part, whole[world], within=case.tolerance, problem=f"{problem}: {label} of {name!r}")
        cost = case.score_one(query, logged_plans(cut, world, 4, case.seed)).cost
        BATCH.equal(cost, scores[world], within=case.tolerance, problem=f"{problem}: cost")


def masks_hide(case: WorldCase) -> None:
    """Unobserved values, NaN too, do not change the prediction."""
    cut = case.cut()
    hidden = some_hidden(cut.num_worlds, case.length)

    def means(values: str) -> Arrays:
        found = case.predict(replace(cut, history=hide(cut.history, hidden, values)))
        return {name: forecast.mean for name, forecast in found.signals.items()}

    expected = means("kept")
    for values in ("other", "nan"):
        problem = f"masked values (filled with {values!r}) change the prediction"
        MASKS.all_equal(means(values), expected, within=case.tolerance, problem=problem)


def no_peek(case: WorldCase) -> None:
    """Actions from step k on do not change the means before k."""
    cut = case.cut()
    future, others = cut.future(2, case.seed), cut.future(2, case.seed + 1)
    before = case.predict(cut)
    for step in range(1, case.horizon):
        other = replace(others, actions={name: value[:, ::-1] for name, value in others.actions.items()})
        mixed = splice(future, other, step)
        after = case.predict(cut, actions={name: value[:, 0] for name, value in mixed.actions.items()})
        for name, forecast in before.signals.items():
            pair = forecast.mean[:, :step], after.signals[name].mean[:, :step]
            problem = f"mean of {name!r} before step {step} changed with later actions"
            PEEK.equal(*pair, within=case.tolerance, problem=problem)


def timing(case: WorldCase) -> None:
    """The logged actions fit the log better than actions that are shifted by a step.

    Not checked if actions have no effect on the prediction.
    """
    cut = case.cut()
    other = {name: value[:, 1] for name, value in cut.future(2, case.seed).actions.items()}
    pair = case.predict(cut), case.predict(cut, actions=other)
    if all(difference(pair[0].signals[n].mean, pair[1].signals[n].mean) <= case.tolerance for n in case.card.predicts):
        return

    def answer(piece: Cut, actions: Arrays) -> Arrays:
        return {name: forecast.mean for name, forecast in case.predict(piece, actions=actions).signals.items()}

    errors = alignment_errors(answer, case.episodes, length=case.length, horizon=case.horizon, seed=case.seed)
    aligned(TIMING, errors)


def arguments_unchanged(case: WorldCase) -> None:
    """No verb changes its arguments or the global random state."""
    cut, plans = case.cut(), _plans(case.cut(), case.seed)
    query, episode, goal = query_of(cut, 0), case.episodes[0], case.batch_goal(cut.num_worlds)
    at = case.length - 1
    taken = {name: value[at : at + case.horizon] for name, value in episode.actions.items()}
    with ARGUMENTS.unchanged(cut, plans, query, episode, goal, taken, case.goal):
        case.predict(cut)
        case.world.score(cut.history, plans, goal, exogenous=cut.exogenous or None)
        case.world.what_if(episode, at, taken)
        for ask in (partial(case.plan_one, query), partial(case.world.surprise, episode)):
            with suppress(UnsupportedError):  # abilities have their own clauses
                ask()


def input_errors(case: WorldCase) -> None:
    """A missing, misshapen or NaN signal is refused with InputError, unless it is never read."""
    cut = case.cut()
    hidden = hide(cut.history, some_hidden(cut.num_worlds, case.length), "kept")  # makes past inputs relevant
    query = query_of(replace(cut, history=hidden), 0)
    expected = case.predict_one(query)
    history = query.history
    _refused(
        case, "no observation at all", replace(query, history=replace(history, observations={}, observed={})), None
    )
    _refused(case, "no action at all", replace(query, actions={}), None)
    bad: list[tuple[str, History]] = []
    for name, value in history.observations.items():
        fewer = {other: kept for other, kept in history.observations.items() if other != name}
        masks = {other: kept for other, kept in history.observed.items() if other != name}
        bad.append((f"no {name!r} in the history", replace(history, observations=fewer, observed=masks)))
        double = {**history.observations, name: wider(value, case.card.schema[name])}
        bad.append((f"{name!r} of another shape", replace(history, observations=double)))
        if np.issubdtype(value.dtype, np.floating):
            broken = {**history.observations, name: np.full_like(value, np.nan)}
            bad.append((f"NaN in {name!r}", replace(history, observations=broken)))
    for what, wrong in bad:
        _refused(case, what, replace(query, history=wrong), expected)
    for name, value in query.actions.items():
        fewer = {other: kept for other, kept in query.actions.items() if other != name}
        _refused(case, f"no {name!r} in the plan", replace(query, actions=fewer), expected)
        if np.issubdtype(value.dtype, np.floating):
            broken = {**query.actions, name: np.full_like(value, np.nan)}
            _refused(case, f"NaN in {name!r}", replace(query, actions=broken), expected)


def scores_each_plan(case: WorldCase) -> None:
    """Scores are independent: one cost and C violations per plan, in the order of the plans."""
    cut = case.cut()
    query, plans = query_of(cut, 0), logged_plans(cut, 0, 4, case.seed)
    num = len(next(iter(plans.values())))
    rules, expected = _rules(case, query, plans)
    found = case.score_one(query, plans, constraints=rules)
    SCORES.holds(found.cost.shape == (num,), f"cost has shape {found.cost.shape} for {num} plans")
    problem = f"violation has shape {found.violation.shape} for {num} plans and C = {len(rules)}"
    SCORES.holds(found.violation.shape == (num, len(rules)), problem)
    SCORES.holds(bool(np.isfinite(found.cost).all()), "a cost is not finite")
    problem, known = "violation is not that of the constraints", ~np.isnan(expected)
    SCORES.equal(np.where(known, found.violation, 0.0), np.where(known, expected, 0.0), within=1e-6, problem=problem)
    SCORES.holds(bool((found.violation[~known] > 0).all()), problem)
    turned = {name: value[::-1] for name, value in plans.items()}
    other = case.score_one(query, turned, constraints=rules)
    problem = "another order of plans changes their costs"
    SCORES.equal(other.cost[::-1], found.cost, within=case.tolerance, problem=problem)


def costs_add_up(case: WorldCase) -> None:
    """Costs of inputs are added to the error to the targets, with discount and `last_only` of the goal.

    Not checked without a vector input, because no other cost is known in advance.
    """
    cut = case.cut()
    query, plans = query_of(cut, 0), logged_plans(cut, 0, 4, case.seed)
    given = _given(case, query, plans)
    if given is None:
        return
    name, values = given
    taken, dear = values.sum(-1), Price(signal=name, price=1.0)

    def cost(goal: Goal) -> NDArray[np.floating]:
        return as_float(case.score_one(query, plans, goal).cost)

    half, steps = 0.5 ** np.arange(taken.shape[1]), taken.sum(1)
    plain, only = replace(case.goal, discount=1.0, last_only=False), Goal(targets={}, costs=(dear,))
    for goal, expected, problem in (
        (
            replace(plain, costs=(*plain.costs, dear)),
            cost(plain) + steps,
            "the cost is not the sum of targets and a cost",
        ),
        (replace(only, costs=(dear, dear)), 2 * steps, "the cost is not the sum of two costs"),
        (replace(only, discount=0.5), (taken * half).sum(1), "discount 0.5 does not halve the weight of each step"),
        (replace(only, last_only=True), taken[:, -1], "last_only does not use the last step alone"),
    ):
        COSTS.equal(cost(goal), expected, within=case.tolerance, problem=problem)


def plan_honest(case: WorldCase) -> None:
    """A plan is inside the bounds, reproducible, and cheaper than the log, and states its true cost."""
    if not case.card.action_conditioned:
        return
    cut = case.cut()
    for world in (0, cut.num_worlds - 1):
        query = query_of(cut, world)
        found = case.plan_one(query)
        _check_plan(case, query, found, ())
        logged = logged_plans(cut, world, 4, case.seed)
        costs = case.score_one(query, logged).cost
        problem = f"the plan costs {float(found.cost):.4g}, but sequences from the log cost {costs.mean():.4g}"
        PLAN_WORTH.holds(float(found.cost) <= costs.mean() + case.tolerance * abs(costs.mean()) + 1e-9, problem)
        again = case.plan_one(query)
        PLAN_COST.all_equal(again.actions, found.actions, within=0.0, problem="equal seeds gave different plans")


def plan_after_pending(case: WorldCase) -> None:
    """The plan follows the pending actions, and its cost includes them."""
    if case.horizon < 2 or not case.card.action_conditioned:
        return
    query = query_of(case.cut(), 0)
    pending = {name: value[:1] for name, value in query.actions.items()}
    found = case.world.plan(
        query.history, case.goal, horizon=case.horizon - 1, exogenous=query.exogenous, pending=pending, seed=case.seed
    )
    for signal in case.card.schema.actions:
        shape, expected = found.actions[signal.name].shape, (case.horizon - 1, *signal.shape)
        PENDING.holds(shape == expected, f"{signal.name!r} has shape {shape}, expected {expected}")
    whole = {name: np.concatenate([value, found.actions[name]])[None] for name, value in pending.items()}
    expected = case.score_one(query, whole).cost[0]
    PENDING.equal(found.cost, expected, within=case.tolerance, problem="the cost is not that of the whole sequence")


def plan_constrained(case: WorldCase) -> None:
    """The status states whether constraints hold; an impossible one makes the plan infeasible."""
    if not case.card.action_conditioned:
        return
    query = query_of(case.cut(), 0)
    free = case.plan_one(query)
    rules, _ = _rules(case, query, {name: value[None] for name, value in free.actions.items()})
    if not rules:
        return
    kept = [*rules[:1]]
    for name in case.vectors[:1]:
        reached = as_float(
            case.world.predict(query.history, free.actions, exogenous=query.exogenous).signals[name].mean
        )
        # The bound restricts one component; the others are free.
        bound = (float(reached[-1, 0]), *[math.inf] * (reached.shape[1] - 1))
        kept.append(AtMost(signal=name, bound=bound))
    _check_plan(case, query, case.plan_one(query, constraints=kept), kept)
    never = rules[1:]
    found = case.plan_one(query, constraints=never)
    _check_plan(case, query, found, never)
    problem = f"status {found.status.value} with a constraint that cannot hold, expected infeasible"
    PLAN_STATUS.holds(found.status is PlanStatus.INFEASIBLE, problem)


def plan_refuses(case: WorldCase) -> None:
    """A plan is refused, with a reason and without actions, if and only if trust is below `min_trust`."""
    if not case.card.action_conditioned:
        return
    cut = case.cut()
    trust = as_float(case.predict(cut).trust)
    query = query_of(cut, int(trust.argmin()))
    least = float(trust.min())
    if np.isnan(least) or least >= 1.0:
        return
    found = case.plan_one(query, min_trust=(least + 1) / 2)
    problem = f"status {found.status.value} for trust {least:.3g} and min_trust {(least + 1) / 2:.3g}, not refused"
    REFUSAL.holds(found.status is PlanStatus.REFUSED, problem)
    REFUSAL.holds(bool(found.reason), "the plan is refused without a reason")
    lengths = {name: len(value) for name, value in found.actions.items()}
    REFUSAL.holds(not any(lengths.values()), f"the plan is refused, but has actions of length {lengths}")
    allowed = case.plan_one(query, min_trust=least / 2)
    REFUSAL.holds(allowed.status is not PlanStatus.REFUSED, f"refused, but trust {least:.3g} is above min_trust")


def what_if_factual(case: WorldCase) -> None:
    """The logged actions lead to `factual`, which does not depend on the query; later actions have no effect."""
    at = case.length - 1
    for episode in case.episodes[:3]:
        taken = {name: value[at : at + case.horizon] for name, value in episode.actions.items()}
        same = case.world.what_if(episode, at, taken)
        full = same.abduction is Abduction.FULL
        WHAT_IF.holds(full == (not same.reason), f"abduction is {same.abduction.value} with the reason {same.reason!r}")
        names = set(case.card.predicts)
        WHAT_IF.holds(set(same.signals) == names, f"signals {sorted(same.signals)}, the card predicts {sorted(names)}")
        for name, value in same.signals.items():
            expected = (case.horizon, *case.card.schema[name].shape)
            WHAT_IF.holds(value.shape == expected, f"{name!r} has shape {value.shape}, expected {expected}")
        problem = "the logged actions do not lead to factual"
        WHAT_IF.all_equal(same.signals, same.factual, within=case.tolerance, problem=problem)
        if full:
            logged = {n: episode.observations[n][at + 1 : at + 1 + case.horizon] for n in case.card.predicts}
            problem = "abduction is full, but the logged actions do not lead to the logged observations"
            WHAT_IF.all_equal(same.factual, logged, within=case.tolerance, problem=problem)
        half = case.horizon // 2
        turned = {n: np.concatenate([value[:half], value[half:][::-1] * 0]) for n, value in taken.items()}
        other = case.world.what_if(episode, at, turned)
        problem = "factual changed with the queried actions"
        WHAT_IF.all_equal(other.factual, same.factual, within=case.tolerance, problem=problem)
        early = [{name: value[:half] for name, value in found.items()} for found in (other.signals, same.signals)]
        WHAT_IF.all_equal(early[0], early[1], within=case.tolerance, problem="later actions changed earlier signals")


def unsupported_goals_refused(case: WorldCase) -> None:
    """A goal that the world cannot measure raises UnsupportedError; other goals distinguish plans."""
    cut = case.cut()
    query, plans = query_of(cut, 0), logged_plans(cut, 0, 4, case.seed)
    card = case.card
    for signal in card.schema.observations:
        if signal.kind is not Kind.IMAGE and signal.name in card.predicts:
            continue
        goal = Goal(targets={signal.name: np.asarray(cut.truth[signal.name][-1, -1])})
        asks: Mapping[str, Callable[[], object]] = {
            "score": partial(case.score_one, query, plans, goal),
            "plan": partial(case.plan_one, query, goal),
        }
        for verb, ask in asks.items():
            try:
                ask()
            except UnsupportedError as refusal:
                LACKS.holds(bool(str(refusal)), f"{verb} towards {signal.name!r} is refused without a message")
                continue
            problem = f"{verb} towards {signal.name!r} was answered, but the card does not list 'reaches'"
            LACKS.holds("reaches" in card.abilities, problem)
            costs = case.score_one(query, plans, goal).cost
            problem = f"every plan towards {signal.name!r} costs {costs[0]:.4g}"
            LACKS.holds(float(np.ptp(costs)) > 0, problem)


CLAUSES: tuple[Callable[[WorldCase], None], ...] = (
    card_honest,
    inputs_honest,
    short_history,
    prediction_shapes,
    batch_is_loop,
    bands_ordered,
    coverage,
    horizon_honest,
    trust_is_p_value,
    trust_depends_on_steps,
    masks_hide,
    no_peek,
    timing,
    arguments_unchanged,
    input_errors,
    messages_name_the_error,
    bounds_kept,
    exogenous_needed,
    ranges_kept,
    scores_each_plan,
    costs_add_up,
    tolerance_scales,
    rollout_is_complete,
    periods_respected,
    chance_uses_the_band,
    worst_samples,
    trust_ahead,
    trust_agrees,
    plan_honest,
    plan_after_pending,
    plan_constrained,
    plan_refuses,
    plan_in_time,
    plan_uses_proposals,
    plan_needs_actions,
    plan_of_batch,
    what_if_factual,
    abduction_honest,
    surprise_is_p_value,
    surprise_parts,
    surprise_together,
    surprise_uniform,
    surprise_of_missing,
    moments_in_order,
    episodes_fit,
    unsupported_goals_refused,
    refusals_name_what_is_missing,
    same_from_eight_threads,
    same_in_any_order,
    any_layout,
)
"""Every clause, in the order in which a report lists them."""


def _plans(cut: Cut, seed: int) -> Arrays:
    return cut.future(4, seed).actions


def _score(case: WorldCase, cut: Cut, plans: Arrays) -> NDArray[np.floating]:
    goal = case.batch_goal(cut.num_worlds)
    return case.world.score(cut.history, plans, goal, exogenous=cut.exogenous or None).cost


def _check_plan(case: WorldCase, query: Query, found: Plan, constraints: Sequence[Constraint]) -> None:
    """Raises AssertionError if bounds, cost, violation or status of a plan are wrong."""
    PLAN_STATUS.holds(found.elapsed_s >= 0, f"elapsed_s is {found.elapsed_s}")
    for signal in case.card.schema.actions:
        value, expected = as_float(found.actions[signal.name]), (case.horizon, *signal.shape)
        problem = f"{signal.name!r} has shape {value.shape}, expected {expected}"
        PLAN_BOUNDS.holds(value.shape == expected, problem)
        low, high = np.asarray(signal.low or -np.inf), np.asarray(signal.high or np.inf)
        problem = f"{signal.name!r} from {value.min():.4g} to {value.max():.4g}, expected {signal.low} to {signal.high}"
        PLAN_BOUNDS.holds(difference(value, np.clip(value, low, high)) <= 1e-6, problem)
    alone = {name: value[None] for name, value in found.actions.items()}
    scores = case.score_one(query, alone, constraints=constraints)
    within = case.tolerance
    PLAN_COST.equal(found.cost, scores.cost[0], within=within, problem="Plan.cost differs from World.score")
    problem = "Plan.violation differs from World.score"
    PLAN_COST.equal(found.violation, scores.violation[0], within=within, problem=problem)
    violates = bool(np.any(scores.violation[0] > 0))
    problem = f"status {found.status.value} with a violation of {scores.violation[0].tolist()}"
    PLAN_STATUS.holds((found.status is PlanStatus.INFEASIBLE) == violates, problem)
    PLAN_STATUS.holds(bool(found.reason) == violates, f"{problem} and the reason {found.reason!r}")


def _refused(case: WorldCase, what: str, query: Query, expected: Prediction | None) -> None:
    """Raises AssertionError unless `predict` raises InputError or returns `due`."""
    try:
        found = case.predict_one(query)
    except InputError:
        return
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        INPUTS.holds(False, f"{what}: expected InputError, got {type(error).__name__} ({error})")
        return
    INPUTS.holds(expected is not None, f"{what}: expected InputError, got an answer")
    assert expected is not None  # for the type checker
    INPUTS.all_equal(
        {name: forecast.mean for name, forecast in found.signals.items()},
        {name: forecast.mean for name, forecast in expected.signals.items()},
        within=case.tolerance,
        problem=f"{what}: no InputError, but another prediction",
    )


def _given(case: WorldCase, query: Query, plans: Arrays) -> tuple[str, NDArray[np.floating]] | None:
    """A vector input with its values [N, T, size], an action if possible; None if there is none."""
    schema, num = case.card.schema, len(next(iter(plans.values())))
    for signal in (*schema.actions, *schema.exogenous):
        if signal.kind is Kind.VECTOR:
            values = plans.get(signal.name)
            if values is None and query.exogenous is not None:
                values = np.stack([query.exogenous[signal.name]] * num)
            if values is not None:
                return signal.name, as_float(values)
    return None


def _rules(case: WorldCase, query: Query, plans: Arrays) -> tuple[list[Constraint], NDArray[np.floating]]:
    """A constraint that every plan satisfies, one that none can, and the violations of `plans` [N, 2].

    They are on a vector input, else on a predicted vector, with NaN for violations that are not known in advance.
    Empty if the world has neither.
    """
    given, num = _given(case, query, plans), len(next(iter(plans.values())))
    if given is not None:
        name, values = given
        low = case.card.schema[name].low
        bound = min(low or (-np.inf,)) - 2.0
        bound = bound if np.isfinite(bound) else float(values.min()) - 2.0
        worst = values.max((1, 2)) - bound
    elif case.vectors:
        name, worst = case.vectors[0], np.full(num, np.nan)
        values = np.concatenate([as_float(episode.observations[name]) for episode in case.episodes])
        bound = float(np.nanmin(values) - 1e3 * (1 + np.ptp(values[np.isfinite(values)])))
    else:
        return [], np.zeros((num, 0))
    rules: list[Constraint] = [AtMost(signal=name, bound=math.inf), AtMost(signal=name, bound=bound)]
    return rules, np.stack([np.zeros(num), worst], 1)
