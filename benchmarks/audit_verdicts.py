"""Verdicts of the audit against success in the environment, on 12 worlds: four logs, three trainings each.

Run: .venv/bin/python benchmarks/audit_verdicts.py [--logs two-rooms ...] [FOLDER] [--pairs 40]
Writes benchmarks/results/audit_verdicts.json after every world, and skips the worlds that it already has. FOLDER
keeps the recorded logs and the trained worlds.

The trainings of a log, from poor to good, differ in their number of updates. The poor ones on vectors are trained on
actions that are logged seven steps late, because an untrained world of vectors already steers to most goals.

* two-rooms: from one picture to another. Reached within 3 px.
* gusty-puck: from a state to a position, with gusts and a hidden friction. Reached within 0.1 m.
* two-rooms-vectors: from one position to another, with walls that move between episodes. Reached within 3 px.
* pusher-block: from one picture to another; pusher within 0.06 m, block within 0.05 m.

Starts and goals come from a log that no training saw; the audit reads the same log, without an environment. The ceiling
is the same planner with the simulator: the state instead of a picture, the mean friction, and no gusts.

Targets: Kendall's tau-b of verdict and success over the 12 pairs within a log at least 0.7. No world below half of the
ceiling is called "deploy" or "deploy with limits".
"""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any, Final, final

import numpy as np
from common import RESULTS, arguments, kept_or_temporary, one_thread, read, stored, write
from numpy.typing import NDArray

from worldline.control.controller import Actor, RandomActor, WorldActor
from worldline.control.goal_reaching import Reached, StartGoalPair, draw_pairs, evaluate
from worldline.data.store import Store
from worldline.engines.base import Card, Engine, EngineBelief, Noise, Samples
from worldline.engines.numpy_engine import NumpyEngine
from worldline.engines.oracle import OracleEngine
from worldline.episode import Arrays, Future, History
from worldline.labs.base import Lab
from worldline.labs.two_rooms import TwoRooms
from worldline.planning.planners.cem import CrossEntropy
from worldline.recipes.pixels import pixels
from worldline.recipes.recipe import Recipe
from worldline.recipes.two_rooms import two_rooms
from worldline.recipes.vectors import vectors
from worldline.workflows.audit import audit
from worldline.workflows.goals import reached as within_3_px
from worldline.workflows.record import record
from worldline.workflows.training import learn_world
from worldline.world.base import World
from worldline.world.bundle_io import open_world, save_world
from worldline.world.local import LocalWorld
from worldline_exam.labs.gusty_puck import GustyPuck
from worldline_exam.labs.pusher_block import PusherBlock

RESULT: Final = RESULTS / "audit_verdicts.json"
PLANNER: Final = CrossEntropy(num_candidates=32, num_iterations=2)
OFFSET: Final = 15
"""Steps from start to goal in the log; an attempt has twice as many."""
HORIZON: Final = 10
REPLAN_EVERY: Final = 3
NUM_EPISODES: Final = 60
"""Of the log with starts and goals."""
CONTEXT: Final = 3
NUM_WORLDS: Final = 12
MIN_TAU: Final = 0.7
HALF: Final = 0.5
VERDICTS: Final = ("do not deploy", "deploy with limits", "deploy")
Figures = dict[str, Any]
Simulate = Callable[[Arrays, Arrays], Arrays]


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a world is trained.

    Args:
        share: of the updates of the recipe.
        late: steps by which the actions of the log are late, as by a wrong clock.
    """

    share: float
    late: int = 0


@dataclass(frozen=True, kw_only=True)
class VerdictTask:
    """A log with goals.

    Args:
        make: creates the environment.
        num_episodes: of the training log.
        num_steps: of an episode.
        recipe: of the good training.
        trainings: from poor to good.
        goals: goal signals.
        tolerance: of vector goals.
        reached: whether an observation is near enough to a goal.
        engine: the simulator as an engine.
        simulator_goals: goal signals that it receives.
        in_steps: as in `Goal`.
    """

    make: Callable[[], Lab]
    num_episodes: int
    num_steps: int
    recipe: Callable[[Store], Recipe]
    trainings: Mapping[str, Training]
    goals: Sequence[str]
    tolerance: Mapping[str, float]
    reached: Reached
    engine: Callable[[], Engine]
    simulator_goals: Sequence[str]
    in_steps: bool = False


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class TrueDynamics(NumpyEngine):
    """A lab whose batched simulation is the engine; its state is the last observation.

    Args:
        lab: gives the schema.
        state: vector observations that are the state.
        simulate: maps a state [M, *shape] and actions [M, T, *shape] to observations [M, T, *shape].
    """

    lab: Lab
    state: Sequence[str]
    simulate: Simulate

    def describe(self) -> Card:
        """The card of the simulator."""
        names = tuple(self.state)
        return Card(
            name="simulator",
            engine="simulator",
            schema=self.lab.schema,
            inputs=names,
            predicts=names,
            context=1,
            deterministic=True,
        )

    def observe(self, belief: EngineBelief | None, steps: History, *, seed: int) -> dict[str, NDArray[np.generic]]:
        """The last state."""
        del belief, seed
        return {name: steps.observations[name][:, -1] for name in self.state}

    def imagine(
        self, belief: EngineBelief, future: Future, *, num_samples: int, noise: Noise | None = None, seed: int
    ) -> Samples:
        """The simulated states."""
        del num_samples, noise, seed
        assert isinstance(belief, dict)
        worlds, versions, steps = next(iter(future.actions.values())).shape[:3]
        actions = {name: value.reshape(-1, *value.shape[2:]) for name, value in future.actions.items()}
        path = self.simulate({name: np.repeat(value, versions, 0) for name, value in belief.items()}, actions)
        lead = (worlds, versions, 1, steps)
        return Samples(signals={name: path[name].reshape(lead + path[name].shape[2:]) for name in self.state})


def scaled(recipe: Recipe, share: float) -> Recipe:
    """The recipe with this share of all updates, without the collapse check, which would stop a poor training."""
    heads = recipe.heads
    counts = {name: value for name, value in vars(heads).items() if name.endswith("_updates")}
    fewer = {name: math.ceil(share * value) for name, value in counts.items()}
    training = replace(
        recipe.training,
        num_updates=max(1, round(share * recipe.training.num_updates)),
        num_checks=1,
        min_rank=1.0,
        min_deviation=0.0,
    )
    return replace(
        recipe,
        training=training,
        heads=replace(heads, **{**fewer, "decoder_updates": 0}),
        planner=PLANNER,
        horizon=min(recipe.horizon, 20),
    )


def vectors_with_goals(store: Store) -> Recipe:
    """The recipe for vectors with goal heads."""
    recipe = vectors(store)
    return replace(recipe, heads=replace(recipe.heads, goals=True))


def pixels_briefly(store: Store) -> Recipe:
    """The recipe for pixels with fewer updates."""
    recipe = pixels(store)
    return replace(
        recipe,
        training=replace(recipe.training, num_updates=1200),
        heads=replace(
            recipe.heads, dynamics_updates=1500, readout_updates=500, distance_updates=1500, inverse_updates=300
        ),
        num_proposals=0,
    )


def near_poses(seen: Arrays, goal: Arrays) -> bool:
    """Whether pusher and block are at their goals."""
    bounds = {"pusher_position": 0.06, "block_position": 0.05}
    return all(np.linalg.norm(seen[name] - goal[name].astype(float)) < bound for name, bound in bounds.items())


def near_place(seen: Arrays, goal: Arrays) -> bool:
    """Whether the puck is at its goal."""
    return float(np.linalg.norm(seen["puck_position"] - goal["puck_position"].astype(float))) < 0.1


def puck_engine() -> Engine:
    """The puck without gusts and with the mean friction."""
    lab = GustyPuck()
    friction = float(np.mean(lab.friction))
    return TrueDynamics(
        lab=lab,
        state=("puck_position", "puck_velocity"),
        simulate=lambda start, actions: lab.expected(
            start, actions, {"friction": np.full(len(start["puck_position"]), friction)}
        ),
    )


def pusher_engine() -> Engine:
    """The pusher and its block."""
    lab = PusherBlock(pictures=True)
    state = ("pusher_position", "block_position", "block_angle")
    return TrueDynamics(lab=lab, state=state, simulate=lab.simulate)


TASKS: Final = {
    "two-rooms": VerdictTask(
        make=TwoRooms,
        num_episodes=300,
        num_steps=60,
        recipe=two_rooms,
        trainings={"poor": Training(share=0.001), "middle": Training(share=0.02), "good": Training(share=0.1)},
        goals=("camera",),
        tolerance={},
        reached=within_3_px,
        engine=lambda: OracleEngine(lab=TwoRooms()),
        simulator_goals=("camera", "position"),
    ),
    "gusty-puck": VerdictTask(
        make=GustyPuck,
        num_episodes=200,
        num_steps=60,
        recipe=vectors,
        trainings={"poor": Training(share=0.02, late=7), "middle": Training(share=0.0004), "good": Training(share=0.1)},
        goals=("puck_position",),
        tolerance={"puck_position": 0.1},
        reached=near_place,
        engine=puck_engine,
        simulator_goals=("puck_position",),
    ),
    "two-rooms-vectors": VerdictTask(
        make=lambda: TwoRooms("random", camera=False),
        num_episodes=300,
        num_steps=60,
        recipe=vectors_with_goals,
        trainings={"poor": Training(share=0.02, late=7), "middle": Training(share=0.001), "good": Training(share=0.15)},
        goals=("position", "wall"),
        tolerance={},
        in_steps=True,
        reached=within_3_px,
        engine=lambda: OracleEngine(lab=TwoRooms("random", camera=False)),
        simulator_goals=("position", "wall"),
    ),
    "pusher-block": VerdictTask(
        make=lambda: PusherBlock(pictures=True),
        num_episodes=150,
        num_steps=60,
        recipe=pixels_briefly,
        trainings={"poor": Training(share=0.001), "middle": Training(share=0.03), "good": Training(share=0.2)},
        goals=("camera",),
        tolerance={"pusher_position": 0.06, "block_position": 0.05},
        reached=near_poses,
        engine=pusher_engine,
        simulator_goals=("pusher_position", "block_position"),
    ),
}


def recorded(path: Path, task: VerdictTask, num_episodes: int, seed: int) -> Store:
    """The log at a path; recorded there if it is missing."""
    return stored(
        path, lambda new: record(task.make(), new, num_episodes=num_episodes, max_steps=task.num_steps, seed=seed)
    )


def late(store: Store, path: Path, steps: int) -> Store:
    """The log with actions that are some steps late."""
    found = Store.create(path, store.schema)
    for number in range(len(store)):
        episode = store.episode(number)
        actions = {name: np.roll(value, steps, axis=0) for name, value in episode.actions.items()}
        found.append(replace(episode, actions=actions))
    return found


def learned(path: Path, store: Store, task: VerdictTask, level: str) -> tuple[LocalWorld, float | None]:
    """The world at a path, learned if it is missing, and the CPU seconds of the training; None if it was there."""
    begin, training, learn_s = time.process_time(), task.trainings[level], None
    if not path.exists():
        with tempfile.TemporaryDirectory() as temporary:
            store = late(store, Path(temporary) / "log", training.late) if training.late else store
            recipe = scaled(task.recipe(store), training.share)
            found = learn_world(store, recipe, folder=Path(temporary) / "training")
        save_world(path, found.world)
        learn_s = round(time.process_time() - begin, 1)
    world = open_world(path)
    assert isinstance(world, LocalWorld)
    return world, learn_s


def success(task: VerdictTask, world: World | None, pairs: Sequence[StartGoalPair], goals: Sequence[str]) -> float:
    """Share of the goals that the planner reaches with a world; of random actions for None."""
    tolerance = {name: value for name, value in task.tolerance.items() if name in goals}
    actor: Actor
    if world is None:
        actor, context = RandomActor(schema=task.make().schema), 1
    else:
        actor = WorldActor(world=world, horizon=HORIZON, tolerance=tolerance, in_steps=task.in_steps)
        context = world.describe().context
    found = evaluate(
        actor,
        task.make,
        pairs,
        reached=task.reached,
        goal_signals=goals,
        context=context,
        replan_every=REPLAN_EVERY,
        seed=0,
    )
    return found.success.value


def measure(name: str, level: str, folder: Path, num_pairs: int) -> Figures:
    """One world: its success in the environment, and its audit without it."""
    task = TASKS[name]
    exam = recorded(folder / f"{name}-exam", task, NUM_EPISODES, 100)
    pairs = draw_pairs(
        exam,
        range(len(exam)),
        offset=OFFSET,
        num_pairs=num_pairs,
        reached=task.reached,
        group=lambda *_: "all",
        groups=("all",),
        context=CONTEXT,
        seed=1,
    )
    figures: Figures = {"log": name, "training": level, "pairs": num_pairs}
    known = [one for one in results()["worlds"] if one["log"] == name and one["pairs"] == num_pairs]
    if known:
        figures |= {key: known[0][key] for key in ("random", "simulator")}
    else:
        simulator = LocalWorld(task.engine(), None, PLANNER, num_proposals=0)
        figures["random"] = success(task, None, pairs, task.simulator_goals)
        figures["simulator"] = success(task, simulator, pairs, task.simulator_goals)
    store = recorded(folder / f"{name}-log", task, task.num_episodes, 0)
    world, learn_s = learned(folder / f"{name}-{level}", store, task, level)
    figures["success"] = success(task, world, pairs, task.goals)
    begin = time.process_time()
    found = audit(world, exam.path, goals=task.goals)
    figures |= {
        "verdict": found.decision.advice.value,
        "reasons": list(found.decision.reasons),
        "limits": list(found.decision.limits),
        "learn_cpu_s": learn_s,
        "audit_cpu_s": round(time.process_time() - begin, 1),
    }
    ranking = None if found.measured is None else found.measured.goals
    if ranking is not None:
        rank = ranking.preferred
        figures["preferred"] = [round(value, 4) for value in (rank.value, rank.low, rank.high)]
    return figures


def results() -> Figures:
    """What was measured so far."""
    return {"worlds": [], **read(RESULT)}


def summary(worlds: Sequence[Figures]) -> Figures:
    """Kendall's tau-b over the pairs within a log, and the worlds that were called usable too early."""
    counts = {"concordant": 0, "discordant": 0, "tied verdicts": 0, "tied successes": 0}
    pairs = [pair for pair in combinations(worlds, 2) if pair[0]["log"] == pair[1]["log"]]
    for one, other in pairs:
        verdicts = VERDICTS.index(one["verdict"]) - VERDICTS.index(other["verdict"])
        gained = one["success"] - other["success"]
        counts["tied verdicts"] += verdicts == 0
        counts["tied successes"] += gained == 0
        counts["concordant"] += verdicts * gained > 0
        counts["discordant"] += verdicts * gained < 0
    size = (len(pairs) - counts["tied verdicts"]) * (len(pairs) - counts["tied successes"])
    tau = (counts["concordant"] - counts["discordant"]) / math.sqrt(size) if size else 0.0
    too_early = [
        f"{one['log']}, {one['training']}"
        for one in worlds
        if one["success"] < HALF * one["simulator"] and one["verdict"] != VERDICTS[0]
    ]
    met = len(worlds) == NUM_WORLDS and tau >= MIN_TAU and not too_early
    return {"pairs": len(pairs), **counts, "tau_b": round(tau, 3), "usable below half": too_early, "met": met}


def main() -> None:
    """Measures the worlds that are missing."""
    options = arguments(__doc__, logs=tuple(TASKS), pairs=40, folder=Path)
    one_thread()
    with kept_or_temporary(options.folder) as folder:
        for name in options.logs:
            for level in TASKS[name].trainings:
                worlds = results()["worlds"]
                if any((one["log"], one["training"]) == (name, level) for one in worlds):
                    continue
                worlds.append(measure(name, level, folder, options.pairs))
                write(RESULT, {"summary": summary(worlds), "worlds": worlds})
                print({key: value for key, value in worlds[-1].items() if key not in ("reasons", "limits")}, flush=True)
    print(json.dumps(results().get("summary", {}), indent=1))


if __name__ == "__main__":
    main()
