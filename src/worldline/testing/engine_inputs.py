"""Clauses on the inputs of an engine: required signals, short histories, and messages about invalid inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np

from worldline.episode import Arrays, Future, History
from worldline.testing.cards import without
from worldline.testing.clauses import Clause
from worldline.testing.engine_case import EngineCase
from worldline.testing.log_windows import tail_of, wider

INPUTS = Clause(name="engine.inputs", look="Card.inputs; every listed signal is required, no other signal is read")
CONTEXT = Clause(name="engine.context", look="Card.context; shorter histories are accepted and only cost accuracy")
MESSAGES = Clause(
    name="engine.messages",
    look="InputError of observe and imagine; it names the signal, the expected shape and the given one",
)


def inputs_honest(case: EngineCase) -> None:
    """A missing input signal is refused; a missing signal that is no input does not change the prediction."""
    cut = case.cut()
    history, future = cut.history, case.futures(cut)[0]
    expected = case.answer(history, future)
    for name in history.observations:
        ask = partial(case.answer, without(history, name), future)
        if name in case.card.inputs:
            INPUTS.refuses(f"the history lacks {name!r}, an input of the card", ask, name)
        elif len(history.observations) > 1:
            problem = f"the prediction changes without {name!r}, which is not an input of the card"
            INPUTS.all_equal(INPUTS.accepts(problem, ask), expected, within=0.0, problem=problem)


def fewer_observations(case: EngineCase) -> None:
    """Histories shorter than `Card.context` are accepted, down to one observation."""
    cut = case.cut()
    future = case.futures(cut)[0]
    for length in range(1, case.card.context):
        asked = f"{length} of the {case.card.context} observations that the card states as context"
        for name, value in CONTEXT.accepts(asked, partial(case.answer, tail_of(cut.history, length), future)).items():
            CONTEXT.holds(bool(np.isfinite(value).all()), f"{asked}: {name!r} is not finite")


def messages_name_the_error(case: EngineCase) -> None:
    """The message about a missing or misshapen signal has its name, the expected shape and the given one."""
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
            wide, expected = wider(arrays[name], schema[name]), schema[name].shape
            what = f"{name!r} misshapen in the {place}"
            MESSAGES.refuses(what, partial(case.answer, *put({**arrays, name: wide})), name, expected, wide.shape)
