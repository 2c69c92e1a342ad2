"""Judgements of controllers that never ran, against the truth of random plants.

Run: .venv/bin/python benchmarks/judge.py [--plants 5000:5034] [--budget 20] [--jobs 2] [--cache FOLDER] [--fit]
Writes benchmarks/results/judge.json. With `--fit` it fits the width factor that the toolkit ships, from the plants
1000 to 1039 and their poor logs, and writes src/worldline/control/width_factor.json.

benchmarks/judge_cases.py draws a plant, 60 logged episodes of 200 steps under the best of 20 random PID controllers
with exploration, and six controllers that never ran. Poor logs have 20 episodes and 30 % of the exploration. A world
learns from the log without the references in `--budget` s. The truth is the mean over the logged situations with other
noise (references given), and over 20 other episodes (unknown).
"""

from __future__ import annotations

import json
import tempfile
import time
import traceback
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from common import Row, arguments, kept_or_temporary, one_thread, read, use_processor_time
from judge_cases import JudgeCase, Simulated, draw_judge_case, truth_of

from worldline.control.imagination import Imagination, logged_runs
from worldline.control.judging import Judge, figure
from worldline.control.run_goal import RunFigures, run_figures
from worldline.data.store import Store

POOR: Final = {"num_episodes": 20, "exploration": 0.3}


def learned(case: JudgeCase, budget_s: float) -> Any:
    """The world that `worldline learn` makes of the log without the references."""
    from worldline.workflows.learn import learn

    use_processor_time()
    names = [signal.name for signal in case.known.signals]
    with tempfile.TemporaryDirectory() as folder:
        store = Store.create(Path(folder) / "store", case.known)
        for episode in case.episodes:
            store.append(episode.select(names))
        return learn(store.path, Path(folder) / "world", recipe="auto", budget=budget_s)


def figures_of(case: JudgeCase, runs: Simulated, at: int) -> RunFigures:
    """Figures of true episodes from a step on."""
    episodes = runs.episodes(case)
    goals = [case.goal.logged_targets(episode, case.known) for episode in episodes]
    return run_figures(logged_runs(case.known, episodes, goals, at=at), case.goal, case.known)


def measure(case: JudgeCase, budget_s: float) -> Row:
    """What is imagined and what is true of each controller."""
    begun = time.perf_counter()
    world = learned(case, budget_s)
    learn_s, begun = time.perf_counter() - begun, time.perf_counter()
    goals = [case.goal.logged_targets(episode, case.known) for episode in case.episodes]
    imagination = Imagination(world, case.episodes, goals)
    judge = Judge(imagination, case.goal)
    prepare_s, pairs = time.perf_counter() - begun, list[Row]()
    for name, controller in case.candidates.items():
        begun = time.perf_counter()
        imagined = judge.imagine(controller)
        judge_s = time.perf_counter() - begun
        truth = truth_of(case, controller, imagination.at)
        same, fresh = figures_of(case, truth["same"], 0), figures_of(case, truth["fresh"], imagination.at)
        pairs.append(
            {
                "controller": name,
                "shakes": imagined.shakes,
                "true_shakes": truth["shakes"],
                "outside": vars(imagined.outside),
                "judge_s": judge_s,
                "figures": {
                    key: {
                        "scale": [scale.kind, scale.unit],
                        "evidence": {
                            k: v.tolist() if isinstance(v, np.ndarray) else v
                            for k, v in vars(imagined.evidence[key]).items()
                        },
                        "same": float(figure(same, key).mean()),
                        "fresh": float(figure(fresh, key).mean()),
                    }
                    for key, scale in judge.scales.items()
                },
            }
        )
    return {
        "model": world.describe().name,
        "context": world.describe().context,
        "still": judge.still,
        "learn_s": learn_s,
        "prepare_s": prepare_s,
        "unexplained": [imagination.unexplained, judge.loops.unexplained],
        "pairs": pairs,
    }


def measured(cache: Path, budget_s: float, key: tuple[int, str]) -> Row:
    """The kept figures of a plant, or new ones."""
    seed, logs = key
    path = cache / f"{seed}-{logs}.json"
    if path.exists():
        return read(path)
    case = draw_judge_case(seed, **(POOR if logs == "poor" else {}))
    row: Row = {"seed": seed, "kind": case.plant.kind, "logs": logs, "explored": case.explored}
    try:
        row |= measure(case, budget_s)
    except Exception:  # noqa: BLE001 (a crash is a result)
        row["error"] = traceback.format_exc()[-1500:]
    path.write_text(json.dumps(row))
    return row


def main() -> None:
    """Measures plant by plant, writes and prints the results."""
    options = arguments(__doc__, plants=range(5000, 5034), budget=20.0, jobs=2, cache=Path, fit=False, logs=("rich", "poor"))
    keys = [(seed, logs) for logs in options.logs for seed in options.plants]
    with kept_or_temporary(options.cache) as cache:
        with ProcessPoolExecutor(options.jobs, initializer=one_thread) as pool:
            for row in pool.map(partial(measured, cache, options.budget), keys):
                print(row["seed"], row["kind"], row["logs"], row.get("model"), row.get("error", "")[-200:], flush=True)


if __name__ == "__main__":
    main()
