"""State that one picture does not show: the error of a mover's position while a lid covers it, and after.

Run: .venv/bin/python benchmarks/hidden_pixels.py [--seeds 3] [--budget 300] [--cache FOLDER]
Writes benchmarks/results/hidden_pixels.json.

Each seed records 200 episodes of the lab `hidden-mover` with pictures; the position is logged unless the lid is down,
the velocity never. They are learned in the same processor time by default, with the choice between recipes, and by the
recipe `pixels-and-vectors`. Both predict 30 steps of 100 new episodes from 25 frames. The lid falls before or right
after the last of these frames, for 5, 10 or 20 frames. Errors are root mean squares / standard deviation of the paths;
the interval of their ratio is a bootstrap over episodes.

Target: a ratio of at most 0.7.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import numpy as np
from common import CLOCK, Row, arguments, kept_or_temporary, use_processor_time, write

from worldline.episode import History
from worldline.stats import draw_clusters
from worldline.workflows.learn import learn_logs
from worldline.workflows.learn_options import Options
from worldline.workflows.record import record
from worldline_exam.labs.hidden_mover import START_SPEED, HiddenMover

RECIPES: Final = {"default": None, "pixels-and-vectors": "pixels-and-vectors"}
PAST, STEPS, EPISODES = 25, 30, 100
TARGET: Final = 0.7


def new_episodes(lab: HiddenMover) -> tuple[History, np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Histories, later pushes, true positions after the present, and whether the lid is down then."""
    rng, policy, frames = np.random.default_rng(46), lab.explorer(), PAST + STEPS
    push = np.zeros((EPISODES, frames - 1, 2), np.float32)
    for row in push:
        policy.reset(rng)
        row[:] = [policy.act(None, rng)["push"] for _ in row]
    start = {
        "puck_position": rng.uniform(-lab.half_side, lab.half_side, (EPISODES, 2)),
        "puck_velocity": START_SPEED * rng.standard_normal((EPISODES, 2)),
    }
    path = np.concatenate([start["puck_position"][:, None], lab.simulate(start, {"push": push})["puck_position"]], 1)
    gap = rng.choice((5, 10, 20), (EPISODES, 1))
    falls = PAST - rng.integers(0, gap)
    down = (np.arange(frames) >= falls) & (np.arange(frames) < falls + gap)
    camera = [[lab.draw(path[e, t], lid_down=bool(down[e, t])) for t in range(PAST)] for e in range(EPISODES)]
    shown = np.where(down[..., None], 0, path).astype(np.float32)
    history = History(
        observations={"camera": np.array(camera), "puck_position": shown[:, :PAST]},
        actions={"push": push[:, : PAST - 1]},
        observed={"puck_position": ~down[:, :PAST]},
    )
    return history, push[:, PAST - 1 :], path[:, PAST:], down[:, PAST:]


def measure(name: str, seed: int, budget_s: float, cache: Path) -> Row:
    """Squared errors of each episode, with recipe and trials; kept in the cache."""
    path, lab = cache / f"{name}-{seed}.json", HiddenMover(pictures=True)
    if not path.exists():
        logs = cache / f"logs-{seed}"
        if not logs.exists():
            record(lab, logs, num_episodes=200, max_steps=100, seed=seed)
        result = learn_logs(logs, cache / f"{name}-{seed}", Options(recipe=RECIPES[name], budget=budget_s, seed=seed))
        history, push, truth, down = new_episodes(lab)
        forecast = result.world.predict(history, {"push": push}).signals["puck_position"].mean
        squared = np.square(forecast - truth).mean(-1) / truth.var((0, 1)).mean()
        trials = {} if result.choice is None else {one.name: one.relative.value for one in result.choice.trials}
        row = {"recipe": result.learned.recipe.name, "trials": trials, "learn_s": result.total_s}
        for part, mask in {"hidden": down, "after": ~down}.items():
            row |= {part: (squared * mask).sum(1).tolist(), f"{part} steps": mask.sum(1).tolist()}
        path.write_text(json.dumps(row))
    return dict(json.loads(path.read_text()))


def compared(rows: dict[str, list[Row]], part: str) -> Row:
    """The errors of both in one part of the steps, and their ratio with its interval."""
    weights, errors, draws = draw_clusters(EPISODES, 0), [], []
    for own in rows.values():
        sums, counts = np.array([row[part] for row in own]), np.array([row[f"{part} steps"] for row in own])
        errors.append(np.sqrt(sums.sum(1) / counts.sum(1)))
        draws.append(np.sqrt((weights @ sums.T) / (weights @ counts.T)))
    ratios = np.exp(np.log(draws[0] / draws[1]).mean(1))
    figures = dict(zip(rows, [error.tolist() for error in errors], strict=True))
    ratio = float(np.exp(np.log(errors[0] / errors[1]).mean()))
    return {**figures, "ratio": ratio, "interval": np.quantile(ratios, (0.025, 0.975)).tolist(), "target": TARGET}


def main() -> None:
    """Measures each seed; writes and prints the results."""
    options = arguments(__doc__, seeds=3, budget=300.0, cache=Path)
    use_processor_time()
    rows: dict[str, list[Row]] = {name: [] for name in RECIPES}
    with kept_or_temporary(options.cache) as cache:
        for seed in range(options.seeds):
            for name, own in rows.items():
                own.append(measure(name, seed, options.budget, cache))
                print(name, seed, own[-1]["recipe"], own[-1]["trials"], flush=True)
    figures = {part: compared(rows, part) for part in ("hidden", "after")}
    print(json.dumps(figures, indent=1))
    keys = ("recipe", "trials", "learn_s")
    learned = {name: [{key: row[key] for key in keys} for row in own] for name, own in rows.items()}
    write(options.out, {**figures, "learned": learned, "budget_s": options.budget, "clock": CLOCK})


if __name__ == "__main__":
    main()
