"""Keeps a greenhouse warm by day and night, with any world: `python examples/thermostat.py WORLD --plot it.png`.

Every half hour it plans the next six hours with the weather forecast and executes the first step. If the world does not
trust the history, a thermostat rule takes over. If surprises are too frequent, it reports an alarm.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from greenhouse_plant import Plant

import worldline
from worldline.planning import Price, Within

Array = np.ndarray[Any, Any]
HORIZON = 12  # steps of half an hour
DAY, NIGHT = (18.0, 24.0), (13.0, 19.0)  # range of the air temperature, degC
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
    """Climate by plans and by the thermostat alone, steps in which the thermostat took over, and alarms."""

    planned: Climate
    ruled: Climate
    refusals: int
    alarms: int


def thermostat(plant: Plant, wanted: Array) -> dict[str, Array]:
    """Heats below 1 K above the lower end of the range; ventilates above the upper end."""
    air, (low, high) = plant.now["air_temperature"], wanted[0]
    heating, ventilation = np.clip(30 * (low + 1 - air), 0, 150), np.clip(2 * (air - high), 0, 7.5)
    return {"heating": heating, "ventilation": ventilation, "co2_supply": np.zeros(1)}


class Foresight:
    """Plans with a world, by its description and its verbs only."""

    def __init__(self, world: worldline.World) -> None:
        self.card, self.refusals = world.describe(), 0
        # The history. Bands of level 0.5 suffice for the alarm and need few calibration episodes.
        self.session = worldline.Session(world, num_kept=self.card.context + 4, level=0.5)
        self.acted, self.left = dict[str, Array](), dict[str, Array]()

    def __call__(self, plant: Plant, wanted: Array) -> dict[str, Array]:
        """Actions of the next half hour."""
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
        if plan.trust < MIN_TRUST:  # False for a world without calibration: its trust is NaN
            self.refusals += 1
            return rule
        return {name: value[0] for name, value in plan.actions.items()}


def run(plant: Plant, controller: Callable[[Plant, Array], dict[str, Array]], num_steps: int) -> Climate:
    """Runs the greenhouse for `num_steps` half hours."""
    course = []
    for _ in range(num_steps):
        wanted = np.where(plant.weather(HORIZON)["outdoor_radiation"] > 20, DAY, NIGHT)  # day: the sun shines
        plant.step(controller(plant, wanted))
        course.append([plant.now["air_temperature"][0], *wanted[0], plant.taken["heating"][0]])
    air, low, high, heating = np.array(course, float).T
    excess = np.maximum(np.maximum(low - air, air - high), 0).mean()
    return Climate(excess=float(excess), energy=float(heating.sum() / 2000), course=np.array(course, float))


def main(argv: Sequence[str] | None = None) -> Result:
    """Runs both controllers, prints the result, and draws it on request."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("world", help="world: a folder, URL or name, as for worldline.open")
    parser.add_argument("--days", type=float, default=1.0, help="number of days, at most 5")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first day, climate and crop")
    parser.add_argument("--plot", help="file for the figure")
    given = parser.parse_args(argv)
    day, num_steps = float(np.random.default_rng(given.seed).integers(60, 110)), round(given.days * 48)
    first, second = (Plant(start_day=day, seed=given.seed) for _ in range(2))
    foresight = Foresight(worldline.open(given.world))
    planned, ruled = run(first, foresight, num_steps), run(second, thermostat, num_steps)
    for name, one in ((foresight.card.name, planned), ("thermostat", ruled)):
        print(f"{name:>16}: {one.excess:.2f} K out of range on average, {one.energy:.2f} kWh/m2 of heat")
    print(f"The thermostat took over in {foresight.refusals} of {num_steps} steps.")
    for alarm in foresight.session.alarms:
        print(f"Alarm: from step {alarm.since} to {alarm.step} the greenhouse did not match the world.")
    if given.plot:
        from pictures import draw_climate

        draw_climate(given.plot, {foresight.card.name: planned.course, "thermostat": ruled.course})
    return Result(planned=planned, ruled=ruled, refusals=foresight.refusals, alarms=len(foresight.session.alarms))


if __name__ == "__main__":
    main()
