"""Clauses on invalid input: what a world refuses, and whether the message helps."""

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
from worldline.testing.log_windows import wider
from worldline.testing.world_case import Query, WorldCase, query_of

MESSAGES = Clause(
    name="world.messages",
    look="InputError of an input that does not fit the schema; it names the signal, the expected and the given value",
)
BOUNDS = Clause(
    name="world.bounds", look="the verbs that take actions; actions outside the schema's bounds are refused"
)
EXOGENOUS = Clause(name="world.exogenous", look="the argument exogenous; every verb requires all exogenous signals")
RANGES = Clause(
    name="world.ranges", look="level, horizon, min_trust, budget_s and Goal; InputError if one is out of range"
)
EPISODES = Clause(name="world.episodes", look="World.what_if and surprise; InputError if the episode does not fit")
LACKING = Clause(
    name="world.lacking", look="UnsupportedError; it names the missing ability or head, and what provides it"
)


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """An invalid query.

    Args:
        what: description of the error.
        query: of the world.
        wanted: parts of the message.
    """

    what: str
    query: Query
    wanted: tuple[Wanted, ...]


def messages_name_the_error(case: WorldCase) -> None:
    """The message about an invalid signal has its name, and the expected and given shape or dtype."""
    for mistake in _mistakes(case, query_of(case.cut(), 0)):
        MESSAGES.refuses(mistake.what, partial(case.predict_one, mistake.query), *mistake.wanted)


def bounds_kept(case: WorldCase) -> None:
    """Every verb refuses actions outside their bounds; the message has the bound and the value."""
    query, episode, at = query_of(case.cut(), 0), case.episodes[0], case.length - 1
    for signal in case.card.schema.actions:
        for bound, sign in ((signal.low, -1.0), (signal.high, 1.0)):
            if bound is None or not np.isfinite(bound[0]):
                continue
            edge = float(bound[0])
            value = edge + sign * (1.0 + abs(edge))
            wild = query.actions[signal.name].copy()
            wild[0, 0] = value
            actions = {**query.actions, signal.name: wild}
            plans = {name: each[None] for name, each in actions.items()}
            asks: dict[str, Callable[[], object]] = {
                "predict": partial(case.predict_one, replace(query, actions=actions)),
                "score": partial(case.score_one, query, plans),
                "plan with proposals": partial(case.plan_one, query, proposals=plans),
                "what_if": partial(case.world.what_if, episode, at, actions),
            }
            for verb, ask in asks.items():
                what = f"{verb} with {signal.name!r} at {value:g}, outside {signal.low} to {signal.high}"
                BOUNDS.refuses(what, ask, signal.name, edge, value)


def exogenous_needed(case: WorldCase) -> None:
    """Predictions, scores and plans without an exogenous signal of the schema are refused; the message names it."""
    query, signals = query_of(case.cut(), 0), case.card.schema.exogenous
    plans = {name: value[None] for name, value in query.actions.items()}
    for signal in signals:
        fewer = {name: value for name, value in (query.exogenous or {}).items() if name != signal.name}
        for what, given, name in (
            ("without any", None, signals[0].name),
            (f"without {signal.name!r}", fewer, signal.name),
        ):
            lacking = replace(query, exogenous=given)
            asks: dict[str, Callable[[], object]] = {
                "predict": partial(case.predict_one, lacking),
                "score": partial(case.score_one, lacking, plans),
                "plan": partial(case.plan_one, lacking),
            }
            for verb, ask in asks.items():
                EXOGENOUS.refuses(f"{verb} {what} of the exogenous signals", ask, name)


def ranges_kept(case: WorldCase) -> None:
    """Arguments and goals that are out of range are refused; the message has the value."""
    query = query_of(case.cut(), 0)
    for level in (0.0, 1.0, 1.5):
        RANGES.refuses(f"level {level}", partial(case.predict_one, query, level=level), "level", level)
    nothing = {name: value[:0] for name, value in (query.exogenous or {}).items()} or None
    no_steps = partial(case.world.plan, query.history, case.goal, horizon=0, exogenous=nothing)
    RANGES.refuses("horizon 0", no_steps, "horizon", 0.0)
    RANGES.refuses("min_trust 2", partial(case.plan_one, query, min_trust=2.0), "min_trust", 2.0)
    RANGES.refuses("budget_s -1", partial(case.plan_one, query, budget_s=-1.0), "budget_s", -1.0)
    plans = {name: value[None] for name, value in query.actions.items()}
    for what, goal, *wanted in _bad_goals(case):
        RANGES.refuses(f"score with {what}", partial(case.score_one, query, plans, goal), *wanted)
        RANGES.refuses(f"plan with {what}", partial(case.plan_one, query, goal), *wanted)


def episodes_fit(case: WorldCase) -> None:
    """A branch outside the episode, or an invalid signal in the episode, is refused; the message names it."""
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
        wide, expected = wider(episode.observations[name], case.card.schema[name]), case.card.schema[name].shape
        odd = replace(episode, observations={**episode.observations, name: wide})
        bad.append((f"{name!r} misshapen in the episode", odd, (name, expected, wide.shape)))
    calibrated = case.predict_one(query_of(case.cut(), 0)).calibrated
    for what, wrong, wanted in bad:
        EPISODES.refuses(f"what_if: {what}", partial(world.what_if, wrong, 0, taken), *wanted)
        if calibrated:
            EPISODES.refuses(f"surprise: {what}", partial(world.surprise, wrong), *wanted)


def refusals_name_what_is_missing(case: WorldCase) -> None:
    """UnsupportedError names the missing ability, head or calibration, and what provides it."""
    cut, card = case.cut(), case.card
    query = query_of(cut, 0)
    plans = {name: value[None] for name, value in query.actions.items()}
    for signal in card.schema.observations:
        goal = Goal(targets={signal.name: np.asarray(cut.truth[signal.name][0, -1])})
        for verb, ask in (("score", partial(case.score_one, query, plans)), ("plan", partial(case.plan_one, query))):
            what, heads = f"{verb} towards {signal.name!r}", ("distance", "reaches")
            refused = LACKING.lacks(f"{what} in steps", partial(ask, replace(goal, in_steps=True)), *heads)
            problem = f"{what} in steps was answered, but the card does not list 'reaches'"
            LACKING.holds(refused or "reaches" in card.abilities, problem)
            if signal.kind is Kind.IMAGE or signal.name not in card.predicts:
                LACKING.lacks(what, partial(ask, goal), *heads)
    refused = LACKING.lacks("surprise", partial(case.world.surprise, case.episodes[0]), "calibrat")
    calibrated = case.predict_one(query).calibrated
    problem = f"surprise was {'refused' if refused else 'answered'}, but predictions are "
    LACKING.holds(refused != calibrated, f"{problem}{'' if calibrated else 'not '}calibrated")


def trust_ahead(case: WorldCase) -> None:
    """The trust of predicted states is a p-value of stated resolution, or UnsupportedError names what is missing."""
    query = query_of(case.cut(), 0)
    plans = {name: value[None] for name, value in query.actions.items()}
    costs = Goal(targets={}, costs=(OODPenalty(trust=0.2),))
    if LACKING.lacks("trust of predictions", partial(case.score_one, query, plans, costs), "novelty", "calibrat"):
        return
    tiny = Goal(targets={}, costs=(OODPenalty(trust=1e-12),))
    LACKING.refuses("OODPenalty with a p-value of 1e-12", partial(case.score_one, query, plans, tiny), "1e-12")
    cost = as_float(case.score_one(query, plans, costs).cost)
    fine = bool(((cost >= 0) & (cost <= case.horizon)).all())
    LACKING.holds(fine, f"OODPenalty costs {cost.tolist()}, expected 0 to {case.horizon}, the number of steps")


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


def _mistakes(case: WorldCase, query: Query) -> Iterator[Mistake]:
    schema, history, ahead = case.card.schema, query.history, query.exogenous or {}
    inputs = tuple(schema[name] for name in case.card.inputs)

    def with_history(changed: History) -> Query:
        return replace(query, history=changed)

    places: tuple[tuple[str, Arrays, tuple[Signal, ...], Callable[[Arrays], Query]], ...] = (
        ("history", history.observations, inputs, lambda new: with_history(replace(history, observations=new))),
        ("past actions", history.actions, schema.actions, lambda new: with_history(replace(history, actions=new))),
        (
            "past exogenous inputs",
            history.exogenous,
            schema.exogenous,
            lambda new: with_history(replace(history, exogenous=new)),
        ),
        ("plan", query.actions, schema.actions, lambda new: replace(query, actions=new)),
        ("exogenous inputs", ahead, schema.exogenous, lambda new: replace(query, exogenous=new)),
    )
    for place, arrays, signals, put in places:
        for signal in signals:
            yield from _mistakes_of(signal, arrays, place, put)
        if signals:
            unknown = put({**arrays, "nonsense": arrays[signals[0].name]})
            yield Mistake(what=f"an unknown signal in the {place}", query=unknown, wanted=("nonsense", signals[0].name))


def _mistakes_of(signal: Signal, arrays: Arrays, place: str, put: Callable[[Arrays], Query]) -> Iterator[Mistake]:
    name, value = signal.name, arrays[signal.name]
    fewer = {other: kept for other, kept in arrays.items() if other != name}
    yield Mistake(what=f"no {name!r} in the {place}", query=put(fewer), wanted=(name,))
    wide = wider(value, signal)
    expected = (name, signal.shape, wide.shape)
    yield Mistake(what=f"{name!r} misshapen in the {place}", query=put({**arrays, name: wide}), wanted=expected)
    if signal.kind is Kind.VECTOR:
        odd = np.full_like(value, np.nan)
        yield Mistake(what=f"NaN as {name!r} in the {place}", query=put({**arrays, name: odd}), wanted=(name, "nan"))
        return
    floats = np.asarray(value, dtype=np.float64) / 2
    wanted = (name, signal.dtype, "float64")
    yield Mistake(what=f"{name!r} of floats in the {place}", query=put({**arrays, name: floats}), wanted=wanted)
