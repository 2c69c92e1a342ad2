"""Clauses on whether a world answers the same whoever else asks, and whatever was asked before."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Final

from worldline.contracts.world import Plan
from worldline.errors import WorldlineError
from worldline.testing.clauses import Clause, changed_place, snapshot
from worldline.testing.world_case import WorldCase, logged_plans, one_of

NUM_THREADS: Final = 8

THREADS = Clause(
    name="world.threads",
    look="the verbs; threads that ask one world at once share nothing that changes, such as a buffer",
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
