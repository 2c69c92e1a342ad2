"""Clauses on what a world or engine says of itself: its card."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from typing import Final

import numpy as np

from worldline.engines.base import Abducts, CallCost, Card, Differentiable, GoalDistance, Novelty
from worldline.episode import Arrays, History
from worldline.testing.clauses import Clause
from worldline.testing.world_case import One, WorldCase, one_of
from worldline.world.pieces import tail_of

ABILITIES: Final[dict[str, type]] = {
    "abducts": Abducts,
    "differentiable": Differentiable,
    "reaches": GoalDistance,
    "novelty": Novelty,
}
"""Names that a card may list, and the class that each stands for."""

CARD = Clause(name="world.card", look="World.describe; a Card whose names exist and whose numbers make sense")
INPUTS = Clause(name="world.inputs", look="Card.inputs; what is listed is needed, and nothing else is looked at")
CONTEXT = Clause(name="world.context", look="Card.context; fewer observations are accepted, and cost accuracy only")


def check_card(clause: Clause, card: Card) -> None:
    """Raises AssertionError where a card names what does not exist, or holds a number that cannot be.

    Args:
        clause: whose breach it is.
        card: of a world or an engine.
    """
    known = {signal.name for signal in card.schema.observations}
    clause.holds(bool(card.name and card.engine), f"name {card.name!r} and engine {card.engine!r}: one is empty")
    clause.holds(bool(card.predicts), "the card predicts nothing")
    for label, names in (("predicts", card.predicts), ("inputs", card.inputs)):
        clause.holds(set(names) <= known, f"{label} {names}, but the observations are {sorted(known)}")
        clause.holds(len(set(names)) == len(names), f"{label} {names}: a name stands there twice")
    clause.holds(card.context >= 1, f"context is {card.context}")
    unknown = sorted(set(card.abilities) - set(ABILITIES))
    clause.holds(not unknown, f"the card lists the abilities {unknown}; known are {sorted(ABILITIES)}")
    if card.call is not None:
        _check_call(clause, card.call)


def card_honest(case: WorldCase) -> None:
    """The card names signals and abilities that exist, its numbers make sense, and it does not change."""
    check_card(CARD, case.card)
    CARD.holds(case.card == case.card, "describe gave two different cards")


def inputs_honest(case: WorldCase) -> None:
    """Leaving out a signal that is no input changes nothing that is predicted; leaving out an input is refused."""
    card, here = case.card, one_of(case.cut(), 0)
    due = _means(case, here)
    for signal in card.schema.observations:
        if signal.name not in here.history.observations:
            continue
        fewer = replace(here, history=without(here.history, signal.name))
        if signal.name in card.inputs:
            what = f"the history lacks {signal.name!r}, which the card lists as an input"
            INPUTS.refuses(what, partial(_means, case, fewer), signal.name)
        elif len(here.history.observations) > 1:
            seen = f"without {signal.name!r}, which is no input by the card, something else is predicted"
            INPUTS.all_equal(INPUTS.accepts(seen, partial(_means, case, fewer)), due, within=0.0, seen=seen)


def short_history(case: WorldCase) -> None:
    """A history shorter than `Card.context`, down to a single observation, is accepted."""
    cut = case.cut()
    for length in range(1, case.card.context):
        here = one_of(replace(cut, history=tail_of(cut.history, length)), 0)
        asked = f"{length} of the {case.card.context} observations of context"
        for name, mean in CONTEXT.accepts(asked, partial(_means, case, here)).items():
            CONTEXT.holds(bool(np.isfinite(mean).all()), f"{asked}, and the mean of {name!r} is not finite")


def without(history: History, name: str) -> History:
    """The history without an observation signal."""

    def fewer(arrays: Arrays) -> Arrays:
        return {other: value for other, value in arrays.items() if other != name}

    return replace(history, observations=fewer(history.observations), observed=fewer(history.observed))


def _check_call(clause: Clause, call: CallCost) -> None:
    due = re.fullmatch("[A-Z]{3}", call.currency) is not None if call.price else not call.currency
    clause.holds(due, f"a call costs {call.price}, in the currency {call.currency!r}")


def _means(case: WorldCase, here: One) -> Arrays:
    return {name: forecast.mean for name, forecast in case.predict_one(here).signals.items()}
