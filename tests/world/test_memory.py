"""Nothing of a call stays behind once its answer is let go."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
from tests.world.tiny import Tiny, each_tiny, tiny

from worldline.engines.base import Card, Engine, EngineBelief, Noise, Samples
from worldline.episode import Future, History

NUM_ROUNDS = 2
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
        objects = objects_after(asked, NUM_ROUNDS) - before
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


class Keeps(Engine):
    """A planted fault: it keeps something of each call."""

    def __init__(self, engine: Engine, of: Callable[[History], object]) -> None:
        self.engine, self.of = engine, of
        self.kept: list[object] = []

    def describe(self) -> Card:
        return self.engine.describe()

    def observe(self, belief: EngineBelief | None, steps: History, *, seed: int) -> EngineBelief:
        self.kept.append(self.of(steps))
        return self.engine.observe(belief, steps, seed=seed)

    def imagine(
        self, belief: EngineBelief, future: Future, *, num_samples: int, noise: Noise | None = None, seed: int
    ) -> Samples:
        return self.engine.imagine(belief, future, num_samples=num_samples, noise=noise, seed=seed)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("of", "kind"),
    [(lambda history: history, "objects"), (lambda history: np.array(history.observations["position"]), "arrays")],
    ids=["objects", "arrays"],
)
def test_a_world_that_keeps_what_it_was_shown_is_caught(of: Callable[[History], object], kind: str) -> None:
    whole = tiny("linear")
    left = left_by(replace(whole, world=replace(whole.world, engine=Keeps(whole.world.engine, of))))
    assert getattr(left, kind) >= 20 * NUM_ROUNDS
