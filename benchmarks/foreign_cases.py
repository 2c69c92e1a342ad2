"""The cases of benchmarks/foreign.py: logs of simulated plants and of foreign recordings. Measures nothing.

`python foreign_cases.py CASE PART COUNT SEED FILE` writes a log as npz. This file imports nothing of worldline at the
top, so that it also runs in the peers' environment, which may have the simulators.
"""

from __future__ import annotations

import os
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from plants import FourTanks, HeaterLab, Pendulum, Run, StirredTank, Table, record

PARTS = ("train", "test")
ROWS = 120
"""Steps of an episode."""


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """A signal with one component.

    Args:
        name: of the signal.
        role: "observation", "action" or "exogenous".
        unit: physical unit.
        low: lower bound of an action.
        high: upper bound of an action.
    """

    name: str
    role: str
    unit: str
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, kw_only=True)
class Case:
    """A plant and its logs.

    Args:
        record: the episodes of a part ("train" or "test"), their number and a seed.
        quantities: the signals, in the order observations, actions, exogenous inputs.
        step_s: duration of a step in seconds.
        needs: name of the package with the simulator; empty for none.
        missing: returns what else is missing, as text; empty for nothing.
        report: whether the case is measured only once, at the end.
        counts: episodes for training and for the test; a recording may have fewer.
    """

    record: Callable[[str, int, int], list[Run]]
    quantities: tuple[Quantity, ...]
    step_s: float
    needs: str = ""
    missing: Callable[[], str] = field(default=lambda: "")
    report: bool = False
    counts: tuple[int, int] = (150, 50)

    def of(self, role: str) -> tuple[Quantity, ...]:
        """The signals with a role."""
        return tuple(one for one in self.quantities if one.role == role)


def observed(name: str, unit: str) -> Quantity:
    """An observation."""
    return Quantity(name=name, role="observation", unit=unit)


def action(name: str, unit: str, low: float | None = None, high: float | None = None) -> Quantity:
    """An action; with bounds if they are known."""
    return Quantity(name=name, role="action", unit=unit, low=low, high=high)


def exogenous(name: str, unit: str) -> Quantity:
    """An exogenous input."""
    return Quantity(name=name, role="exogenous", unit=unit)


def generator(part: str, number: int, seed: int) -> np.random.Generator:
    """The draws of one episode. Parts have different draws under every seed."""
    return np.random.default_rng([seed, PARTS.index(part), number])


def each(run: Callable[[np.random.Generator], Run]) -> Callable[[str, int, int], list[Run]]:
    """Independent episodes from a function that records one."""
    return lambda part, count, seed: [run(generator(part, number, seed)) for number in range(count)]


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


def none(steps: int) -> Table:
    """The table of a group without signals."""
    return np.zeros((steps, 0))


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


def greenhouse(part: str, count: int, seed: int) -> list[Run]:
    """The lettuce greenhouse of the recipe. The test has weather that is not in the training log."""
    recipe, logs = import_module("worldline.recipes.greenhouse"), import_module("greenhouse_logs")
    is_test, runs = part == "test", list[Run]()
    whole = len(recipe.PARTS) * count if is_test else 8 * count // 7 + 8
    with tempfile.TemporaryDirectory() as folder:
        store = logs.record_greenhouse(Path(folder) / "store", num_episodes=whole, seed=2 * seed + is_test)
        for number in range(len(store)):
            block = int((store.entry(number).source["start_day"] - recipe.FIRST_DAY) // recipe.BLOCK_DAYS)
            if (recipe.PARTS[block % len(recipe.PARTS)] == "held_out") == is_test and len(runs) < count:
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


def half_cheetah(draws: np.random.Generator) -> Run:
    """Gymnasium's HalfCheetah-v5 under random torques."""
    env = import_module("gymnasium").make("HalfCheetah-v5")
    torques = held(draws, (-1,) * 6, (1,) * 6, (1, 8))
    rows = [env.reset(seed=int(draws.integers(2**31)))[0]]
    rows += [env.step(torque.astype(np.float32))[0] for torque in torques]
    env.close()
    return np.array(rows), torques, none(ROWS)


SOURCES = "FOREIGN_SOURCES"
"""Environment variable with a folder for the downloaded sources."""


def source(pattern: str, *others: str) -> Path | None:
    """The first file of this name in the folder of sources or in other folders."""
    folders = [Path(os.environ[SOURCES])] if SOURCES in os.environ else []
    found = [path for folder in folders for path in sorted(folder.rglob(pattern))]
    found += [path for other in others for path in sorted(Path("/").glob(other))]
    return found[0] if found else None


def openoa_source() -> Path | None:
    """The source distribution of openoa: `pip download openoa --no-deps --no-binary :all:`."""
    return source("openoa-*.tar.gz")


def octave_source() -> Path | None:
    """The tests of Debian's octave-control, from the installed package or an unpacked one."""
    return source("moen4.m", "usr/share/octave/packages/control-*/moen4.m")


def pieces(
    observations: Table, actions: Table, exogenous: Table, rows: int, part: str, count: int, split: float
) -> list[Run]:
    """One recording in pieces of `rows` steps: earlier ones for training, later ones for the test.

    Pieces with a missing value are left out. Of more than `count` pieces, evenly spaced ones are taken.
    """
    found, edge = list[Run](), int(split * (len(observations) - 1))
    begin, end = (0, edge) if part == "train" else (edge, len(observations) - 1)
    for start in range(begin, end - rows + 1, rows):
        one = observations[start : start + rows + 1], actions[start : start + rows], exogenous[start : start + rows]
        if all(np.isfinite(table).all() for table in one):
            found.append(one)
    chosen = np.unique(np.linspace(0, len(found) - 1, min(count, len(found))).round().astype(int))
    return [found[place] for place in chosen]


def wind_farm(part: str, count: int, seed: int) -> list[Run]:
    """Four turbines of La Haute Borne, 10-minute means of 2014 and 2015; the test is the last quarter of the time."""
    del seed
    path = openoa_source()
    assert path is not None
    with tarfile.open(path) as archive:
        member = next(name for name in archive.getnames() if name.endswith("la_haute_borne.zip"))
        packed = archive.extractfile(member)
        assert packed is not None
        with zipfile.ZipFile(BytesIO(packed.read())) as inner:
            table = import_module("pandas").read_csv(inner.open("la-haute-borne-data-2014-2015.csv"))
    table["time"] = import_module("pandas").to_datetime(table["Date_time"], utc=True)
    wide = table.drop_duplicates(["time", "Wind_turbine_name"]).pivot(index="time", columns="Wind_turbine_name")
    wide = wide.asfreq("10min")
    power, pitch, wind, warmth = (wide[name].to_numpy(float) for name in ("P_avg", "Ba_avg", "Ws_avg", "Ot_avg"))
    pitch = (pitch + 180) % 360 - 180
    weather = np.concatenate([wind[:-1], warmth[:-1, :1]], 1)
    return pieces(power, pitch[:-1], weather, ROWS, part, count, 0.75)


def matrices(name: str, after: str = "") -> Table:
    """The numbers of the matrix `name` in the tests of octave-control, after a text, row by row."""
    path = octave_source()
    assert path is not None
    text = path.read_text(encoding="utf-8", errors="replace")
    begin = text.index(f"%! {name} = [", text.index(after) if after else 0)
    body = text[text.index("[", begin) + 1 : text.index("]", begin)]
    lines = [line.removeprefix("%!").split() for line in body.splitlines()]
    return np.array([[float(value) for value in line] for line in lines if line])


def dryer(part: str, count: int, seed: int) -> list[Run]:
    """A hair dryer: heater voltage and air temperature, 1,000 rows; the test is the last third of the time."""
    del seed
    temperature, volts = (matrices(name).ravel(order="F")[:, None] for name in ("Y", "U"))
    return pieces(temperature, volts[:-1], none(len(volts) - 1), 80, part, count, 0.67)


def cd_player(part: str, count: int, seed: int) -> list[Run]:
    """The arm of a CD player: two forces and two positions, 2,048 rows; the test is the last third of the time."""
    del seed
    table = matrices("UY", "Data of a CD-player arm")
    return pieces(table[:, 2:], table[:-1, :2], none(len(table) - 1), 80, part, count, 0.67)


CASES: dict[str, Case] = {
    "tclab": Case(
        record=each(tclab),
        quantities=(
            *(observed(f"temperature_{number}", "degC") for number in (1, 2)),
            *(action(f"heater_{number}", "%", 0, 100) for number in (1, 2)),
        ),
        step_s=HeaterLab.STEP_S,
        needs="tclab",
    ),
    "quadruple-tank": Case(
        record=each(quadruple_tank),
        quantities=(
            *(observed(f"level_{number}", "cm") for number in (1, 2)),
            *(action(f"pump_{number}", "V", 1.5, 3.7) for number in (1, 2)),
        ),
        step_s=FourTanks.STEP_S,
    ),
    "cstr": Case(
        record=each(cstr),
        quantities=(
            observed("concentration", "mol/l"),
            observed("reactor_temperature", "K"),
            action("coolant_temperature", "K", 280, 302),
            exogenous("feed_temperature", "K"),
        ),
        step_s=60 * StirredTank.STEP_MIN,
    ),
    "pendulum": Case(
        record=each(pendulum),
        quantities=(
            observed("angle_cosine", "1"),
            observed("angle_sine", "1"),
            observed("angular_velocity", "rad/s"),
            action("torque", "N m", -2, 2),
        ),
        step_s=Pendulum.STEP_S,
        needs="gymnasium",
    ),
    "greenhouse": Case(
        record=greenhouse,
        quantities=(
            observed("dry_weight", "kg/m2"),
            observed("air_co2", "ppm"),
            observed("air_temperature", "degC"),
            observed("air_humidity", "%"),
            action("co2_supply", "mg/m2/s", 0, 1.2),
            action("ventilation", "mm/s", 0, 7.5),
            action("heating", "W/m2", 0, 150),
            exogenous("outdoor_radiation", "W/m2"),
            exogenous("outdoor_co2", "kg/m3"),
            exogenous("outdoor_temperature", "degC"),
            exogenous("outdoor_vapour", "kg/m3"),
        ),
        step_s=1800.0,
        needs="lettuce_greenhouse_gym",
        counts=(120, 40),
    ),
    "pmsm": Case(
        record=each(pmsm),
        quantities=(
            *(observed(f"current_{axis}", "A") for axis in "dq"),
            observed("torque", "N m"),
            *(action(f"voltage_{axis}", "V", -25, 75) for axis in "dq"),
            exogenous("speed", "rad/s"),
        ),
        step_s=MOTOR_STEP_S,
        needs="gym_electric_motor",
    ),
    "net3": Case(
        record=each(net3),
        quantities=(
            *(observed(f"tank_{name}", "m") for name in NET3_TANKS),
            *(observed(f"pressure_{name}", "m") for name in NET3_NODES),
            *(action(f"pump_{name}", "1", 0, 1) for name in NET3_PUMPS),
            exogenous("demand", "1"),
        ),
        step_s=HOUR_S,
        needs="wntr",
    ),
    "half-cheetah": Case(
        record=each(half_cheetah),
        quantities=(
            *(observed(f"state_{number}", "1") for number in range(17)),
            *(action(f"torque_{number}", "1", -1, 1) for number in range(6)),
        ),
        step_s=0.05,
        needs="mujoco",
        report=True,
    ),
    "wind-farm": Case(
        record=wind_farm,
        quantities=(
            *(observed(f"power_{number}", "kW") for number in range(1, 5)),
            *(action(f"pitch_{number}", "deg", -180, 180) for number in range(1, 5)),
            *(exogenous(f"wind_speed_{number}", "m/s") for number in range(1, 5)),
            exogenous("outdoor_temperature", "degC"),
        ),
        step_s=600.0,
        needs="pandas",
        missing=lambda: "" if openoa_source() else "openoa-*.tar.gz in the folder of --sources",
        report=True,
    ),
    "dryer": Case(
        record=dryer,
        quantities=(observed("air_temperature", "1"), action("heater_voltage", "V", 3, 7)),
        step_s=0.08,
        missing=lambda: "" if octave_source() else "octave-control, or its moen4.m in the folder of --sources",
        report=True,
    ),
    "cd-player": Case(
        record=cd_player,
        quantities=(
            *(observed(f"position_{number}", "1") for number in (1, 2)),
            *(action(f"force_{number}", "1") for number in (1, 2)),
        ),
        step_s=1.0,
        missing=lambda: "" if octave_source() else "octave-control, or its moen4.m in the folder of --sources",
        report=True,
    ),
}
"""The cases by name."""


def unavailable(case: Case) -> str:
    """What this Python lacks for a case; empty if it can record it."""
    if case.needs and find_spec(case.needs) is None:
        return f"the package {case.needs}"
    return case.missing()


def save_log(path: Path, runs: Sequence[Run]) -> None:
    """Writes the episodes one after the other, with their numbers of steps."""
    groups = {
        name: np.concatenate([run[place] for run in runs]).astype(np.float32)
        for place, name in enumerate(("observations", "actions", "exogenous"))
    }
    arrays: dict[str, Any] = {"steps": np.array([len(run[1]) for run in runs]), **groups}
    np.savez(path, **arrays)


def load_log(path: Path) -> list[Run]:
    """Reads what `save_log` wrote."""
    with np.load(path) as stored:
        arrays = {name: stored[name] for name in stored.files}
    ends = np.cumsum(arrays["steps"])
    observations = np.split(arrays["observations"], (ends + np.arange(1, len(ends) + 1))[:-1])
    inputs = (np.split(arrays[name], ends[:-1]) for name in ("actions", "exogenous"))
    return list(zip(observations, *inputs, strict=True))


def main() -> None:
    """Writes one log."""
    name, part, count, seed, path = sys.argv[1:]
    save_log(Path(path), CASES[name].record(part, int(count), int(seed)))


if __name__ == "__main__":
    main()
