"""Is this a `World`? Every clause of `world/base.py`, one function each, in the files that `CLAUSES` names.

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

from worldline.episode import Arrays, Episode, History
from worldline.errors import InputError, UnsupportedError
from worldline.planning.base import Constraint, Goal
from worldline.planning.costs import AtMost, Price
from worldline.schema import Kind
from worldline.testing.cards import card_honest, inputs_honest, short_history
from worldline.testing.clauses import Clause, as_float, difference, run
from worldline.testing.confidence import bands_ordered, coverage, surprise_tells, trust_heeds_steps, trust_tells
from worldline.testing.cuts import Cut, aligned, alignment_errors, hide, some_hidden, splice, wider
from worldline.testing.determinism_checks import any_layout, same_from_eight_threads, same_whatever_came_between
from worldline.testing.goals import chance_by_the_band, outlook_shows, periods_heeded, tolerance_scales, worst_samples
from worldline.testing.horizons import horizon_honest
from worldline.testing.plans import plan_counts, plan_heeds_proposals, plan_in_time, plan_of_batch, trust_is_one
from worldline.testing.refusals import (
    bounds_kept,
    episodes_fit,
    exogenous_needed,
    messages_tell,
    ranges_kept,
    refusals_name_what_lacks,
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
from worldline.testing.world_case import One, WorldCase, logged_plans, one_of
from worldline.world.base import Abduction, Plan, PlanStatus, Prediction, World

SHAPES = Clause(name="world.prediction", look="Prediction and Forecast; a mean [T, *shape] and a band for each signal")
BATCH = Clause(name="world.batch", look="the verbs; W worlds at once are W worlds one by one, without the leading axis")
MASKS = Clause(name="world.masks", look="History.observed; where it is False the value, NaN too, must not matter")
PEEK = Clause(name="world.no_peek", look="World.predict; mean[k] may depend on actions 0 to k only")
TIMING = Clause(name="world.timing", look="the transition convention; action t takes observation t to t+1")
ARGUMENTS = Clause(name="world.arguments", look="the verbs; they change no argument and no global random state")
INPUTS = Clause(name="world.input_errors", look="World.predict; InputError where a signal is missing, misshapen or NaN")
SCORES = Clause(name="world.score", look="Scores; cost [N], violation [N, C], each plan on its own")
COSTS = Clause(
    name="world.costs", look="Goal.costs, discount, last_only; costs see actions by name and add up over steps"
)
PLAN_BOUNDS = Clause(name="world.plan_bounds", look="Plan.actions; [T, *shape] inside the schema's bounds")
PLAN_COST = Clause(name="world.plan_cost", look="Plan.cost and violation; what score says of the returned actions")
PENDING = Clause(
    name="world.pending", look="World.plan(pending=...); the plan's cost is that of what is pending and of the plan"
)
PLAN_STATUS = Clause(name="world.plan_status", look="Plan.status and reason; infeasible if and only if it violates")
PLAN_WORTH = Clause(name="world.plan_worth", look="World.plan; cheaper than what happens to be in the log")
REFUSAL = Clause(
    name="world.plan_refusal", look="World.plan, min_trust; refused below it, with a reason and no actions"
)
WHAT_IF = Clause(name="world.what_if", look="WhatIf; the actions that were taken lead to what factual says")
LACKS = Clause(
    name="world.unsupported", look="World.score and plan; a goal that cannot be measured is refused, not faked"
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
    """Checks every clause; the arguments are those of `WorldCase`.

    Raises:
        AssertionError: names each broken clause, what was seen, and where to look.
        InputError: the episodes are too few or too short to tell.
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
    """A prediction has a mean and a band, in the signal's shape, for each signal on the card, for one world or W."""
    cut = case.cut()
    alone = case.predict_one(one_of(cut, 0))
    SHAPES.holds(np.ndim(alone.trust) == 0, f"trust of one world has shape {np.shape(alone.trust)}")
    for leading, prediction in (((), alone), ((cut.num_worlds,), case.predict(cut))):
        names = set(prediction.signals)
        SHAPES.holds(names == set(case.card.predicts), f"signals {sorted(names)}, the card says {case.card.predicts}")
        SHAPES.holds(prediction.level == 0.8, f"level {prediction.level} where 0.8 was asked for")
        for name, forecast in prediction.signals.items():
            signal = case.card.schema[name]
            due = (*leading, case.horizon, *signal.shape)
            wants_band = signal.kind is Kind.VECTOR and prediction.calibrated
            for label, value in (("mean", forecast.mean), ("low", forecast.low), ("high", forecast.high)):
                if value is None:
                    SHAPES.holds(label != "mean" and not wants_band, f"{label} of {name!r} is None")
                    continue
                SHAPES.holds(value.shape == due, f"{label} of {name!r} has shape {value.shape} where {due} is due")
                SHAPES.holds(label != "mean" or bool(np.isfinite(value).all()), f"mean of {name!r} is not finite")
            no_band = signal.kind is Kind.IMAGE or not prediction.calibrated
            SHAPES.holds(not no_band or forecast.low is None, f"{name!r} has a band that nothing was calibrated for")


def batch_is_loop(case: WorldCase) -> None:
    """Predictions and scores of W worlds at once are those of the worlds one by one."""
    cut = case.cut()
    together, plans = case.predict(cut), _plans(cut, case.seed)
    scores = _score(case, cut, plans)
    for world in (0, cut.num_worlds - 1):
        here = one_of(cut, world)
        alone = case.predict_one(here)
        seen = f"world {world} alone is not what it is in the batch"
        trust = [np.nan_to_num(value, nan=-1.0) for value in (alone.trust, as_float(together.trust)[world])]
        BATCH.equal(trust[0], trust[1], within=case.tolerance, seen=f"{seen}: trust")  # NaN where not calibrated
        for name, forecast in together.signals.items():
            for label, part, whole in (
                ("mean", alone.signals[name].mean, forecast.mean),
                ("low", alone.signals[name].low, forecast.low),
                ("high", alone.signals[name].high, forecast.high),
            ):
                BATCH.holds((part is None) == (whole is None), f"{seen}: {label} of {name!r}")
                if part is not None and whole is not None:
                    BATCH.equal(part, whole[world], within=case.tolerance, seen=f"{seen}: {label} of {name!r}")
        cost = case.score_one(here, logged_plans(cut, world, 4, case.seed)).cost
        BATCH.equal(cost, scores[world], within=case.tolerance, seen=f"{seen}: cost")


def masks_hide(case: WorldCase) -> None:
    """Values that were not observed, NaN too, do not change what is predicted."""
    cut = case.cut()
    hidden = some_hidden(cut.num_worlds, case.length)

    def means(values: str) -> Arrays:
        found = case.predict(replace(cut, history=hide(cut.history, hidden, values)))
        return {name: forecast.mean for name, forecast in found.signals.items()}

    due = means("kept")
    for values in ("other", "nan"):
        seen = f"masked values (filled with {values}) matter"
        MASKS.all_equal(means(values), due, within=case.tolerance, seen=seen)


def no_peek(case: WorldCase) -> None:
    """Changing actions from step k on leaves the means before k as they were."""
    cut = case.cut()
    future, others = cut.future(2, case.seed), cut.future(2, case.seed + 1)
    before = case.predict(cut)
    for step in range(1, case.horizon):
        other = replace(others, actions={name: value[:, ::-1] for name, value in others.actions.items()})
        mixed = splice(future, other, step)
        after = case.predict(cut, actions={name: value[:, 0] for name, value in mixed.actions.items()})
        for name, forecast in before.signals.items():
            pair = forecast.mean[:, :step], after.signals[name].mean[:, :step]
            seen = f"mean of {name!r} before step {step} changed with later actions"
            PEEK.equal(*pair, within=case.tolerance, seen=seen)


def timing(case: WorldCase) -> None:
    """The log is fitted better by the actions as logged than by those one step earlier or later.

    Not checked where actions do not matter to the world.
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
    """No argument and no global random state is changed by any verb."""
    cut, plans = case.cut(), _plans(case.cut(), case.seed)
    here, episode, goal = one_of(cut, 0), case.episodes[0], case.batch_goal(cut.num_worlds)
    at = case.length - 1
    taken = {name: value[at : at + case.horizon] for name, value in episode.actions.items()}
    with ARGUMENTS.unchanged(cut, plans, here, episode, goal, taken, case.goal):
        case.predict(cut)
        case.world.score(cut.history, plans, goal, exogenous=cut.exogenous or None)
        case.world.what_if(episode, at, taken)
        for ask in (partial(case.plan_one, here), partial(case.world.surprise, episode)):
            with suppress(UnsupportedError):  # what it lacks is the business of another clause
                ask()


def input_errors(case: WorldCase) -> None:
    """A missing, misshapen or NaN signal is refused with InputError, unless it was never read."""
    cut = case.cut()
    hidden = hide(cut.history, some_hidden(cut.num_worlds, case.length), "kept")  # so that past inputs matter
    here = one_of(replace(cut, history=hidden), 0)
    due = case.predict_one(here)
    history = here.history
    _refused(case, "no observation at all", replace(here, history=replace(history, observations={}, observed={})), None)
    _refused(case, "no action at all", replace(here, actions={}), None)
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
        _refused(case, what, replace(here, history=wrong), due)
    for name, value in here.actions.items():
        fewer = {other: kept for other, kept in here.actions.items() if other != name}
        _refused(case, f"no {name!r} in the plan", replace(here, actions=fewer), due)
        if np.issubdtype(value.dtype, np.floating):
            broken = {**here.actions, name: np.full_like(value, np.nan)}
            _refused(case, f"NaN in {name!r}", replace(here, actions=broken), due)


def scores_each_plan(case: WorldCase) -> None:
    """Each plan's score is its own: one cost and C violations a plan, in the order of the plans."""
    cut = case.cut()
    here, plans = one_of(cut, 0), logged_plans(cut, 0, 4, case.seed)
    num = len(next(iter(plans.values())))
    rules, due = _rules(case, here, plans)
    found = case.score_one(here, plans, constraints=rules)
    SCORES.holds(found.cost.shape == (num,), f"cost has shape {found.cost.shape} for {num} plans")
    seen = f"violation has shape {found.violation.shape} for {num} plans and C = {len(rules)}"
    SCORES.holds(found.violation.shape == (num, len(rules)), seen)
    SCORES.holds(bool(np.isfinite(found.cost).all()), "a cost is not finite")
    seen, known = "violation is not what the constraints say", ~np.isnan(due)
    SCORES.equal(np.where(known, found.violation, 0.0), np.where(known, due, 0.0), within=1e-6, seen=seen)
    SCORES.holds(bool((found.violation[~known] > 0).all()), seen)
    turned = {name: value[::-1] for name, value in plans.items()}
    other = case.score_one(here, turned, constraints=rules)
    seen = "another order of plans changes their costs"
    SCORES.equal(other.cost[::-1], found.cost, within=case.tolerance, seen=seen)


def costs_add_up(case: WorldCase) -> None:
    """What an input costs is added to the error to the targets, over the steps as the goal says.

    Not checked where no input is a vector: nothing else has a price that is known beforehand.
    """
    cut = case.cut()
    here, plans = one_of(cut, 0), logged_plans(cut, 0, 4, case.seed)
    given = _given(case, here, plans)
    if given is None:
        return
    name, values = given
    taken, dear = values.sum(-1), Price(signal=name, price=1.0)

    def cost(goal: Goal) -> NDArray[np.floating]:
        return as_float(case.score_one(here, plans, goal).cost)

    half, steps = 0.5 ** np.arange(taken.shape[1]), taken.sum(1)
    plain, only = replace(case.goal, discount=1.0, last_only=False), Goal(targets={}, costs=(dear,))
    for goal, due, seen in (
        (replace(plain, costs=(*plain.costs, dear)), cost(plain) + steps, "targets and a cost do not add up"),
        (replace(only, costs=(dear, dear)), 2 * steps, "two costs do not add up"),
        (replace(only, discount=0.5), (taken * half).sum(1), "discount does not halve each step"),
        (replace(only, last_only=True), taken[:, -1], "last_only does not count the last step alone"),
    ):
        COSTS.equal(cost(goal), due, within=case.tolerance, seen=seen)


def plan_honest(case: WorldCase) -> None:
    """A plan is inside the bounds, costs what it says, is no dearer than the log, and the same for the same seed."""
    if not case.card.action_conditioned:
        return
    cut = case.cut()
    for world in (0, cut.num_worlds - 1):
        here = one_of(cut, world)
        found = case.plan_one(here)
        _check_plan(case, here, found, ())
        logged = logged_plans(cut, world, 4, case.seed)
        costs = case.score_one(here, logged).cost
        seen = f"a plan of cost {float(found.cost):.4g}, where sequences from the log cost {costs.mean():.4g}"
        PLAN_WORTH.holds(float(found.cost) <= costs.mean() + case.tolerance * abs(costs.mean()) + 1e-9, seen)
        again = case.plan_one(here)
        PLAN_COST.all_equal(again.actions, found.actions, within=0.0, seen="equal seeds gave two different plans")


def plan_after_pending(case: WorldCase) -> None:
    """What is on its way is part of the path: the plan follows it, and its cost is that of both."""
    if case.horizon < 2 or not case.card.action_conditioned:
        return
    here = one_of(case.cut(), 0)
    sent = {name: value[:1] for name, value in here.actions.items()}
    found = case.world.plan(
        here.history, case.goal, horizon=case.horizon - 1, exogenous=here.exogenous, pending=sent, seed=case.seed
    )
    for signal in case.card.schema.actions:
        shape, due = found.actions[signal.name].shape, (case.horizon - 1, *signal.shape)
        PENDING.holds(shape == due, f"{signal.name!r} has shape {shape} where {due} is due")
    whole = {name: np.concatenate([value, found.actions[name]])[None] for name, value in sent.items()}
    due = case.score_one(here, whole).cost[0]
    PENDING.equal(found.cost, due, within=case.tolerance, seen="cost is not that of what is pending and of the plan")


def plan_constrained(case: WorldCase) -> None:
    """With constraints the status says whether they hold; one that cannot hold makes the plan infeasible."""
    if not case.card.action_conditioned:
        return
    here = one_of(case.cut(), 0)
    free = case.plan_one(here)
    rules, _ = _rules(case, here, {name: value[None] for name, value in free.actions.items()})
    if not rules:
        return
    kept = [*rules[:1]]
    for name in case.vectors[:1]:
        reached = as_float(case.world.predict(here.history, free.actions, exogenous=here.exogenous).signals[name].mean)
        # In the way of one component; the others are free.
        bound = (float(reached[-1, 0]), *[math.inf] * (reached.shape[1] - 1))
        kept.append(AtMost(signal=name, bound=bound))
    _check_plan(case, here, case.plan_one(here, constraints=kept), kept)
    never = rules[1:]
    found = case.plan_one(here, constraints=never)
    _check_plan(case, here, found, never)
    seen = f"status {found.status.value} under a constraint that cannot hold"
    PLAN_STATUS.holds(found.status is PlanStatus.INFEASIBLE, seen)


def plan_refuses(case: WorldCase) -> None:
    """Below `min_trust` a plan is refused, with a reason and no actions; at or above it it is not."""
    if not case.card.action_conditioned:
        return
    cut = case.cut()
    trust = as_float(case.predict(cut).trust)
    here = one_of(cut, int(trust.argmin()))
    least = float(trust.min())
    if np.isnan(least) or least >= 1.0:
        return
    found = case.plan_one(here, min_trust=(least + 1) / 2)
    seen = f"status {found.status.value} where trust is {least:.3g} and {(least + 1) / 2:.3g} was asked for"
    REFUSAL.holds(found.status is PlanStatus.REFUSED, seen)
    REFUSAL.holds(bool(found.reason), "refused without a reason")
    lengths = {name: len(value) for name, value in found.actions.items()}
    REFUSAL.holds(not any(lengths.values()), f"refused, and yet there are actions of length {lengths}")
    allowed = case.plan_one(here, min_trust=least / 2)
    REFUSAL.holds(allowed.status is not PlanStatus.REFUSED, f"refused though trust {least:.3g} is above min_trust")


def what_if_factual(case: WorldCase) -> None:
    """The actions that were taken lead to `factual`, which does not depend on what is asked; no peek at later ones."""
    at = case.length - 1
    for episode in case.episodes[:3]:
        taken = {name: value[at : at + case.horizon] for name, value in episode.actions.items()}
        same = case.world.what_if(episode, at, taken)
        full = same.abduction is Abduction.FULL
        WHAT_IF.holds(
            full == (not same.reason), f"abduction is {same.abduction.value}, with the reason {same.reason!r}"
        )
        names = set(case.card.predicts)
        WHAT_IF.holds(set(same.signals) == names, f"signals {sorted(same.signals)}, the card predicts {sorted(names)}")
        for name, value in same.signals.items():
            due = (case.horizon, *case.card.schema[name].shape)
            WHAT_IF.holds(value.shape == due, f"{name!r} has shape {value.shape} where {due} is due")
        seen = "the actions that were taken do not lead to factual"
        WHAT_IF.all_equal(same.signals, same.factual, within=case.tolerance, seen=seen)
        if full:
            logged = {n: episode.observations[n][at + 1 : at + 1 + case.horizon] for n in case.card.predicts}
            seen = "abduction is full, and the actions that were taken do not lead to what was logged"
            WHAT_IF.all_equal(same.factual, logged, within=case.tolerance, seen=seen)
        half = case.horizon // 2
        turned = {n: np.concatenate([value[:half], value[half:][::-1] * 0]) for n, value in taken.items()}
        other = case.world.what_if(episode, at, turned)
        seen = "factual changed with the actions that were asked about"
        WHAT_IF.all_equal(other.factual, same.factual, within=case.tolerance, seen=seen)
        early = [{name: value[:half] for name, value in found.items()} for found in (other.signals, same.signals)]
        WHAT_IF.all_equal(early[0], early[1], within=case.tolerance, seen="later actions changed earlier signals")


def refuses_what_it_lacks(case: WorldCase) -> None:
    """A goal that the world cannot measure is refused with UnsupportedError; one that it takes tells plans apart."""
    cut = case.cut()
    here, plans = one_of(cut, 0), logged_plans(cut, 0, 4, case.seed)
    card = case.card
    for signal in card.schema.observations:
        if signal.kind is not Kind.IMAGE and signal.name in card.predicts:
            continue
        goal = Goal(targets={signal.name: np.asarray(cut.truth[signal.name][-1, -1])})
        asks: Mapping[str, Callable[[], object]] = {
            "score": partial(case.score_one, here, plans, goal),
            "plan": partial(case.plan_one, here, goal),
        }
        for verb, ask in asks.items():
            try:
                ask()
            except UnsupportedError as refusal:
                LACKS.holds(bool(str(refusal)), f"{verb} towards {signal.name!r} is refused without a word")
                continue
            seen = f"{verb} towards {signal.name!r} was answered, though the card has no 'reaches'"
            LACKS.holds("reaches" in card.abilities, seen)
            costs = case.score_one(here, plans, goal).cost
            seen = f"every plan towards {signal.name!r} costs {costs[0]:.4g}"
            LACKS.holds(float(np.ptp(costs)) > 0, seen)


CLAUSES: tuple[Callable[[WorldCase], None], ...] = (
    card_honest,
    inputs_honest,
    short_history,
    prediction_shapes,
    batch_is_loop,
    bands_ordered,
    coverage,
    horizon_honest,
    trust_tells,
    trust_heeds_steps,
    masks_hide,
    no_peek,
    timing,
    arguments_unchanged,
    input_errors,
    messages_tell,
    bounds_kept,
    exogenous_needed,
    ranges_kept,
    scores_each_plan,
    costs_add_up,
    tolerance_scales,
    outlook_shows,
    periods_heeded,
    chance_by_the_band,
    worst_samples,
    trust_ahead,
    trust_is_one,
    plan_honest,
    plan_after_pending,
    plan_constrained,
    plan_refuses,
    plan_in_time,
    plan_heeds_proposals,
    plan_counts,
    plan_of_batch,
    what_if_factual,
    abduction_honest,
    surprise_tells,
    surprise_parts,
    surprise_together,
    surprise_uniform,
    surprise_of_missing,
    moments_in_order,
    episodes_fit,
    refuses_what_it_lacks,
    refusals_name_what_lacks,
    same_from_eight_threads,
    same_whatever_came_between,
    any_layout,
)
"""Every clause, in the order in which a report lists them."""


def _plans(cut: Cut, seed: int) -> Arrays:
    """Four plans a world, taken from the log [W, 4, T, *shape]."""
    return cut.future(4, seed).actions


def _score(case: WorldCase, cut: Cut, plans: Arrays) -> NDArray[np.floating]:
    goal = case.batch_goal(cut.num_worlds)
    return case.world.score(cut.history, plans, goal, exogenous=cut.exogenous or None).cost


def _check_plan(case: WorldCase, here: One, found: Plan, constraints: Sequence[Constraint]) -> None:
    """Raises AssertionError where bounds, cost, violation or status are not what they should be."""
    PLAN_STATUS.holds(found.elapsed_s >= 0, f"elapsed_s is {found.elapsed_s}")
    for signal in case.card.schema.actions:
        value, due = as_float(found.actions[signal.name]), (case.horizon, *signal.shape)
        seen = f"{signal.name!r} has shape {value.shape} where {due} is due"
        PLAN_BOUNDS.holds(value.shape == due, seen)
        low, high = np.asarray(signal.low or -np.inf), np.asarray(signal.high or np.inf)
        seen = f"{signal.name!r} from {value.min():.4g} to {value.max():.4g}, outside {signal.low} to {signal.high}"
        PLAN_BOUNDS.holds(difference(value, np.clip(value, low, high)) <= 1e-6, seen)
    alone = {name: value[None] for name, value in found.actions.items()}
    scores = case.score_one(here, alone, constraints=constraints)
    within = case.tolerance
    PLAN_COST.equal(found.cost, scores.cost[0], within=within, seen="cost is not what score says of the actions")
    seen = "violation is not what score says of the actions"
    PLAN_COST.equal(found.violation, scores.violation[0], within=within, seen=seen)
    violates = bool(np.any(scores.violation[0] > 0))
    seen = f"status {found.status.value} with a violation of {scores.violation[0].tolist()}"
    PLAN_STATUS.holds((found.status is PlanStatus.INFEASIBLE) == violates, seen)
    PLAN_STATUS.holds(bool(found.reason) == violates, f"{seen} and the reason {found.reason!r}")


def _refused(case: WorldCase, what: str, here: One, due: Prediction | None) -> None:
    """Raises AssertionError unless predicting raises InputError, or gives `due` all the same."""
    try:
        found = case.predict_one(here)
    except InputError:
        return
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        INPUTS.holds(False, f"{what}: {type(error).__name__} ({error}) where InputError is due")
        return
    INPUTS.holds(due is not None, f"{what}, and no InputError")
    assert due is not None  # for the type checker
    INPUTS.all_equal(
        {name: forecast.mean for name, forecast in found.signals.items()},
        {name: forecast.mean for name, forecast in due.signals.items()},
        within=case.tolerance,
        seen=f"{what}: no InputError, and another prediction",
    )


def _given(case: WorldCase, here: One, plans: Arrays) -> tuple[str, NDArray[np.floating]] | None:
    """A vector input, an action rather than an exogenous one, and its values [N, T, size]; None where there is none."""
    schema, num = case.card.schema, len(next(iter(plans.values())))
    for signal in (*schema.actions, *schema.exogenous):
        if signal.kind is Kind.VECTOR:
            values = plans.get(signal.name)
            if values is None and here.exogenous is not None:
                values = np.stack([here.exogenous[signal.name]] * num)
            if values is not None:
                return signal.name, as_float(values)
    return None


def _rules(case: WorldCase, here: One, plans: Arrays) -> tuple[list[Constraint], NDArray[np.floating]]:
    """One constraint that every plan keeps and one that none can, and the violations of `plans` [N, 2].

    They are on a vector input, else on a predicted vector, where NaN stands for a violation that is not known
    beforehand; none where the world has neither.
    """
    given, num = _given(case, here, plans), len(next(iter(plans.values())))
    if given is not None:
        name, values = given
        low = case.card.schema[name].low
        bound = min(low or (-np.inf,)) - 2.0
        bound = bound if np.isfinite(bound) else float(values.min()) - 2.0
        worst = values.max((1, 2)) - bound
    elif case.vectors:
        name, worst = case.vectors[0], np.full(num, np.nan)
        seen = np.concatenate([as_float(episode.observations[name]) for episode in case.episodes])
        bound = float(np.nanmin(seen) - 1e3 * (1 + np.ptp(seen[np.isfinite(seen)])))
    else:
        return [], np.zeros((num, 0))
    rules: list[Constraint] = [AtMost(signal=name, bound=math.inf), AtMost(signal=name, bound=bound)]
    return rules, np.stack([np.zeros(num), worst], 1)
