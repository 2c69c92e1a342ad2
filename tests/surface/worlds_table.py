"""The abilities of each world, found by calling its methods, as a table."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from typing import Final

import numpy as np

from worldline.engines.base import Card
from worldline.episode import Arrays, Episode, History
from worldline.errors import UnsupportedError
from worldline.planning.base import Goal
from worldline.schema import Kind
from worldline.world.base import PlanStatus, World

_HORIZON: Final = 2
_YES: Final = "yes"
_NO: Final = "–"


@dataclass(frozen=True, kw_only=True)
class Abilities:
    """A row of the table, as text.

    Args:
        world: name.
        predicts: kinds of signals.
        bands: whether predictions of vectors have a band.
        goals: whether it plans towards values of signals.
        in_steps: whether it measures the steps to a goal observation.
        gradients: whether planners can use gradients.
        what_if: value of `WhatIf.abduction`.
        trust: what the p-value tests in addition to one-step errors.
        samples: whether it draws several futures.
        call: price of a prediction.
    """

    world: str
    predicts: str
    bands: str
    goals: str
    in_steps: str
    gradients: str
    what_if: str
    trust: str
    samples: str
    call: str


_HEADS: Final = (
    "world",
    "predicts",
    "bands",
    "goals on signals",
    "goals in steps",
    "gradient planner",
    "what if",
    "trust by",
    "draws samples",
    "price of a call",
)


def ask(name: str, world: World, episode: Episode) -> Abilities:
    """The abilities on the world's card and those found by calling each method.

    Args:
        name: name in the table.
        world: world to test.
        episode: an episode of the world, at least two steps longer than `Card.context`.
    """
    card = world.describe()
    at = card.context - 1
    past = episode.history(at, card.context)
    now = History(
        observations={name: past.observations[name] for name in card.inputs},
        actions=past.actions,
        exogenous=past.exogenous,
    )
    actions = {name: value[at : at + _HORIZON] for name, value in episode.actions.items()}
    ahead = {name: value[at : at + _HORIZON] for name, value in episode.exogenous.items()} or None
    said = world.predict(now, actions, exogenous=ahead, level=0.5)
    kinds = {card.schema[name].kind for name in card.predicts}
    return Abilities(
        world=name,
        predicts=", ".join(f"{kind}s" if kind is not Kind.DISCRETE else "labels" for kind in Kind if kind in kinds),
        bands=_word(any(forecast.low is not None for forecast in said.signals.values())),
        goals=_goals(world, card, episode, now, ahead),
        in_steps=_word(_measures(world, now, {name: episode.observations[name][-1] for name in card.inputs}, ahead)),
        gradients=_word("differentiable" in card.abilities),
        what_if=str(world.what_if(episode, at, actions).abduction).replace("_", " "),
        trust=_trust(card, said.trust),
        samples=_word(not card.deterministic),
        call=_price(card),
    )


def worlds_table(rows: Iterable[Abilities]) -> str:
    """The table in Markdown, one world a line."""
    lines = [_HEADS, ("---",) * len(fields(Abilities)), *map(astuple, rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _word(able: bool) -> str:
    return _YES if able else _NO


def _goals(world: World, card: Card, episode: Episode, now: History, ahead: Arrays | None) -> str:
    """Whether it plans towards a vector. A world that is not action-conditioned refuses to plan."""
    vectors = [name for name in card.predicts if card.schema[name].kind is Kind.VECTOR]
    if not vectors or not card.action_conditioned:
        return _NO if card.action_conditioned else "not action-conditioned"
    goal = Goal(targets={vectors[0]: episode.observations[vectors[0]][-1]}, tolerance={vectors[0]: 1.0})
    plan = world.plan(now, goal, horizon=_HORIZON, exogenous=ahead)
    return _word(plan.status is not PlanStatus.REFUSED)


def _measures(world: World, now: History, goal: Arrays, ahead: Arrays | None) -> bool:
    signals = world.describe().schema.actions
    idle = {s.name: np.zeros((1, _HORIZON, *s.shape), s.dtype) for s in signals}
    try:
        world.score(now, idle, Goal(targets=goal, in_steps=True), exogenous=ahead)
    except UnsupportedError:
        return False
    return True


def _trust(card: Card, trust: float | np.ndarray[tuple[int, ...], np.dtype[np.floating]]) -> str:
    if np.isnan(trust).any():
        return _NO
    return "belief" if "novelty" in card.abilities else "input"


def _price(card: Card) -> str:
    if card.call is None:
        return "not measured"
    return f"{card.call.price:g} {card.call.currency}" if card.call.price else "none"
