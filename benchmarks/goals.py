"""How often goals are reached under the strict protocol, from near to far, beside floors and ceilings.

Run: .venv/bin/python benchmarks/goals.py [--tasks two-rooms ...] [--seeds 3] [--pairs 200] [--threads N]
Adds to benchmarks/results/goals.json after every row and writes docs/goals.md; what was measured is not measured again.

* two-rooms, two-rooms-random: from one picture to another; half of the pairs lie across the wall. Reached within 3 px.
* two-rooms-unseen: learned where the wall stands in the middle, as in two-rooms; tried where wall and door are
  somewhere else in every episode. One row corrects itself by the last 40 steps (docs/design/adaptation.md).
* push-t: gym-pusht, from picture and agent to picture and agent, where the block has to be moved. Reached where agent
  and block together are within 20 px and the block within 20 degrees, the full criterion of the published figures.
* reacher: dm_control's arm, from a moving pose to the angles of another. Reached within 0.05 rad at both joints.

Starts and goals come from episodes that no training saw, recorded apart; both are `offset` steps apart in the log, none
is reached at its start, and an attempt may take twice the offset. The pairs are the same for all training seeds and all
rows, so that rows can be compared pair by pair.

`--historical` measures the planner by the protocol of published figures too, beside standing still: 50 pairs 25 steps
apart from the training log (Push-T: from the held-out one, which can be replayed; not where another world was logged),
solved ones among them, plans of 25 steps of which all are taken, in Two Rooms within 16 of 224 px.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import platform
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from common import kept_or_temporary, stored
from goal_tasks import TASKS, Task
from numpy.typing import NDArray

from worldline.control.controller import Actor, RandomActor, Situation, WorldActor
from worldline.control.controllers import ControllerActor, ScheduleController, ScheduledStep
from worldline.control.goal_reaching import GoalReaching, StartGoalPair, draw_pairs, evaluate
from worldline.data.store import Store
from worldline.device import has_bfloat16
from worldline.engines.learned import LearnedEngine
from worldline.planning.planners.base import Planner
from worldline.planning.planners.cem import CrossEntropy
from worldline.planning.planners.small_searches import FirstProposal, Guided
from worldline.plots.images import animation
from worldline.stats import cluster_rate
from worldline.workflows.training import Learned, learn_world
from worldline.world.local import LocalWorld

ROOT = Path(__file__).parent.parent
RESULT = ROOT / "benchmarks" / "results" / "goals.json"
TABLE = ROOT / "docs" / "goals.md"
FILM = ROOT / "docs" / "images" / "goals-{}.png"
OFFSETS = (25, 50, 75, 100, 150)
DRAWS = 10_000
OLD_OFFSET = 25
"""Steps of the historical protocol."""
PUBLISHED = CrossEntropy(num_candidates=300, num_iterations=30, num_elites=30)
"""The setting of the published planners (2603.19312)."""
MANY = PUBLISHED.num_candidates * PUBLISHED.num_iterations
FEW = 3 + Guided().num_candidates * Guided().num_iterations
"""With what is left of the last plan and the inverse head's proposal, imagined to be made and again to be judged."""
PLANNER, ADAPTIVE, EXACT = "planner", "planner, adapting", "planner, in float32"
GUIDED, FULL, INVERSE = "guided", "full search", "inverse head alone"
RANDOM, NO_MOVE, STRAIGHT, BY_HAND = "random actions", "no move", "straight at the goal", "made by hand"
Figures = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class InFloat32(Actor):
    """Acts without bfloat16 products, as on a processor that has none.

    Args:
        actor: that acts.
    """

    actor: Actor

    def act(self, now: Situation, *, num_steps: int, seed: int) -> dict[str, NDArray[np.generic]]:
        """As it does."""
        with patch("worldline.device.has_bfloat16", lambda: False):
            return self.actor.act(now, num_steps=num_steps, seed=seed)


def film_grid(reaching: GoalReaching, pairs: Sequence[StartGoalPair]) -> bytes:
    """24 evenly chosen attempts in three rows as an animated PNG, each blended with its goal image.

    At the end of an attempt its border turns green if the goal was reached, else red.
    """
    going, success, failure = ((214, 214, 214), (46, 140, 87), (200, 60, 50))
    border, gutter, columns = 3, 2, 8
    numbers = range(0, len(pairs), max(1, len(pairs) // 24))[:24]
    films = [reaching.attempts[number].path["camera"].astype(np.uint8) for number in numbers]
    height, width, _ = films[0].shape[1:]
    rows, longest = -(-len(films) // columns), max(map(len, films))
    tall, wide = height + 2 * border, width + 2 * border
    size = rows * (tall + gutter) - gutter, columns * (wide + gutter) - gutter
    canvas = np.full((longest, *size, 3), 255, np.uint8)
    for place, (number, film) in enumerate(zip(numbers, films, strict=True)):
        top, left = place // columns * (tall + gutter), place % columns * (wide + gutter)
        tile = canvas[:, top : top + tall, left : left + wide]
        tile[:] = going
        tile[len(film) - 1 :] = success if reaching.attempts[number].success else failure
        shown = film[np.minimum(np.arange(longest), len(film) - 1)].astype(np.float32)
        tile[:, border:-border, border:-border] = np.rint(
            0.7 * shown + 0.3 * pairs[number].goal["camera"].astype(np.float32)
        )
    return animation(canvas)


def actors(task: Task, learned: Learned, store: Store) -> Mapping[str, tuple[Actor, Sequence[str], int]]:
    """Per row who acts, what it is shown of the goal, and how many steps of each answer are taken."""
    engine, recipe = learned.engine, learned.recipe
    assert isinstance(engine, LearnedEngine)
    schema = engine.schema
    shown, whole, often = task.shown, task.whole, task.replan_every

    def by(
        engine: LearnedEngine,
        planner: Planner,
        proposals: int,
        horizon: int,
        signals: Sequence[str],
    ) -> Actor:
        world = LocalWorld(engine, learned.calibration, planner, num_proposals=proposals)
        alone = isinstance(planner, FirstProposal)
        return WorldActor(world=world, horizon=horizon, warm_start=not alone, in_steps=signals == task.whole)

    rows: dict[str, tuple[Actor, Sequence[str], int]] = {
        PLANNER: (by(engine, recipe.planner, recipe.num_proposals, task.horizon, shown), shown, often)
    }
    if task.plans is not None:
        rows[PLANNER] = (task.plans(learned, store), shown, often)
    rows[EXACT] = (InFloat32(actor=rows[PLANNER][0]), shown, often)
    if task.adaptation is not None:
        adaptive = replace(engine, adaptation=task.adaptation)
        rows[ADAPTIVE] = (by(adaptive, recipe.planner, recipe.num_proposals, task.horizon, shown), shown, often)
    if task.by_hand is not None:
        rows[BY_HAND] = (task.by_hand(), task.goal_signals, task.by_hand_every)
    no_move = ScheduleController([ScheduledStep(at_s=0.0, set={})], schema)
    rows |= {
        GUIDED: (by(engine, Guided(), 1, task.horizon, whole), whole, often),
        INVERSE: (by(engine, FirstProposal(), 1, 1, whole), whole, 1),
        RANDOM: (RandomActor(schema=schema), shown, 1),
        NO_MOVE: (task.rest or ControllerActor(no_move, schema), shown, 1),
    }
    if task.straight is not None:
        rows[STRAIGHT] = (task.straight, task.goal_signals, 1)
    rows[FULL] = (by(engine, PUBLISHED, 0, task.horizon, shown), shown, often)
    return rows


def names(task: Task, asked: Sequence[str]) -> list[str]:
    """The rows of `actors` that are asked for."""
    left_out = {
        EXACT: not has_bfloat16(),
        ADAPTIVE: task.adaptation is None,
        BY_HAND: task.by_hand is None,
        STRAIGHT: task.straight is None,
    }
    return [row for row in ROWS if row in asked and not left_out.get(row, False)]


def pairs_of(task: Task, store: Store, offset: int, count: int, context: int) -> tuple[StartGoalPair, ...]:
    """The pairs of one offset, the same for everybody."""
    return draw_pairs(
        store,
        range(len(store)),
        offset=offset,
        num_pairs=count,
        reached=task.reached,
        group=task.group,
        groups=task.groups,
        context=context,
        seed=offset,
    )


def measure(name: str, seed: int, folder: Path, given: argparse.Namespace) -> None:
    """One training, and every row that is missing at every offset."""
    task = TASKS[name]
    store, exam = stored(folder / name, task.learn), stored(folder / f"{name}-exam", task.examine)
    recipe = task.recipe(store).with_seed(seed)
    recipe = replace(recipe, heads=replace(recipe.heads, decoder_updates=0))
    missing = {
        offset: [row for row in names(task, given.rows) if not _is_there(name, seed, offset, row, given)]
        for offset in given.offsets
    }
    old = [one for one in _results().get(f"{name}, historical", ()) if one["seed"] == seed]
    asked_old = given.historical and task.adaptation is None and len(old) < len((PLANNER, NO_MOVE))
    if not any(missing.values()) and not asked_old:
        return
    with tempfile.TemporaryDirectory() as temporary:
        begin = time.process_time()
        learned = learn_world(store, recipe, folder=Path(temporary))
        learn_s = time.process_time() - begin
    engine = learned.engine
    assert isinstance(engine, LearnedEngine)
    context = engine.describe().context
    longest = context if task.adaptation is None else replace(engine, adaptation=task.adaptation).describe().context
    for offset, rows in missing.items():
        pairs = pairs_of(task, exam, offset, given.pairs, longest)
        acting = actors(task, learned, store)
        for row in rows:
            actor, shown, often = acting[row]
            filmed = row == PLANNER and "camera" in shown and offset == OFFSETS[0] and seed == 0
            begin = time.process_time()
            found = evaluate(
                actor,
                task.make,
                pairs,
                reached=task.reached,
                goal_signals=shown,
                context=longest if row == ADAPTIVE else context,
                replan_every=often,
                track=("camera",) if filmed else (),
                seed=seed,
            )
            figures: Figures = {
                "seed": seed,
                "offset": offset,
                "row": row,
                "reached": [int(attempt.success) for attempt in found.attempts],
                "episodes": [pair.episode for pair in pairs],
                "groups": {label: rate.value for label, rate in found.groups.items()},
                "plan_ms": round(1e3 * found.plan_s, 3),
                "cpu_s": round(time.process_time() - begin, 1),
                "learn_cpu_s": round(learn_s, 1),
                "machine": f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}",
            }
            _add(name, figures)
            print(name, seed, offset, row, f"{np.mean(figures['reached']):.3f}", figures["cpu_s"], flush=True)
            if filmed:
                Path(str(FILM).format(name)).write_bytes(film_grid(found, pairs))

    if asked_old:
        measure_historical(name, seed, learned, store, exam)


def measure_historical(name: str, seed: int, learned: Learned, store: Store, exam: Store) -> None:
    """The planner and standing still under the historical protocol."""
    task, context = TASKS[name], learned.engine.describe().context
    log = store if store.entry(0).seed is not None else exam
    # Any start, also one at its goal. Source of number and seed: stable-worldmodel 0.1.1.
    pairs = draw_pairs(
        log,
        range(len(log)),
        offset=OLD_OFFSET,
        num_pairs=50,
        reached=lambda *_: False,
        group=lambda *_: "all",
        groups=("all",),
        context=context,
        seed=42,
    )
    acting = actors(replace(task, horizon=OLD_OFFSET), learned, store)
    for row in (PLANNER, NO_MOVE):
        actor, shown, _ = acting[row]
        found = evaluate(
            actor,
            task.make,
            pairs,
            reached=task.loosely or task.reached,
            goal_signals=shown,
            context=context,
            replan_every=OLD_OFFSET,
            seed=seed,
        )
        figures: Figures = {
            "seed": seed,
            "offset": OLD_OFFSET,
            "row": row,
            "reached": [int(attempt.success) for attempt in found.attempts],
            "episodes": [pair.episode for pair in pairs],
        }
        _add(f"{name}, historical", figures)
        print(name, seed, "historical", row, f"{np.mean(figures['reached']):.3f}", flush=True)


def _results() -> dict[str, list[Figures]]:
    return json.loads(RESULT.read_text()) if RESULT.exists() else {}


def _is_there(name: str, seed: int, offset: int, row: str, given: argparse.Namespace) -> bool:
    key = (seed, offset, row, given.pairs)
    return any(key == (one["seed"], one["offset"], one["row"], len(one["reached"])) for one in _results().get(name, ()))


def _add(name: str, figures: Figures) -> None:
    """Adds a result to the file; replaces the one for the same number of pairs."""

    def key(one: Figures) -> list[Any]:
        return [one["offset"], one["row"], one["seed"], len(one["reached"])]

    with RESULT.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        results = _results()
        results[name] = sorted([one for one in results.get(name, ()) if key(one) != key(figures)] + [figures], key=key)
        partial = RESULT.with_suffix(".partial")
        partial.write_text(json.dumps(results) + "\n")
        partial.replace(RESULT)  # whole at every moment: it took hours
        TABLE.write_text(table(results))


def gain(first: Sequence[Figures], second: Sequence[Figures]) -> tuple[float, float, float] | None:
    """How much more often the first reaches its goals than the second, pair by pair: the mean and its 95 % interval.

    It is one for these trainings: episodes are drawn anew, with all their pairs and trainings, and trainings are not.
    None where the two have no training in common.
    """
    by_seed = [{one["seed"]: np.array(one["reached"]) for one in rows} for rows in (first, second)]
    change = [one - by_seed[1][seed] for seed, one in by_seed[0].items() if seed in by_seed[1]]
    if not change:
        return None
    _, episode = np.unique(first[0]["episodes"], return_inverse=True)
    sums = np.bincount(episode, np.mean(change, axis=0))
    draws = np.random.default_rng(0).integers(len(sums), size=(DRAWS, len(sums)))
    low, high = np.quantile(sums[draws].sum(1) / np.bincount(episode)[draws].sum(1), (0.025, 0.975))
    return float(np.mean(change)), float(low), float(high)


def table(results: Mapping[str, Sequence[Figures]]) -> str:
    """docs/goals.md."""
    lines = [
        "# How often goals are reached",
        "",
        "Use these tables to see how often a learned world reaches its goals, from near to far.",
        "",
        "Reproduce them with `python benchmarks/goals.py`, which also describes the tasks. Figures are in "
        "`benchmarks/results/goals.json`.",
        "",
        "* **Protocol**: held-out episodes, no goal reached at its start, at most twice as many steps as the log took.",
        "* **Cells**: success rate, in brackets the 95 % Wilson interval (clustered by episode) and the worst "
        "training seed.",
        "* **Replanning**: every step in Two Rooms, every 2 steps in Push-T, else every 5. The inverse head acts at "
        "every step.",
        "* **Push-T**: the goal is the pose read from the goal's image. Each search starts from logged actions between "
        "similar poses.",
        "* **Ground truth**: the hand-written policy and the straight-line baseline read the true signals.",
        "* **Selection**: Push-T's planner was chosen with training seed 0 on some of these pairs. Use the worst seed "
        "there.",
        "",
    ]
    for name in (name for name in TASKS if name in results):
        most = max(len(one["reached"]) for one in results[name])
        found = [one for one in results[name] if len(one["reached"]) == most]
        offsets = sorted({one["offset"] for one in found})
        rows = [row for row in ROWS if any(one["row"] == row for one in found)]
        cpu = np.mean([one["learn_cpu_s"] for one in found])
        count, seeds = len(found[0]["reached"]), len({one["seed"] for one in found})
        lines += [
            f"## {name}",
            "",
            f"{count} pairs per offset, training seeds: {seeds}. Training took {cpu:.0f} s of processor time.",
            "",
            "| policy | " + " | ".join(f"{offset} steps" for offset in offsets) + " |",
            "| --- " * (len(offsets) + 1) + "|",
        ]
        for row in rows:
            cells = [_cell([o for o in found if (o["row"], o["offset"]) == (row, offset)]) for offset in offsets]
            lines.append(f"| {NAMES.get(row, row)} | " + " | ".join(cells) + " |")
        film = Path(str(FILM).format(name))
        if film.exists():
            lines += [
                "",
                f"Attempts of the planner at {offsets[0]} steps (animated): ![film](images/{film.name})",
            ]
        gains = _gains(TASKS[name], found, offsets)
        lines += ["", *gains, *([""] if gains else [])]
    return "\n".join([*lines, *_historical(results)])


def _historical(results: Mapping[str, Sequence[Figures]]) -> list[str]:
    """The table of the other protocol."""
    tasks = [name for name in TASKS if f"{name}, historical" in results]
    if not tasks:
        return []
    lines = [
        "## Protocol of published figures",
        "",
        "50 pairs 25 steps apart from the training log, pairs that are solved at the start included (Push-T: held-out "
        "log). Two plans of 25 steps, each executed to its end.",
        "",
        "| task | planner | no move | training seeds |",
        "| --- | --- | --- | --- |",
    ]
    for name in tasks:
        found = results[f"{name}, historical"]
        cells = [_cell([one for one in found if one["row"] == row]) for row in (PLANNER, NO_MOVE)]
        lines.append(f"| {name} | {' | '.join(cells)} | {len({one['seed'] for one in found})} |")
    return [*lines, ""]


NAMES = {BY_HAND: "hand-written policy", STRAIGHT: "straight-line baseline"}
"""Rows whose names in the page differ from those in the results."""
ROWS = (PLANNER, EXACT, ADAPTIVE, GUIDED, FULL, INVERSE, BY_HAND, STRAIGHT, RANDOM, NO_MOVE)


def _cell(found: Sequence[Figures]) -> str:
    if not found:
        return "–"
    hits = [np.array(one["reached"], bool) for one in found]
    rate = cluster_rate(np.concatenate(hits), np.concatenate([one["episodes"] for one in found]))
    worst = f"; {min(one.mean() for one in hits):.1%}" if len(found) > 1 else ""
    return f"{rate.value:.1%} ({rate.low:.1%} to {rate.high:.1%}{worst})"


def _gains(task: Task, found: Sequence[Figures], offsets: Sequence[int]) -> list[str]:
    compared = [
        (ADAPTIVE, PLANNER, "adaptation"),
        (PLANNER, EXACT, "bfloat16 instead of float32"),
    ]
    if task.shown == task.whole:  # otherwise their goals differ
        compared.append((GUIDED, FULL, f"`guided` (at most {FEW} sequences per plan) instead of full search ({MANY})"))
    lines = []
    for first, second, words in compared:
        cells = []
        for offset in offsets:
            both = [[one for one in found if (one["row"], one["offset"]) == (row, offset)] for row in (first, second)]
            change = gain(*both)
            if change is None:
                cells.append("–")
                continue
            mean, low, high = (100 * one for one in change)
            cells.append(f"{mean:+.1f}" + ("" if low == high else f" ({low:+.1f} to {high:+.1f})"))
        if set(cells) != {"–"}:
            lines.append(f"| {words} | " + " | ".join(cells) + " |")
    head = "| change in success, paired (percentage points) | " + " | ".join(f"{offset} steps" for offset in offsets)
    return [head + " |", "| --- " * (len(offsets) + 1) + "|", *lines] if lines else []


def main() -> None:
    """Measures what is missing."""
    usual = [row for row in ROWS if row not in (EXACT, FULL)]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="*", choices=TASKS, default=list(TASKS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--offsets", nargs="*", type=int, default=list(OFFSETS))
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--rows", nargs="*", choices=ROWS, default=usual, help="default: all but full search and float32"
    )
    parser.add_argument("--historical", action="store_true", help="measure by that protocol too")
    parser.add_argument("--logs", type=Path, help="folder of recorded logs, kept; default: a temporary one")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    with kept_or_temporary(given.logs) as folder:
        for name in given.tasks:
            for seed in range(given.seeds):
                measure(name, seed, folder, given)


if __name__ == "__main__":
    main()
