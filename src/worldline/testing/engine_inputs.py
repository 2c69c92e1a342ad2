"""Clauses on what an engine takes: the inputs on its card, short histories, and what it says of misfits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np

from worldline.episode import Arrays, Future, History
from worldline.testing.cards import without
from worldline.testing.clauses import Clause
from worldline.testing.cuts import wider
from worldline.testing.engine_case import EngineCase
from worldline.world.pieces import tail_of

INPUTS = Clause(name="engine.inputs", look="Card.inputs; what is listed is needed, and nothing else is looked at")
CONTEXT = Clause(name="engine.context", look="Card.context; fewer observations are accepted, and cost accuracy only")
MESSAGES = Clause(
    name="engine.messages",
    look="InputError of observe and imagine; it says which signal, what was expected, and what came",
)


def inputs_honest(case: EngineCase) -> None:
    """Leaving out a signal that is no input changes nothing that is imagined; leaving out an input is refused."""
    cut = case.cut()
    history, future = cut.history, case.futures(cut)[0]
    due = case.answer(history, future)
    for name in history.observations:
        ask = partial(case.answer, without(history, name), future)
        if name in case.card.inputs:
            INPUTS.refuses(f"the history lacks {name!r}, which the card lists as an input", ask, name)
        elif len(history.observations) > 1:
            seen = f"without {name!r}, which is no input by the card, something else is imagined"
            INPUTS.all_equal(INPUTS.accepts(seen, ask), due, within=0.0, seen=seen)


def fewer_observations(case: EngineCase) -> None:
    """A history shorter than `Card.context`, down to a single observation, is accepted."""
    cut = case.cut()
    future = case.futures(cut)[0]
    for length in range(1, case.card.context):
        asked = f"{length} of the {case.card.context} observations of context"
        for name, value in CONTEXT.accepts(asked, partial(case.answer, tail_of(cut.history, length), future)).items():
            CONTEXT.holds(bool(np.isfinite(value).all()), f"{asked}, and {name!r} is not finite")


def messages_tell(case: EngineCase) -> None:
    """A signal that is missing or misshapen is named, with the shape that was due and the one that came."""
    cut, schema = case.cut(), case.card.schema
    history, future = cut.history, case.futures(cut)[0]
    asks: list[tuple[str, Arrays, tuple[str, ...], Callable[[Arrays], tuple[History, Future]]]] = [
        (
            "history",
            history.observations,
            case.card.inputs,
            lambda new: (replace(history, observations=new, observed={}), future),
        ),
        (
            "future",
            future.actions,
            tuple(signal.name for signal in schema.actions),
            lambda new: (history, replace(future, actions=new)),
        ),
        (
            "future",
            future.exogenous,
            tuple(signal.name for signal in schema.exogenous),
            lambda new: (history, replace(future, exogenous=new)),
        ),
    ]
    for place, arrays, names, put in asks:
        for name in names:
            fewer = {other: value for other, value in arrays.items() if other != name}
            MESSAGES.refuses(f"no {name!r} in the {place}", partial(case.answer, *put(fewer)), name)
            wide, due = wider(arrays[name], schema[name]), schema[name].shape
            what = f"{name!r} misshapen in the {place}"
            MESSAGES.refuses(what, partial(case.answer, *put({**arrays, name: wide})), name, due, wide.shape)
