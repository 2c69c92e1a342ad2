"""Clauses on determinism: equal calls return equal results, across threads, call orders and memory layouts."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Final

from worldline.episode import Arrays
from worldline.errors import WorldlineError
from worldline.testing.clauses import Clause, changed_place, snapshot
from worldline.testing.log_windows import map_history
from worldline.testing.world_case import Query, WorldCase, logged_plans, query_of
from worldline.world.base import Plan

NUM_THREADS: Final = 8

THREADS = Clause(
    name="world.threads",
    look="the verbs; concurrent calls of one world share no mutable state, such as a buffer",
)
LAYOUT = Clause(
    name="world.layout", look="the verbs; NumPy arrays in any memory layout are accepted, read-only ones too"
)
REPEATABLE = Clause(
    name="world.repeatable", look="the verbs; a result depends on the arguments only, not on earlier calls"
)


def same_from_eight_threads(case: WorldCase) -> None:
    """Eight threads with different calls get bit for bit the results of a single thread."""
    every = [_questions(case, number, plans=number < 2) for number in range(NUM_THREADS)]
    expected = [{name: _answer(ask) for name, ask in questions.items()} for questions in every]
    start = threading.Barrier(NUM_THREADS)

    def ask_all(number: int) -> dict[str, object]:
        start.wait()
        return {name: _answer(ask) for name, ask in every[number].items()}

    with ThreadPoolExecutor(NUM_THREADS) as pool:
        found = list(pool.map(ask_all, range(NUM_THREADS)))
    for number in range(NUM_THREADS):
        for name, value in expected[number].items():
            place = changed_place(value, found[number][name])
            problem = f"{name} returned another result while {NUM_THREADS - 1} threads were calling: {place} differs"
            THREADS.holds(place is None, problem)


def same_in_any_order(case: WorldCase) -> None:
    """Equal calls return bit for bit equal results, in any order of calls."""
    asks = {f"{name} {number}": ask for number in (0, 1) for name, ask in _questions(case, number, plans=True).items()}
    first = {name: _answer(ask) for name, ask in asks.items()}
    for name in reversed(asks):
        place = changed_place(first[name], _answer(asks[name]))
        problem = f"{name.split()[0]} returned another result for equal arguments after other calls: {place} differs"
        REPEATABLE.holds(place is None, problem)


def any_layout(case: WorldCase) -> None:
    """Read-only arrays and views with negative strides give the results of contiguous copies."""
    cut = case.cut()
    query = query_of(cut, 0)
    plans = logged_plans(cut, 0, 4, case.seed)
    odd = Query(
        history=map_history(query.history, _backwards),
        actions=_backwards(query.actions),
        exogenous=None if query.exogenous is None else _backwards(query.exogenous),
    )
    asks: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "predict": (partial(case.predict_one, query), partial(case.predict_one, odd)),
        "score": (partial(case.score_one, query, plans), partial(case.score_one, odd, _backwards(plans))),
    }
    for verb, (plain, other) in asks.items():
        try:
            place = changed_place(snapshot(plain()), snapshot(other()))
        except (TypeError, ValueError) as error:
            LAYOUT.holds(False, f"{verb} of views and read-only arrays raised {type(error).__name__} ({error})")
            return
        LAYOUT.holds(place is None, f"{verb} of views and read-only arrays differs from copies in {place}")


def _backwards(arrays: Arrays) -> Arrays:
    """The same values as read-only views with negative strides."""
    found = {name: value[::-1].copy()[::-1] for name, value in arrays.items()}
    for value in found.values():
        value.flags.writeable = False
    return found


def _questions(case: WorldCase, number: int, *, plans: bool) -> dict[str, Callable[[], object]]:
    """One call of each verb on an episode; `plan` only if `plans` is True."""
    cut = case.cut()
    world = number % cut.num_worlds
    query, episode, at = query_of(cut, world), case.episodes[world], case.length - 1
    others = {name: value[at : at + case.horizon][::-1] for name, value in episode.actions.items()}
    asks: dict[str, Callable[[], object]] = {
        "predict": partial(case.predict_one, query),
        "score": partial(case.score_one, query, logged_plans(cut, world, 4, case.seed + number)),
        "what_if": partial(case.world.what_if, episode, at, others),
        "surprise": partial(case.world.surprise, episode),
    }
    return {**asks, "plan": partial(case.plan_one, query, seed=case.seed + number)} if plans else asks


def _answer(ask: Callable[[], object]) -> object:
    """A copy of the result without its elapsed time, or the text of the error."""
    try:
        found = ask()
    except WorldlineError as refusal:
        return f"{type(refusal).__name__}: {refusal}"
    return snapshot(replace(found, elapsed_s=0.0) if isinstance(found, Plan) else found)
