"""Accuracy of the recipe 'greenhouse' on logs under measured weather, against persistence and linear regression.

Run: .venv/bin/python benchmarks/greenhouse.py [FOLDER] [--episodes 288] [--seeds 3]
Records a store into FOLDER (default: a temporary one), or reuses the store in it. Writes
benchmarks/results/greenhouse.json. Target, in each training seed: the world's error is smaller than
both baselines' on at least 3 of 4 signals, at 1, 6 and 24 hours. The whole 95 % interval of the paired difference must
agree.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common import arguments, one_thread, show, stored, write
from greenhouse_logs import record_greenhouse
from greenhouse_plant import BLOCK_DAYS, FIRST_DAY, greenhouse

from worldline.audit.diagnostics import Diagnostics, diagnose
from worldline.data.store import Store
from worldline.data.windows import evenly_spaced_windows
from worldline.episode import Episode
from worldline.workflows.evaluation import comparisons, honest
from worldline.workflows.training import Learned, learn_world

STEPS = {1: 2, 6: 12, 24: 48}
"""Steps per horizon in hours."""
CONTEXT = 3
PER_EPISODE = 8
LEVELS = (0.8, 0.9, 0.95)
RIVALS = ("persistence", "linear")
Figures = dict[str, Any]


def measure(learned: Learned, store: Store, episodes: Sequence[Episode], level: float | None) -> Diagnostics:
    rivals = comparisons(store, learned)
    return diagnose(
        honest(learned),
        evenly_spaced_windows(episodes, length=CONTEXT, horizon=max(STEPS.values()), per_episode=PER_EPISODE),
        comparisons={name: rivals[name] for name in RIVALS},
        horizons=tuple(STEPS.values()),
        level=level,
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
        measure(learned, store, [store.episode(number) for number in numbers], None)
        for numbers in blocks.values()
        if len(numbers) > 1
    ]
    return min(one.skill.at(step).value for each in found for one in each.skills for step in STEPS.values())


def run(store: Store, seed: int, folder: Path) -> Figures:
    """The results of one training seed."""
    learned = learn_world(store, greenhouse(store).with_seed(seed), folder=folder / f"seed{seed}")
    episodes = [store.episode(number) for number in learned.split.held_out]
    found, *others = (measure(learned, store, episodes, level) for level in LEVELS)
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
            for each in (found, *others)
            for band in each.bands
        ],
    }


def main() -> None:
    """Measures each training seed; writes and prints the results."""
    options = arguments(__doc__, folder=Path, episodes=288, seeds=3)
    one_thread()
    runs = []
    with tempfile.TemporaryDirectory() as temporary:
        path = options.folder or Path(temporary) / "store"
        store = stored(path, lambda new: record_greenhouse(new, num_episodes=options.episodes, seed=0))
        for seed in range(options.seeds):
            runs.append(run(store, seed, Path(temporary)))
            for rows in (runs[-1]["errors"], runs[-1]["bands"]):
                show(tuple(rows[0]), [tuple(row.values()) for row in rows], title=f"training seed {seed}")
    met = all(one["met"] for one in runs)
    write(options.out, {"episodes": len(store), "data": store.content_hash(), "met": met, "runs": runs})
    print(f"target met in every seed: {met}")


if __name__ == "__main__":
    main()
