from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.world.wrapped import Wrapped

from worldline.engines.base import CallCost, Card, EngineBelief, Samples
from worldline.engines.baselines import Linear
from worldline.episode import Future
from worldline.errors import DataError
from worldline.testing.toys import Integrator
from worldline.world.call_cost import measure_call

TOY = Integrator(camera=False, wind=False)
EPISODES = TOY.episodes(3, 12, seed=0)


class Slow(Wrapped):
    """Each call takes as long as the next of `took`, on a clock of its own."""

    def __init__(self, took: list[float], call: CallCost | None = None) -> None:
        super().__init__(Linear.fit(EPISODES, TOY.schema, context=3))
        self.took, self.call, self.now_s = took, call, 100.0
        self.asked: list[tuple[int, ...]] = []

    def describe(self) -> Card:
        return replace(super().describe(), call=self.call)

    def imagine(self, belief: EngineBelief, future: Future, **rest: Any) -> Samples:
        self.asked.append(future.actions["push"].shape[:3])
        self.now_s += self.took.pop(0)
        return super().imagine(belief, future, **rest)


def test_the_median_counts_and_the_first_call_does_not() -> None:
    engine = Slow([1000.0, 4.0, 1.0, 2.0, 1.0, 3.0])
    found = measure_call(engine, EPISODES, horizon=5, clock=lambda: engine.now_s)
    assert found == CallCost(latency_s=2.0)
    assert engine.asked == [(1, 1, 5)] * 6


def test_what_the_engine_says_of_itself_is_taken() -> None:
    known = CallCost(latency_s=3.0, price=0.01, currency="USD")
    engine = Slow([], known)
    assert measure_call(engine, EPISODES, horizon=5) == known
    assert not engine.asked


def test_an_episode_has_to_be_long_enough() -> None:
    with pytest.raises(DataError, match="none of 3 episodes has 13 steps"):
        measure_call(Slow([]), EPISODES, horizon=11)
