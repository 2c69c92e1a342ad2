"""Worlds that are asked often: eight threads each get what they would get alone, and nothing of a call stays behind."""

from __future__ import annotations

import gc
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from threading import Barrier
from typing import Any

import numpy as np
import pytest
from tests.world.tiny import Tiny, answer, each_tiny, tiny
from tests.world.wrapped import Wrapped

from worldline.engines.base import Engine, EngineBelief, Samples
from worldline.episode import Future, History

NUM_THREADS, NUM_ROUNDS = 8, 2


@pytest.fixture(autouse=True)
def threads_take_turns_often() -> Iterator[None]:
    """Every hundredth of a millisecond instead of every five."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(usual)


def differing(world: Tiny, num_rounds: int) -> set[str]:
    """The questions that were answered otherwise in one of the threads than alone."""
    asked = world.asked()
    alone = {name: answer(ask()) for name, ask in asked.items()}
    together = Barrier(NUM_THREADS)

    def run(thread: int) -> set[str]:
        rng, wrong = np.random.default_rng(thread), set[str]()
        together.wait()
        for _ in range(num_rounds):
            for name in rng.permutation(sorted(asked)).tolist():
                if answer(asked[name]()) != alone[name]:
                    wrong.add(name)
        return wrong

    with ThreadPoolExecutor(NUM_THREADS) as pool:
        return set[str]().union(*pool.map(run, range(NUM_THREADS)))


@pytest.mark.slow
@pytest.mark.parametrize("name", each_tiny())
def test_eight_threads_get_the_answers_of_one(name: str) -> None:
    assert differing(tiny(name), NUM_ROUNDS) == set()


class Shares(Wrapped):
    """A planted fault: it keeps its last belief of W worlds to itself, where another thread may replace it."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.beliefs: dict[int, EngineBelief] = {}

    def observe(self, belief: EngineBelief | None, steps: History, *, seed: int) -> EngineBelief:
        found = self.engine.observe(belief, steps, seed=seed)
        self.beliefs[len(next(iter(steps.observations.values())))] = found
        return found

    def imagine(self, belief: EngineBelief, future: Future, **rest: Any) -> Samples:
        return self.engine.imagine(self.beliefs[len(next(iter(future.actions.values())))], future, **rest)


@pytest.mark.slow
def test_a_world_that_keeps_state_between_its_steps_is_caught() -> None:
    whole = tiny("linear")
    assert differing(replace(whole, world=replace(whole.world, engine=Shares(whole.world.engine))), num_rounds=5)


LEAK_ROUNDS = 2
"""Of 20 calls, after as many that fill caches."""
NUM_LOOKS = 2
"""A leak leaves something each time; what happens once, such as a thread of an earlier test that ends, is none."""


@dataclass(frozen=True, kw_only=True)
class Left:
    """What the calls left behind each time, at the least.

    Args:
        objects: that Python's collector knows of, tensors among them.
        arrays: data of NumPy, which it does not.
    """

    objects: int
    arrays: int


def left_by(world: Tiny) -> Left:
    asked = list(world.asked().values())
    objects_after(asked, 1)
    looks = [look(asked) for _ in range(NUM_LOOKS)]
    return Left(objects=min(one.objects for one in looks), arrays=min(one.arrays for one in looks))


def look(asked: list[Callable[[], object]]) -> Left:
    before = objects_after(asked, 0)
    tracemalloc.start()
    try:
        objects = objects_after(asked, LEAK_ROUNDS) - before
        data = tracemalloc.DomainFilter(True, np.lib.tracemalloc_domain)
        return Left(objects=objects, arrays=len(tracemalloc.take_snapshot().filter_traces([data]).traces))
    finally:
        tracemalloc.stop()


def objects_after(asked: list[Callable[[], object]], num_rounds: int) -> int:
    for _ in range(num_rounds):
        for ask in asked:
            ask()
    gc.collect()
    return len(gc.get_objects())


@pytest.mark.slow
@pytest.mark.parametrize("name", each_tiny())
def test_calls_leave_nothing_behind(name: str) -> None:
    found = left_by(tiny(name))
    # Fewer is no leak: what earlier tests left may go meanwhile.
    assert found.objects <= 0
    assert found.arrays <= 0


class Keeps(Wrapped):
    """A planted fault: it keeps something of each call."""

    def __init__(self, engine: Engine, of: Callable[[History], object]) -> None:
        super().__init__(engine)
        self.of = of
        self.kept: list[object] = []

    def observe(self, belief: EngineBelief | None, steps: History, *, seed: int) -> EngineBelief:
        self.kept.append(self.of(steps))
        return super().observe(belief, steps, seed=seed)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("of", "kind"),
    [(lambda history: history, "objects"), (lambda history: np.array(history.observations["position"]), "arrays")],
    ids=["objects", "arrays"],
)
def test_a_world_that_keeps_what_it_was_shown_is_caught(of: Callable[[History], object], kind: str) -> None:
    whole = tiny("linear")
    left = left_by(replace(whole, world=replace(whole.world, engine=Keeps(whole.world.engine, of))))
    assert getattr(left, kind) >= 20 * LEAK_ROUNDS
