"""How often closed-loop plans break a constraint: without it, with it, and under `Chance`.

Run: .venv/bin/python benchmarks/constraints.py [--tasks two-rooms greenhouse] [--seeds 1] [--episodes 150]
Adds to benchmarks/results/constraints.json after every task; existing results are not measured again.

* two-rooms: from one picture to another in the fixed room. Half of the held-out pairs have a straight path through a
  forbidden zone. The goal is a camera picture; the zone is a box in `position`, which is read from the latent. The
  constraint is broken if the dot is ever inside, also between two steps.
* greenhouse: twelve hours under held-out weather with a known forecast. Heat and supplied CO2 cost, growth pays. The
  constraint is broken if the air ever exceeds a limit of temperature or humidity.

Each task is planned without the constraint, with it, and under `Chance` with probability 1 - `ALPHA`. Target: over both
tasks, the exact upper bound (Clopper-Pearson, 95 %, one-sided) of the share of broken episodes is at most `ALPHA`.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import arguments, read, write
from greenhouse_logs import record_greenhouse
from greenhouse_plant import SCHEMA, greenhouse, make_greenhouse
from numpy.typing import NDArray
from scipy.stats import beta

from worldline.control.controller import ReplanningController, WorldActor
from worldline.control.goal_reaching import draw_pairs, evaluate
from worldline.data.store import Store
from worldline.episode import Arrays
from worldline.labs.two_rooms import TwoRooms
from worldline.planning.base import Chance, Constraint
from worldline.planning.costs import AtMost, KeepOut, Price
from worldline.recipes.two_rooms import two_rooms
from worldline.workflows.goals import OFFSET, reached
from worldline.workflows.record import record
from worldline.workflows.training import Learned, learn_world

ALPHA = 0.1
ZONE = np.array([[10.0, 22.0], [24.0, 40.0]])
"""The forbidden zone for the dot's centre, px: x range, y range."""
ROOM_HORIZON, HOUSE_HORIZON, HOUSE_STEPS = 12, 12, 24
LIMITS = {"air_temperature": 26.0, "air_humidity": 85.0}
GROUPS = ("free", "across the zone")
Figures = dict[str, Any]
Floats = NDArray[np.floating]


def rules(constraints: Sequence[Constraint]) -> dict[str, list[Constraint]]:
    """Names of the three ways of planning."""
    sure = [Chance(constraint=rule, level=1 - ALPHA) for rule in constraints]
    return {"no rule": [], "rule": list(constraints), "chance": list(sure)}


def crosses(first: Floats, second: Floats) -> bool:
    """Whether the straight line between two points crosses the zone."""
    way = first + np.linspace(0, 1, 61)[:, None] * (second - first)
    return bool(((way > ZONE[:, 0]) & (way < ZONE[:, 1])).all(1).any())


def measure_room(seed: int, num_episodes: int, folder: Path) -> Figures:
    """One training in Two Rooms; plans the same held-out pairs in three ways."""
    store = record(TwoRooms("fixed"), folder / "rooms", num_episodes=500, max_steps=60, seed=0)
    recipe = two_rooms(store).with_seed(seed)
    learned = learn_world(store, replace(recipe, heads=replace(recipe.heads, decoder_updates=0)), folder=folder / "a")

    def group(start: Arrays, goal: Arrays) -> str:
        ends = [one["position"].astype(float) for one in (start, goal)]
        if any(((end > ZONE[:, 0] - 3) & (end < ZONE[:, 1] + 3)).all() for end in ends):
            return "too near"
        return GROUPS[int(crosses(*ends))]

    pairs = draw_pairs(
        store,
        learned.split.held_out,
        offset=OFFSET,
        num_pairs=num_episodes,
        reached=reached,
        group=group,
        groups=GROUPS,
        seed=2,
    )
    low, high = tuple(ZONE[:, 0].tolist()), tuple(ZONE[:, 1].tolist())
    figures: Figures = {}
    for name, constraints in rules([KeepOut(low={"position": low}, high={"position": high})]).items():
        begin = time.process_time()
        found = evaluate(
            WorldActor(world=learned.world, horizon=ROOM_HORIZON, constraints=constraints),
            lambda: TwoRooms("fixed"),
            pairs,
            reached=reached,
            goal_signals=("camera",),
            context=1,
            replan_every=1,
            track=("position",),
            seed=seed,
        )
        paths = [attempt.path["position"].astype(float) for attempt in found.attempts]
        broken = sum(any(crosses(*step) for step in pairwise(path)) for path in paths)
        figures[name] = {
            "episodes": len(paths),
            "broken": broken,
            "reached": found.success.value,
            "reached_across": found.groups[GROUPS[1]].value,
            "plan_s": round(time.process_time() - begin, 1),
        }
    return figures


def measure_house(seed: int, num_episodes: int, folder: Path) -> Figures:
    """One training in the greenhouse; plans under the same held-out weather in three ways."""
    store = record_greenhouse(folder / "house", num_episodes=288, seed=0)
    recipe = greenhouse(store).with_seed(seed)
    learned = learn_world(store, recipe, folder=folder / "b")
    starts = house_starts(store, learned, num_episodes)
    figures: Figures = {}
    for name, constraints in rules([AtMost(signal=name, bound=limit) for name, limit in LIMITS.items()]).items():
        begin = time.process_time()
        paths = drive(store, learned, starts, constraints, seed)
        above = np.any([paths[signal][:, :, 0] > limit for signal, limit in LIMITS.items()], axis=0)
        figures[name] = {
            "episodes": len(starts),
            "broken": int(above.any(1).sum()),
            "steps_broken": float(above.mean()),
            "grown_g_m2": float(1e3 * (paths["dry_weight"][:, -1, 0] - paths["dry_weight"][:, 0, 0]).mean()),
            "plan_s": round(time.process_time() - begin, 1),
        }
    return figures


def house_starts(store: Store, learned: Learned, count: int) -> list[tuple[int, int]]:
    """Distinct held-out episodes and steps that satisfy the limits with a margin."""
    found = []
    for number in learned.split.held_out:
        seen = store.episode(number).observations
        warm, humid = (seen[name][:, 0].astype(float) for name in LIMITS)
        fine = (warm < 22) & (humid < 75)
        found += [(number, int(at)) for at in np.flatnonzero(fine) if 2 <= at < len(fine) - HOUSE_STEPS - HOUSE_HORIZON]
    order = np.random.default_rng(0).permutation(len(found))[:count]
    if len(order) < count:
        raise SystemExit(f"found {len(order)} starts, need {count}")
    return [found[i] for i in order]


def drive(
    store: Store, learned: Learned, starts: Sequence[tuple[int, int]], constraints: Sequence[Constraint], seed: int
) -> dict[str, Floats]:
    """Paths [E, steps + 1, 1] of all starts per observation signal, controlled in parallel."""
    costs = [
        Price(signal="dry_weight", price=-2000.0),
        Price(signal="heating", price=1e-3),
        Price(signal="co2_supply", price=0.2),
    ]
    actor = WorldActor(world=learned.world, horizon=HOUSE_HORIZON, costs=costs, constraints=constraints)
    context = learned.engine.describe().context
    controller = ReplanningController(actor, SCHEMA, context=context, replan_every=1, seed=seed)
    controller.reset({})
    episodes = [store.episode(number) for number, _ in starts]
    houses = [place(store, number, at) for number, at in starts]
    seen = [observed(house, house.observation) for house in houses]
    paths, acted = [seen], None
    for step in range(HOUSE_STEPS):
        ahead = [at + step + np.arange(HOUSE_HORIZON) for _, at in starts]
        weather = {
            s.name: np.stack([one.exogenous[s.name][rows] for one, rows in zip(episodes, ahead, strict=True)])
            for s in SCHEMA.exogenous
        }
        shown = {s.name: np.stack([one[s.name] for one in seen]) for s in SCHEMA.observations}
        actions = controller.act(shown, exogenous=acted, forecast=weather)
        acted = {name: value[:, 0] for name, value in weather.items()}
        seen = []
        for row, house in enumerate(houses):
            wanted = np.array([float(actions[s.name][row, 0]) for s in SCHEMA.actions])
            house.observation = house.env.step(house.env.encode_control(wanted))[0]
            seen.append(observed(house, house.observation))
        paths.append(seen)
    return {s.name: np.stack([np.stack([one[s.name] for one in now]) for now in paths], 1) for s in SCHEMA.observations}


class House:
    """One running greenhouse."""

    def __init__(self, env: Any, observation: Floats) -> None:
        self.env, self.observation = env, observation


def place(store: Store, number: int, at: int) -> House:
    """A greenhouse in the state and weather of one logged step."""
    from lettuce_greenhouse_gym import units

    convert: Any = units
    env, entry, episode = make_greenhouse(), list(store.entries())[number], store.episode(number)
    env.reset(seed=0, options={"start_day": float(entry.source["start_day"]) + at * 1800 / 86400})
    dry, co2, warm, humid = (float(episode.observations[s.name][at, 0]) for s in SCHEMA.observations)
    state = np.array([dry, convert.co2_ppm_to_density(warm, co2), warm, convert.rh_to_vapour_density(warm, humid)])
    return House(env, env.restore(replace(env.snapshot(), x=state)))


def observed(house: House, observation: Floats) -> Arrays:
    """Its observation, per signal [1]."""
    values = np.asarray(observation)[dict(house.env.observation_layout)["observables"]]
    return {s.name: values[[i]].astype(np.float32) for i, s in enumerate(SCHEMA.observations)}


TASKS: dict[str, Callable[[int, int, Path], Figures]] = {"two-rooms": measure_room, "greenhouse": measure_house}


def upper_bound(broken: int, episodes: int, level: float = 0.95) -> float:
    """The one-sided upper bound of the share by Clopper and Pearson, for `broken` of `episodes`."""
    return 1.0 if broken == episodes else float(beta.ppf(level, broken + 1, episodes - broken))


def summary(runs: Sequence[Figures]) -> Figures:
    """Rates per way of planning, pooled over tasks and seeds."""
    found: Figures = {}
    for name in ("no rule", "rule", "chance"):
        broken, episodes = (sum(run["figures"][name][key] for run in runs) for key in ("broken", "episodes"))
        found[name] = {
            "broken": broken,
            "episodes": episodes,
            "share": round(broken / episodes, 4),
            "upper_bound": round(upper_bound(broken, episodes), 4),
        }
    found["met"] = {"chance at most alpha": found["chance"]["upper_bound"] <= ALPHA, "alpha": ALPHA}
    return found


def main() -> None:
    """Measures missing results, writes and prints them."""
    options = arguments(__doc__, tasks=tuple(sorted(TASKS)), seeds=1, episodes=150, threads=1)
    torch.set_num_threads(options.threads)
    runs: list[Figures] = read(options.out).get("runs", [])
    for task in options.tasks:
        for seed in range(options.seeds):
            key = {"task": task, "seed": seed, "episodes": options.episodes}
            if any(all(run[name] == value for name, value in key.items()) for run in runs):
                continue
            with tempfile.TemporaryDirectory() as folder:
                figures = TASKS[task](seed, options.episodes, Path(folder))
            runs.append({**key, "figures": figures})
            write(options.out, {"summary": summary(runs), "runs": runs})
            print(task, seed, json.dumps(figures), flush=True)
    print(json.dumps(summary(runs), indent=1))


if __name__ == "__main__":
    main()
