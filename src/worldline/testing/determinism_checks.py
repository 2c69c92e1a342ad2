"""Clauses on determinism: equal calls return equal results, across threads, call orders and memory layouts."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from worldline.errors import WorldlineError
from worldline.testing.clauses import BreachError, changed_place, clause, holds, map_arrays, snapshot
from worldline.testing.world_case import WorldCase
from worldline.world.base import Plan

NUM_THREADS: Final = 8


@clause("the verbs; concurrent calls of one world share no mutable state, such as a buffer")
def same_from_eight_threads(case: WorldCase) -> None:
    """Eight threads with different calls get bit for bit the results of a single thread."""
    every = [_questions(case, number, plans=number < 2) for number in range(NUM_THREADS)]
    expected = [{name: _answer(ask) for name, ask in questions.items()} for questions in every]
    start = threading.Barrier(NUM_THREADS)

    def ask_all(questions: Mapping[str, Callable[[], object]]) -> dict[str, Mapping[str, object]]:
        start.wait()
        return {name: _answer(ask) for name, ask in questions.items()}

    with ThreadPoolExecutor(NUM_THREADS) as pool:
        answers = list(pool.map(ask_all, every))
    for alone, together in zip(expected, answers, strict=True):
        for name, value in alone.items():
            _same(value, together[name], f"{name} returned another result while {NUM_THREADS - 1} threads were calling")


@clause("the verbs; a result depends on the arguments only, not on earlier calls")
def same_in_any_order(case: WorldCase) -> None:
    """Equal calls return bit for bit equal results, in any order of calls."""
    asks = {f"{name} {number}": ask for number in (0, 1) for name, ask in _questions(case, number, plans=True).items()}
    first = {name: _answer(ask) for name, ask in asks.items()}
    for name in reversed(asks):
        problem = f"{name.split()[0]} returned another result for equal arguments after other calls"
        _same(first[name], _answer(asks[name]), problem)


@clause("the verbs; NumPy arrays in any memory layout are accepted, read-only ones too")
def any_layout(case: WorldCase) -> None:
    """Read-only arrays and views with negative strides give the results of contiguous copies."""
    query, plans = case.query(), case.plans()
    odd, turned = map_arrays(query, _backwards), map_arrays(plans, _backwards)
    asks: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "predict": (partial(case.predict, query), partial(case.predict, odd)),
        "score": (partial(case.score, query, plans), partial(case.score, odd, turned)),
    }
    for verb, (plain, other) in asks.items():
        try:
            answers = snapshot(plain()), snapshot(other())
        except (TypeError, ValueError) as error:
            problem = f"{verb} of views and read-only arrays raised {type(error).__name__} ({error})"
            raise BreachError(problem) from error
        _same(*answers, f"{verb} of views and read-only arrays differs from copies")


def _same(expected: Mapping[str, object], answer: Mapping[str, object], problem: str) -> None:
    """Raises BreachError if two snapshots differ."""
    place = changed_place(expected, answer)
    holds(place is None, f"{problem}: {place} differs")


def _backwards(value: NDArray[np.generic]) -> NDArray[np.generic]:
    """The same values as a read-only view with negative strides."""
    view = value[::-1].copy()[::-1]
    view.flags.writeable = False
    return view


def _questions(case: WorldCase, number: int, *, plans: bool) -> dict[str, Callable[[], object]]:
    """One call of each verb on an episode; `plan` only if `plans` is True."""
    world = number % case.windows().num_worlds
    query, episode, seed = case.query(world), case.episodes[world], case.seed + number
    others = {name: value[::-1] for name, value in case.taken(episode).items()}
    asks: dict[str, Callable[[], object]] = {
        "predict": partial(case.predict, query),
        "score": partial(case.score, query, replace(case, seed=seed).plans(world)),
        "what_if": partial(case.world.what_if, episode, case.length - 1, others),
        "surprise": partial(case.world.surprise, episode),
    }
    return {**asks, "plan": partial(case.plan, query, seed=seed)} if plans else asks


def _answer(ask: Callable[[], object]) -> Mapping[str, object]:
    """A copy of the result without its elapsed time, or the text of the error."""
    try:
        result = ask()
    except WorldlineError as refusal:
        return {"the error": f"{type(refusal).__name__}: {refusal}"}
    return snapshot(replace(result, elapsed_s=0.0) if isinstance(result, Plan) else result)
