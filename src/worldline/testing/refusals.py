"""Clauses on invalid input: what a world refuses, and whether the message helps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np

from worldline.episode import Arrays, Episode
from worldline.planning.base import Goal
from worldline.schema import Kind, Signal
from worldline.testing.cases import WorldCase, one_plan
from worldline.testing.clauses import clause
from worldline.testing.comparing import accepts, holds, lacks, map_arrays, refuses
from worldline.testing.log_edits import wider, without
from worldline.world.logged_range import MAX_EXCESS


@clause("world", "the verbs that take actions, and clip; actions far outside the schema's bounds are refused")
def bounds_kept(case: WorldCase) -> None:
    """Every verb refuses actions far outside their bounds, unless `clip` is set, and predicts slightly outside."""
    query, episode, at = case.query(), case.episodes[0], case.length - 1
    for signal in case.card.schema.actions:
        if signal.low is None or signal.high is None or not np.isfinite((signal.low[0], signal.high[0])).all():
            continue
        low, span = float(signal.low[0]), float(signal.high[0] - signal.low[0])
        slight, far = (_first(query.actions, signal, low - share * span) for share in (MAX_EXCESS / 2, 1.5))
        what = f"predict with {signal.name!r} slightly outside its bounds"
        accepts(what, partial(case.predict, replace(query, actions=slight)))
        asks: dict[str, Callable[..., object]] = {
            "predict": partial(case.predict, replace(query, actions=far)),
            "score": partial(case.score, query, one_plan(far)),
            "plan with proposals": partial(case.plan, query, proposals=one_plan(far)),
            "what_if": partial(case.world.what_if, episode, at, far),
        }
        value = low - 1.5 * span
        for verb, ask in asks.items():
            what = f"{verb} with {signal.name!r} at {value:g}, outside {signal.low} to {signal.high}"
            refuses(what, ask, signal.name, low, value)
        clipped = _first(query.actions, signal, low)
        cost = accepts("score with clip", partial(case.score, query, one_plan(far), clip=True)).cost
        case.equal(cost, case.score(query, one_plan(clipped)).cost, "clipped candidates cost something else")


@clause("world", "level, horizon, min_trust, budget_s and Goal; InputError if one is out of range")
def ranges_kept(case: WorldCase) -> None:
    """Arguments and goals that are out of range are refused; the message has the value."""
    query = case.query()
    for level in (0.0, 1.0, 1.5):
        refuses(f"level {level}", partial(case.predict, query, level=level), "level", level)
    nothing = map_arrays(query.exogenous, lambda value: value[:0])
    refuses("horizon 0", partial(case.plan, replace(query, exogenous=nothing), horizon=0), "horizon", 0.0)
    refuses("min_trust 2", partial(case.plan, query, min_trust=2.0), "min_trust", 2.0)
    refuses("budget_s -1", partial(case.plan, query, budget_s=-1.0), "budget_s", -1.0)
    for what, goal, *wanted in _bad_goals(case):
        refuses(f"score with {what}", partial(case.score, query, one_plan(query.actions), goal), *wanted)
        refuses(f"plan with {what}", partial(case.plan, query, goal), *wanted)


@clause("world", "World.what_if and surprise; InputError if the episode does not fit")
def episodes_fit(case: WorldCase) -> None:
    """A branch outside the episode, or an invalid signal in the episode, is refused; the message names it."""
    episode, world, calibrated = case.episodes[0], case.world, case.calibrated()
    last, taken = episode.num_steps, map_arrays(episode.actions, lambda value: value[:1])
    twice = map_arrays(taken, lambda value: np.concatenate([value, value]))
    for at, actions, steps in ((-1, taken, 1), (last, taken, 1), (last - 1, twice, 2)):
        what = f"what_if with {steps} step(s) from observation {at} of {last}"
        refuses(what, partial(world.what_if, episode, at, actions), float(at), float(steps))

    def refused(what: str, wrong: Episode, *wanted: str | float) -> None:
        refuses(f"what_if: {what} in the episode", partial(world.what_if, wrong, 0, taken), *wanted)
        if calibrated:
            refuses(f"surprise: {what} in the episode", partial(world.surprise, wrong), *wanted)

    for name in episode.actions:
        refused(f"no {name!r}", replace(episode, actions=without(episode.actions, name)), name)
    for name in case.card.inputs:
        signal, wide = case.card.schema[name], wider(episode.observations[name], case.card.schema[name])
        odd = replace(episode, observations={**episode.observations, name: wide})
        refused(f"{name!r} misshapen", odd, name, *signal.shape, *wide.shape)


@clause("world", "UnsupportedError; it names the missing ability or head, and what provides it")
def refusals_name_what_is_missing(case: WorldCase) -> None:
    """UnsupportedError names the missing ability, head or calibration; goals that are not refused distinguish plans."""
    card, query, plans, heads = case.card, case.query(), case.plans(), ("distance", "reaches")
    for signal in card.schema.observations:
        goal = Goal(targets={signal.name: np.asarray(case.windows().truth[signal.name][0, -1])})
        asked, is_image = [replace(goal, in_steps=True)], signal.kind is Kind.IMAGE
        asked += [goal] if is_image or signal.name not in card.predicts else []
        for goal in asked:
            what = f"score towards {signal.name!r}{' in steps' if goal.in_steps else ''}"
            if lacks(what, partial(case.score, query, plans, goal), *heads):
                continue
            holds("reaches" in card.abilities, f"{what} was answered, but the card does not list 'reaches'")
            costs = case.score(query, plans, goal).cost
            holds(float(np.ptp(costs)) > 0, f"every plan towards {signal.name!r} costs {costs[0]:.4g}")
    refused = lacks("surprise", partial(case.world.surprise, case.episodes[0]), "calibrat")
    calibrated = case.calibrated()
    problem = f"surprise was {'refused' if refused else 'answered'}, but predictions are "
    holds(refused != calibrated, f"{problem}{'' if calibrated else 'not '}calibrated")


def _first(actions: Arrays, signal: Signal, value: float) -> Arrays:
    """Actions with another first value of a signal."""
    changed = actions[signal.name].copy()
    changed[0, 0] = value
    return {**actions, signal.name: changed}


def _bad_goals(case: WorldCase) -> Iterator[tuple[str, Goal, *tuple[str | float, ...]]]:
    """A description, the invalid goal, and the parts of the message."""
    yield "no target, cost or reward", Goal(), "target"
    yield "a target that is not a signal", Goal(targets={"nonsense": np.zeros(1)}), "nonsense"
    yield "discount 1.5", replace(case.goal, discount=1.5), "discount", 1.5
    yield "risk 0", replace(case.goal, risk=0.0), "risk", 0.0
    yield "risk 0.5 of a reward", replace(case.goal, reward=True, risk=0.5), "risk", 0.5
    for name, value in case.goal.targets.items():
        signal, wide = case.card.schema[name], wider(np.asarray(value), case.card.schema[name])
        yield f"{name!r} misshapen", replace(case.goal, targets={name: wide}), name, *signal.shape, *wide.shape
        if signal.kind is Kind.VECTOR:
            yield f"{name!r} of NaN", replace(case.goal, targets={name: np.full_like(value, np.nan)}), name, "nan"
            yield f"tolerance 0 of {name!r}", replace(case.goal, tolerance={name: 0.0}), name, "tolerance", 0.0
