"""Accuracy of the recipe 'greenhouse' on logs under measured weather, against persistence and linear regression.

Run: .venv/bin/python benchmarks/greenhouse.py [FOLDER] [--episodes 288] [--seeds 3]
Records a store into FOLDER (default: a temporary one), or reuses the store in it. Writes
benchmarks/results/greenhouse.json. Target, in each training seed: the world's error is smaller than
both baselines' on at least 3 of 4 signals, at 1, 6 and 24 hours. The whole 95 % interval of the paired difference must
agree.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from greenhouse_logs import record_greenhouse

from worldline.audit.diagnostics import Diagnostics, diagnose
from worldline.data.store import Store, is_store, open_store
from worldline.data.windows import evenly_spaced_windows
from worldline.episode import Episode
from worldline.recipes.greenhouse import BLOCK_DAYS, FIRST_DAY, greenhouse
from worldline.workflows.evaluation import comparisons, honest
from worldline.workflows.training import Learned, learn_world

STEPS = {1: 2, 6: 12, 24: 48}
"""Steps per horizon in hours."""
CONTEXT = 3
PER_EPISODE = 8
LEVELS = (0.8, 0.9, 0.95)
RIVALS = ("persistence", "linear")
RESULT = Path(__file__).parent / "results" / "greenhouse.json"
Figures = dict[str, Any]


def measure(learned: Learned, store: Store, episodes: Sequence[Episode], levels: Sequence[float]) -> Diagnostics:
    rivals = comparisons(store, learned)
    return diagnose(
        honest(learned),
        evenly_spaced_windows(episodes, length=CONTEXT, horizon=max(STEPS.values()), per_episode=PER_EPISODE),
        comparisons={name: rivals[name] for name in RIVALS},
        horizons=tuple(STEPS.values()),
        levels=levels,
        seed=0,
    )


def errors(found: Diagnostics) -> list[Figures]:
    """One row per signal and horizon: three errors, and the world's relative improvement with intervals."""
    rmse = {(one.world, one.signal): one.rmse for one in found.errors}
    skill = {(one.against, one.signal): one.skill for one in found.skills}
    rows = []
    for signal, unit in found.units.items():
        for hours, step in STEPS.items():
            row: Figures = {"signal": signal, "unit": unit, "hours": hours, "world": rmse["", signal].at(step).value}
            for rival in RIVALS:
                better = skill[rival, signal].at(step)
                row[rival] = rmse[rival, signal].at(step).value
                row[f"better_than_{rival}"] = [better.value, better.low, better.high]
            row["wins"] = all(row[f"better_than_{rival}"][1] > 0 for rival in RIVALS)
            rows.append(row)
    return rows


def worst_block(learned: Learned, store: Store) -> float:
    """The smallest skill over signals, horizons, baselines and stretches of weather.

    The intervals treat episodes as independent, but episodes under the same weather are correlated.
    """
    blocks = defaultdict(list)
    for number in learned.split.held_out:
        blocks[int((float(store.entry(number).source["start_day"]) - FIRST_DAY) // BLOCK_DAYS)].append(number)
    found = [
        measure(learned, store, [store.episode(number) for number in numbers], ())
        for numbers in blocks.values()
        if len(numbers) > 1
    ]
    return min(one.skill.at(step).value for each in found for one in each.skills for step in STEPS.values())


def run(store: Store, seed: int, folder: Path) -> Figures:
    """The results of one training seed."""
    learned = learn_world(store, greenhouse(store).with_seed(seed), folder=folder / f"seed{seed}")
    found = measure(learned, store, [store.episode(number) for number in learned.split.held_out], LEVELS)
    rows = errors(found)
    won = [name for name in found.units if all(row["wins"] for row in rows if row["signal"] == name)]
    return {
        "seed": seed,
        "train_s": round(learned.trained.elapsed_s, 1),
        "heads_s": round(learned.heads_s, 1),
        "calibrate_s": round(learned.calibrate_s, 1),
        "held_out_episodes": found.num_episodes,
        "held_out_windows": found.num_windows,
        "calibration_episodes": learned.calibration.num_episodes,
        "errors": rows,
        "signals_won": won,
        "met": len(won) >= 3,
        "worst_skill_in_any_stretch_of_weather": worst_block(learned, store),
        "bands": [
            {
                "signal": band.signal,
                "level": band.level,
                "coverage": [band.coverage.value, band.coverage.low, band.coverage.high],
            }
            for band in found.bands
        ],
    }


def show(figures: Figures) -> None:
    print(
        f"\ntraining seed {figures['seed']}: {figures['train_s']} s to train, signals won at every horizon: "
        f"{', '.join(figures['signals_won']) or 'none'}; worst skill in any stretch of weather: "
        f"{figures['worst_skill_in_any_stretch_of_weather']:.2f}"
    )
    print(f"{'signal':<17}{'hours':>6}{'world':>11}{'persistence':>13}{'linear':>11}   error smaller than linear's by")
    for row in figures["errors"]:
        value, low, high = row["better_than_linear"]
        print(
            f"{row['signal']:<17}{row['hours']:>6}{row['world']:>11.3g}{row['persistence']:>13.3g}{row['linear']:>11.3g}"
            f"   {value:.0%} ({low:.0%} to {high:.0%}){'' if row['wins'] else '  LOST'}"
        )
    print(f"{'signal':<17}coverage of joint 24 h bands at {', '.join(f'{level:.0%}' for level in LEVELS)}")
    for signal in {row["signal"]: None for row in figures["errors"]}:
        bands = [band["coverage"] for band in figures["bands"] if band["signal"] == signal]
        print(f"{signal:<17}" + ", ".join(f"{value:.1%} ({low:.0%} to {high:.0%})" for value, low, high in bands))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="folder of the store; default: a temporary one")
    parser.add_argument("--episodes", type=int, default=288, help="number of episodes to record")
    parser.add_argument("--seeds", type=int, default=3, help="number of training seeds: 0, 1, ...")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as temporary:
        path = given.folder or Path(temporary) / "store"
        store = open_store(path) if is_store(path) else record_greenhouse(path, num_episodes=given.episodes, seed=0)
        runs = []
        for seed in range(given.seeds):
            runs.append(run(store, seed, Path(temporary)))
            show(runs[-1])
    figures = {
        "episodes": len(store),
        "data": store.content_hash(),
        "met": all(one["met"] for one in runs),
        "device": f"CPU, {os.cpu_count()} cores, {given.threads} thread{'s' if given.threads > 1 else ''} used",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "runs": runs,
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(figures, indent=2) + "\n")
    print(f"\ntarget met in every seed: {'yes' if figures['met'] else 'NO'}")


if __name__ == "__main__":
    main()
