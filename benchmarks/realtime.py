"""A world that plans from pixels inside a 20 Hz controller: deadlines kept, and their cost.

Run: taskset -c 1 .venv/bin/python benchmarks/realtime.py [--world FOLDER] [--steps 10000] [--reference-goals 60]
     [--nice -10]
Learns Two Rooms with the recipe 'two-rooms' into FOLDER (default: a temporary one) if it holds no world, with its logs
next to it. Writes benchmarks/results/realtime.json. 10,000 steps take 8.4 minutes, the other rows together 5.

Every 50 ms the controller reads a picture of 64 by 64 pixels, plans 12 steps to a goal picture, and executes the first
one. A new goal comes every 40 steps and counts as reached within 3 px. The loop has one thread. The environment moves
and renders at the start of a period, before the picture is available. The deadline is the end of the period. Of the 50
ms, a plan gets what remains after the environment and the wake-up delay of the operating system.

The planner is cem with 20 populations, some 150 to 230 ms, so every plan is cut short and its best sequence so far is
executed. A deadline that is kept with the plan of an earlier picture does not count. A loop with deadlines needs the
processor on time, so it runs with raised priority (--nice; values below 0 need root and are otherwise ignored).
Comparison rows, 500 steps each:
  normal priority   the same loop at normal priority.
  thin margin       a margin of 2 ms instead of 15.
  stop after        a margin of 2 ms, and plans stop after their deadline instead of before it: must fail.
  no budget         the world receives no budget: must fail.
  no deadline       no clock: each step waits for the recipe's own search, as in the demo.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported, which reads it once

import argparse
import gc
import json
import resource
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from rich.console import Console
from rich.table import Table
from torch import Tensor
from train import machine

import worldline
from worldline.control.controller import ReplanningController, WorldActor
from worldline.control.realtime import Period, PlantReading, RealTimeLoop
from worldline.episode import Arrays
from worldline.labs.two_rooms import TwoRooms
from worldline.planning.planners.base import ActionSpace, CostFunction, PlannedActions, Planner
from worldline.planning.planners.cem import CrossEntropy
from worldline.planning.planners.population import evaluated, inside
from worldline.stats import wilson
from worldline.workflows.goals import reached
from worldline.world.base import World

RESULT = Path(__file__).parent / "results" / "realtime.json"
PERIOD_S, MARGIN_S, THIN_S, HORIZON, GOAL_STEPS = 0.05, 0.015, 0.002, 12, 40
KEPT_BAR = 0.999
RECIPE, THOROUGH = CrossEntropy(num_iterations=2), CrossEntropy(num_iterations=20)
WARM_UP = 20
"""Steps that are not counted, because the first plan builds caches."""
Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Watched(Planner):
    """A planner that records its work.

    Args:
        planner: the wrapped planner.
        with_deadline: whether it receives the deadline.
        evaluated: evaluated sequences of each plan.
        cut: whether each plan was cut short by its deadline.
        proposed: number of proposals of each plan.
    """

    planner: Planner
    with_deadline: bool = True
    evaluated: list[int] = field(default_factory=list)
    cut: list[bool] = field(default_factory=list)
    proposed: list[int] = field(default_factory=list)

    def plan(
        self,
        cost: CostFunction,
        space: ActionSpace,
        *,
        batch: int,
        horizon: int,
        proposals: Float[Tensor, "B P T A"] | None = None,
        generator: torch.Generator,
        deadline_s: float | None = None,
    ) -> PlannedActions:
        """Like the wrapped planner."""
        found = self.planner.plan(
            cost,
            space,
            batch=batch,
            horizon=horizon,
            proposals=proposals,
            generator=generator,
            deadline_s=deadline_s if self.with_deadline else None,
        )
        self.evaluated.append(found.num_evaluated)
        self.cut.append(not found.finished)
        self.proposed.append(0 if proposals is None else proposals.shape[1])
        return found


@dataclass(frozen=True, kw_only=True)
class StopsAfter(Planner):
    """cem that evaluates another population until the deadline has passed."""

    search: CrossEntropy

    def plan(
        self,
        cost: CostFunction,
        space: ActionSpace,
        *,
        batch: int,
        horizon: int,
        proposals: Float[Tensor, "B P T A"] | None = None,
        generator: torch.Generator,
        deadline_s: float | None = None,
    ) -> PlannedActions:
        """Returns the best sequence found."""
        started = time.monotonic()
        none = space.low.new_zeros(batch, 0, horizon, len(space.low))
        given = none if proposals is None else inside(space, proposals.to(none))
        candidates = self.search.candidates(space, given, generator)
        actions, best, count = next(candidates), None, 0
        while True:
            found = evaluated(cost, space, actions)
            count += actions.shape[1]
            best = found.first(1) if best is None else best.merge(found).first(1)
            try:
                actions = candidates.send(found)
            except StopIteration:
                return best.best(num_evaluated=count, finished=True)
            if deadline_s is not None and time.monotonic() - started >= deadline_s:
                return best.best(num_evaluated=count, finished=False)


class Rooms:
    """Two Rooms with a periodic new goal, as source and sink of a loop.

    Attributes:
        successes: whether each finished goal was reached.
        cpu_s: processor seconds from each picture to its action.
    """

    def __init__(self, controller: ReplanningController, seed: int) -> None:
        self.controller, self.environment, self.painter = controller, TwoRooms("fixed"), TwoRooms("fixed")
        self.seen: Arrays = self.environment.reset(seed=seed)[0]
        self.goal: Arrays = {}
        self.seed, self.num_steps = seed, 0
        self.move: Arrays | None = None
        self.there = False
        self.successes: list[bool] = []
        self.cpu_s: list[float] = []
        self._began_s = 0.0

    def read(self) -> PlantReading:
        """Returns the picture after the last action; sets a new goal periodically."""
        if self.move is not None:
            self.seen = self.environment.step({"move": self.move["move"][0]})[0]
            self.there |= reached(self.seen, self.goal)
        if self.num_steps % GOAL_STEPS == 0:
            if self.num_steps:
                self.successes.append(self.there)
            self.there = False
            self.goal = self.painter.reset(seed=10_000 * (self.seed + 1) + self.num_steps)[0]
            self.controller.reset({"camera": self.goal["camera"][None]})
        self.num_steps += 1
        self._began_s = time.thread_time()
        return PlantReading(observations={"camera": self.seen["camera"][None]})

    def send(self, action: Arrays) -> None:
        """Keeps the action until the next step."""
        self.cpu_s.append(time.thread_time() - self._began_s)
        self.move = action


def prioritise(priority: int) -> int:
    """Sets the priority if that is allowed; returns the priority of this process."""
    try:
        os.setpriority(os.PRIO_PROCESS, 0, priority)
    except PermissionError:
        Console().print(
            f"[yellow]Priority {priority} is not permitted; the loop runs at normal priority. Run as root to raise it."
        )
    return os.getpriority(os.PRIO_PROCESS, 0)


def open_with(folder: Path, planner: Planner) -> World:
    """The world of Two Rooms; learned if it is missing."""
    if not (folder / "card.json").exists():
        logs = folder.with_name(folder.name + ".logs")
        if not logs.exists():
            worldline.record("two-rooms", logs, num_episodes=500, max_steps=60, seed=0)
        worldline.learn(logs, folder, recipe="two-rooms", seed=0)
    return worldline.open(folder, planner=planner)


def controlled(world: World, seed: int) -> ReplanningController:
    """A controller that replans at each step."""
    card = world.describe()
    actor = WorldActor(world=world, horizon=HORIZON)
    return ReplanningController(actor, card.schema, context=card.context, replan_every=1, seed=seed)


def in_time(
    folder: Path,
    planner: Planner,
    *,
    steps: int,
    seed: int,
    priority: int,
    with_deadline: bool = True,
    margin_s: float = MARGIN_S,
) -> Row:
    """The results of a loop in real time."""
    priority = prioritise(priority)
    watched = Watched(planner=planner, with_deadline=with_deadline)
    controller = controlled(open_with(folder, watched), seed)
    rooms, pauses = Rooms(controller, seed), Pauses()
    loop = RealTimeLoop(controller=controller, period_s=PERIOD_S, margin_s=margin_s)
    load, switches = os.getloadavg()[0], resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
    gc.callbacks.append(pauses)
    periods = list(islice(loop.run(rooms.read, rooms.send), WARM_UP + steps))[WARM_UP:]
    gc.callbacks.remove(pauses)
    kept = wilson(sum(not one.missed and one.fresh for one in periods), steps)
    fresh = sum(one.fresh for one in periods)
    first = slice(WARM_UP, None)
    return {
        "steps": steps,
        "priority": priority,
        "margin_ms": 1e3 * margin_s,
        "kept": _rounded(kept.value, kept.low, kept.high),
        "missed": sum(one.missed for one in periods),
        "fresh": fresh / steps,
        "plan_ms": quantiles([1e3 * one.act_s for one in periods]),
        "plan_cpu_ms": quantiles([1e3 * one for one in rooms.cpu_s[first]]),
        "wake_up_late_ms": quantiles([1e3 * one.delay_s for one in periods]),
        "environment_ms": quantiles([1e3 * one.read_s for one in periods]),
        "left_ms": {"least": round(1e3 * min(one.idle_s for one in periods), 2)},
        "sequences": quantiles(watched.evaluated[first]),
        "least_sequences": min(watched.evaluated[first]),
        "cut_by_the_budget": sum(watched.cut[first]) / steps,
        "with_the_inverse_heads_proposal": _proposing(watched.proposed[first], steps),
        "goals": reached_share(rooms.successes),
        "longest_collection_ms": round(1e3 * max(pauses.took_s, default=0.0), 3),
        "switched_out": resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw - switches,
        "load": [round(load, 2), round(os.getloadavg()[0], 2)],
        "misses": causes(periods, rooms.cpu_s[first], watched.evaluated[first]),
    }


class Pauses:
    """Times of Python's garbage collections."""

    def __init__(self) -> None:
        self.took_s: list[float] = []
        self._began_s = 0.0

    def __call__(self, phase: str, info: dict[str, int]) -> None:
        """Callback of Python at the start and end of a collection."""
        del info
        if phase == "start":
            self._began_s = time.perf_counter()
        else:
            self.took_s.append(time.perf_counter() - self._began_s)


def without_clock(folder: Path, *, num_goals: int, seed: int) -> Row:
    """The results of the same control if every step waits for the recipe's whole search."""
    watched = Watched(planner=RECIPE)
    controller = controlled(open_with(folder, watched), seed)
    rooms, took_ms, pauses = Rooms(controller, seed), list[float](), Pauses()
    gc.callbacks.append(pauses)
    for _ in range(num_goals * GOAL_STEPS + 1):  # the last reading ends the last goal
        reading = rooms.read()
        began_s = time.perf_counter()
        action = controller.act(reading.observations)
        took_ms.append(1e3 * (time.perf_counter() - began_s))
        rooms.send(action)
    gc.callbacks.remove(pauses)
    return {
        "plan_ms": quantiles(took_ms),
        "goals": reached_share(rooms.successes),
        "longest_collection_ms": round(1e3 * max(pauses.took_s, default=0.0), 3),
    }


def quantiles(values: Sequence[float]) -> Row:
    """Median and upper quantiles."""
    marks = {"median": 0.5, "99 %": 0.99, "99.9 %": 0.999, "largest": 1.0}
    return {name: round(float(np.quantile(values, mark)), 2) for name, mark in marks.items()}


def reached_share(successes: Sequence[bool]) -> Row:
    """The number of reached goals."""
    if not successes:
        return {"number": 0}
    found = wilson(sum(successes), len(successes))
    return {"number": len(successes), "reached": _rounded(found.value, found.low, found.high)}


def causes(periods: Sequence[Period], cpu_s: Sequence[float], sequences: Sequence[int]) -> list[Row]:
    """Delay and processor time of the first misses."""
    rows = [
        {
            "step": step,
            "late_ms": round(-1e3 * one.idle_s, 2),
            "woken_late_ms": round(1e3 * one.delay_s, 2),
            "environment_ms": round(1e3 * one.read_s, 2),
            "plan_ms": round(1e3 * one.act_s, 2),
            "plan_cpu_ms": round(1e3 * cpu_s[step], 2),
            "sequences": sequences[step],
            "fresh": one.fresh,
        }
        for step, one in enumerate(periods)
        if one.missed
    ]
    return rows[:20]


def _proposing(proposed: Sequence[int], steps: int) -> float:
    """The share of plans that started from the inverse head's proposal; the rest of the last plan is one start too."""
    warm = [0 if step % GOAL_STEPS == 0 else 1 for step in range(WARM_UP, WARM_UP + steps)]
    return round(sum(many > own for many, own in zip(proposed, warm, strict=True)) / steps, 4)


def _rounded(*values: float) -> list[float]:
    return [round(value, 5) for value in values]


def show(rows: Row, console: Console) -> None:
    """Prints the results."""
    table = Table("", "kept", "95 %", "missed", "fresh", "plan, median", "99.9 %", "largest", "sequences", "goals")
    for name, row in rows.items():
        plan = row["plan_ms"]
        table.add_row(
            name,
            *(
                [f"{row['kept'][0]:.2%}", f"{row['kept'][1]:.2%}-{row['kept'][2]:.2%}", str(row["missed"])]
                if "kept" in row
                else ["", "", ""]
            ),
            f"{row['fresh']:.1%}" if "fresh" in row else "",
            *(f"{plan[mark]:.1f} ms" for mark in ("median", "99.9 %", "largest")),
            f"{row['sequences']['median']:.0f}" if "sequences" in row else "",
            " ".join(f"{share:.0%}" for share in row["goals"].get("reached", ())),
        )
    console.print(table)


def measure(folder: Path, options: argparse.Namespace) -> Row:
    """Measures all rows."""
    few, usual = min(options.steps, 500), os.getpriority(os.PRIO_PROCESS, 0)
    how = {"seed": options.seed, "priority": options.nice}
    old = StopsAfter(search=THOROUGH)
    rows: Row = {
        "budget": in_time(folder, THOROUGH, steps=options.steps, **how),
        "normal priority": in_time(folder, THOROUGH, steps=few, seed=options.seed, priority=usual),
        "thin margin": in_time(folder, THOROUGH, steps=few, margin_s=THIN_S, **how),
        "stop after": in_time(folder, old, steps=few, margin_s=THIN_S, **how),
        "no budget": in_time(folder, THOROUGH, steps=few, with_deadline=False, **how),
    }
    prioritise(usual)
    if options.reference_goals:
        rows["no deadline"] = without_clock(folder, num_goals=options.reference_goals, seed=options.seed)
    return rows


def main() -> None:
    """Measures, prints and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", type=Path, default=None)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--reference-goals", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--nice", type=int, default=-10)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = machine()
    with tempfile.TemporaryDirectory() as temporary:
        rows = measure(options.world or Path(temporary) / "world", options)
    kept, fresh = rows["budget"]["kept"][0], rows["budget"]["fresh"]
    bars = {
        "kept": {"measured": kept, "bar": KEPT_BAR, "met": kept >= KEPT_BAR},
        "fresh": {"measured": fresh, "bar": 1.0, "met": fresh == 1.0},
        "must fail": {name: rows[name]["kept"][0] < KEPT_BAR for name in ("no budget", "stop after")},
    }
    settings = {"period_s": PERIOD_S, "horizon": HORIZON, "goal_steps": GOAL_STEPS, "seed": options.seed}
    result = {
        "settings": settings | {"threads": torch.get_num_threads(), "cores": sorted(os.sched_getaffinity(0))},
        "machine": found | {"load_after": os.getloadavg()[0]},
        "bars": bars,
        "rows": rows,
    }
    options.out.parent.mkdir(exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    console = Console(width=150)
    show(rows, console)
    console.print(bars)


if __name__ == "__main__":
    main()
