"""Goal reaching in Two Rooms under the strict protocol, for the learned world and its baselines."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, final

import numpy as np
from numpy.typing import NDArray

from worldline.audit.planning_measurements import Film, Films
from worldline.control.controller import Actor, RandomActor, Situation, WorldActor
from worldline.control.controllers import ControllerActor, ScheduleController, ScheduledStep
from worldline.control.goal_reaching import GoalReaching, StartGoalPair, draw_pairs, evaluate
from worldline.data.store import Store
from worldline.engines.oracle import OracleEngine
from worldline.episode import Arrays, History
from worldline.labs.two_rooms import MAX_MOVE, TwoRooms
from worldline.planning.base import Goal
from worldline.planning.planners.cem import CrossEntropy
from worldline.planning.planners.small_searches import FirstProposal
from worldline.progress import OnProgress, renamed
from worldline.stats import Rate, wilson
from worldline.workflows.training import Learned
from worldline.world.local import LocalWorld

Walls = Literal["fixed", "random"]

OFFSET: Final = 25
"""Steps from start to goal in the log; an attempt has twice as many."""
HORIZON: Final = 12
NEAR_PX: Final = 3.0
NUM_TIMED: Final = 50
GROUPS: Final = ("same room", "across the wall")
PLANNER, INVERSE, RANDOM = "learned planner", "inverse head alone", "random actions"
NO_MOVE, STRAIGHT, ORACLE = "no move", "straight at the goal", "true dynamics"
"""Names of the methods in the report."""
ROLES: Final[Mapping[str, Literal["planner", "peer", "floor", "ceiling"]]] = {
    PLANNER: "planner",
    INVERSE: "peer",
    RANDOM: "floor",
    NO_MOVE: "floor",
    STRAIGHT: "floor",
    ORACLE: "ceiling",
}
DETOURS: Final = "where straight fails"
"""Pairs that the straight-line baseline misses: they need a way around the wall."""


def held_out_pairs(
    store: Store, episodes: Sequence[int], num_pairs: int, *, context: int = 1
) -> tuple[StartGoalPair, ...]:
    """Pairs from held-out episodes: half across the wall, none reached at the start, always the same.

    Each pair starts with `context` observations, the history of the world.
    """
    return draw_pairs(
        store,
        episodes,
        offset=OFFSET,
        num_pairs=num_pairs,
        reached=reached,
        group=side,
        groups=GROUPS,
        context=context,
        seed=1,
    )


def reached(observation: Arrays, goal: Arrays) -> bool:
    """Whether the dot is within 3 px of the goal."""
    return bool(np.linalg.norm(observation["position"].astype(float) - goal["position"].astype(float)) < NEAR_PX)


def side(start: Arrays, goal: Arrays) -> str:
    """Whether the wall is between start and goal, as one of `GROUPS`."""
    wall_x = float(start["wall"][0])
    apart = (float(start["position"][0]) - wall_x) * (float(goal["position"][0]) - wall_x) < 0
    return GROUPS[1] if apart else GROUPS[0]


@final
@dataclass(frozen=True, kw_only=True)
class StraightActor(Actor):
    """Moves straight towards the goal with access to the true position; a baseline without a model.

    Args:
        longest: largest move along an axis, in units of the position.
    """

    longest: float = MAX_MOVE

    def act(self, now: Situation, *, num_steps: int, seed: int) -> dict[str, NDArray[np.generic]]:
        """`num_steps` equal moves towards the goal, each at most a full move."""
        way = now.goals["position"].astype(float) - now.history.observations["position"][:, -1].astype(float)
        move = way * np.minimum(1 / num_steps, self.longest / np.maximum(np.abs(way).max(-1, keepdims=True), 1e-9))
        return {"move": np.repeat(move[:, None], num_steps, 1).astype(np.float32)}


def reach(
    learned: Learned,
    pairs: Sequence[StartGoalPair],
    walls: Walls,
    *,
    seed: int,
    progress: OnProgress | None,
    who: Sequence[str] = tuple(ROLES),
) -> dict[str, GoalReaching]:
    """Success of each method in `who` under the same strict protocol.

    All replan at every step except the oracle, whose predictions are exact.
    """
    card, picture = learned.engine.describe(), ("camera",)
    schema = card.schema
    inverse = LocalWorld(learned.engine, learned.calibration, FirstProposal())
    search = CrossEntropy(num_candidates=16, num_iterations=2)
    oracle = LocalWorld(OracleEngine(lab=TwoRooms(walls)), None, search, num_proposals=1)
    no_move = ScheduleController([ScheduledStep(at_s=0.0, set={})], schema)
    rows: dict[str, tuple[Actor, Sequence[str], int]] = {
        PLANNER: (WorldActor(world=learned.world, horizon=HORIZON), picture, 1),
        INVERSE: (WorldActor(world=inverse, horizon=1, warm_start=False), picture, 1),
        RANDOM: (RandomActor(schema=schema), picture, 1),
        NO_MOVE: (ControllerActor(no_move, schema), picture, 1),
        STRAIGHT: (StraightActor(), ("position",), 1),
        ORACLE: (WorldActor(world=oracle, horizon=HORIZON), ("camera", "position"), HORIZON),
    }
    results = {}
    for name in who:
        actor, goal_signals, replan_every = rows[name]
        results[name] = evaluate(
            actor,
            lambda: TwoRooms(walls),
            pairs,
            reached=reached,
            goal_signals=goal_signals,
            context=card.context if name in (PLANNER, INVERSE) else 1,
            replan_every=replan_every,
            track=picture if name == PLANNER else (),
            seed=seed,
            progress=renamed(progress, f"plan: {name}"),
        )
    return results


def on_detours(rows: Mapping[str, GoalReaching], name: str) -> Rate | None:
    """Success of `name` on the pairs that the straight-line baseline missed; None if it missed none."""
    missed = [number for number, attempt in enumerate(rows[STRAIGHT].attempts) if not attempt.success]
    if not missed:
        return None
    return wilson(sum(rows[name].attempts[number].success for number in missed), len(missed))


def films(reaching: GoalReaching, pairs: Sequence[StartGoalPair]) -> Films:
    """Camera frames of the first two attempts across the wall, and of the first in one room."""
    across = len(pairs) // 2
    numbers = sorted({across, min(across + 1, len(pairs) - 1), 0}, reverse=True)

    def film(number: int) -> Film:
        attempt, goal = reaching.attempts[number], pairs[number].goal["camera"].astype(np.uint8)
        return Film(frames=attempt.path["camera"].astype(np.uint8), goal=goal, reached=attempt.success)

    return Films(films=tuple(map(film, numbers)))


def plan_times(learned: Learned, pairs: Sequence[StartGoalPair]) -> tuple[float, float]:
    """Milliseconds of a single plan, the median, and per plan if all pairs are planned together."""
    alone_s = [_plan_s(learned, [pair]) for pair in pairs[:NUM_TIMED]]
    return 1e3 * statistics.median(alone_s), 1e3 * _plan_s(learned, pairs) / len(pairs)


def _plan_s(learned: Learned, pairs: Sequence[StartGoalPair]) -> float:
    """Seconds for planning all pairs as one batch."""
    starts = {name: np.stack([pair.start[name] for pair in pairs])[:, None] for name in pairs[0].start}
    none = {s.name: np.zeros((len(pairs), 0, *s.shape), s.dtype) for s in learned.engine.describe().schema.actions}
    history = History(observations=starts, actions=none)
    goal = Goal(targets={"camera": np.stack([pair.goal["camera"] for pair in pairs])})
    started = time.perf_counter()
    learned.world.plan(history, goal, horizon=HORIZON)
    return time.perf_counter() - started
