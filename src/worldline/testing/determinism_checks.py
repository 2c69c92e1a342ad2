"""Clauses on whether a world answers the same whoever else asks, and whatever was asked before."""

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
from worldline.testing.cuts import map_history
from worldline.testing.world_case import One, WorldCase, logged_plans, one_of
from worldline.world.base import Plan

NUM_THREADS: Final = 8

THREADS = Clause(
    name="world.threads",
    look="the verbs; threads that ask one world at once share nothing that changes, such as a buffer",
)
LAYOUT = Clause(
    name="world.layout", look="the verbs; NumPy arrays in any layout of memory, read-only ones too, are taken"
)
REPEATABLE = Clause(
    name="world.repeatable", look="the verbs; an answer depends on the question alone, not on what was asked before it"
)


def same_from_eight_threads(case: WorldCase) -> None:
    """Eight threads that ask different things at once get, bit for bit, what one thread gets."""
    every = [_questions(case, number, plans=number < 2) for number in range(NUM_THREADS)]
    due = [{name: _answer(ask) for name, ask in questions.items()} for questions in every]
    start = threading.Barrier(NUM_THREADS)

    def ask_all(number: int) -> dict[str, object]:
        start.wait()
        return {name: _answer(ask) for name, ask in every[number].items()}

    with ThreadPoolExecutor(NUM_THREADS) as pool:
        found = list(pool.map(ask_all, range(NUM_THREADS)))
    for number in range(NUM_THREADS):
        for name, value in due[number].items():
            place = changed_place(value, found[number][name])
            seen = f"{name} gave another answer while {NUM_THREADS - 1} other threads were asking: {place} differs"
            THREADS.holds(place is None, seen)


def same_whatever_came_between(case: WorldCase) -> None:
    """Equal questions get, bit for bit, equal answers, in whatever order they are asked."""
    asks = {f"{name} {number}": ask for number in (0, 1) for name, ask in _questions(case, number, plans=True).items()}
    first = {name: _answer(ask) for name, ask in asks.items()}
    for name in reversed(asks):
        place = changed_place(first[name], _answer(asks[name]))
        seen = f"{name.split()[0]} was asked the same again after other questions, and {place} differs"
        REPEATABLE.holds(place is None, seen)


def any_layout(case: WorldCase) -> None:
    """Arrays that may not be written to, and views that run backwards, are answered as their copies are."""
    cut = case.cut()
    here = one_of(cut, 0)
    plans = logged_plans(cut, 0, 4, case.seed)
    odd = One(
        history=map_history(here.history, _backwards),
        actions=_backwards(here.actions),
        exogenous=None if here.exogenous is None else _backwards(here.exogenous),
    )
    asks: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "predict": (partial(case.predict_one, here), partial(case.predict_one, odd)),
        "score": (partial(case.score_one, here, plans), partial(case.score_one, odd, _backwards(plans))),
    }
    for verb, (plain, other) in asks.items():
        try:
            place = changed_place(snapshot(plain()), snapshot(other()))
        except (TypeError, ValueError) as error:
            LAYOUT.holds(False, f"{verb} of views and read-only arrays: {type(error).__name__} ({error})")
            return
        LAYOUT.holds(
            place is None, f"{verb} of views and read-only arrays is not that of their copies: {place} differs"
        )


def _backwards(arrays: Arrays) -> Arrays:
    """The same values, in views that run backwards in memory and may not be written to."""
    found = {name: value[::-1].copy()[::-1] for name, value in arrays.items()}
    for value in found.values():
        value.flags.writeable = False
    return found


def _questions(case: WorldCase, number: int, *, plans: bool) -> dict[str, Callable[[], object]]:
    """One question of each verb about one of the episodes, `plan` only if asked for."""
    cut = case.cut()
    world = number % cut.num_worlds
    here, episode, at = one_of(cut, world), case.episodes[world], case.length - 1
    others = {name: value[at : at + case.horizon][::-1] for name, value in episode.actions.items()}
    asks: dict[str, Callable[[], object]] = {
        "predict": partial(case.predict_one, here),
        "score": partial(case.score_one, here, logged_plans(cut, world, 4, case.seed + number)),
        "what_if": partial(case.world.what_if, episode, at, others),
        "surprise": partial(case.world.surprise, episode),
    }
    return {**asks, "plan": partial(case.plan_one, here, seed=case.seed + number)} if plans else asks


def _answer(ask: Callable[[], object]) -> object:
    """A copy of what was answered, or of what a refusal says; without the time that it took."""
    try:
        found = ask()
    except WorldlineError as refusal:
        return f"{type(refusal).__name__}: {refusal}"
    return snapshot(replace(found, elapsed_s=0.0) if isinstance(found, Plan) else found)
