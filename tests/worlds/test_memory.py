"""Nothing of a call stays behind once its answer is let go."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import pytest
from tests.worlds.tiny import TINY, Tiny, tiny

from worldline.contracts.engine import Card, Engine, EngineBelief, Future, Noise, Samples
from worldline.contracts.episode import History

NUM_ROUNDS = 5
"""Of 20 calls, after as many that fill caches."""


@dataclass(frozen=True, kw_only=True)
class Left:
    """What the calls left behind.

    Args:
        objects: that Python's collector knows of.
        bytes_a_call: that Python and NumPy hold.
    """

    objects: int
    bytes_a_call: float


@pytest.fixture(autouse=True)
def traced() -> Iterator[None]:
    tracemalloc.start()
    yield
    tracemalloc.stop()


def left_by(world: Tiny) -> Left:
    asked = list(world.asked().values())
    for _ in range(NUM_ROUNDS):
        before = held(asked)
    after = held(NUM_ROUNDS * asked)
    return Left(objects=after[0] - before[0], bytes_a_call=(after[1] - before[1]) / (NUM_ROUNDS * len(asked)))


def held(asked: list[Callable[[], object]]) -> tuple[int, int]:
    """Objects and bytes after these calls."""
    for ask in asked:
        ask()
    gc.collect()
    return len(gc.get_objects()), tracemalloc.get_traced_memory()[0]


@pytest.mark.parametrize("name", sorted(TINY))
def test_calls_leave_nothing_behind(name: str) -> None:
    left = left_by(tiny(name))
    assert left.objects == 0
    assert left.bytes_a_call < 1


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


def test_a_world_that_keeps_what_it_was_shown_is_caught() -> None:
    whole = tiny("linear")

    def keeping(of: Callable[[History], object]) -> Left:
        return left_by(replace(whole, world=replace(whole.world, engine=Keeps(whole.world.engine, of))))

    assert keeping(lambda history: history).objects >= 100
    array = keeping(lambda history: np.array(history.observations["position"]))  # of which the collector knows nothing
    assert array.bytes_a_call > 50
