"""Learning curves: success in Two Rooms (fixed wall) against learning time, and against the number of logged episodes.

Run: .venv/bin/python benchmarks/curves.py [--seeds 3] [--threads N]
Writes benchmarks/results/curves.json after every run, and docs/images/curves.png. The 200 pairs come from a separate
recording and are the same for all runs. "Share" is the share of the recipe's updates, for the model and its heads.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import pyplot as plt

from worldline.control.controller import Actor, WorldActor
from worldline.control.goal_reaching import StartGoalPair, evaluate
from worldline.data.store import Store
from worldline.labs.two_rooms import TwoRooms
from worldline.recipes.recipe import Recipe
from worldline.recipes.two_rooms import two_rooms
from worldline.stats import wilson
from worldline.workflows.goals import HORIZON, StraightActor, held_out_pairs, reached
from worldline.workflows.record import record
from worldline.workflows.training import learn_world

ROOT = Path(__file__).parent
BAR = 0.97
NUM_PAIRS = 200
EPISODES = 500
RUNS = ((500, 0.05), (500, 0.1), (500, 0.2), (500, 0.4), (500, 1.0), (30, 0.4), (60, 0.4), (120, 0.4), (250, 0.4))
"""Logged episodes, and the share of the recipe's updates."""


def shortened(recipe: Recipe, share: float) -> Recipe:
    """Returns the recipe with this share of its updates."""

    def part(updates: int) -> int:
        return round(share * updates)

    heads = recipe.heads
    return replace(
        recipe,
        training=replace(recipe.training, num_updates=part(recipe.training.num_updates)),
        heads=replace(
            heads,
            dynamics_updates=part(heads.dynamics_updates),
            readout_updates=part(heads.readout_updates),
            distance_updates=part(heads.distance_updates),
            inverse_updates=part(heads.inverse_updates),
            decoder_updates=0,  # planning does not use it
        ),
    )


def success(actor: Actor, pairs: Sequence[StartGoalPair], goal_signals: tuple[str, ...], seed: int) -> dict[str, float]:
    """The success rate on the goals of `pairs`."""
    found = evaluate(
        actor,
        lambda: TwoRooms("fixed"),
        pairs,
        reached=reached,
        goal_signals=goal_signals,
        context=1,
        replan_every=1,
        seed=seed,
    ).success
    return {"success": found.value, "success_low": round(found.low, 4), "success_high": round(found.high, 4)}


def measure(store: Store, pairs: Sequence[StartGoalPair], share: float, seed: int, folder: Path) -> dict[str, Any]:
    """One training on `store`, with its planning success."""
    learned = learn_world(store, shortened(two_rooms(store), share).with_seed(seed), folder=folder)
    rates = success(WorldActor(world=learned.world, horizon=HORIZON), pairs, ("camera",), seed)
    steps = int(store.num_steps.sum())
    return {
        "episodes": len(store),
        "steps": steps,
        "share": share,
        "seed": seed,
        "learn_s": round(learned.learn_s, 1),
        **rates,
    }


def pooled(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each setting, pooled over its seeds."""
    found = []
    for episodes, share in dict.fromkeys((run["episodes"], run["share"]) for run in runs):
        same = [run for run in runs if (run["episodes"], run["share"]) == (episodes, share)]
        trials = NUM_PAIRS * len(same)
        rate = wilson(round(sum(run["success"] for run in same) * NUM_PAIRS), trials)
        found.append(
            {
                "episodes": episodes,
                "share": share,
                "learn_s": round(statistics.median(run["learn_s"] for run in same), 1),
                "success": round(rate.value, 4),
                "success_low": round(rate.low, 4),
                "success_high": round(rate.high, 4),
                "worst_seed": min(run["success"] for run in same),
                "seeds": len(same),
            }
        )
    return found


def draw(settings: Sequence[dict[str, Any]], straight: float, path: Path) -> None:
    """Two panels: success against seconds of learning and against logged episodes."""
    by_time = sorted((s for s in settings if s["episodes"] == EPISODES), key=lambda s: float(s["learn_s"]))
    share = min((s["share"] for s in settings if s["episodes"] != EPISODES), default=1.0)
    by_data = sorted((s for s in settings if s["share"] == share), key=lambda s: int(s["episodes"]))
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True, layout="constrained")
    for panel, points, key, label in (
        (panels[0], by_time, "learn_s", f"seconds of learning, heads included ({EPISODES} episodes)"),
        (panels[1], by_data, "episodes", f"logged episodes of 60 steps ({share:.0%} of the recipe's updates)"),
    ):
        x = [point[key] for point in points]
        y = np.array([[point[part] for part in ("success_low", "success", "success_high")] for point in points]) * 100
        panel.fill_between(x, y[:, 0], y[:, 2], color="#2b6cb0", alpha=0.18, linewidth=0)
        panel.plot(x, y[:, 1], "o-", color="#2b6cb0", label="learned planner, 95 % interval")
        panel.axhline(100 * straight, color="#b7791f", linestyle="--", label="straight at the goal")
        panel.axhline(100 * BAR, color="#718096", linewidth=0.8, label=f"{BAR:.0%}")
        panel.set_xscale("log")
        panel.set_xticks(x, [f"{value:.0f}" for value in x])
        panel.minorticks_off()
        panel.set_xlabel(label)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("goals reached, %")
    panels[1].legend(frameon=False, loc="lower right")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> None:
    """Measures, prints, writes and draws the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=None)
    options = parser.parse_args()
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    runs: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        lab = TwoRooms("fixed")
        test = record(lab, folder / "test", num_episodes=100, max_steps=60, seed=1)
        pairs = held_out_pairs(test, range(len(test)), NUM_PAIRS)
        straight = success(StraightActor(), pairs, ("position",), 0)["success"]
        sizes = sorted({episodes for episodes, _ in RUNS})
        stores = {n: record(lab, folder / f"{n}", num_episodes=n, max_steps=60, seed=0) for n in sizes}
        for seed in range(options.seeds):
            for episodes, share in RUNS:
                runs.append(measure(stores[episodes], pairs, share, seed, folder / "partial"))
                settings = pooled(runs)
                result = {
                    "straight": straight,
                    "pairs": NUM_PAIRS,
                    "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
                    "threads": torch.get_num_threads(),
                    "settings": settings,
                    "runs": runs,
                }
                (ROOT / "results" / "curves.json").write_text(json.dumps(result, indent=2) + "\n")
                print(f"seed {seed}: {runs[-1]}", flush=True)
    draw(settings, straight, ROOT.parent / "docs" / "images" / "curves.png")
    for one in settings:
        print(
            f"{one['episodes']:>5} episodes, {one['share']:>5.0%} of the updates, {one['learn_s']:>6.1f} s: "
            f"{one['success']:.1%} ({one['success_low']:.1%} to {one['success_high']:.1%}), "
            f"worst {one['worst_seed']:.1%}"
        )


if __name__ == "__main__":
    main()
