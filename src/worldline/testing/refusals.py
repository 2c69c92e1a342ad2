"""Clauses on what a world refuses, and on whether the refusal tells its reader what to change."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from worldline.episode import Arrays, Episode, History
from worldline.planning.base import Goal
from worldline.planning.costs import OODPenalty
from worldline.schema import Kind, Signal
from worldline.testing.clauses import Clause, Wanted, as_float
from worldline.testing.cuts import wider
from worldline.testing.world_case import One, WorldCase, one_of

MESSAGES = Clause(
    name="world.messages",
    look="InputError of an input outside the schema; it says which signal, what was expected, and what came",
)
BOUNDS = Clause(name="world.bounds", look="the verbs that take actions; those outside the schema's bounds are refused")
EXOGENOUS = Clause(name="world.exogenous", look="the argument exogenous; every verb needs it where the schema has some")
RANGES = Clause(
    name="world.ranges", look="level, horizon, min_trust, budget_s and Goal; InputError where one is out of range"
)
EPISODES = Clause(name="world.episodes", look="World.what_if and surprise; InputError where the episode does not fit")
LACKING = Clause(
    name="world.lacking", look="UnsupportedError; it names the ability or head that is missing, and what provides it"
)


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """Something wrong with what a world is asked.

    Args:
        what: is wrong.
        here: the question.
        wanted: what the message must say.
    """

    what: str
    here: One
    wanted: tuple[Wanted, ...]


def messages_tell(case: WorldCase) -> None:
    """A signal that is missing, unknown, misshapen, NaN or of another dtype is named, with what was due and came."""
    for mistake in _mistakes(case, one_of(case.cut(), 0)):
        MESSAGES.refuses(mistake.what, partial(case.predict_one, mistake.here), *mistake.wanted)


def bounds_kept(case: WorldCase) -> None:
    """Actions outside their bounds are refused by every verb that takes some; the message tells bound and value."""
    here, episode, at = one_of(case.cut(), 0), case.episodes[0], case.length - 1
    for signal in case.card.schema.actions:
        for bound, sign in ((signal.low, -1.0), (signal.high, 1.0)):
            if bound is None or not np.isfinite(bound[0]):
                continue
            edge = float(bound[0])
            value = edge + sign * (1.0 + abs(edge))
            wild = here.actions[signal.name].copy()
            wild[0, 0] = value
            actions = {**here.actions, signal.name: wild}
            plans = {name: each[None] for name, each in actions.items()}
            asks: dict[str, Callable[[], object]] = {
                "predict": partial(case.predict_one, replace(here, actions=actions)),
                "score": partial(case.score_one, here, plans),
                "plan with proposals": partial(case.plan_one, here, proposals=plans),
                "what_if": partial(case.world.what_if, episode, at, actions),
            }
            for verb, ask in asks.items():
                what = f"{verb} with {signal.name!r} at {value:g}, outside {signal.low} to {signal.high}"
                BOUNDS.refuses(what, ask, signal.name, edge, value)


def exogenous_needed(case: WorldCase) -> None:
    """Where the schema has exogenous signals, predicting, scoring and planning without one is refused by its name."""
    here, signals = one_of(case.cut(), 0), case.card.schema.exogenous
    plans = {name: value[None] for name, value in here.actions.items()}
    for signal in signals:
        fewer = {name: value for name, value in (here.exogenous or {}).items() if name != signal.name}
        for what, given, name in (("none at all", None, signals[0].name), (f"no {signal.name!r}", fewer, signal.name)):
            lacking = replace(here, exogenous=given)
            asks: dict[str, Callable[[], object]] = {
                "predict": partial(case.predict_one, lacking),
                "score": partial(case.score_one, lacking, plans),
                "plan": partial(case.plan_one, lacking),
            }
            for verb, ask in asks.items():
                EXOGENOUS.refuses(f"{verb}, of the exogenous signals {what}", ask, name)


def ranges_kept(case: WorldCase) -> None:
    """A level, horizon, trust, budget, discount, risk, tolerance or target out of range is refused, with the value."""
    here = one_of(case.cut(), 0)
    for level in (0.0, 1.0, 1.5):
        RANGES.refuses(f"level {level}", partial(case.predict_one, here, level=level), "level", level)
    nothing = {name: value[:0] for name, value in (here.exogenous or {}).items()} or None
    no_steps = partial(case.world.plan, here.history, case.goal, horizon=0, exogenous=nothing)
    RANGES.refuses("horizon 0", no_steps, "horizon", 0.0)
    RANGES.refuses("min_trust 2", partial(case.plan_one, here, min_trust=2.0), "min_trust", 2.0)
    RANGES.refuses("budget_s -1", partial(case.plan_one, here, budget_s=-1.0), "budget_s", -1.0)
    plans = {name: value[None] for name, value in here.actions.items()}
    for what, goal, *wanted in _bad_goals(case):
        RANGES.refuses(f"score with {what}", partial(case.score_one, here, plans, goal), *wanted)
        RANGES.refuses(f"plan with {what}", partial(case.plan_one, here, goal), *wanted)


def episodes_fit(case: WorldCase) -> None:
    """A branch outside the episode is refused with its place and length; a signal that does not fit, by its name."""
    episode, world = case.episodes[0], case.world
    last, taken = episode.num_steps, {name: value[:1] for name, value in episode.actions.items()}
    twice = {name: np.concatenate([value, value]) for name, value in taken.items()}
    for at, actions, steps in ((-1, taken, 1), (last, taken, 1), (last + 1, taken, 1), (last - 1, twice, 2)):
        what = f"what_if with {steps} step(s) from observation {at} of {last}"
        EPISODES.refuses(what, partial(world.what_if, episode, at, actions), float(at), float(steps))
    bad: list[tuple[str, Episode, tuple[Wanted, ...]]] = []
    for signal in case.card.schema.actions:
        fewer = {name: value for name, value in episode.actions.items() if name != signal.name}
        bad.append((f"no {signal.name!r} in the episode", replace(episode, actions=fewer), (signal.name,)))
    for name in case.card.inputs:
        wide, due = wider(episode.observations[name], case.card.schema[name]), case.card.schema[name].shape
        odd = replace(episode, observations={**episode.observations, name: wide})
        bad.append((f"{name!r} misshapen in the episode", odd, (name, due, wide.shape)))
    calibrated = case.predict_one(one_of(case.cut(), 0)).calibrated
    for what, wrong, wanted in bad:
        EPISODES.refuses(f"what_if: {what}", partial(world.what_if, wrong, 0, taken), *wanted)
        if calibrated:
            EPISODES.refuses(f"surprise: {what}", partial(world.surprise, wrong), *wanted)


def refusals_name_what_lacks(case: WorldCase) -> None:
    """What the world cannot do is refused with the ability, head or calibration that it lacks and what provides it."""
    cut, card = case.cut(), case.card
    here = one_of(cut, 0)
    plans = {name: value[None] for name, value in here.actions.items()}
    for signal in card.schema.observations:
        goal = Goal(targets={signal.name: np.asarray(cut.truth[signal.name][0, -1])})
        for verb, ask in (("score", partial(case.score_one, here, plans)), ("plan", partial(case.plan_one, here))):
            what, heads = f"{verb} towards {signal.name!r}", ("distance", "reaches")
            refused = LACKING.lacks(f"{what} in steps", partial(ask, replace(goal, in_steps=True)), *heads)
            seen = f"{what} in steps was answered, though the card has no 'reaches'"
            LACKING.holds(refused or "reaches" in card.abilities, seen)
            if signal.kind is Kind.IMAGE or signal.name not in card.predicts:
                LACKING.lacks(what, partial(ask, goal), *heads)
    refused = LACKING.lacks("surprise", partial(case.world.surprise, case.episodes[0]), "calibrat")
    calibrated = case.predict_one(here).calibrated
    seen = f"surprise was {'refused' if refused else 'answered'}, and predictions are {'' if calibrated else 'not '}"
    LACKING.holds(refused != calibrated, f"{seen}calibrated")


def trust_ahead(case: WorldCase) -> None:
    """Trust in imagined states is a p-value as small as it is asked for, or is refused by naming what it lacks."""
    here = one_of(case.cut(), 0)
    plans = {name: value[None] for name, value in here.actions.items()}
    costs = Goal(targets={}, costs=(OODPenalty(trust=0.2),))
    if LACKING.lacks("trust in imagined states", partial(case.score_one, here, plans, costs), "novelty", "calibrat"):
        return
    tiny = Goal(targets={}, costs=(OODPenalty(trust=1e-12),))
    LACKING.refuses("a p-value of 1e-12 of imagined states", partial(case.score_one, here, plans, tiny), "1e-12")
    cost = as_float(case.score_one(here, plans, costs).cost)
    fine = bool(((cost >= 0) & (cost <= case.horizon)).all())
    LACKING.holds(fine, f"what is unfamiliar costs {cost.tolist()}, outside 0 to {case.horizon}, its number of steps")


def _bad_goals(case: WorldCase) -> Iterator[tuple[str, Goal, *tuple[Wanted, ...]]]:
    """What is wrong, the goal, and what the message must say."""
    yield "no target and no cost", Goal(), "target"
    yield "a target that is no signal", Goal(targets={"nonsense": np.zeros(1)}), "nonsense"
    yield "discount 1.5", replace(case.goal, discount=1.5), "discount", 1.5
    yield "risk 0", replace(case.goal, risk=0.0), "risk", 0.0
    for name, value in case.goal.targets.items():
        signal, wide = case.card.schema[name], wider(np.asarray(value), case.card.schema[name])
        yield f"{name!r} misshapen", replace(case.goal, targets={name: wide}), name, signal.shape, wide.shape
        if signal.kind is Kind.VECTOR:
            yield f"{name!r} of NaN", replace(case.goal, targets={name: np.full_like(value, np.nan)}), name, "nan"
            yield f"a tolerance 0 of {name!r}", replace(case.goal, tolerance={name: 0.0}), name, "tolerance", 0.0


def _mistakes(case: WorldCase, here: One) -> Iterator[Mistake]:
    """Everything that may be wrong with the signals of a question, one thing at a time."""
    schema, history, ahead = case.card.schema, here.history, here.exogenous or {}
    inputs = tuple(schema[name] for name in case.card.inputs)

    def before(changed: History) -> One:
        return replace(here, history=changed)

    places: tuple[tuple[str, Arrays, tuple[Signal, ...], Callable[[Arrays], One]], ...] = (
        ("history", history.observations, inputs, lambda new: before(replace(history, observations=new))),
        ("past actions", history.actions, schema.actions, lambda new: before(replace(history, actions=new))),
        (
            "past exogenous inputs",
            history.exogenous,
            schema.exogenous,
            lambda new: before(replace(history, exogenous=new)),
        ),
        ("plan", here.actions, schema.actions, lambda new: replace(here, actions=new)),
        ("exogenous inputs", ahead, schema.exogenous, lambda new: replace(here, exogenous=new)),
    )
    for place, arrays, signals, put in places:
        for signal in signals:
            yield from _mistakes_of(signal, arrays, place, put)
        if signals:
            unknown = put({**arrays, "nonsense": arrays[signals[0].name]})
            yield Mistake(what=f"an unknown signal in the {place}", here=unknown, wanted=("nonsense", signals[0].name))


def _mistakes_of(signal: Signal, arrays: Arrays, place: str, put: Callable[[Arrays], One]) -> Iterator[Mistake]:
    name, value = signal.name, arrays[signal.name]
    fewer = {other: kept for other, kept in arrays.items() if other != name}
    yield Mistake(what=f"no {name!r} in the {place}", here=put(fewer), wanted=(name,))
    wide = wider(value, signal)
    due = (name, signal.shape, wide.shape)
    yield Mistake(what=f"{name!r} misshapen in the {place}", here=put({**arrays, name: wide}), wanted=due)
    if signal.kind is Kind.VECTOR:
        odd = np.full_like(value, np.nan)
        yield Mistake(what=f"NaN as {name!r} in the {place}", here=put({**arrays, name: odd}), wanted=(name, "nan"))
        return
    floats = np.asarray(value, dtype=np.float64) / 2
    wanted = (name, signal.dtype, "float64")
    yield Mistake(what=f"{name!r} of floats in the {place}", here=put({**arrays, name: floats}), wanted=wanted)
