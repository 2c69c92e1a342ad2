from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from tests.world.wrapped import Wrapped

from worldline.catalog.fallback import FallbackWorld
from worldline.engines.base import EngineBelief
from worldline.engines.baselines import Linear, Persistence
from worldline.engines.numpy_engine import NumpyGoalDistance
from worldline.episode import Arrays, Episode, Future, History
from worldline.errors import InputError, UnsupportedError
from worldline.planning.base import Goal
from worldline.planning.costs import AtMost
from worldline.planning.planners.base import PlannedActions
from worldline.planning.planners.cem import Categorical, CrossEntropy
from worldline.planning.planners.small_searches import FirstProposal
from worldline.schema import Kind, Role, Schema, Signal
from worldline.testing.toys import Integrator
from worldline.world.base import PlanStatus
from worldline.world.local import LocalWorld
from worldline.world.plan_search import MAX_PROPOSAL_SHARE, RESERVED_SHARE

NEAR = Goal(targets={"position": np.array([0.5, 0.0], np.float32)})
FAR = Goal(targets={"position": np.array([50.0, -50.0], np.float32)})
THOROUGH = CrossEntropy(num_candidates=128, num_iterations=30, min_deviation=0.001)


def test_a_goal_within_reach_is_reached_at_once_and_held(world: LocalWorld, history: History) -> None:
    plan = replace(world, planner=THOROUGH).plan(history, NEAR, horizon=3)
    assert (plan.status, plan.reason) == (PlanStatus.SEARCHED, "")
    # position' = 0.9 position + push, from (1, -1): one push to get there, then what is lost each step.
    np.testing.assert_allclose(plan.actions["push"], [[-0.4, 0.9], [0.05, 0], [0.05, 0]], atol=0.05)
    assert plan.cost == pytest.approx(0, abs=1e-2)
    assert world.score(history, {"push": plan.actions["push"][None]}, NEAR).cost[0] == pytest.approx(plan.cost, 1e-5)


def test_what_cannot_be_kept_is_said(world: LocalWorld, history: History, histories: History) -> None:
    rules = [AtMost(signal="position", bound=99.0), AtMost(signal="position", bound=(-2.0, np.inf))]
    plan = world.plan(history, NEAR, constraints=rules, horizon=2)
    assert plan.status is PlanStatus.INFEASIBLE
    assert "keeps constraint 1; the best one violates it by" in plan.reason
    assert plan.reason.endswith(" m, in 'position' at step 1. The present violates it by 3 already")
    assert plan.actions["push"].shape == (2, 2)  # the least bad one
    assert plan.actions["push"][0, 0] == pytest.approx(-1, abs=0.05)
    goals = Goal(targets={"position": np.zeros((3, 2), np.float32)})
    assert "constraint 1 in world 0" in world.plan(histories, goals, constraints=rules, horizon=2).reason


def test_what_is_unlike_the_calibration_is_refused(world: LocalWorld, history: History, histories: History) -> None:
    assert world.plan(history, NEAR, horizon=2, min_trust=0.05).status is PlanStatus.SEARCHED
    far = replace(history, observations={"position": history.observations["position"] + 30})
    plan = world.plan(far, NEAR, constraints=[AtMost(signal="position", bound=9.0)], horizon=2, min_trust=0.05)
    assert plan.status is PlanStatus.REFUSED
    assert "p-value 0.01 is below min_trust 0.05" in plan.reason
    assert plan.actions["push"].shape == (0, 2)
    assert np.isnan(plan.cost)
    assert plan.violation.shape == (1,)
    position = histories.observations["position"].copy()
    position[1] += 30
    goals = Goal(targets={"position": np.zeros((3, 2), np.float32)})
    plan = world.plan(replace(histories, observations={"position": position}), goals, horizon=2, min_trust=0.05)
    assert plan.status is PlanStatus.REFUSED
    assert "the history of world 1" in plan.reason
    assert plan.actions["push"].shape == (3, 0, 2)


def test_trust_that_is_not_known_is_not_enough(engine: Linear, history: History) -> None:
    world = LocalWorld(engine, None, CrossEntropy())
    goal = replace(NEAR, tolerance={"position": 1.0})
    assert world.plan(history, goal, horizon=2).status is PlanStatus.SEARCHED
    plan = world.plan(history, goal, horizon=2, min_trust=0.01)
    assert plan.status is PlanStatus.REFUSED
    assert "not calibrated" in plan.reason


def test_a_budget_ends_the_search(world: LocalWorld, history: History) -> None:
    endless = replace(world, planner=CrossEntropy(num_iterations=1_000))
    plan = endless.plan(history, NEAR, horizon=3, budget_s=0.05)
    assert (plan.status, plan.actions["push"].shape) == (PlanStatus.OUT_OF_TIME, (3, 2))


def test_a_budget_covers_the_whole_plan(world: LocalWorld, history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second to observe, four to propose: the search has the rest of 100, but for what is kept to close."""
    now_s, told = [0.0], list[float | None]()

    class Slow(Wrapped, NumpyGoalDistance):
        def observe(self, belief: EngineBelief | None, steps: History, *, seed: int) -> EngineBelief:
            now_s[0] += 1.0
            return super().observe(belief, steps, seed=seed)

        def distance(self, belief: EngineBelief, future: Future, goal: Arrays, *, seed: int) -> np.ndarray:
            return np.zeros(future.actions["push"].shape[:3])

        def propose(self, *args: Any, budget_s: float | None = None, **rest: Any) -> dict[str, np.ndarray]:
            told.append(budget_s)
            now_s[0] += 4.0
            return {"push": np.zeros((1, 1, 3, 2), np.float32)}

    @dataclass(frozen=True, kw_only=True)
    class Told(FirstProposal):
        def plan(self, *args: Any, deadline_s: float | None = None, **rest: Any) -> PlannedActions:
            told.append(deadline_s)
            return super().plan(*args, deadline_s=deadline_s, **rest)

    monkeypatch.setattr("worldline.world.plan_search.time.monotonic", lambda: now_s[0])
    slow = LocalWorld(Slow(world.engine), None, Told())
    plan = slow.plan(history, replace(NEAR, in_steps=True), horizon=3, budget_s=100.0)
    assert told == [MAX_PROPOSAL_SHARE * ((1 - RESERVED_SHARE) * 100 - 1), (1 - RESERVED_SHARE) * 100 - 5]
    assert plan.elapsed_s == 5.0
    assert slow.plan(history, replace(NEAR, in_steps=True), horizon=3, budget_s=3.0).actions["push"].shape == (3, 2)
    assert told[-1] == 0.0  # time is over, and there is a plan all the same
    slow.plan(history, replace(NEAR, in_steps=True), horizon=3)
    assert told[-2:] == [None, None]


@pytest.mark.parametrize(
    ("argument", "value"), [("horizon", 0), ("min_trust", 1.5), ("budget_s", 0.0), ("budget_s", float("nan"))]
)
def test_arguments_out_of_range_are_named(world: LocalWorld, history: History, argument: str, value: float) -> None:
    with pytest.raises(InputError, match=f"{argument} is {value}"):
        world.plan(history, NEAR, **{"horizon": 2, argument: value})


def lever(kind: Kind, **bounds: object) -> LocalWorld:
    """A world with one action signal."""
    level = Signal(name="level", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(1,), unit="m")
    shape = () if kind is Kind.DISCRETE else (1,)
    schema = Schema(signals=(level, Signal(name="lever", role=Role.ACTION, kind=kind, shape=shape, **bounds)))
    lever = np.arange(20) % 3
    action = lever if kind is Kind.DISCRETE else lever[:, None].astype(np.float32)
    logs = [Episode(observations={"level": np.random.default_rng(0).normal(size=(21, 1))}, actions={"lever": action})]
    return LocalWorld(Linear.fit(logs, schema, context=1), None, CrossEntropy())


def test_actions_that_cannot_be_searched_are_named() -> None:
    goal = Goal(targets={"level": np.zeros(1)}, tolerance={"level": 1.0})
    start = History(observations={"level": np.zeros((1, 1))}, actions={"lever": np.zeros((0, 1))})
    with pytest.raises(UnsupportedError, match="action 'lever' has no finite bounds"):
        lever(Kind.VECTOR, low=(0.0,)).plan(start, goal, horizon=2)
    chooses = History(observations={"level": np.zeros((1, 1))}, actions={"lever": np.zeros(0, int)})
    with pytest.raises(UnsupportedError, match=r"between 3 values.*'categorical'"):
        lever(Kind.DISCRETE, num_values=3).plan(chooses, goal, horizon=2)


def test_choices_are_planned_and_proposed_as_they_are_logged() -> None:
    """A lift: the level rises by what is chosen, less 1."""
    level = Signal(name="level", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(1,), unit="m")
    gear = Signal(name="gear", role=Role.ACTION, kind=Kind.DISCRETE, shape=(), num_values=3)
    drawn = np.random.default_rng(0).integers(0, 3, (20, 30))
    logs = [
        Episode(observations={"level": np.cumsum([0, *(way - 1)], dtype=np.float32)[:, None]}, actions={"gear": way})
        for way in drawn
    ]
    engine = Linear.fit(logs, Schema(signals=(level, gear)), context=1)
    world = LocalWorld(engine, None, Categorical())
    start = History(observations={"level": np.zeros((1, 1))}, actions={"gear": np.zeros(0, int)})
    goal = Goal(targets={"level": np.array([3.0])}, tolerance={"level": 1.0})
    plan = world.plan(start, goal, horizon=5)
    assert (plan.actions["gear"].dtype, plan.actions["gear"].tolist()) == (np.int64, [2, 2, 2, 1, 1])
    proposed = world.plan(start, goal, horizon=3, proposals={"gear": np.array([[0, 2, 1]])}, planner="first_proposal")
    assert proposed.actions["gear"].tolist() == [0, 2, 1]
    assert proposed.cost == pytest.approx(world.score(start, {"gear": np.array([[0, 2, 1]])}, goal).cost[0])


def test_a_world_that_heeds_no_actions_is_not_planned_with(world: LocalWorld, history: History) -> None:
    toy = Integrator(noise=0.1, camera=False, wind=False)
    still = LocalWorld(Persistence.fit(toy.episodes(4, 12, seed=0), toy.schema), None, CrossEntropy())
    goal = replace(NEAR, tolerance={"position": 1.0})
    with pytest.raises(UnsupportedError, match=r"persistence is not action-conditioned.*with an action-conditioned"):
        still.plan(history, goal, horizon=3)
    with pytest.raises(InputError, match="horizon is 0"):
        still.plan(history, goal, horizon=0)
    assert (
        FallbackWorld([still, world]).plan(history, goal, horizon=3).cost == world.plan(history, goal, horizon=3).cost
    )
