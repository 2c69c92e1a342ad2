"""Logs of simulated plants: random inputs, 150 episodes of 120 steps. Measures nothing.

`python plant_logs.py PLANT FILE` writes a log as npz. This file imports nothing of worldline at the top, so that an
environment that has a simulator, but not worldline, can record its log.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from plants import FourTanks, HeaterLab, Pendulum, Run, StirredTank, Table, record

ROWS = 120
"""Steps of an episode."""
EPISODES = 150


def each(run: Callable[[np.random.Generator], Run]) -> Callable[[int], list[Run]]:
    """Independent episodes of a seed, from a function that records one."""
    return lambda seed: [run(np.random.default_rng([seed, 0, number])) for number in range(EPISODES)]


def held(
    draws: np.random.Generator, low: Sequence[float], high: Sequence[float], hold: tuple[int, int], steps: int = ROWS
) -> Table:
    """Random levels [steps, inputs]. Each input keeps a level for `hold[0]` to `hold[1]` steps."""
    levels = np.empty((steps, len(low)))
    for column, (least, most) in enumerate(zip(low, high, strict=True)):
        start = 0
        while start < steps:
            stop = start + int(draws.integers(hold[0], hold[1] + 1))
            levels[start:stop, column] = draws.uniform(least, most)
            start = stop
    return levels


TCLAB_WARM_UP = 60


def tclab(draws: np.random.Generator) -> Run:
    """Random powers."""
    plant = HeaterLab(draws)
    heat = held(draws, (0, 0), (100, 100), (6, 40), TCLAB_WARM_UP + ROWS)
    seen, given, outside = record(plant, heat)
    return seen[TCLAB_WARM_UP:], given[TCLAB_WARM_UP:], outside[TCLAB_WARM_UP:]


def quadruple_tank(draws: np.random.Generator) -> Run:
    """Random voltages."""
    pumps = held(draws, (1.5, 1.5), (3.7, 3.7), (5, 30))
    return record(FourTanks(draws), pumps)


def cstr(draws: np.random.Generator) -> Run:
    """Random temperatures of the coolant."""
    jacket = held(draws, (280.0,), (302.0,), (5, 30))  # above 305 K the reaction runs away
    return record(StirredTank(draws, ROWS), jacket)


def pendulum(draws: np.random.Generator) -> Run:
    """Random torques, from a random angle and speed."""
    plant = Pendulum((draws.uniform(-np.pi, np.pi), draws.uniform(-4, 4)))
    return record(plant, held(draws, (-2,), (2,), (1, 10)))


def greenhouse(seed: int) -> list[Run]:
    """120 episodes of the lettuce greenhouse, without the weather that its recipe holds out."""
    logs, recipe, count = import_module("greenhouse_logs"), import_module("greenhouse_plant"), 120
    runs = list[Run]()
    with tempfile.TemporaryDirectory() as folder:
        store = logs.record_greenhouse(Path(folder) / "store", num_episodes=8 * count // 7 + 8, seed=2 * seed)
        for number in range(len(store)):
            block = int((store.entry(number).source["start_day"] - recipe.FIRST_DAY) // recipe.BLOCK_DAYS)
            if recipe.PARTS[block % len(recipe.PARTS)] != "held_out" and len(runs) < count:
                one = store.episode(number)
                groups = (one.observations, one.actions, one.exogenous)
                seen, taken, weather = (np.concatenate(list(group.values()), 1).astype(float) for group in groups)
                runs.append((seen, taken, weather))
    return runs


MOTOR_WARM_UP, MOTOR_VOLTS, CURRENT_NOISE = 60, 25.0, 0.5
POLE_PAIRS, FLUX_LINKAGE, MOTOR_STEP_S = 3, 0.066, 1e-4


def pmsm(draws: np.random.Generator) -> Run:
    """A synchronous motor of gym-electric-motor at a constant speed, under random voltages in rotor coordinates."""
    motor = import_module("gym_electric_motor")
    loads = import_module("gym_electric_motor.physical_systems")
    speed = draws.uniform(20, 250)
    load = loads.ConstantSpeedLoad(omega_fixed=speed)
    system = motor.make("Cont-CC-PMSM-v0", load=load).unwrapped.physical_system
    names, limits, steps = list(system.state_names), np.array(system.limits), MOTOR_WARM_UP + ROWS
    induced = POLE_PAIRS * speed * FLUX_LINKAGE
    low, high = (-MOTOR_VOLTS, induced - MOTOR_VOLTS), (MOTOR_VOLTS, induced + MOTOR_VOLTS)
    volts, state = held(draws, low, high, (5, 30), steps), system.reset() * limits
    kept = [names.index(name) for name in ("i_sd", "i_sq", "torque")]
    rows = [state[kept]]
    for pair in volts:
        angle = state[names.index("epsilon")] + POLE_PAIRS * speed * MOTOR_STEP_S / 2  # in the middle of the step
        phases = np.array(system.dq_to_abc_space(pair, angle)) / limits[names.index("u_a")]
        state = system.simulate(np.clip(phases, -1, 1)) * limits
        rows.append(state[kept])
    noise = CURRENT_NOISE * draws.standard_normal((ROWS + 1, 3)) * [1, 1, 0]
    return np.array(rows)[MOTOR_WARM_UP:] + noise, volts[MOTOR_WARM_UP:], np.full((ROWS, 1), speed)


NET3_TANKS, NET3_NODES, NET3_PUMPS = ("1", "2", "3"), ("15", "35", "105", "163"), ("10", "335")
HOUR_S = 3600


def net3(draws: np.random.Generator) -> Run:
    """EPANET's example network Net3 with wntr: random pump schedules and demands. Levels and pressures are measured."""
    wntr = import_module("wntr")
    file = Path(str(wntr.__file__)).parent / "library" / "networks" / "Net3.inp"
    network = wntr.network.WaterNetworkModel(str(file))
    for name in list(network.control_name_list):
        network.remove_control(name)
    on = (held(draws, (0, 0), (1, 1), (2, 8)) < [0.5, 0.7]).astype(float)
    demand = np.clip(0.9 + np.cumsum(0.1 * draws.standard_normal(ROWS)), 0.4, 1.4)
    network.get_pattern("1").multipliers = demand
    for name, pattern in zip(NET3_PUMPS, on.T, strict=True):
        network.add_pattern(f"pump-{name}", list(pattern))
        network.get_link(name).speed_pattern_name = f"pump-{name}"
        network.get_link(name).initial_status = "OPEN"
    for name in NET3_TANKS:
        tank = network.get_node(name)
        tank.init_level = float(draws.uniform(tank.min_level, tank.max_level))
    for name in ("hydraulic_timestep", "report_timestep", "pattern_timestep"):
        setattr(network.options.time, name, HOUR_S)
    network.options.time.duration = ROWS * HOUR_S
    with tempfile.TemporaryDirectory() as folder:
        result = wntr.sim.EpanetSimulator(network).run_sim(file_prefix=str(Path(folder) / "net3"))
    measured = result.node["pressure"][[*NET3_TANKS, *NET3_NODES]].to_numpy(float)
    return measured, on, demand[:, None]


class LoggedPlant(NamedTuple):
    """How a plant is logged.

    Args:
        record: the episodes of a seed.
        package: of the simulator; empty for none.
    """

    record: Callable[[int], list[Run]]
    package: str = ""

    def is_missing(self) -> bool:
        """Whether this Python lacks the simulator."""
        return bool(self.package) and find_spec(self.package) is None


PLANTS = {
    "tclab": LoggedPlant(each(tclab), "tclab"),
    "quadruple-tank": LoggedPlant(each(quadruple_tank)),
    "cstr": LoggedPlant(each(cstr)),
    "pendulum": LoggedPlant(each(pendulum), "gymnasium"),
    "greenhouse": LoggedPlant(greenhouse, "lettuce_greenhouse_gym"),
    "pmsm": LoggedPlant(each(pmsm), "gym_electric_motor"),
    "net3": LoggedPlant(each(net3), "wntr"),
}
"""The plants by name."""


def save_log(path: Path, runs: Sequence[Run]) -> None:
    """Writes the episodes one after the other, with their numbers of steps."""
    groups = {
        name: np.concatenate([run[place] for run in runs]).astype(np.float32)
        for place, name in enumerate(("observations", "actions", "exogenous"))
    }
    arrays: dict[str, Any] = {"steps": np.array([len(run[1]) for run in runs]), **groups}
    np.savez(path, **arrays)


def load_log(path: Path) -> list[Run]:
    """Reads what `save_log` wrote, in double precision."""
    with np.load(path) as stored:
        arrays = {name: stored[name] for name in stored.files}
    ends = np.cumsum(arrays.pop("steps"))
    breaks = {"observations": (ends + np.arange(1, len(ends) + 1))[:-1], "actions": ends[:-1], "exogenous": ends[:-1]}
    tables = (np.split(arrays[name].astype(np.float64), at) for name, at in breaks.items())
    return list(zip(*tables, strict=True))


if __name__ == "__main__":
    save_log(Path(sys.argv[2]), PLANTS[sys.argv[1]].record(0))
