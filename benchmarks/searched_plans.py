"""Plans over ensembles: time and cost of the search with and without steps along the slope, on random plants.

Run: .venv/bin/python benchmarks/searched_plans.py [--plants 12] [--first 5100000]
Writes benchmarks/results/searched_plans.json. About 3 minutes on one core, which should have no other work.

The recipe `ensemble-memory` learns the logs of `stranger_plants.py` with few updates, which suffice for timing. Each
world gets ten problems of 20 steps: a target for its first output inside the logged range, and the cost of changes of
every action. The search has 64 candidates and 3 iterations. Rows, per plant and kind of steps: median processor time of
a plan without its expected path, and its mean cost relative to the search alone.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from exact_plans import HORIZON, ROWS
from stranger_plants import draw_case
from strangers import frame_of, history_of, roles_of
from train import machine

import worldline
from worldline.planning.base import Goal
from worldline.planning.costs import Change
from worldline.planning.planners.cem import CrossEntropy

RESULT: Final = Path(__file__).parent / "results" / "searched_plans.json"
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


def row(seed: int, folder: Path) -> dict[str, Any]:
    """One plant."""
    case, measured, place = draw_case(seed, HORIZON), dict[str, Any](seed=seed), folder / str(seed)
    options: dict[str, Any] = {"recipe": "ensemble-memory", "set": {"training.num_updates": 300}}
    worldline.learn(frame_of(case), place, progress=None, edits=roles_of(case), **options)
    for name, settings in SETTINGS.items():
        planner = CrossEntropy(num_candidates=64, num_iterations=3, **settings)
        times_ms, costs = plans(worldline.open(place, planner=planner), case, seed)
        measured[name] = {"ms": float(np.median(times_ms)), "cost": float(np.mean(costs))}
    return measured


def main() -> None:
    """Parses the command line and measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plants", type=int, default=12)
    parser.add_argument("--first", type=int, default=5_100_000, help="seed of the first plant")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = list[dict[str, Any]]()
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(options.first, options.first + options.plants):
            try:
                rows.append(row(seed, Path(folder)))
            except (worldline.errors.WorldlineError, ValueError) as error:
                rows.append({"seed": seed, "refused": str(error)})
            print(json.dumps(rows[-1]), flush=True)
    measured = [one for one in rows if "refused" not in one]
    summary = {
        name: {
            "processor time in ms, median and largest": np.quantile(
                [one[name]["ms"] for one in measured], [0.5, 1]
            ).tolist(),
            "cost over the search alone": float(
                np.exp(np.mean([np.log(one[name]["cost"] / one["search alone"]["cost"]) for one in measured]))
            ),
        }
        for name in SETTINGS
    }
    result = {"targets": TARGETS, "summary": summary, "plants": rows, "machine": machine()}
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(summary, indent=1))


if __name__ == "__main__":
    main()
