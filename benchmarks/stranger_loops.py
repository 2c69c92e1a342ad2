"""Control of the random plants of benchmarks/stranger_plants.py, as in benchmarks/closed_loop.py.

Run: .venv/bin/python benchmarks/stranger_loops.py [--plants 7000000:7000010] [--episodes 3] [--budget 60]
     [--evaluations 200]
Writes benchmarks/results/stranger_loops.json, one plant at a time.

The last state of the cascade is controlled, to references in the middle 80 % of its logged values. The world and the
linear controller learn from the log of the plant, whose gaps are interpolated for both. The PID controller has one loop
per action and is tuned on the plant.

Targets: the ratio to the cost of the better of PID and linear MPC is at most 1.05 for each plant, and below 0.9 in the
mean of the nonlinear ones.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from closed_loop import Pair, Task, measure, show_cases, signal, uniform
from common import Row, arguments, one_thread, write
from plants import Run, Table
from stranger_logs import filled
from stranger_plants import Plant, draw_case

from worldline.schema import Role, Schema

PIECE = 200
"""Rows of the episodes that a recording is cut into."""
SETTLE = 400
"""Rows after which a constant action counts as settled; the mean of the last quarter is the value that it reaches."""
EACH_BAR, MEAN_BAR = 1.05, 0.9


class PlantLoop:
    """One copy of a random plant, after random actions."""

    def __init__(self, plant: Plant, draws: np.random.Generator) -> None:
        self.plant, self.draws = replace(plant, policy="random steps", jitter=0.0), draws
        self.state = self.plant.simulate(plant.rest(1), 60, draws).end

    def observe(self) -> Table:
        """The logged states with sensor noise."""
        levels = self.state.levels[0, self.plant.logged]
        noise = self.plant.noise * self.draws.standard_normal(len(levels))
        return np.asarray(self.plant.offset + self.plant.scale * (levels + noise))

    def exogenous(self) -> Table:
        """The exogenous inputs of the next step."""
        return np.asarray(self.state.exogenous[0])

    def step(self, values: Table) -> None:
        """Applies actions in physical units."""
        low, high = self.plant.low, self.plant.high
        share = 2 * (values - low) / (high - low) - 1
        self.state = self.plant._step(self.state, share[None], np.ones(1), self.draws)


def reached(plant: Plant, share: Table) -> float:
    """The value of the controlled output that a constant action in [-1, 1] reaches without disturbances."""
    calm = replace(plant, unmeasured=(0.0, 1.0), process_noise=0.0, disturb=0 * plant.disturb)
    state, draws, values = calm.rest(1), np.random.default_rng(0), list[float]()
    for _ in range(SETTLE):
        state = calm._step(state, share[None], np.ones(1), draws)
        values.append(float(state.levels[0, plant.logged[0]]))
    return float(plant.offset[0] + plant.scale[0] * np.mean(values[-SETTLE // 4 :]))


def task_of(seed: int) -> Task:
    """The control of the plant of a seed."""
    case = draw_case(seed)
    plant, num_actions = case.plant, case.plant.drive.shape[1]
    runs: list[Run] = []
    for seen, given, outside, _ in case.episodes:
        for first in range(0, max(1, len(given)), PIECE):
            part = slice(first, first + PIECE)
            runs.append((filled(seen[first : first + PIECE + 1]), given[part], outside[part]))
    longest = max(len(run[1]) for run in runs)
    runs = [run for run in runs if len(run[1]) >= longest // 2]
    controlled = np.concatenate([seen[:, 0] for seen, *_ in runs])
    low, high = map(float, np.quantile(controlled, (0.1, 0.9)))
    signals = (
        *(signal(f"y{n}", "") for n in range(len(plant.logged))),
        *(signal(f"u{n}", "", Role.ACTION, *pair) for n, pair in enumerate(zip(plant.low, plant.high, strict=True))),
        *(signal(f"d{n}", "", Role.EXOGENOUS) for n in range(plant.disturb.shape[1])),
    )
    rise = [reached(plant, 0.5 * unit) - reached(plant, -0.5 * unit) for unit in np.eye(num_actions)]
    return Task(
        schema=Schema(signals=signals, step_s=case.step_s),
        record=lambda _: runs,
        plant=lambda draws: PlantLoop(plant, draws),
        references=uniform((low,), (high,)),
        tolerance={"y0": 0.1 * float(controlled.std())},
        change=tuple((0.2 * (plant.high - plant.low)).tolist()),
        first=tuple(((plant.low + plant.high) / 2).tolist()),
        horizon=20,
        loops=tuple(Pair("y0", n, 1 if up >= 0 else -1) for n, up in enumerate(rise)),
    )


def summary(rows: dict[str, Any]) -> dict[str, Any]:
    """The figures of the targets."""
    ratios = {name: row["ratio"][0] for name, row in rows.items()}
    bent = [ratios[name] for name, row in rows.items() if row["nonlinear"]]
    mean = float(np.exp(np.mean(np.log(bent)))) if bent else None
    return {
        "largest ratio": max(ratios.values()),
        "plants above the target": [name for name, value in ratios.items() if value > EACH_BAR],
        "mean of the nonlinear ones": mean,
        "met": max(ratios.values()) <= EACH_BAR and (mean is None or mean < MEAN_BAR),
    }


def main() -> None:
    """Measures plant by plant, writes and prints the results."""
    options = arguments(__doc__, plants=range(7_000_000, 7_000_010), episodes=3, budget=60.0, evaluations=200)
    one_thread()
    rows: dict[str, Row] = {}
    for seed in options.plants:
        plant = draw_case(seed).plant
        row = measure(str(seed), task_of(seed), options, seeds=1)
        rows[str(seed)] = row | {"kind": plant.kind, "nonlinear": plant.is_nonlinear}
        write(options.out, {"summary": summary(rows), "plants": rows})
    show_cases(rows)
    print(summary(rows))


if __name__ == "__main__":
    main()
