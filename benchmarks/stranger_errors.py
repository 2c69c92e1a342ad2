"""Forecast errors on random plants that no development saw, against other methods at equal processor time.

Run: .venv/bin/python benchmarks/stranger_errors.py --plants 3000000:3000040 [--budget 20] [--more 60]
     [--more-plants 10] [--peer-python PATH] [--workers 2] [--cache FOLDER]
Writes benchmarks/results/stranger_errors.json. Development used seeds from 1,000,000 to 2,999,999.

benchmarks/stranger_plants.py draws a plant and its log for each seed. Each peer of benchmarks/forecast_peers.py gets
the same log, and for fitting as much processor time as `learn` used. All predict 100 windows, simulated after the end
of the log, from the same 25 rows. A cell is the error of one plant after 1, 10 or 48 steps: the root mean square,
divided by the standard deviation of the log, as the mean over the signals. Short episodes have a shorter last step.

Targets: see TARGETS.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import numpy as np
from common import Row, arguments, quantiles, share, show, use_processor_time, write
from forecast_peers import RESERVE
from stranger_logs import PAST, each_plant, forecast, frame_of, history_of, names_of, peer_forecast, roles_of, spread_of
from stranger_plants import Case, Table

from worldline.workflows.learn import learn_logs
from worldline.workflows.learn_options import Options

HORIZON: Final = 48
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
    truth = case.later[0][:, case.past - 1 + np.array(steps_of(case))]
    error = np.sqrt((((predicted - truth) / spread_of(case)) ** 2).mean(0)).mean(-1)
    return [float(one) for one in error]


def our_row(case: Case, budget_s: float) -> Row:
    """The errors of `learn` with its own choice of the model; the budget is in processor time."""
    use_processor_time()
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
    history, actions, exogenous, _ = history_of(case, min(PAST, case.past))
    prediction, _, _ = forecast(world, history, actions, exogenous)
    mean = np.concatenate([prediction.signals[name].mean for name in names_of(case)], 2)
    return np.asarray(mean[:, [step - 1 for step in steps_of(case)]])


def peer_row(case: Case, method: str, python: str, cpu_s: float) -> Row:
    """The errors of a peer."""
    answer = peer_forecast(case, method, python, steps_of(case), cpu_s)
    return answer if "failed" in answer else {"errors": errors(case, answer["predicted"]), "cpu_s": answer["cpu_s"]}


def measure(case: Case, row: Row, options: Any) -> Row:
    """All figures of a plant. The longer budget is for the first `--more-plants`."""
    import_module("torch._dynamo")  # optimisers import it; this takes 4 s once per process
    row["steps"] = steps_of(case)
    more = [options.more] if options.more and case.seed - options.plants[0] < options.more_plants else []
    for budget_s in (options.budget, *more):
        name = f"learn {budget_s:.0f} s"
        row[name] = row.get(name) or our_row(case, budget_s)
    # A peer keeps a reserve of its time for predictions.
    cpu_s = row[f"learn {options.budget:.0f} s"]["cpu_s"] / (1 - RESERVE)
    for method in PEERS:
        row[method] = row.get(method) or peer_row(case, method, options.peer_python, cpu_s)
    return row


def summary(rows: Sequence[Row], budget_s: float, more_s: float | None) -> Row:
    """The figures of the targets, and the shares by step. Plants that no linear peer could fit are left out."""
    rows = [row for row in rows if any("errors" in row[name] for name in LINEAR)]
    ours = np.array([row[f"learn {budget_s:.0f} s"]["errors"] for row in rows])

    def best_of(methods: Sequence[str]) -> Table:
        return np.array(
            [np.min([row[name]["errors"] for name in methods if "errors" in row[name]], axis=0) for row in rows]
        )

    against, linear = ours / best_of(PEERS), ours / best_of(LINEAR)
    found: Row = {
        "plants": len(rows),
        "first or near": share(int((against <= NEAR).sum()), against.size),
        "first or near by step": [float(one) for one in (against <= NEAR).mean(0)],
        "ratio to the best peer": ratios(against),
        "ratio to the best linear method": ratios(linear),
        "within 1.15 of the best linear method": share(int((linear <= 1.15).sum()), linear.size),
    }
    for method in PEERS:
        single = [ours[n] / row[method]["errors"] for n, row in enumerate(rows) if "errors" in row[method]]
        found[f"ratio to {method}"] = ratios(np.array(single))
    if more_s:
        name = f"learn {more_s:.0f} s"
        longer = np.array(
            [np.array(row[name]["errors"]) / one for row, one in zip(rows, ours, strict=True) if name in row]
        )
        found["error with more time"] = {"plants": len(longer), "mean": float(longer.mean()), **ratios(longer)}
    return found


def ratios(values: Table) -> Row:
    """Some quantiles of ratios."""
    return quantiles(values, 0.5, 0.75, 0.9, 0.99, 1.0)


def main() -> None:
    """Measures each plant; writes and prints the results."""
    options = arguments(
        __doc__, plants=range(3_000_000, 3_000_040), budget=20.0, more=float, more_plants=10**9,
        peer_python=sys.executable, workers="1", cache=Path,
    )  # fmt: skip
    ours = f"learn {options.budget:.0f} s"
    rows = each_plant(partial(measure, options=options), options, HORIZON, lambda row: [row[ours]["recipe"]])
    figures = summary(rows, options.budget, options.more)
    show(("figure", "value"), list(figures.items()))
    write(options.out, {"targets": TARGETS, "summary": figures, "plants": rows, "budget_s": options.budget})


if __name__ == "__main__":
    main()
