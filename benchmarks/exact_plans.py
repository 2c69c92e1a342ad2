"""Plans over linear worlds: time, and cost against an independent optimum, on random plants.

Run: .venv/bin/python benchmarks/exact_plans.py [--plants 5000000:5000040]
Writes benchmarks/results/exact_plans.json. About 10 minutes on one core.

The recipe `linear` learns the logs of `stranger_plants.py`. Each world gets five problems of 20 steps: a target for its
first output, drawn inside the logged range, the cost of changes of every action, and in every other problem an upper
bound on this output. The optimum comes from SLSQP (scipy) in double precision, on the affine map that batches of
`predict` give. The baseline is the search that the same world makes with its planner (`cem`).

Rows, per plant: processor time of a plan without its expected path, per problem the cost of the plan and of the search
over the optimum, the violations, and how the plan ended.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from common import Row, arguments, one_thread, quantiles, write
from numpy.typing import NDArray
from scipy.optimize import minimize
from stranger_logs import frame_of, history_of, roles_of
from stranger_plants import draw_case

import worldline
from worldline.episode import History
from worldline.planning.base import Goal
from worldline.planning.costs import AtMost, Change
from worldline.world import plan_search

HORIZON, PROBLEMS, ROWS = 20, 5, 40
Table = NDArray[np.float64]


def repeated(history: History, count: int) -> History:
    """The history of `count` equal worlds."""
    return history.map(lambda value: np.repeat(value[None], count, 0))


def optimum(
    world: Any,
    history: History,
    actions: Mapping[str, Table],
    exogenous: Mapping[str, Table],
    goal: float,
    bound: float,
) -> float:
    """The smallest cost, computed without the toolkit's planners.

    Args:
        world: linear in the actions.
        history: without an axis of worlds.
        actions: the bounds of each action, [2].
        exogenous: the inputs [T, 1].
        goal: target of y0, with tolerance `scale`.
        bound: of y0; infinite for none.
    """
    names, size = list(actions), len(actions) * HORIZON
    low, high = (np.repeat([actions[name][end] for name in names], HORIZON) for end in (0, 1))
    middle, half = (low + high) / 2, (high - low) / 2
    plans = np.concatenate([middle[None], middle + np.diag(half)]).reshape(-1, len(names), HORIZON, 1)
    past = repeated(history, len(plans))
    later = {name: np.repeat(value[None], len(plans), 0) for name, value in exogenous.items()}
    path = world.predict(past, {n: plans[:, i] for i, n in enumerate(names)}, exogenous=later).signals["y0"].mean
    start, slope = path[0, :, 0].astype(float), (path[1:, :, 0] - path[0, :, 0]).T.astype(float)
    now = np.array([history.actions[name][-1, 0] for name in names])
    width = np.array([actions[name][1] - actions[name][0] for name in names])

    def cost(z: Table) -> float:
        error = (start + slope @ z - goal) / SCALE[world]
        steps = np.diff((middle + half * z).reshape(len(names), HORIZON), prepend=now[:, None]) / (width[:, None] / 4)
        return float((error**2).sum() + (steps**2).sum())

    rules = (
        []
        if np.isinf(bound)
        else [{"type": "ineq", "fun": lambda z: bound - start - slope @ z, "jac": lambda _: -slope}]
    )
    best = minimize(
        cost, np.zeros(size), bounds=[(-1, 1)] * size, constraints=rules, method="SLSQP",
        options={"maxiter": 500, "ftol": 1e-12},
    )  # fmt: skip
    return float(best.fun)


SCALE: dict[Any, float] = {}
"""The tolerance of the target, per world."""


def row(seed: int, folder: Path) -> Row | None:
    """One plant; None if its log is refused."""
    case, draw = draw_case(seed), np.random.default_rng(seed)
    try:
        world: Any = worldline.learn(
            frame_of(case), folder / f"{seed}", recipe="linear", edits=roles_of(case), horizon=HORIZON
        )
    except worldline.errors.WorldlineError as error:
        return {"seed": seed, "kind": case.plant.kind, "refused": str(error)}
    card = world.describe()
    past, _, future, _ = history_of(case, min(max(card.context, 2), ROWS))
    logged = np.concatenate([episode[0][:, 0] for episode in case.episodes])
    low, high = np.nanquantile(logged, [0.05, 0.95])
    SCALE[world] = (high - low) / 10
    ends = {s.name: np.array([s.low[0], s.high[0]]) for s in card.schema.actions}
    problems, seconds = [], 0.0
    for number in range(PROBLEMS):
        history = past.worlds(slice(number, number + 1)).map(lambda value: value[0])
        later = {name: value[number, :HORIZON] for name, value in future.items()}
        if len(next(iter(later.values()), np.zeros(HORIZON))) < HORIZON:
            return None
        target = float(draw.uniform(low, high))
        now = float(history.observations["y0"][-1, 0])
        bound = np.inf if number % 2 else float(max(target, now) - 0.02 * (high - low))
        goal = Goal(
            targets={"y0": np.array([target])},
            tolerance={"y0": SCALE[world]},
            costs=[Change(signal=name, tolerance=float(end[1] - end[0]) / 4) for name, end in ends.items()],
        )
        rules = [] if np.isinf(bound) else [AtMost(signal="y0", bound=bound)]
        ask: Any = {"constraints": rules, "horizon": HORIZON, "exogenous": later, "expected": False}
        world.plan(history, goal, **ask)
        started = time.process_time()
        plan = world.plan(history, goal, **ask)
        seconds += time.process_time() - started
        with patch.object(plan_search, "exact_plan", lambda *_, **__: None):
            searched = world.plan(history, goal, **ask)
        feasible = plan.status.value == "optimal"
        best = optimum(world, history, ends, later, target, bound) if feasible else float("nan")
        problems.append(
            {
                "status": plan.status.value,
                "ratio": (plan.cost + 1e-3) / (best + 1e-3) if feasible else None,
                "search": (searched.cost + 1e-3) / (best + 1e-3) if feasible else None,
                "violation": plan.violation.tolist(),
                "violation_of_search": searched.violation.tolist(),
            }
        )
    return {"seed": seed, "kind": case.plant.kind, "plan_ms": 1e3 * seconds / PROBLEMS, "problems": problems}


def main() -> None:
    """Measures each plant."""
    options = arguments(__doc__, plants=range(5_000_000, 5_000_040))
    one_thread()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in options.plants:
            measured = row(seed, Path(folder))
            if measured is not None:
                rows.append(measured)
                print(json.dumps(measured), flush=True)
    problems = [problem for one in rows for problem in one.get("problems", [])]
    solved = [problem for problem in problems if problem["ratio"] is not None]
    times = [one["plan_ms"] for one in rows if "plan_ms" in one]
    statuses = [problem["status"] for problem in problems]
    summary = {
        "plants": len(times),
        "problems": len(problems),
        "statuses": {name: statuses.count(name) for name in sorted(set(statuses))},
        "cost over the optimum, by quantile": quantiles([one["ratio"] for one in solved], 0.5, 0.99, 1),
        "cost of the search over the optimum, by quantile": quantiles([one["search"] for one in solved], 0.5, 0.99, 1),
        "processor time of a plan in ms, by quantile": quantiles(times, 0.5, 0.9, 1),
    }
    write(options.out, {"summary": summary, "plants": rows})
    print(json.dumps(summary, indent=1))


if __name__ == "__main__":
    main()
