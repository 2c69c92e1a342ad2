from __future__ import annotations

import gc
from collections.abc import Callable
from contextlib import closing
from itertools import islice
from typing import Any

import numpy as np
import pytest

from worldline.control.controller import Actor, ReplanningController, Situation, WorldActor
from worldline.control.realtime import MAX_DEFERRED_PERIODS, MIN_BUDGET_S, Period, PlantReading, RealTimeLoop
from worldline.episode import Arrays
from worldline.errors import ConfigError
from worldline.schema import Schema

GOAL = {"place": np.array([[3.0]], np.float32)}


class Plant:
    """A clock, and what takes time on it: reading, answers, sending and collecting. Binary fractions add up exactly."""

    def __init__(self, *answers: float, read_s: float = 0.0, send_s: float = 0.0) -> None:
        self.now_s, self.answers = 0.0, answers
        self.read_s, self.send_s = read_s, send_s
        self.asked: list[Situation] = []
        self.read_at: list[float] = []
        self.sent: list[tuple[float, float]] = []

    def clock(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        self.now_s += seconds

    def read(self) -> PlantReading:
        self.read_at.append(self.now_s)
        self.now_s += self.read_s
        return PlantReading(observations={"place": np.zeros((1, 1), np.float32)})

    def send(self, action: Arrays) -> None:
        self.sent.append((self.now_s, float(action["push"][0, 0])))
        self.now_s += self.send_s

    def run(self, schema: Schema, num_periods: int, *, margin_s: float = 0.0) -> list[Period]:
        """Periods of one second, with answers of 3 steps: 10, 11, 12, then 20, 21, 22."""
        controller = ReplanningController(Answers(self), schema, context=1, replan_every=1, seed=0, clock=self.clock)
        controller.reset(GOAL)
        loop = RealTimeLoop(controller=controller, period_s=1.0, margin_s=margin_s, clock=self.clock, sleep=self.sleep)
        with closing(loop.run(self.read, self.send)) as periods:
            return list(islice(periods, num_periods))


class Answers(Actor):
    def __init__(self, plant: Plant) -> None:
        self.plant = plant

    def act(self, now: Situation, *, num_steps: int, seed: int) -> Any:
        plant = self.plant
        plant.now_s += plant.answers[len(plant.asked)]
        plant.asked.append(now)
        return {"push": 10 * len(plant.asked) + np.arange(3.0)[None, :, None]}


def test_plans_with_what_is_left_of_each_period(schema: Schema) -> None:
    plant = Plant(0.5, 0.25, 0.5, read_s=0.125, send_s=0.0625)
    periods = plant.run(schema, 3, margin_s=0.25)
    assert (plant.read_at, plant.sent) == ([0, 1, 2], [(0.625, 10), (1.375, 20), (2.625, 30)])
    assert [now.budget_s for now in plant.asked] == [0.625] * 3
    assert periods[0] == Period(delay_s=0.0, read_s=0.125, act_s=0.5, idle_s=0.375, fresh=True)
    assert not any(period.missed for period in periods)


def test_a_plan_that_comes_too_late_is_not_acted_on_and_the_period_says_so(schema: Schema) -> None:
    plant = Plant(0.5, 1.5, 0.5)
    periods = plant.run(schema, 3)
    assert plant.sent == [(0.5, 10), (2.5, 11), (3.0, 30)]  # 20 was planned for 1 s, and came at 2.5 s
    assert [period.missed for period in periods] == [False, True, False]
    assert [period.fresh for period in periods] == [True, False, True]
    assert periods[1].idle_s == -0.5
    assert plant.read_at == [0, 1, 2.5]  # the next begins at once, with a whole period to plan in
    assert plant.asked[2].budget_s == 1.0


def test_where_nothing_is_left_a_late_plan_is_waited_for_and_said_to_be_late(schema: Schema) -> None:
    plant = Plant(*[1.5] * 4)
    periods = plant.run(schema, 4)
    assert [action for _, action in plant.sent] == [10, 11, 12, 40]
    assert [period.fresh for period in periods] == [True, False, False, True]
    assert all(period.missed for period in periods)


def test_a_late_wake_up_is_told_and_leaves_less_time(schema: Schema) -> None:
    class Oversleeping(Plant):
        def sleep(self, seconds: float) -> None:
            super().sleep(seconds + 0.25)

    plant = Oversleeping(0.5, 0.5)
    periods = plant.run(schema, 2)
    assert [period.delay_s for period in periods] == [0.0, 0.25]
    assert [now.budget_s for now in plant.asked] == [1.0, 0.75]


def test_where_reading_took_the_whole_period_the_least_plan_is_asked_for(schema: Schema) -> None:
    plant = Plant(0.5, read_s=2.0)
    (period,) = plant.run(schema, 1)
    assert plant.asked[0].budget_s == MIN_BUDGET_S
    assert period.missed


def test_a_world_is_given_its_budget_and_what_is_left_of_its_plan(schema: Schema, line_world: Any) -> None:
    world, plant = line_world(), Plant(read_s=0.25)
    actor = WorldActor(world=world, horizon=4)
    controller = ReplanningController(actor, schema, context=1, replan_every=1, seed=0, clock=plant.clock)
    controller.reset(GOAL)
    loop = RealTimeLoop(controller=controller, period_s=1.0, margin_s=0.25, clock=plant.clock, sleep=plant.sleep)
    periods = list(islice(loop.run(plant.read, plant.send), 2))
    assert world.budgets == [0.5, 0.5]
    assert world.proposals[1] is not None
    assert [action for _, action in plant.sent] == [1.0, 1.0]
    assert all(period.fresh and not period.missed for period in periods)


@pytest.fixture
def collected(monkeypatch: pytest.MonkeyPatch) -> Callable[[Plant, float], list[float]]:
    """Lets a collection take some seconds; gives when they began."""

    def install(plant: Plant, takes_s: float) -> list[float]:
        began = list[float]()

        def collect() -> int:
            began.append(plant.now_s)
            plant.now_s += takes_s
            return 0

        monkeypatch.setattr("worldline.control.realtime.gc.collect", collect)
        return began

    return install


def test_garbage_is_collected_in_idle_time_only(schema: Schema, collected: Any) -> None:
    seen, was_on, was_frozen = list[bool](), gc.isenabled(), gc.get_freeze_count() > 0

    class Watching(Plant):
        def read(self) -> PlantReading:
            seen.append(gc.isenabled())
            return super().read()

    plant = Watching(*[0.5, 0.875, 0.5])
    began = collected(plant, 0.125)
    plant.run(schema, 3)
    # Before the loop, then after each action; but not in the 0.125 s that the second one leaves.
    assert began == [0.0, 0.625, 2.625]
    assert seen == [False] * 3
    assert (gc.isenabled(), gc.get_freeze_count() > 0) == (was_on, was_frozen)


def test_garbage_that_has_waited_for_long_is_collected_whatever_the_time(schema: Schema, collected: Any) -> None:
    plant = Plant(*[1.0] * (MAX_DEFERRED_PERIODS + 1))
    began = collected(plant, 0.125)
    plant.run(schema, MAX_DEFERRED_PERIODS + 1)
    assert len(began) == 3


def test_what_was_switched_off_stays_so(schema: Schema) -> None:
    gc.disable()
    try:
        Plant(0.5).run(schema, 1)
        assert not gc.isenabled()
    finally:
        gc.enable()


@pytest.mark.parametrize(("period_s", "margin_s"), [(1.0, 1.0), (0.0, 0.0), (1.0, -0.1), (1.0, float("nan"))])
def test_refuses_a_margin_that_leaves_nothing(schema: Schema, period_s: float, margin_s: float) -> None:
    controller = ReplanningController(Idle(), schema, context=1, replan_every=1, seed=0)
    with pytest.raises(ConfigError, match="margin_s"):
        RealTimeLoop(controller=controller, period_s=period_s, margin_s=margin_s)


class Idle(Actor):
    def act(self, now: Situation, *, num_steps: int, seed: int) -> Any:
        raise AssertionError
