"""Clauses on the card with which a world or engine describes itself."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from typing import Final

import numpy as np

from worldline.engines.base import Abducts, CallCost, Card, GoalDistance, Novelty
from worldline.engines.tensors import TensorEngine
from worldline.episode import Arrays, History
from worldline.testing.clauses import Clause
from worldline.testing.log_windows import tail_of
from worldline.testing.world_case import Query, WorldCase, query_of

ABILITIES: Final[dict[str, type]] = {
    "abducts": Abducts,
    "differentiable": TensorEngine,
    "reaches": GoalDistance,
    "novelty": Novelty,
}
"""Abilities that a card may list, with their base classes."""

CARD = Clause(name="world.card", look="World.describe; a Card with existing names and valid numbers")
INPUTS = Clause(name="world.inputs", look="Card.inputs; every listed signal is required, no other signal is read")
CONTEXT = Clause(name="world.context", look="Card.context; shorter histories are accepted and only cost accuracy")


def check_card(clause: Clause, card: Card) -> None:
    """Raises AssertionError if a card has unknown names or invalid numbers.

    Args:
        clause: the clause that is checked.
        card: of a world or an engine.
    """
    known = {signal.name for signal in card.schema.observations}
    clause.holds(bool(card.name and card.engine), f"name {card.name!r} or engine {card.engine!r} is empty")
    clause.holds(bool(card.predicts), "Card.predicts is empty")
    for label, names in (("predicts", card.predicts), ("inputs", card.inputs)):
        clause.holds(set(names) <= known, f"{label} {names}, expected a subset of the observations {sorted(known)}")
        clause.holds(len(set(names)) == len(names), f"{label} {names}; a name occurs twice")
    clause.holds(card.context >= 1, f"context is {card.context}, expected at least 1")
    unknown = sorted(set(card.abilities) - set(ABILITIES))
    clause.holds(not unknown, f"the card lists unknown abilities {unknown}; known are {sorted(ABILITIES)}")
    if card.call is not None:
        _check_call(clause, card.call)


def card_honest(case: WorldCase) -> None:
    """The card is constant, names existing signals and abilities, and has valid numbers."""
    check_card(CARD, case.card)
    CARD.holds(case.card == case.card, "two calls of describe returned different cards")


def inputs_honest(case: WorldCase) -> None:
    """A missing input signal is refused; a missing signal that is no input does not change the prediction."""
    card, query = case.card, query_of(case.cut(), 0)
    expected = _means(case, query)
    for signal in card.schema.observations:
        if signal.name not in query.history.observations:
            continue
        fewer = replace(query, history=without(query.history, signal.name))
        if signal.name in card.inputs:
            what = f"the history lacks {signal.name!r}, an input of the card"
            INPUTS.refuses(what, partial(_means, case, fewer), signal.name)
        elif len(query.history.observations) > 1:
            problem = f"the prediction changes without {signal.name!r}, which is not an input of the card"
            INPUTS.all_equal(
                INPUTS.accepts(problem, partial(_means, case, fewer)), expected, within=0.0, problem=problem
            )


def short_history(case: WorldCase) -> None:
    """Histories shorter than `Card.context` are accepted, down to one observation."""
    cut = case.cut()
    for length in range(1, case.card.context):
        query = query_of(replace(cut, history=tail_of(cut.history, length)), 0)
        asked = f"{length} of the {case.card.context} observations that the card states as context"
        for name, mean in CONTEXT.accepts(asked, partial(_means, case, query)).items():
            CONTEXT.holds(bool(np.isfinite(mean).all()), f"{asked}: the mean of {name!r} is not finite")


def without(history: History, name: str) -> History:
    """The history without an observation signal."""

    def fewer(arrays: Arrays) -> Arrays:
        return {other: value for other, value in arrays.items() if other != name}

    return replace(history, observations=fewer(history.observations), observed=fewer(history.observed))


def _check_call(clause: Clause, call: CallCost) -> None:
    valid = re.fullmatch("[A-Z]{3}", call.currency) is not None if call.price else not call.currency
    rule = "expected three capital letters if and only if there is a price"
    clause.holds(valid, f"a call costs {call.price} in the currency {call.currency!r}; {rule}")


def _means(case: WorldCase, query: Query) -> Arrays:
    return {name: forecast.mean for name, forecast in case.predict_one(query).signals.items()}
