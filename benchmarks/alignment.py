"""Shifted actions: how often `worldline check` accuses a correct log, abstains, and finds a planted shift.

Run: .venv/bin/python benchmarks/alignment.py [--logs 10] [--worlds room cascade] [--cache FOLDER]
Writes benchmarks/results/alignment.json.

Twenty worlds, ten logs each with 40 episodes of 60 steps. The inputs are held, stepped (at most two changes per
episode), feedback with a dither, or noise. Plants of benchmarks/plant_logs.py keep their own inputs; those whose
simulator is missing are left out. Each log is also shifted by a random number of rows, 1 to 3, later and earlier.

The oracle is an autoregressive model with exogenous inputs (ARX) of order 3, fitted to the log without a shift. It
finds a shift if its error is smallest with the actions moved back by that shift. The error must also be smaller than
without a move by 3 standard errors over episodes.

Targets: no correct log accused, at most 20 % of correct logs undecided, 95 % of the shifts that the oracle finds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Protocol

import numpy as np
from common import Row, arguments, share, share_text, show, write
from corrupted_logs import logged, schema_of, tracks_of
from plant_logs import PLANTS, held, load_log, save_log
from plants import Autonomous, CartPole, FourTanks, HeaterLab, Pendulum, Plant, Run, StirredTank, Table

from worldline.data.quality.alignment import MAX_SHIFT, AlignmentVerdict, judge

EPISODES, STEPS = 40, 60
SHIFTS = tuple(range(-MAX_SHIFT, MAX_SHIFT + 1))
ORDER = 3
INPUTS = ("held", "stepped", "feedback", "noise")


class Simulated(Protocol):
    """A world in some state. Actions are scaled to [-1, 1]."""

    num_actions: int

    def observe(self) -> Table:
        """The observation [n]."""

    def exogenous(self) -> Table:
        """The exogenous inputs [k]."""

    def step(self, action: Table) -> None:
        """Applies an action [m]."""


class _Scaled:
    """A plant with actions scaled to [-1, 1]."""

    def __init__(self, plant: Plant, low: list[float], high: list[float]) -> None:
        self.plant, self.low, self.high, self.num_actions = plant, np.array(low), np.array(high), len(low)

    def observe(self) -> Table:
        return self.plant.observe()

    def exogenous(self) -> Table:
        return self.plant.exogenous()

    def step(self, action: Table) -> None:
        self.plant.step(self.low + (self.high - self.low) * (action + 1) / 2)


class _Linear(Autonomous):
    """A linear system with noise: x' = A x + B u + noise, of which some rows are observed."""

    def __init__(
        self,
        draws: np.random.Generator,
        state: list[list[float]],
        inputs: list[list[float]],
        seen: int,
        noise: float,
        sensor: float = 0.01,
    ) -> None:
        self.draws, self.a, self.b = draws, np.array(state), np.array(inputs)
        self.seen, self.noise, self.sensor = seen, noise, sensor
        self.num_actions = self.b.shape[1]
        self.x = draws.normal(size=len(self.a))

    def observe(self) -> Table:
        return np.asarray(self.x[: self.seen] + self.sensor * self.draws.standard_normal(self.seen))

    def step(self, action: Table) -> None:
        self.x = self.a @ self.x + self.b @ action + self.noise * self.draws.standard_normal(len(self.a))


class _Room:
    """A heated room; the outdoor temperature is an exogenous input."""

    num_actions = 1

    def __init__(self, draws: np.random.Generator) -> None:
        self.draws, self.warm, self.outside = draws, draws.uniform(15, 22), draws.uniform(-5, 10)

    def observe(self) -> Table:
        return np.array([self.warm + 0.05 * self.draws.standard_normal()])

    def exogenous(self) -> Table:
        return np.array([self.outside])

    def step(self, action: Table) -> None:
        self.warm += 0.05 * (self.outside - self.warm) + 0.8 * (action[0] + 1)
        self.outside += 0.3 * self.draws.standard_normal()


class _Drive(Autonomous):
    """A drive with inertia. Its log also shows the setpoint that is chosen in the same row."""

    num_actions = 1

    def __init__(self, draws: np.random.Generator) -> None:
        self.draws, self.speed = draws, draws.normal()

    def observe(self) -> Table:
        return np.array([self.speed + 0.02 * self.draws.standard_normal()])

    def step(self, action: Table) -> None:
        self.speed += 0.2 * (float(action[0]) - self.speed) + 0.02 * self.draws.standard_normal()


class _Mixer(Autonomous):
    """A tank whose outflow multiplies its concentration: bilinear."""

    num_actions = 2

    def __init__(self, draws: np.random.Generator) -> None:
        self.draws, self.level, self.salt = draws, draws.uniform(1, 2), draws.uniform(0, 1)

    def observe(self) -> Table:
        return np.array([self.level, self.salt]) + 0.005 * self.draws.standard_normal(2)

    def step(self, action: Table) -> None:
        flow, feed = 0.15 * (action[0] + 1), (action[1] + 1) / 2
        self.salt += flow / self.level * (feed - self.salt)
        self.level = max(self.level + flow - 0.12 * np.sqrt(self.level), 0.05)


class _Environment(Autonomous):
    """An environment of Gymnasium with actions scaled to [-1, 1]; two discrete actions follow the sign."""

    def __init__(self, draws: np.random.Generator, name: str) -> None:
        self.env = import_module("gymnasium").make(name).unwrapped
        self.seen, _ = self.env.reset(seed=int(draws.integers(2**31)))
        self.box = hasattr(self.env.action_space, "low")
        self.num_actions = self.env.action_space.shape[0] if self.box else 1

    def observe(self) -> Table:
        return np.asarray(self.seen, np.float64)

    def step(self, action: Table) -> None:
        share, space = (action + 1) / 2, self.env.action_space
        if self.box:
            given = (space.low + (space.high - space.low) * share).astype(np.float32)
        else:
            given = int(np.clip(share[0] * space.n, 0, space.n - 1))
        self.seen = self.env.step(given)[0]


VISIBLE = "visible setpoint"
WORLDS: dict[str, Callable[[np.random.Generator], Simulated]] = {
    "tclab": lambda draws: _Scaled(HeaterLab(draws), [0, 0], [100, 100]),
    "quadruple-tank": lambda draws: _Scaled(FourTanks(draws), [1.5, 1.5], [3.7, 3.7]),
    "cstr": lambda draws: _Scaled(StirredTank(draws, STEPS + 1), [280], [302]),
    "pendulum": lambda draws: _Scaled(Pendulum(draws.uniform(-1, 1, 2)), [-2], [2]),
    "cart-pole": lambda draws: _Scaled(CartPole(draws.uniform(-0.05, 0.05, 4)), [-10], [10]),
    "lag": lambda draws: _Linear(draws, [[0.9]], [[0.3]], 1, 0.05),
    "double integrator": lambda draws: _Linear(draws, [[1, 0.3], [0, 0.95]], [[0.045], [0.3]], 2, 0.02),
    "oscillator": lambda draws: _Linear(draws, [[0.98, 0.19], [-0.19, 0.93]], [[0.02], [0.2]], 1, 0.01, 0.002),
    "cascade": lambda draws: _Linear(
        draws, [[0.9, 0.1, 0.01], [0, 0.85, 0.15], [0, 0, 0.8]], [[0.01], [0.05], [0.3]], 1, 0.005, 0.002
    ),
    "two axes": lambda draws: _Linear(
        draws, [[0.9, 0.05, 0], [-0.05, 0.9, 0], [0.1, 0, 0.95]], [[0.3, 0], [0.1, 0.2], [0, 0.1]], 3, 0.05
    ),
    "room": _Room,
    VISIBLE: _Drive,
    "mixer": _Mixer,
    "MountainCarContinuous-v0": lambda draws: _Environment(draws, "MountainCarContinuous-v0"),
    "Acrobot-v1": lambda draws: _Environment(draws, "Acrobot-v1"),
    "HalfCheetah-v5": lambda draws: _Environment(draws, "HalfCheetah-v5"),
    "Reacher-v5": lambda draws: _Environment(draws, "Reacher-v5"),
}
RECORDED = ("net3", "pmsm", "greenhouse")


def stepped(draws: np.random.Generator, steps: int, num: int) -> Table:
    """Inputs [steps, num] that change at most twice."""
    levels = draws.uniform(-1, 1, (3, num))
    times = np.sort(draws.integers(1, steps, (2, num)), 0)
    return np.asarray(np.stack([levels[(np.arange(steps)[:, None] >= times[:, i]).sum(1), i] for i in range(num)], 1))


def policy(make: Callable[[np.random.Generator], Simulated], seed: int) -> Callable[[Table], Table]:
    """A random linear feedback of the standardised observation."""
    draws = np.random.default_rng([seed, 1])
    seen = []
    for _ in range(3):
        world = make(draws)
        for action in draws.uniform(-1, 1, (STEPS, world.num_actions)):
            world.step(action)
            seen.append(world.observe())
    centre, spread = np.mean(seen, 0), np.std(seen, 0) + 1e-3
    gains = 0.5 * draws.normal(size=(world.num_actions, len(centre))) / np.sqrt(len(centre))
    return lambda now: gains @ np.clip((now - centre) / spread, -2, 2)


def simulate(make: Callable[[np.random.Generator], Simulated], inputs: str, seed: int) -> list[Run]:
    """A log with one kind of inputs."""
    log, react = [], policy(make, seed) if inputs == "feedback" else None
    for number in range(EPISODES):
        draws = np.random.default_rng([seed, 2, number])
        world = make(draws)
        count = world.num_actions
        if inputs == "held":
            planned = held(draws, [-1.0] * count, [1.0] * count, (1, 12), STEPS)
        elif inputs == "stepped":
            planned = stepped(draws, STEPS, count)
        else:
            planned = draws.uniform(-1, 1, (STEPS, count))
        seen, given, outside = [world.observe()], [], []
        for row in range(STEPS):
            action = planned[row]
            if react is not None:
                action = np.clip(react(seen[-1]) + 0.3 * action, -1, 1)
            outside.append(world.exogenous())
            world.step(action)
            given.append(action)
            seen.append(world.observe())
        log.append((np.array(seen), np.array(given), np.array(outside)))
    return log


def logs_of(name: str, count: int, cache: Path | None) -> Iterator[tuple[str, list[Run]]]:
    """Logs of a world, with the kind of their inputs."""
    if name in RECORDED:
        every = logged(name, cache) or []
        for seed in range(count):
            yield "recorded", [every[i] for i in np.random.default_rng(seed).permutation(len(every))[:EPISODES]]
        return
    for seed in range(count):
        inputs = INPUTS[seed % len(INPUTS)]
        kept = None if cache is None else cache / f"{name}-{inputs}-{seed}.npz".replace(" ", "_")
        if kept is not None and kept.exists():
            yield inputs, load_log(kept)
            continue
        log = simulate(WORLDS[name], inputs, seed)
        if name == VISIBLE:
            log = [(np.concatenate([seen, np.append(one, one[-1:], 0)], 1), one, none) for seen, one, none in log]
        if kept is not None:
            kept.parent.mkdir(parents=True, exist_ok=True)
            save_log(kept, log)
        yield inputs, log


def moved(log: list[Run], by: int) -> list[Run]:
    """The log with each action `by` rows late; rows without one are cut."""
    if not by:
        return log
    seen, taken = (slice(by, None), slice(None, -by)) if by > 0 else (slice(None, by), slice(-by, None))
    return [(one[seen], two[taken], three[seen]) for one, two, three in log]


class Oracle:
    """An ARX model that was fitted to a log without a shift."""

    def __init__(self, log: list[Run]) -> None:
        inputs, targets = zip(*(self._rows(one, 0) for one in log), strict=True)
        table, change = np.concatenate(inputs), np.concatenate(targets)
        self.scale = change.std(0) + 1e-9
        gram = table.T @ table
        self.weights = np.linalg.solve(gram + 1e-6 * np.diag(np.diag(gram) + 1e-9), table.T @ change)

    def finds(self, log: list[Run], by: int) -> bool:
        """Whether it finds that the actions of a log are `by` rows late."""
        errors = np.array([[self._error(one, shift) for shift in SHIFTS] for one in log])
        means = errors.mean(0)
        if SHIFTS[int(means.argmin())] != by:
            return False
        better = errors[:, SHIFTS.index(0)] - errors[:, SHIFTS.index(by)]
        return bool(better.mean() > 3 * better.std(ddof=1) / np.sqrt(len(better)))

    def _error(self, run: Run, shift: int) -> float:
        table, change = self._rows(run, shift)
        return float(np.square((change - table @ self.weights) / self.scale).mean())

    @staticmethod
    def _rows(run: Run, shift: int) -> tuple[Table, Table]:
        seen, given, outside = run
        now = np.arange(ORDER + MAX_SHIFT - 1, len(given) - MAX_SHIFT)
        past = [table[now - lag] for lag in range(ORDER) for table in (seen, outside)]
        past += [given[now - lag + shift] for lag in range(ORDER)]
        return np.concatenate([*past, np.ones((len(now), 1))], 1), seen[now + 1] - seen[now]


def measure(name: str, count: int, cache: Path | None) -> list[Row]:
    """Each log as it was recorded, and shifted in both directions.

    `by` holds the rows by which actions were moved later, `found` the shift that the check found, 0 for none, and
    `oracle` whether the oracle finds it.
    """
    rows = []
    for number, (inputs, log) in enumerate(logs_of(name, count, cache)):
        schema, oracle, draws = schema_of(log), Oracle(log), np.random.default_rng([number, 3])
        for by in (0, *(sign * int(draws.integers(1, MAX_SHIFT + 1)) for sign in (1, -1))):
            late = moved(log, by)
            found = judge(tracks_of(late, schema))
            row: Row = {"world": name, "inputs": inputs, "by": by, "verdict": found.verdict.value, "found": found.shift}
            rows.append({**row, "oracle": by != 0 and oracle.finds(late, by)})
    return rows


def figures(rows: list[Row]) -> dict[str, tuple[int, int]]:
    """Counts of each measure, and of the logs that it is about."""
    clean, known, shifted = (
        [row for row in rows if row["by"] == 0],
        [row for row in rows if row["oracle"]],
        [row for row in rows if row["by"]],
    )
    counts = {
        "correct logs called misaligned": [row["found"] != 0 for row in clean],
        "correct logs undecided": [row["verdict"] == AlignmentVerdict.UNKNOWN for row in clean],
        "shifts found, of those that the oracle finds": [row["found"] == row["by"] for row in known],
        "shifts found": [row["found"] == row["by"] for row in shifted],
        "shifts called aligned": [row["verdict"] == AlignmentVerdict.ALIGNED for row in shifted],
    }
    return {label: (sum(hits), len(hits)) for label, hits in counts.items()}


def main() -> None:
    """Measures each world; writes and prints the results."""
    options = arguments(__doc__, worlds=(*WORLDS, *RECORDED), logs=10, cache=Path)
    rows, left_out = list[Row](), list[str]()
    for name in options.worlds:
        if name in RECORDED and logged(name, options.cache) is None:
            left_out.append(name)
            print(f"{name}: left out, the package {PLANTS[name].package} is missing")
            continue
        found = measure(name, options.logs, options.cache)
        rows += found
        print(name, figures(found), flush=True)
    summary = figures(rows)
    show(("measure", "logs"), [(label, share_text(share(*pair))) for label, pair in summary.items()])
    write(options.out, {"summary": summary, "left_out": left_out, "rows": rows})


if __name__ == "__main__":
    main()
