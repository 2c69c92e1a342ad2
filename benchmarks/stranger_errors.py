"""Forecast errors on random plants that no development saw, against other methods at equal processor time.

Run: .venv/bin/python benchmarks/stranger_errors.py --plants 3000000:3000040 [--budget 20] [--more 60]
     [--more-plants 10] [--peer-python PATH] [--jobs 2] [--cache FOLDER] [--out FILE]
Writes benchmarks/results/stranger_errors.json. Development used seeds from 1,000,000 to 2,999,999.

benchmarks/stranger_plants.py draws a plant and its log for each seed. Each peer of benchmarks/foreign_peers.py gets the
same log, and for fitting as much processor time as `learn` used. All predict 100 windows, simulated after the end of
the log, from the same 25 rows. A cell is the error of one plant after 1, 10 or 48 steps: the root mean square, divided
by the standard deviation of the log, as the mean over the signals. Short episodes have a shorter last step.

Targets: see TARGETS.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import numpy as np
from foreign_peers import RESERVE
from rich.console import Console
from rich.table import Table as Printed
from stranger_plants import Case, Table, draw_case
from strangers import filled, frame_of, one_thread, roles_of, share
from train import machine

RESULT = Path(__file__).parent / "results" / "stranger_errors.json"
HORIZON: Final = 48
ROWS: Final = 25
"""Rows of a history."""
PIECE: Final = 200
"""Steps of the pieces of a recording that peers get."""
LINEAR: Final = ("arx", "subspace")
PEERS: Final = (*LINEAR, "lightgbm", "mlp-ensemble", "gru")
NEAR: Final = 1.1
"""Ratio to the best peer's error that counts as equal."""
TARGETS: Final = {
    "cells first or within 10 % of the best peer": "75 %",
    "cells within 1.15 of the best linear method": "99 %",
    "error with 3 times the budget": "mean below 1, at most 1.02",
}


def steps_of(case: Case) -> tuple[int, ...]:
    """The steps of the cells."""
    return 1, 10, case.later[0].shape[1] - case.past


def errors(case: Case, predicted: Table) -> list[float]:
    """The error of predictions [W, steps, p] in each cell."""
    spread = np.nanstd(np.concatenate([episode[0] for episode in case.episodes]), 0)
    truth = case.later[0][:, case.past - 1 + np.array(steps_of(case))]
    error = np.sqrt((((predicted - truth) / spread) ** 2).mean(0)).mean(-1)
    return [float(one) for one in error]


def our_row(case: Case, budget_s: float) -> dict[str, Any]:
    """The errors of `learn` with its own choice of the model; the budget is in processor time."""
    time.monotonic = time.process_time  # a busy machine must not shorten the training
    from worldline.workflows.learn import learn_logs
    from worldline.workflows.learn_options import Options

    with tempfile.TemporaryDirectory() as folder:
        begun_s = time.process_time()
        result = learn_logs(frame_of(case), Path(folder) / "world", Options(budget=budget_s, edits=roles_of(case)))
        cpu_s = time.process_time() - begun_s
    choice = result.choice
    return {
        "errors": errors(case, predictions(case, result.world)),
        "cpu_s": cpu_s,
        "recipe": result.learned.recipe.name,
        "trials": {} if choice is None else {one.name: one.relative.value for one in choice.trials},
    }


def predictions(case: Case, world: Any) -> Table:
    """The world's means [W, steps, p] in the later windows."""
    from strangers import history_of

    card, rows = world.describe(), min(ROWS, case.past)
    history, actions, exogenous, _ = history_of(case, rows)
    # Later actions may exceed the logged range a little.
    actions = {name: np.clip(value, card.schema[name].low, card.schema[name].high) for name, value in actions.items()}
    prediction = world.predict(history, actions, exogenous=exogenous)
    names = [f"y{i}" for i in range(case.later[0].shape[2])]
    mean = np.concatenate([prediction.signals[name].mean for name in names], 2)
    return np.asarray(mean[:, [step - 1 for step in steps_of(case)]])


def peer_row(case: Case, method: str, python: str, cpu_s: float) -> dict[str, Any]:
    """The errors of a peer, which gets recordings in pieces and missing values interpolated."""
    past, now, horizon = min(ROWS, case.past), case.past - 1, case.later[0].shape[1] - case.past
    episodes = [one for one in case.episodes if len(one[1]) >= past + horizon]
    if len(episodes) < 4:
        episodes = [
            (one[0][first : first + PIECE + 1], one[1][first:][:PIECE], one[2][first:][:PIECE], one[3][first:][:PIECE])
            for one in episodes
            for first in range(0, len(one[1]) - PIECE + 1, PIECE)
        ]
    if len(episodes) < 4:
        return {"failed": "fewer than 4 episodes"}
    inputs, test_inputs = [np.concatenate(one[1:3], 1) for one in episodes], np.concatenate(case.later[1:3], 2)
    with tempfile.TemporaryDirectory() as folder:
        problem, path = Path(folder) / "problem.npz", Path(folder) / "answer.npz"
        np.savez(
            problem,
            observations=np.concatenate([filled(one[0]) for one in episodes]),
            inputs=np.concatenate(inputs),
            lengths=[len(one) for one in inputs],
            steps=steps_of(case),
            past=past,
            test_observations=case.later[0][:, now - past + 1 : now + 1],
            test_inputs=test_inputs[:, now - past + 1 : now + horizon],
        )
        script = str(Path(__file__).parent / "foreign_peers.py")
        command = [python, script, method, str(problem), str(path), "0", str(cpu_s)]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        if done.returncode or not path.exists():
            return {"failed": done.stderr[-300:]}
        with np.load(path) as answer:
            return {"errors": errors(case, answer["predicted"]), "cpu_s": float(answer["cpu_s"])}


def measure(seed: int, budgets: Sequence[float], last_more: int, python: str, cache: Path) -> dict[str, Any]:
    """All figures of a plant; kept in the cache. The longer budget is for seeds below `last_more`."""
    import_module("torch._dynamo")  # optimisers import it; this takes 4 s once per process
    budgets = budgets if seed < last_more else budgets[:1]
    path, case = cache / f"{seed}.json", draw_case(seed, HORIZON)
    row: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    plant = case.plant
    row |= {"seed": seed, "kind": plant.kind, "policy": plant.policy, "layout": case.layout, "steps": steps_of(case)}
    row |= {"rows": sum(len(one[0]) for one in case.episodes), "episodes": len(case.episodes)}
    wanted = [f"learn {budget:.0f} s" for budget in budgets]
    for name, budget_s in zip(wanted, budgets, strict=True):
        if name not in row:
            row[name] = our_row(case, budget_s)
            path.write_text(json.dumps(row))
    for method in PEERS:
        if method not in row:
            row[method] = peer_row(case, method, python, row[wanted[0]]["cpu_s"] / (1 - RESERVE))
            path.write_text(json.dumps(row))
    return row


def summary(rows: Sequence[dict[str, Any]], budgets: Sequence[float]) -> dict[str, Any]:
    """The figures of the targets, and the shares by step. Plants that no linear peer could fit are left out."""
    rows = [row for row in rows if any("errors" in row[name] for name in LINEAR)]
    ours = np.array([row[f"learn {budgets[0]:.0f} s"]["errors"] for row in rows])

    def best_of(methods: Sequence[str]) -> Table:
        return np.array(
            [np.min([row[name]["errors"] for name in methods if "errors" in row[name]], axis=0) for row in rows]
        )

    against, linear = ours / best_of(PEERS), ours / best_of(LINEAR)
    found: dict[str, Any] = {
        "plants": len(rows),
        "first or near": share((against <= NEAR).ravel().tolist()),
        "first or near by step": [float(one) for one in (against <= NEAR).mean(0)],
        "ratio to the best peer": quantiles(against),
        "ratio to the best linear method": quantiles(linear),
        "within 1.15 of the best linear method": share((linear <= 1.15).ravel().tolist()),
    }
    for method in PEERS:
        single = [ours[n] / row[method]["errors"] for n, row in enumerate(rows) if "errors" in row[method]]
        found[f"ratio to {method}"] = quantiles(np.array(single))
    if len(budgets) > 1:
        name = f"learn {budgets[1]:.0f} s"
        longer = np.array(
            [np.array(row[name]["errors"]) / one for row, one in zip(rows, ours, strict=True) if name in row]
        )
        assert len(longer), "--more-plants must be at least 1"
        found["error with more time"] = {"plants": len(longer), "mean": float(longer.mean()), **quantiles(longer)}
    return found


def quantiles(ratios: Table) -> dict[str, float]:
    """Some quantiles of ratios."""
    return {str(q): float(np.quantile(ratios, q)) for q in (0.5, 0.75, 0.9, 0.99, 1.0)}


def main() -> None:
    """Measures each plant; writes and prints the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plants", default="3000000:3000040", help="seeds, A:B without B")
    parser.add_argument("--budget", type=float, default=20.0, help="seconds of processor time for each method")
    parser.add_argument("--more", type=float, help="a longer budget for learn")
    parser.add_argument(
        "--more-plants", type=int, default=10**9, help="number of plants with the longer budget, from 1"
    )
    parser.add_argument("--peer-python", default=sys.executable, help="Python of the peers' environment")
    parser.add_argument("--jobs", type=int, default=1, help="plants at once, one thread each")
    parser.add_argument("--cache", type=Path, help="folder that keeps the figures of each plant")
    parser.add_argument("--out", type=Path, default=RESULT, help="file of results")
    options = parser.parse_args()
    first, stop = map(int, options.plants.split(":"))
    cache = options.cache or Path(tempfile.mkdtemp())
    cache.mkdir(parents=True, exist_ok=True)
    console, rows = Console(), list[dict[str, Any]]()
    budgets = [options.budget, *([options.more] if options.more else [])]
    last_more = first + options.more_plants
    call = partial(measure, budgets=budgets, last_more=last_more, python=options.peer_python, cache=cache)
    with ProcessPoolExecutor(options.jobs, initializer=one_thread) as pool:
        for row in pool.map(call, range(first, stop)):
            rows.append(row)
            console.print(row["seed"], row["kind"], row[f"learn {budgets[0]:.0f} s"]["recipe"])
    figures, table = summary(rows, budgets), Printed("figure", "value")
    for name, value in figures.items():
        table.add_row(name, json.dumps(value))
    console.print(table)
    result = {"targets": TARGETS, "summary": figures, "plants": rows, "budget_s": budgets, "machine": machine()}
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
