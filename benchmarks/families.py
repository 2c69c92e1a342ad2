"""Every family on every task, three training seeds each: open-loop errors, baselines, and goals reached.

Run: .venv/bin/python benchmarks/families.py [--tasks ...] [--families ...] [--seeds 3] [--logs FOLDER]
The script adds to benchmarks/results/families.json after every training, and writes docs/families.md from that file.
A measured row is skipped unless `--again` is given. Every family gets the same logs, split, inputs and processor time,
and at most the updates of its recipe. If a family cannot learn a task, its row gives the reason.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from greenhouse_logs import record_greenhouse
from greenhouse_plant import greenhouse
from push_t_task import push_t, record_push_t

from worldline.audit.diagnostics import diagnose
from worldline.data.store import Store, is_store, open_store
from worldline.data.windows import evenly_spaced_windows
from worldline.errors import UnsupportedError, WorldlineError
from worldline.labs.two_rooms import TwoRooms
from worldline.recipes.families import with_family
from worldline.recipes.recipe import Recipe
from worldline.recipes.two_rooms import two_rooms, two_rooms_random
from worldline.workflows.budget import within
from worldline.workflows.evaluation import comparisons, honest
from worldline.workflows.goals import INVERSE, PLANNER, STRAIGHT, Walls, held_out_pairs, reach
from worldline.workflows.record import record
from worldline.workflows.training import Learned, learn_world

FAMILIES = ("jepa", "rssm", "ensemble", "token", "features", "lewm")
ROOT = Path(__file__).parent.parent
RESULT, TABLE = ROOT / "benchmarks" / "results" / "families.json", ROOT / "docs" / "families.md"
CONTEXT = 8
"""Observations before a goal is given: what the family that needs most of them asks for, the same for all."""
GOALS_S = 100
"""Seconds of a core that planning to all goals of a training may take, about."""
RIVALS = ("persistence", "linear", "action_blind")
Figures = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is to be learned.

    Args:
        title: for the table.
        record: makes the logs.
        recipe: for them.
        train_s: seconds of a core that each training may take.
        heads_s: seconds of a core that its heads may take.
        steps: horizons that are reported.
        walls: of Two Rooms, where goals are reached for too.
    """

    title: str
    record: Callable[[Path], Store]
    recipe: Callable[[Store], Recipe]
    train_s: float
    heads_s: float
    steps: tuple[int, ...]
    walls: Walls | None = None


def _rooms(walls: Walls, num_episodes: int, path: Path) -> Store:
    return record(TwoRooms(walls), path, num_episodes=num_episodes, max_steps=60, seed=0)


TASKS = {
    "greenhouse": Task(
        title="Greenhouse (vectors)",
        record=lambda path: record_greenhouse(path, num_episodes=288, seed=0),
        recipe=greenhouse,
        train_s=120,
        heads_s=60,
        steps=(2, 12, 48),
    ),
    "two-rooms": Task(
        title="Two Rooms, fixed wall (pixels)",
        record=partial(_rooms, "fixed", 500),
        recipe=two_rooms,
        train_s=240,
        heads_s=60,
        steps=(5, 10, 20),
        walls="fixed",
    ),
    "two-rooms-random": Task(
        title="Two Rooms, random walls (pixels)",
        record=partial(_rooms, "random", 1600),
        recipe=two_rooms_random,
        train_s=240,
        heads_s=60,
        steps=(5, 10, 20),
        walls="random",
    ),
    "push-t": Task(
        title="Push-T (pixels and agent)",
        record=lambda path: record_push_t(path, num_episodes=400, seed=0),
        recipe=push_t,
        train_s=480,
        heads_s=100,
        steps=(5, 10, 25),
    ),
}


def measure(task: Task, store: Store, family: str, seed: int, encoder: Path | None) -> Figures:
    """One training and everything that is read from it."""
    recipe = with_family(task.recipe(store), store, family, weights=encoder if family == "features" else None)
    recipe = recipe.with_seed(seed)
    recipe = replace(recipe, heads=replace(recipe.heads, goals=task.walls is not None, decoder_updates=0))
    sizing = within(store, recipe, train_s=task.train_s, heads_s=task.heads_s, clock=time.process_time)
    recipe = sizing.apply(recipe)
    started = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        learned = learn_world(store, recipe, folder=Path(folder))
    figures: Figures = {
        "updates": sizing.num_updates,
        "share_of_head_updates": round(sizing.heads, 3),
        "chosen_step": learned.trained.chosen_step,
        "control": learned.trained.control,
        "train_s": round(learned.trained.elapsed_s, 1),
        "learn_cpu_s": round(time.process_time() - started, 1),
        "went_back": list(learned.trained.notes),
        "errors": errors(task, store, learned),
    }
    if task.walls is not None:
        figures |= goals(learned, store, task.walls, seed)
    return figures


def goals(learned: Learned, store: Store, walls: Walls, seed: int) -> Figures:
    """How often held-out goals are reached; of fewer goals where plans take long."""
    few = held_out_pairs(store, learned.split.held_out, 2, context=CONTEXT)
    started = time.process_time()
    reach(learned, few, walls, seed=seed, progress=None, who=(PLANNER,))
    pair_s = (time.process_time() - started) / len(few)
    count = min(200, max(20, 2 * int(GOALS_S / pair_s / 2)))
    pairs = held_out_pairs(store, learned.split.held_out, count, context=CONTEXT)
    rows = reach(learned, pairs, walls, seed=seed, progress=None, who=(PLANNER, INVERSE, STRAIGHT))
    success = {name: [one.success.value, one.success.low, one.success.high] for name, one in rows.items()}
    return {"success": success, "goals": count, "goal_cpu_s": round(pair_s, 2)}


def errors(task: Task, store: Store, learned: Learned) -> list[Figures]:
    """Per signal and horizon the errors of the world and of the floors, and the skill against the best floor."""
    rivals = comparisons(store, learned)
    windows = evenly_spaced_windows(
        [store.episode(number) for number in learned.split.held_out],
        length=max(3, learned.engine.describe().context),
        horizon=max(task.steps),
        per_episode=8,
    )
    found = diagnose(
        honest(learned),
        windows,
        comparisons={name: rivals[name] for name in RIVALS},
        horizons=task.steps,
        level=0.9,
        seed=0,
    )
    rmse = {(one.world, one.signal): one.rmse for one in found.errors}
    skill = {(one.against, one.signal): one.skill for one in found.skills}
    rows = []
    for signal, unit in found.units.items():
        for step in task.steps:
            row: Figures = {"signal": signal, "unit": unit, "step": step, "world": rmse["", signal].at(step).value}
            row |= {name: rmse[name, signal].at(step).value for name in RIVALS}
            best = min(RIVALS, key=lambda name: row[name])
            if (best, signal) not in skill:  # the floor makes no error: a wall that stays where it is
                continue
            better = skill[best, signal].at(step)
            row |= {"floor": best, "skill": [better.value, better.low, better.high]}
            rows.append(row)
    return rows


def table(results: Figures) -> str:
    """The page."""
    lines = [
        "# What each family reaches",
        "",
        "Use these tables to compare model families on four tasks. [How to choose a family](howto/choose-a-family.md).",
        "",
        "Reproduce the tables with `python benchmarks/families.py`; figures are in `benchmarks/results/families.json`.",
        "",
        "* **Skill** is 1 - error / error of the best baseline. 1 is perfect, 0 equals the baseline, below 0 is worse.",
        "* **Baselines** are persistence, a linear autoregression, and a linear autoregression without actions.",
        "* **Errors** are open loop on held-out episodes.",
        "* **Cells** show the mean over training seeds and, in brackets, the worst seed.",
        "* **Conditions** are equal: logs, split, inputs (`lewm`: the image only) and processor time for training.",
        "* **Auxiliary targets**: on Push-T only `jepa` has the block's pose as an auxiliary target (`targets`).",
        "* **Encoder** of `features`: EfficientNet-Lite0 pretrained on ImageNet (Apache 2.0), map of stride 16. "
        "`python benchmarks/pretrained.py` makes its folder.",
        "",
        "Tasks that are not listed were not measured.",
    ]
    for name, task in TASKS.items():
        rows = {family: results["tasks"].get(name, {}).get(family) for family in FAMILIES}
        if any(rows.values()):
            time_s = f"Limit of processor time: {task.train_s:.0f} s for training, {task.heads_s:.0f} s for heads."
            lines += ["", f"## {task.title}", "", time_s, "", *_rows(task, rows)]
    return "\n".join(lines) + "\n"


def _rows(task: Task, rows: dict[str, Figures | None]) -> list[str]:
    measured = [one["seeds"][0]["errors"] for one in rows.values() if one is not None and one.get("seeds")]
    signals = list(dict.fromkeys(error["signal"] for errors in measured for error in errors))
    steps = f"{task.steps[0]} / {task.steps[-1]}"
    goals = ["goals reached"] if task.walls else []
    reported = [f"{signal}, {steps} steps" for signal in signals]
    columns = ["family", "seeds", "updates", *goals, *reported]
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    for family, row in rows.items():
        if not row:
            continue
        if "unsupported" in row:
            lines.append(f"| `{family}` | UNSUPPORTED: {row['unsupported']} |" + " |" * (len(columns) - 2))
            continue
        seeds = row["seeds"]
        for failure in row.get("failed", ()):
            why = f"FAILED, seed {failure['seed']}: {failure['why']}"
            lines.append(f"| `{family}` | {why} |" + " |" * (len(columns) - 2))
        if not seeds:
            continue
        cells = [
            f"`{family}`",
            str(len(seeds)),
            _range([one["updates"] for one in seeds]),
        ]
        if task.walls:
            counts = _range([one["goals"] for one in seeds])
            cells.append(f"{_spread([one['success'][PLANNER][0] for one in seeds], '{:.1%}')} of {counts}")
        for signal in signals:
            both = []
            for step in (task.steps[0], task.steps[-1]):
                skills = [
                    e["skill"][0] for s in seeds for e in s["errors"] if (e["signal"], e["step"]) == (signal, step)
                ]
                both.append(_spread(skills, "{:.2f}") if skills else "–")
            cells.append(" / ".join(both))
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _range(values: Sequence[float]) -> str:
    low, high = round(min(values)), round(max(values))
    return str(low) if low == high else f"{low} to {high}"


def _spread(values: Sequence[float], form: str) -> str:
    return f"{form.format(np.mean(values))} ({form.format(min(values))})"


def machine(threads: int) -> str:
    """What a training ran on."""
    return (
        f"CPU, {os.cpu_count()} cores, {threads} thread{'s' if threads > 1 else ''}; Python "
        f"{platform.python_version()}, torch {torch.__version__}"
    )


def run(name: str, family: str, seeds: Sequence[int], store: Store, given: argparse.Namespace) -> None:
    """Measures what is missing of one row."""
    for seed in seeds:
        if not given.again and any(one["seed"] == seed for one in _row(_results(), name, family).get("seeds", ())):
            continue
        print(f"{name}, {family}, seed {seed}", flush=True)
        found = {"seed": seed, "machine": machine(given.threads), "note": given.note}
        try:
            found |= measure(TASKS[name], store, family, seed, given.encoder)
        except UnsupportedError as error:
            found = {"unsupported": str(error)}
        except WorldlineError as error:
            print(f"  failed: {error}", flush=True)
            found = {"seed": seed, "why": str(error)}
        results = _results()  # as it is now: another run may have added to it
        _add(_row(results, name, family), found)
        RESULT.write_text(json.dumps(results, indent=1) + "\n")
        TABLE.write_text(table(results))


def _results() -> Figures:
    return json.loads(RESULT.read_text()) if RESULT.exists() else {"tasks": {}}


def _row(results: Figures, name: str, family: str) -> Figures:
    row: Figures = results["tasks"].setdefault(name, {}).setdefault(family, {})
    return row


def _add(row: Figures, found: Figures) -> None:
    """To the row of a family what one seed gave; it takes the place of what that seed gave before."""
    if "unsupported" in found:
        row.clear()
        row |= found
        return
    for kind in ("seeds", "failed"):
        row[kind] = [one for one in row.get(kind, ()) if one["seed"] != found["seed"]]
    row["failed" if "why" in found else "seeds"].append(found)
    row["seeds"].sort(key=lambda one: one["seed"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="*", choices=TASKS, default=list(TASKS))
    parser.add_argument("--families", nargs="*", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--logs", type=Path, help="folder of recorded logs, kept; default: a temporary one")
    parser.add_argument(
        "--encoder",
        type=Path,
        help="folder of the pretrained encoder of `features`; benchmarks/pretrained.py makes one",
    )
    parser.add_argument("--note", default="", help="kept with each row that is measured now")
    parser.add_argument("--again", action="store_true", help="measure rows again that have a result")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as temporary:
        for name in given.tasks:
            path = (given.logs or Path(temporary)) / name
            store = open_store(path) if is_store(path) else TASKS[name].record(path)
            for family in given.families:
                run(name, family, range(given.seeds), store, given)


if __name__ == "__main__":
    main()
