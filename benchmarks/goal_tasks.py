"""The tasks of benchmarks/goals.py, and the actors that a recipe's planner is compared with. Measures nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from push_t_task import Pusher, PushT, push_t, record_push_t
from reacher_task import NEAR as REACHED
from reacher_task import Flail, Reacher, pull, reacher, turned

from worldline.control.controller import Actor, Situation, WorldActor
from worldline.control.goal_reaching import Grouping, Reached
from worldline.data.store import Store
from worldline.engines.learned import Adaptation
from worldline.engines.oracle import OracleEngine
from worldline.episode import Arrays, History
from worldline.labs.spaces import AnyEnv
from worldline.labs.two_rooms import SIZE, TwoRooms
from worldline.planning.planners.cem import CrossEntropy
from worldline.recipes.recipe import Recipe
from worldline.recipes.two_rooms import two_rooms, two_rooms_random
from worldline.workflows.goals import GROUPS, StraightActor, Walls, reached, side
from worldline.workflows.record import record
from worldline.workflows.training import Learned
from worldline.world.base import World
from worldline.world.local import LocalWorld

PLACE, ANGLE = 20.0, np.pi / 9
"""Tolerances of Push-T in px and rad."""
PUSH_AHEAD = 25
"""Steps of a Push-T plan; with fewer the block ends further from its goal (benchmarks/log/push-t.md)."""
PUSHER = CrossEntropy(num_candidates=64, num_iterations=3)
NUM_PLAYS = 64
"""Sequences from the log, in addition to random ones."""
POSE_TOLERANCE = {"agent_position": 20.0, "block_position": 10.0, "block_angle": 0.2}


@dataclass(frozen=True, kw_only=True)
class Task:
    """A task: the logs to learn from, and the goals to reach.

    Args:
        learn: records the training logs at a path.
        examine: records at a path the episodes for starts and goals.
        make: creates the environment.
        recipe: returns the recipe for the logs.
        reached: whether an observation is near enough to a goal.
        group: returns the label of a pair.
        groups: labels of the pairs to use.
        shown: goal signals that the planner receives.
        whole: goal signals that its heads need.
        by_hand: creates the upper-bound actor, with the true dynamics, the true map, or a tuned controller; None if
            there is none.
        goal_signals: goal signals that this actor receives.
        by_hand_every: executed steps of each of its answers.
        straight: straight-line baseline; None if it does not apply.
        horizon: steps of a plan.
        replan_every: executed steps of a plan.
        adaptation: settings of the row with adaptation; None for no such row.
        rest: actor that stands still; None for the action 0.
        plans: creates the planner's actor from a world and the log; None for plans to the goal signals.
        loosely: like `reached`, for the historical protocol; None for the same.
    """

    learn: Callable[[Path], Store]
    examine: Callable[[Path], Store]
    make: Callable[[], AnyEnv]
    recipe: Callable[[Store], Recipe]
    reached: Reached
    group: Grouping
    groups: Sequence[str]
    shown: Sequence[str]
    whole: Sequence[str]
    by_hand: Callable[[], Actor] | None
    goal_signals: Sequence[str]
    straight: Actor | None
    horizon: int = 12
    replan_every: int = 5
    by_hand_every: int = 1
    adaptation: Adaptation | None = None
    rest: Actor | None = None
    plans: Callable[[Learned, Store], Actor] | None = None
    loosely: Reached | None = None


@dataclass(frozen=True, kw_only=True)
class Go(Actor):
    """Moves the agent of Push-T to its position in the goal."""

    def act(self, now: Situation, *, num_steps: int, seed: int) -> dict[str, NDArray[np.generic]]:
        """The same target `num_steps` times."""
        del seed
        return {"target": np.repeat(now.goals["agent_position"][:, None], num_steps, 1)}


@dataclass(frozen=True, kw_only=True)
class Stay(Actor):
    """Keeps the agent at its position."""

    def act(self, now: Situation, *, num_steps: int, seed: int) -> dict[str, NDArray[np.generic]]:
        """The same target `num_steps` times."""
        del seed
        return {"target": np.repeat(now.history.observations["agent_position"][:, -1:], num_steps, 1)}


@dataclass(frozen=True, kw_only=True)
class Plays:
    """Logged action sequences of Push-T, each as long as a plan.

    Args:
        ends: first and last pose of each, in the form of `_alike` [N, 12].
        targets: logged actions [N, PUSH_AHEAD, 2].
    """

    ends: torch.Tensor
    targets: NDArray[np.float32]

    @classmethod
    def of(cls, store: Store, episodes: Sequence[int]) -> Plays:
        """All sequences of these episodes."""
        ends, targets = [], []
        for number in episodes:
            length = int(store.num_steps[number])
            poses = _alike({name: store.read(name, number, 0, length + 1) for name in POSE_TOLERANCE})
            logged = store.read("target", number, 0, length)
            ends.append(torch.cat([poses[:-PUSH_AHEAD], poses[PUSH_AHEAD:]], 1))
            targets.append(np.stack([logged[at : at + PUSH_AHEAD] for at in range(length - PUSH_AHEAD + 1)]))
        return cls(ends=torch.cat(ends), targets=np.concatenate(targets))

    def between(self, starts: Arrays, goals: Arrays, count: int) -> Arrays:
        """Actions [W, count, PUSH_AHEAD, 2] with the first and last pose most similar to poses [W, ...]."""
        wanted = torch.cat([_alike(starts), _alike(goals)], 1)
        return {"target": self.targets[torch.cdist(wanted, self.ends).topk(count, largest=False).indices.numpy()]}


def _alike(pose: Arrays) -> torch.Tensor:
    """Poses [..., 2] and [..., 1] as [..., 6], scaled so that distance means visual difference."""
    agent, block, angle = (torch.from_numpy(np.asarray(pose[name], np.float32)) for name in POSE_TOLERANCE)
    return torch.cat([agent / 60, block / 40, 2 * angle.cos(), 2 * angle.sin()], -1)


@dataclass(frozen=True, kw_only=True)
class Pose(Actor):
    """Plans to the pose of the block that the world reads from the goal's picture.

    Args:
        world: the world that plans.
        plays: logged sequences to start the search from.
    """

    world: World
    plays: Plays

    def act(self, now: Situation, *, num_steps: int, seed: int) -> dict[str, NDArray[np.generic]]:
        """The actions of the plans."""
        pose = self._pose(now.goals)
        here = self._pose({name: now.history.observations[name][:, -1] for name in now.goals})
        planner = WorldActor(
            world=self.world,
            horizon=PUSH_AHEAD,
            tolerance=POSE_TOLERANCE,
            propose=lambda _: self.plays.between(here, pose, NUM_PLAYS),
        )
        return planner.act(replace(now, goals=pose), num_steps=num_steps, seed=seed)

    def _pose(self, seen: Arrays) -> Arrays:
        """Pose of one observation: the agent's position, and the block's pose one predicted step later."""
        rest = {"target": seen["agent_position"][:, None]}
        none = {"target": rest["target"][:, :0]}
        past = History(observations={name: value[:, None] for name, value in seen.items()}, actions=none)
        signals = self.world.predict(past, rest).signals
        read = {name: signals[name].mean[:, 0] for name in ("block_position", "block_angle")}
        return {"agent_position": seen["agent_position"], **read}


@dataclass(frozen=True, kw_only=True)
class Pull(Actor):
    """A hand-tuned proportional-derivative controller."""

    def act(self, now: Situation, *, num_steps: int, seed: int) -> dict[str, NDArray[np.generic]]:
        """The same torque `num_steps` times."""
        del seed
        angles, velocity = (now.history.observations[name][:, -1].astype(float) for name in ("angles", "velocity"))
        torque = pull(angles, velocity, now.goals["angles"].astype(float))
        return {"torque": np.repeat(torque[:, None], num_steps, 1).astype(np.float32)}


def rooms(walls: Walls, num_episodes: int, recipe: Callable[[Store], Recipe]) -> Task:
    """The tasks of Two Rooms."""
    oracle = LocalWorld(
        OracleEngine(lab=TwoRooms(walls)), None, CrossEntropy(num_candidates=16, num_iterations=2), num_proposals=1
    )
    return Task(
        learn=lambda path: record(TwoRooms(walls), path, num_episodes=num_episodes, max_steps=60, seed=0),
        examine=lambda path: record(TwoRooms(walls), path, num_episodes=100, max_steps=200, seed=100),
        make=lambda: TwoRooms(walls),
        recipe=recipe,
        reached=reached,
        group=side,
        groups=GROUPS,
        shown=("camera",),
        whole=("camera",),
        by_hand=lambda: WorldActor(world=oracle, horizon=12),
        goal_signals=("camera", "position"),
        straight=StraightActor(),
        replan_every=1,
        by_hand_every=12,
        loosely=lambda seen, goal: bool(
            np.linalg.norm(seen["position"] - goal["position"].astype(float)) < 16 / 224 * SIZE
        ),
    )


def arm() -> Task:
    """The task of dm_control's reacher."""

    def flailing(path: Path, num_episodes: int, seed: int) -> Store:
        env = Reacher()
        return record(env, path, policy=Flail(), num_episodes=num_episodes, max_steps=300, seed=seed, schema=env.schema)

    def near(seen: Arrays, goal: Arrays) -> bool:
        return bool((np.abs(turned(seen["angles"] - goal["angles"].astype(float))) < REACHED).all())

    return Task(
        learn=lambda path: flailing(path, 300, 0),
        examine=lambda path: flailing(path, 100, 100),
        make=Reacher,
        recipe=reacher,
        reached=near,
        group=lambda *_: "all",
        groups=("all",),
        shown=("angles",),
        whole=("angles", "velocity"),
        by_hand=Pull,
        goal_signals=("angles",),
        straight=None,
        horizon=25,
    )


def pushing() -> Task:
    """Push-T."""

    def angle(first: Arrays, second: Arrays) -> float:
        return float(np.abs(turned(first["block_angle"].astype(float) - second["block_angle"]))[0])

    def apart(first: Arrays, second: Arrays, *names: str) -> float:
        return float(np.linalg.norm([first[name].astype(float) - second[name] for name in names]))

    def near(seen: Arrays, goal: Arrays) -> bool:
        return apart(seen, goal, "agent_position", "block_position") < PLACE and angle(seen, goal) < ANGLE

    def moves(start: Arrays, goal: Arrays) -> str:
        there = apart(start, goal, "block_position") < PLACE and angle(start, goal) < ANGLE
        return "block stays" if there else "block moves"

    def examine(path: Path) -> Store:
        env = PushT()
        return record(env, path, policy=Pusher(), num_episodes=200, max_steps=200, seed=100, schema=env.schema)

    return Task(
        learn=lambda path: record_push_t(path, num_episodes=400, seed=0),
        examine=examine,
        make=PushT,
        recipe=push_t,
        reached=near,
        group=moves,
        groups=("block moves",),
        shown=("camera", "agent_position"),
        whole=("camera", "agent_position"),
        by_hand=None,
        goal_signals=("agent_position",),
        straight=Go(),
        rest=Stay(),
        replan_every=2,
        plans=lambda learned, store: Pose(
            world=LocalWorld(learned.engine, learned.calibration, PUSHER, num_proposals=0),
            plays=Plays.of(store, learned.split.train),
        ),
    )


TASKS = {
    "two-rooms": rooms("fixed", 500, two_rooms),
    "two-rooms-random": rooms("random", 1600, two_rooms_random),
    "two-rooms-unseen": replace(
        rooms("random", 0, two_rooms), learn=rooms("fixed", 500, two_rooms).learn, adaptation=Adaptation()
    ),
    "reacher": arm(),
    "push-t": pushing(),
}
