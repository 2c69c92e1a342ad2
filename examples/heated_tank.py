"""Keeps a tank warm with a world learned from its log: `python examples/heated_tank.py --plot loop.png`.

The outdoor temperature is a measured disturbance. Every ten minutes, a plan for the next four hours uses its forecast,
and the first action is executed. A PI controller takes over if the world does not trust the history, or if no plan is
ready in time. It does so while the lid of the tank is open, which no log contains.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

import worldline
from worldline.planning import Price, Within

HORIZON = 24  # steps of ten minutes
MIN_TRUST, BUDGET_S, MAX_REFUSALS = 0.02, 60.0, 6
LID_OPEN = range(160, 166)
Array = np.ndarray[Any, Any]


class Tank:
    """Water that a heater of 0 to 100 % warms. The wall stores heat and loses it to the weather."""

    def __init__(self, seed: int, num_steps: int) -> None:
        self.draw, self.step, self.water, self.wall = np.random.default_rng(seed), 0, 41.0, 25.0
        hours = np.arange(num_steps + HORIZON) / 6
        fronts = pd.Series(self.draw.normal(size=len(hours) + 500)).ewm(alpha=0.02).mean().to_numpy()[500:]
        self.outdoor: Array = 6 + 5 * np.sin(2 * np.pi * (hours - 9) / 24) + 20 * fronts

    def measured(self) -> float:
        """The water temperature [degC] with noise."""
        return round(self.water + 0.05 * self.draw.normal(), 2)

    def forecast(self) -> Array:
        """The outdoor temperature of the next steps [HORIZON, 1], with errors that grow with the time ahead."""
        errors = 0.15 * np.cumsum(self.draw.normal(size=HORIZON))
        return (self.outdoor[self.step : self.step + HORIZON] + errors)[:, None]

    def heat(self, heater: float, *, lid_open: bool = False) -> None:
        """Ten minutes with the heater at `heater` %."""
        outdoor = self.outdoor[self.step]
        for _ in range(10):
            to_wall = 0.02 * (self.water - self.wall)
            self.water += 0.008 * heater - to_wall - (0.016 if lid_open else 0.004) * (self.water - outdoor)
            self.wall += to_wall - 0.01 * (self.wall - outdoor)
        self.step += 1


class PIController:
    """The controller of the tank before there was a world, and the fallback."""

    def __init__(self) -> None:
        self.integral = 45.0

    def __call__(self, water: float, wanted: float) -> float:
        """The heater [%] for a water temperature and a set point [degC]."""
        error = wanted - water
        heater = float(np.clip(8 * error + self.integral, 0, 100))
        self.integral += 0.8 * error if 0 < heater < 100 else 0.0  # it stands still at a limit
        return heater


def log(num_steps: int = 6000, seed: int = 0) -> pd.DataFrame:
    """The table of six weeks in which the PI controller follows set points, with random changes of the heater."""
    tank, controller, rows = Tank(seed, num_steps), PIController(), []
    for step in range(num_steps):
        if step % 20 == 0:
            wanted, change = tank.draw.uniform(30, 60), tank.draw.normal(scale=15)
        water = tank.measured()
        heater = round(float(np.clip(controller(water, wanted) + change, 0, 100)), 1)
        rows.append((600.0 * step, water, heater, round(tank.outdoor[step], 2)))
        tank.heat(heater)
    return pd.DataFrame(rows, columns=["time", "water_temperature [degC]", "heater [%]", "outdoor_temperature [degC]"])


def run(world: worldline.World | None, num_steps: int = 288, seed: int = 1) -> pd.DataFrame:
    """Two days under control by plans, or by the PI controller if there is no world; one row per step."""
    tank, controller, rows = Tank(seed, num_steps), PIController(), []
    session, sent, refusals = None if world is None else worldline.Session(world), dict[str, Any](), 0
    hours = np.arange(num_steps + HORIZON) / 6
    low = np.where((hours % 24 >= 6) & (hours % 24 < 22), 50.0, 40.0)  # the water must be warmer by day
    for step in range(num_steps):
        water, forecast, is_fallback = tank.measured(), tank.forecast(), False
        heater = controller(water, low[step] + 1)
        if world is not None and refusals == MAX_REFUSALS:  # a new session forgets what was unusual
            session, sent, refusals = worldline.Session(world), {}, 0
        if session is not None:
            session.observe({"water_temperature": np.array([water])}, **sent)
            floor = low[step + 1 : step + 1 + HORIZON, None] + 1
            warm = Within(signal="water_temperature", low=floor, high=floor + 15, tolerance=0.5)
            plan = session.plan(
                worldline.Goal(costs=[warm, Price(signal="heater", price=0.002)]),
                horizon=HORIZON,
                exogenous={"outdoor_temperature": forecast},
                min_trust=MIN_TRUST,
                budget_s=BUDGET_S,
            )
            is_fallback = plan.status in ("refused", "out_of_time")
            heater = heater if is_fallback else float(plan.actions["heater"][0, 0])
            refusals = refusals + 1 if is_fallback else 0
        tank.heat(heater, lid_open=step in LID_OPEN)
        outdoor = tank.outdoor[step]
        sent = {"actions": {"heater": np.array([heater])}, "exogenous": {"outdoor_temperature": np.array([outdoor])}}
        rows.append((water, low[step], heater, outdoor, is_fallback))
    return pd.DataFrame(rows, hours[:num_steps], ["water", "low", "heater", "outdoor", "fallback"])


def draw(file: str, planned: pd.DataFrame, ruled: pd.DataFrame) -> None:
    """Draws both runs; the steps of the fallback are shaded."""
    figure = Figure((8.6, 6.4), dpi=160, layout="constrained")
    for axes, name, title in zip(
        figure.subplots(3, 1, sharex=True, height_ratios=(2, 1, 1)),
        ("water", "heater", "outdoor"),
        ("Water, °C", "Heater, %", "Outdoor temperature, °C"),
        strict=True,
    ):
        axes.set_title(title, loc="left", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
        axes.fill_between(planned.index, 0, 1, where=planned["fallback"], transform=axes.get_xaxis_transform(),
                          color="#b0632a", alpha=0.2, linewidth=0, label="fallback")  # fmt: skip
        if name != "outdoor":
            axes.plot(ruled[name], color="#9a9a9a", drawstyle="steps-post", label="PI controller")
        axes.plot(planned[name], color="#0b6b74", drawstyle="steps-post", label="plans with the forecast")
    first = figure.axes[0]
    first.plot(planned["low"], color="black", linestyle=":", drawstyle="steps-post", label="lower limit")
    figure.legend(*first.get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False)
    axes.set_xlabel("hours")
    figure.savefig(file)


def main(argv: Sequence[str] | None = None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Learns, runs both controllers, prints the result, and draws it on request."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plot", help="file for the figure")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        # The linear model learns in seconds, and its plans are exact. Without a recipe, models are compared.
        world = worldline.learn(log(), Path(folder) / "world", recipe="linear")
        planned, ruled = run(world), run(None)
    for name, course in (("plans", planned), ("PI controller", ruled)):
        deficit, energy = (course["low"] - course["water"]).clip(lower=0).mean(), course["heater"].sum() / 600
        print(f"{name:>13}: {deficit:.2f} K below the limit on average, heater {energy:.1f} h at full power")
    print(f"The PI controller took over in {planned['fallback'].sum()} of {len(planned)} steps.")
    if arguments.plot:
        draw(arguments.plot, planned, ruled)
    return planned, ruled


if __name__ == "__main__":
    main()
