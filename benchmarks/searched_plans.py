"""Plans over ensembles: time and cost of the search with and without steps along the slope, on random plants.

Run: .venv/bin/python benchmarks/searched_plans.py [--plants 5100000:5100012]
Writes benchmarks/results/searched_plans.json. About 3 minutes on one core, which should have no other work.

The recipe `ensemble-memory` learns the logs of `stranger_plants.py` with few updates, which suffice for timing. Each
world gets ten problems of 20 steps: a target for its first output inside the logged range, and the cost of changes of
every action. The search has 64 candidates and 3 iterations. Rows, per plant and kind of steps: median processor time of
a plan without its expected path, and its mean cost relative to the search alone.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import numpy as np
from common import Row, arguments, one_thread, quantiles, write
from exact_plans import HORIZON, ROWS
from stranger_logs import frame_of, history_of, roles_of
from stranger_plants import draw_case

import worldline
from worldline.planning.base import Goal
from worldline.planning.costs import Change
from worldline.planning.planners.cem import CrossEntropy

PROBLEMS: Final = 10
SETTINGS: Final[dict[str, dict[str, Any]]] = {
    "search alone": {},
    "1 Gauss-Newton step (default)": {"num_newton_steps": 1},
    "4 gradient steps": {"num_gradient_steps": 4, "learning_rate": 0.06},
    "30 gradient steps": {"num_gradient_steps": 30},
}
"""Settings of the planner. Four gradient steps are the default where a cost is not convex."""
TARGETS: Final = {"search alone": "40 ms", "1 Gauss-Newton step (default)": "60 ms"}


def plans(world: Any, case: Any, seed: int) -> tuple[list[float], list[float]]:
    """Times in ms and costs of the problems of a plant."""
    card, draw = world.describe(), np.random.default_rng(seed)
    past, _, future, _ = history_of(case, min(max(card.context, 2), ROWS))
    logged = np.concatenate([episode[0][:, 0] for episode in case.episodes])
    low, high = np.nanquantile(logged, [0.05, 0.95])
    costs = [Change(signal=s.name, tolerance=float(s.high[0] - s.low[0]) / 4) for s in card.schema.actions]
    times_ms, found = list[float](), list[float]()
    for number in range(-2, PROBLEMS):  # two for warm-up
        history = past.worlds(slice(max(number, 0), max(number, 0) + 1)).map(lambda value: value[0])
        later = {name: value[max(number, 0), :HORIZON] for name, value in future.items()}
        goal = Goal(targets={"y0": draw.uniform(low, high)}, tolerance={"y0": (high - low) / 10}, costs=costs)
        started = time.process_time()
        plan = world.plan(history, goal, horizon=HORIZON, exogenous=later, expected=False)
        times_ms.append(1e3 * (time.process_time() - started))
        found.append(float(plan.cost))
    return times_ms[2:], found[2:]


def row(seed: int, folder: Path) -> Row:
    """One plant."""
    case, measured, place = draw_case(seed, HORIZON), Row(seed=seed), folder / str(seed)
    options: dict[str, Any] = {"recipe": "ensemble-memory", "set": {"training.num_updates": 300}}
    worldline.learn(frame_of(case), place, progress=None, edits=roles_of(case), **options)
    for name, settings in SETTINGS.items():
        planner = CrossEntropy(num_candidates=64, num_iterations=3, **settings)
        times_ms, costs = plans(worldline.open(place, planner=planner), case, seed)
        measured[name] = {"ms": float(np.median(times_ms)), "cost": float(np.mean(costs))}
    return measured


def main() -> None:
    """Measures each plant."""
    options = arguments(__doc__, plants=range(5_100_000, 5_100_012))
    one_thread()
    rows = list[Row]()
    with tempfile.TemporaryDirectory() as folder:
        for seed in options.plants:
            try:
                rows.append(row(seed, Path(folder)))
            except (worldline.errors.WorldlineError, ValueError) as error:
                rows.append({"seed": seed, "refused": str(error)})
            print(json.dumps(rows[-1]), flush=True)
    measured, summary = [one for one in rows if "refused" not in one], {}
    for name in SETTINGS:
        relative = [np.log(one[name]["cost"] / one["search alone"]["cost"]) for one in measured]
        summary[name] = {
            "processor time in ms, by quantile": quantiles([one[name]["ms"] for one in measured], 0.5, 1),
            "cost over the search alone": float(np.exp(np.mean(relative))),
        }
    write(options.out, {"targets": TARGETS, "summary": summary, "plants": rows})
    print(json.dumps(summary, indent=1))


if __name__ == "__main__":
    main()
