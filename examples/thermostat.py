"""Keeps a greenhouse warm by day and by night, with any world: `python examples/thermostat.py WORLD --plot it.png`.

Each half hour it asks the world for the best next six hours under the weather to come, and does the first step of them.
Where the world does not trust what it sees, a plain thermostat takes over; where it is surprised too often, it says so.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import worldline
from worldline.planning.costs import Price, Within
from worldline.recipes.greenhouse import Plant

Array = np.ndarray[Any, Any]
HORIZON = 12  # steps of half an hour
DAY, NIGHT = (18.0, 24.0), (13.0, 19.0)  # where the air should be, degC
PRICES = Price(signal="heating", price=0.01), Price(signal="co2_supply", price=0.2)
MIN_TRUST = 0.02


@dataclass(frozen=True, kw_only=True)
class Climate:
    """Mean excess over the range [K], heat [kWh/m2], and per step: air, lower and upper end [degC], heating [W/m2]."""

    excess: float
    energy: float
    course: Array


@dataclass(frozen=True, kw_only=True)
class Result:
    """By the world's plans, by the thermostat alone, for how many steps it stood in, and how often there was alarm."""

    planned: Climate
    ruled: Climate
    refusals: int
    alarms: int


def thermostat(plant: Plant, wanted: Array) -> dict[str, Array]:
    """The rule: heats from 1 K above the lower end of the range, airs above the upper one."""
    air, (low, high) = plant.now["air_temperature"], wanted[0]
    heating, ventilation = np.clip(30 * (low + 1 - air), 0, 150), np.clip(2 * (air - high), 0, 7.5)
    return {"heating": heating, "ventilation": ventilation, "co2_supply": np.zeros(1)}


class Foresight:
    """Plans with a world, of which it knows what `describe` and the verbs say."""

    def __init__(self, world: worldline.World) -> None:
        self.card, self.refusals = world.describe(), 0
        # What it has seen. Bands of half the outcomes, which are enough to watch it, take few logs to calibrate.
        self.session = worldline.Session(world, num_kept=self.card.context + 4, level=0.5)
        self.acted, self.left = dict[str, Array](), dict[str, Array]()

    def __call__(self, plant: Plant, wanted: Array) -> dict[str, Array]:
        """What to do in the next half hour."""
        weather, rule = plant.weather(HORIZON), thermostat(plant, wanted)
        seen = {name: plant.now[name] for name in self.card.inputs}
        self.session.observe(seen, actions=plant.taken, exogenous=self.acted)
        comfort = Within(signal="air_temperature", low=wanted[:, :1], high=wanted[:, 1:], tolerance=0.5)
        goal = worldline.Goal(costs=(comfort, *PRICES))
        held = {name: np.tile(value, (HORIZON, 1)) for name, value in rule.items()}
        starts = {name: np.stack([value, self.left.get(name, value)]) for name, value in held.items()}
        world, history = self.session.world, self.session.history
        plan = world.plan(history, goal, horizon=HORIZON, exogenous=weather, proposals=starts)
        self.left = {name: np.append(value[1:], value[-1:], 0) for name, value in plan.actions.items()}
        self.acted = {name: value[0] for name, value in weather.items()}
        if plan.trust < MIN_TRUST:  # never where the world is not calibrated, whose trust is NaN
            self.refusals += 1
            return rule
        return {name: value[0] for name, value in plan.actions.items()}


def run(plant: Plant, controller: Callable[[Plant, Array], dict[str, Array]], num_steps: int) -> Climate:
    """So many half hours in the greenhouse."""
    course = []
    for _ in range(num_steps):
        wanted = np.where(plant.weather(HORIZON)["outdoor_radiation"] > 20, DAY, NIGHT)  # day is when the sun shines
        plant.step(controller(plant, wanted))
        course.append([plant.now["air_temperature"][0], *wanted[0], plant.taken["heating"][0]])
    air, low, high, heating = np.array(course, float).T
    excess = np.maximum(np.maximum(low - air, air - high), 0).mean()
    return Climate(excess=float(excess), energy=float(heating.sum() / 2000), course=np.array(course, float))


def main(argv: Sequence[str] | None = None) -> Result:
    """The result, printed, and drawn where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("world", help="whatever worldline.open takes")
    parser.add_argument("--days", type=float, default=1.0, help="at most 5")
    parser.add_argument("--seed", type=int, default=0, help="of the day it begins, and of climate and crop then")
    parser.add_argument("--plot", help="file for a picture")
    given = parser.parse_args(argv)
    day, num_steps = float(np.random.default_rng(given.seed).integers(60, 110)), round(given.days * 48)
    first, second = (Plant(start_day=day, seed=given.seed) for _ in range(2))
    foresight = Foresight(worldline.open(given.world))
    planned, ruled = run(first, foresight, num_steps), run(second, thermostat, num_steps)
    for name, one in ((foresight.card.name, planned), ("thermostat", ruled)):
        print(f"{name:>16}: {one.excess:.2f} K out of range on average, {one.energy:.2f} kWh/m2 of heat")
    print(f"The thermostat stood in for {foresight.refusals} of {num_steps} steps.")
    for alarm in foresight.session.alarms:
        print(f"From step {alarm.since} to {alarm.step} the greenhouse was not as the world knows it.")
    if given.plot:
        from pictures import draw_climate

        draw_climate(given.plot, {foresight.card.name: planned.course, "thermostat": ruled.course})
    return Result(planned=planned, ruled=ruled, refusals=foresight.refusals, alarms=len(foresight.session.alarms))


if __name__ == "__main__":
    main()
