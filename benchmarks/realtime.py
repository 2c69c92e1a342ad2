"""A world that plans from pixels inside a 20 Hz controller: deadlines kept, and their cost.

Run: taskset -c 1 .venv/bin/python benchmarks/realtime.py [--world FOLDER] [--steps 10000] [--goals 60] [--nice -10]
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
  no budget         the world receives no budget: must fail.
  no deadline       no clock: each step waits for the recipe's own search, as in the demo.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported, which reads it once

import resource
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from common import Row, arguments, one_thread, show, write
from jaxtyping import Float
from torch import Tensor

import worldline
from worldline.control.controller import ReplanningController, WorldActor
from worldline.control.realtime import PlantReading, RealTimeLoop
from worldline.episode import Arrays
from worldline.labs.two_rooms import TwoRooms
from worldline.planning.planners.base import ActionSpace, CostFunction, PlannedActions, Planner
from worldline.planning.planners.cem import CrossEntropy
from worldline.stats import wilson
from worldline.workflows.goals import reached
from worldline.world.base import World

PERIOD_S, MARGIN_S, HORIZON, GOAL_STEPS = 0.05, 0.015, 12, 40
KEPT_BAR = 0.999
RECIPE, THOROUGH = CrossEntropy(num_iterations=2), CrossEntropy(num_iterations=20)
WARM_UP = 20
"""Steps that are not counted, because the first plan builds caches."""


@dataclass(frozen=True, kw_only=True)
class Watched(Planner):
    """A planner that records its work.

    Args:
        planner: the wrapped planner.
        with_deadline: whether it receives the deadline.
        evaluated: evaluated sequences of each plan.
        cut: whether each plan was cut short by its deadline.
    """

    planner: Planner
    with_deadline: bool = True
    evaluated: list[int] = field(default_factory=list)
    cut: list[bool] = field(default_factory=list)

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
        return found


class Rooms:
    """Two Rooms with a periodic new goal, as source and sink of a loop.

    Attributes:
        successes: whether each finished goal was reached.
        cpu_s: processor seconds from each picture to its action.
    """

    def __init__(self, controller: ReplanningController) -> None:
        self.controller, self.environment, self.painter = controller, TwoRooms("fixed"), TwoRooms("fixed")
        self.seen: Arrays = self.environment.reset(seed=0)[0]
        self.goal: Arrays = {}
        self.num_steps = 0
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
            self.goal = self.painter.reset(seed=10_000 + self.num_steps)[0]
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
        print(f"Priority {priority} is not permitted; the loop runs at normal priority. Run as root to raise it.")
    return os.getpriority(os.PRIO_PROCESS, 0)


def open_with(folder: Path, planner: Planner) -> World:
    """The world of Two Rooms; learned if it is missing."""
    if not (folder / "card.json").exists():
        logs = folder.with_name(folder.name + ".logs")
        if not logs.exists():
            worldline.record("two-rooms", logs, num_episodes=500, max_steps=60, seed=0)
        worldline.learn(logs, folder, recipe="two-rooms", seed=0)
    return worldline.open(folder, planner=planner)


def controlled(world: World) -> ReplanningController:
    """A controller that replans at each step."""
    card = world.describe()
    actor = WorldActor(world=world, horizon=HORIZON)
    return ReplanningController(actor, card.schema, context=card.context, replan_every=1, seed=0)


def in_time(folder: Path, *, steps: int, priority: int, with_deadline: bool = True) -> Row:
    """The results of a loop in real time."""
    priority = prioritise(priority)
    watched = Watched(planner=THOROUGH, with_deadline=with_deadline)
    controller = controlled(open_with(folder, watched))
    rooms = Rooms(controller)
    loop = RealTimeLoop(controller=controller, period_s=PERIOD_S, margin_s=MARGIN_S)
    switches = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
    periods = list(islice(loop.run(rooms.read, rooms.send), WARM_UP + steps))[WARM_UP:]
    kept = wilson(sum(not one.missed and one.fresh for one in periods), steps)
    counted = slice(WARM_UP, None)
    return {
        "steps": steps,
        "priority": priority,
        "kept": [kept.value, kept.low, kept.high],
        "missed": sum(one.missed for one in periods),
        "fresh": sum(one.fresh for one in periods) / steps,
        "plan_ms": marks([1e3 * one.act_s for one in periods]),
        "plan_cpu_ms": marks([1e3 * one for one in rooms.cpu_s[counted]]),
        "wake_up_late_ms": marks([1e3 * one.delay_s for one in periods]),
        "environment_ms": marks([1e3 * one.read_s for one in periods]),
        "left_ms": {"least": round(1e3 * min(one.idle_s for one in periods), 2)},
        "sequences": marks(watched.evaluated[counted]),
        "cut_by_the_budget": sum(watched.cut[counted]) / steps,
        "goals": reached_share(rooms.successes),
        "switched_out": resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw - switches,
    }


def without_clock(folder: Path, num_goals: int) -> Row:
    """The results of the same control if every step waits for the recipe's whole search."""
    controller = controlled(open_with(folder, RECIPE))
    rooms, took_ms = Rooms(controller), list[float]()
    for _ in range(num_goals * GOAL_STEPS + 1):  # the last reading ends the last goal
        reading = rooms.read()
        began_s = time.perf_counter()
        action = controller.act(reading.observations)
        took_ms.append(1e3 * (time.perf_counter() - began_s))
        rooms.send(action)
    return {"plan_ms": marks(took_ms), "goals": reached_share(rooms.successes)}


def marks(values: Sequence[float]) -> Row:
    """Median and upper quantiles."""
    levels = {"median": 0.5, "99 %": 0.99, "99.9 %": 0.999, "largest": 1.0}
    return {name: round(float(np.quantile(values, mark)), 2) for name, mark in levels.items()}


def reached_share(successes: Sequence[bool]) -> Row:
    """The number of reached goals."""
    if not successes:
        return {"number": 0}
    found = wilson(sum(successes), len(successes))
    return {"number": len(successes), "reached": [found.value, found.low, found.high]}


def main() -> None:
    """Measures, prints and writes the results."""
    options = arguments(__doc__, world=Path, steps=10_000, goals=60, nice=-10)
    one_thread()
    few, usual = min(options.steps, 500), os.getpriority(os.PRIO_PROCESS, 0)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.world or Path(temporary) / "world"
        rows = {
            "budget": in_time(folder, steps=options.steps, priority=options.nice),
            "normal priority": in_time(folder, steps=few, priority=usual),
            "no budget": in_time(folder, steps=few, priority=options.nice, with_deadline=False),
        }
        prioritise(usual)
        rows["no deadline"] = without_clock(folder, options.goals)
    kept, fresh = rows["budget"]["kept"][0], rows["budget"]["fresh"]
    bars = {
        "kept": {"measured": kept, "bar": KEPT_BAR, "met": kept >= KEPT_BAR},
        "fresh": {"measured": fresh, "bar": 1.0, "met": fresh == 1.0},
        "must fail": {"no budget": rows["no budget"]["kept"][0] < KEPT_BAR},
    }
    settings: Row = {"period_s": PERIOD_S, "margin_s": MARGIN_S, "horizon": HORIZON, "goal_steps": GOAL_STEPS}
    settings["cores"] = sorted(os.sched_getaffinity(0))
    write(options.out, {"settings": settings, "bars": bars, "rows": rows})
    keys = ("kept", "missed", "fresh", "plan_ms", "sequences", "goals")
    show(("loop", *keys), [(name, *(row.get(key, "") for key in keys)) for name, row in rows.items()])
    print(bars)


if __name__ == "__main__":
    main()
