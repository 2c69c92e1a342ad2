"""One world is asked by eight threads at once: each gets what it would get alone, to the last bit."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier

import numpy as np
import pytest
from tests.world.tiny import Tiny, answer, each_tiny, tiny

from worldline.engines.base import Card, Engine, EngineBelief, Noise, Samples
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


class Shares(Engine):
    """A planted fault: it keeps its last belief of W worlds to itself, where another thread may replace it."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.beliefs: dict[int, EngineBelief] = {}

    def describe(self) -> Card:
        return self.engine.describe()

    def observe(self, belief: EngineBelief | None, steps: History, *, seed: int) -> EngineBelief:
        found = self.engine.observe(belief, steps, seed=seed)
        self.beliefs[len(next(iter(steps.observations.values())))] = found
        return found

    def imagine(
        self, belief: EngineBelief, future: Future, *, num_samples: int, noise: Noise | None = None, seed: int
    ) -> Samples:
        mine = self.beliefs[len(next(iter(future.actions.values())))]
        return self.engine.imagine(mine, future, num_samples=num_samples, noise=noise, seed=seed)


def test_a_world_that_keeps_state_between_its_steps_is_caught() -> None:
    whole = tiny("linear")
    assert differing(replace(whole, world=replace(whole.world, engine=Shares(whole.world.engine))), num_rounds=5)
