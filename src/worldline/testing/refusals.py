"""Clauses on invalid input: what a world refuses, and whether the message helps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np

from worldline.episode import Arrays, Episode
from worldline.errors import UnsupportedError
from worldline.planning.base import Goal
from worldline.planning.costs import OODPenalty
from worldline.schema import Kind, Signal
from worldline.testing.cases import WorldCase, one_plan
from worldline.testing.clauses import clause
from worldline.testing.comparing import Wanted, accepts, holds, inside_bounds, lacks, map_arrays, refuses
from worldline.testing.log_edits import wider, without
from worldline.testing.plans import TINY_S
from worldline.world.logged_range import MAX_EXCESS


@clause("world", "the verbs that take actions; actions far outside the schema's bounds are refused")
def bounds_kept(case: WorldCase) -> None:
    """Every verb refuses actions far outside their bounds, and predicts slightly outside; the message has the value."""
    query, episode, at = case.query(), case.episodes[0], case.length - 1
    for signal in case.card.schema.actions:
        for bound, other, sign in ((signal.low, signal.high, -1.0), (signal.high, signal.low, 1.0)):
            if bound is None or not np.isfinite(bound[0]):
                continue
            edge = float(bound[0])
            span = 0.0 if other is None or not np.isfinite(other[0]) else abs(float(other[0]) - edge)
            if span:
                slight = edge + sign * MAX_EXCESS / 2 * span
                what = f"predict with {signal.name!r} at {slight:g}, slightly outside"
                accepts(what, partial(case.predict, replace(query, actions=_first(query.actions, signal, slight))))
            value = edge + sign * (1.0 + abs(edge) + span)
            actions = _first(query.actions, signal, value)
            asks: dict[str, Callable[[], object]] = {
                "predict": partial(case.predict, replace(query, actions=actions)),
                "score": partial(case.score, query, one_plan(actions)),
                "plan with proposals": partial(case.plan, query, proposals=one_plan(actions)),
                "what_if": partial(case.world.what_if, episode, at, actions),
            }
            for verb, ask in asks.items():
                what = f"{verb} with {signal.name!r} at {value:g}, outside {signal.low} to {signal.high}"
                refuses(what, ask, signal.name, edge, value)


@clause("world", "clip; World.score and plan clip actions to the bounds instead of refusing them")
def clipped_on_request(case: WorldCase) -> None:
    """With `clip`, candidates outside their bounds cost as much as clipped ones, and proposals are accepted."""
    query, bounded = case.query(), [s for s in case.card.schema.actions if s.low is not None and s.high is not None]
    wild, inside = dict(case.plans()), dict(case.plans())
    for signal in bounded:
        low, high = np.asarray(signal.low, float), np.asarray(signal.high, float)
        if np.isfinite(high - low).all():
            stretched = wild[signal.name] + 2 * (high - low)
            wild[signal.name] = stretched.astype(signal.dtype)
            inside[signal.name] = np.clip(stretched, low, high).astype(signal.dtype)
    cost = accepts("score with clip", partial(case.score, query, wild, clip=True)).cost
    expected = case.score(query, inside).cost
    case.equal(cost, expected, "clipped candidates cost something else")
    if case.card.action_conditioned:
        ask = partial(case.plan, query, proposals=wild, clip=True, budget_s=TINY_S)
        planned = accepts("plan with clip", ask)
        for signal in case.card.schema.actions:
            inside_bounds(signal, planned.actions[signal.name])


@clause("world", "the argument exogenous; every verb requires all exogenous signals")
def exogenous_needed(case: WorldCase) -> None:
    """Predictions, scores and plans without an exogenous signal of the schema are refused; the message names it."""
    query, names = case.query(), [signal.name for signal in case.card.schema.exogenous]
    asks: dict[str, Callable[..., object]] = {
        "predict": partial(case.predict, query),
        "score": partial(case.score, query, one_plan(query.actions)),
        "plan": partial(case.plan, query),
    }
    lacking = [(name, name, without(query.exogenous, name)) for name in names]
    for what, name, exogenous in [*(("any", name, None) for name in names[:1]), *lacking]:
        for verb, ask in asks.items():
            refuses(f"{verb} without {what} of the exogenous signals", partial(ask, exogenous=exogenous), name)


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
    for at, actions, steps in ((-1, taken, 1), (last, taken, 1), (last + 1, taken, 1), (last - 1, twice, 2)):
        what = f"what_if with {steps} step(s) from observation {at} of {last}"
        refuses(what, partial(world.what_if, episode, at, actions), float(at), float(steps))

    def refused(what: str, wrong: Episode, *wanted: Wanted) -> None:
        refuses(f"what_if: {what} in the episode", partial(world.what_if, wrong, 0, taken), *wanted)
        if calibrated:
            refuses(f"surprise: {what} in the episode", partial(world.surprise, wrong), *wanted)

    for name in episode.actions:
        refused(f"no {name!r}", replace(episode, actions=without(episode.actions, name)), name)
    for name in case.card.inputs:
        signal, wide = case.card.schema[name], wider(episode.observations[name], case.card.schema[name])
        odd = replace(episode, observations={**episode.observations, name: wide})
        refused(f"{name!r} misshapen", odd, name, signal.shape, wide.shape)


@clause("world", "UnsupportedError; it names the missing ability or head, and what provides it")
def refusals_name_what_is_missing(case: WorldCase) -> None:
    """UnsupportedError names the missing ability, head or calibration; goals that are not refused distinguish plans."""
    card, query, plans, heads = case.card, case.query(), case.plans(), ("distance", "reaches")
    for signal in card.schema.observations:
        goal = Goal(targets={signal.name: np.asarray(case.windows().truth[signal.name][0, -1])})
        for verb, ask in (("score", partial(case.score, query, plans)), ("plan", partial(case.plan, query))):
            what = f"{verb} towards {signal.name!r}"
            refused = lacks(f"{what} in steps", partial(ask, replace(goal, in_steps=True)), *heads)
            problem = "was answered, but the card does not list 'reaches'"
            holds(refused or "reaches" in card.abilities, f"{what} in steps {problem}")
            measured = signal.kind is not Kind.IMAGE and signal.name in card.predicts
            if not measured and not lacks(what, partial(ask, goal), *heads):
                holds("reaches" in card.abilities, f"{what} {problem}")
                costs = case.score(query, plans, goal).cost
                holds(float(np.ptp(costs)) > 0, f"every plan towards {signal.name!r} costs {costs[0]:.4g}")
    refused = lacks("surprise", partial(case.world.surprise, case.episodes[0]), "calibrat")
    calibrated = case.calibrated()
    problem = f"surprise was {'refused' if refused else 'answered'}, but predictions are "
    holds(refused != calibrated, f"{problem}{'' if calibrated else 'not '}calibrated")


@clause("world", "OODPenalty; p-values of predicted states, or UnsupportedError")
def trust_ahead(case: WorldCase) -> None:
    """The trust of predicted states is a p-value of stated resolution, or UnsupportedError names what is missing."""
    query = case.query()

    def score(trust: float) -> object:
        return case.score(query, one_plan(query.actions), Goal(costs=(OODPenalty(trust=trust),))).cost

    if lacks("trust of predictions", partial(score, 0.2), "novelty", "calibrat"):
        return
    refuses("OODPenalty with a p-value of 1e-12", partial(score, 1e-12), "1e-12", expected=UnsupportedError)
    cost = np.asarray(score(0.2))
    fine = bool(((cost >= 0) & (cost <= case.horizon)).all())
    holds(fine, f"OODPenalty costs {cost.tolist()}, expected 0 to {case.horizon}, the number of steps")


def _first(actions: Arrays, signal: Signal, value: float) -> Arrays:
    """Actions with another first value of a signal."""
    changed = actions[signal.name].copy()
    changed[0, 0] = value
    return {**actions, signal.name: changed}


def _bad_goals(case: WorldCase) -> Iterator[tuple[str, Goal, *tuple[Wanted, ...]]]:
    """A description, the invalid goal, and the parts of the message."""
    yield "no target and no cost", Goal(), "target"
    yield "a target that is not a signal", Goal(targets={"nonsense": np.zeros(1)}), "nonsense"
    yield "discount 1.5", replace(case.goal, discount=1.5), "discount", 1.5
    yield "risk 0", replace(case.goal, risk=0.0), "risk", 0.0
    for name, value in case.goal.targets.items():
        signal, wide = case.card.schema[name], wider(np.asarray(value), case.card.schema[name])
        yield f"{name!r} misshapen", replace(case.goal, targets={name: wide}), name, signal.shape, wide.shape
        if signal.kind is Kind.VECTOR:
            yield f"{name!r} of NaN", replace(case.goal, targets={name: np.full_like(value, np.nan)}), name, "nan"
            yield f"tolerance 0 of {name!r}", replace(case.goal, tolerance={name: 0.0}), name, "tolerance", 0.0
