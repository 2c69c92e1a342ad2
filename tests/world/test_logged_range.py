from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.world.gain_worlds import LOGS, TOY, at, smallest_trust, world_with

from worldline.episode import Episode, History
from worldline.planning.base import Goal, PlanRequest
from worldline.planning.planners.first_proposal import FirstProposal
from worldline.schema import Kind, Role, Schema, Signal
from worldline.world.base import PlanStatus
from worldline.world.logged_range import leaves_range, ranges_of

GOAL = Goal(targets={"position": np.zeros(2, np.float32)})
GOAL_FOR_3 = Goal(targets={"position": np.zeros((3, 2), np.float32)})


def vector(name: str, role: Role, size: int = 1, period: float | None = None) -> Signal:
    return Signal(name=name, role=role, kind=Kind.VECTOR, shape=(size,), period=period)


SCHEMA = Schema(
    signals=(
        vector("level", Role.OBSERVATION, 2),
        vector("angle", Role.OBSERVATION, period=360.0),
        Signal(name="mode", role=Role.OBSERVATION, kind=Kind.DISCRETE, shape=(), num_values=3),
        vector("valve", Role.ACTION),
        vector("inflow", Role.EXOGENOUS),
        vector("gain", Role.REWARD),
    )
)


def episode(*levels: float, valve: float = 0.5) -> Episode:
    """The second level is ten times the first."""
    steps = len(levels) - 1
    return Episode(
        observations={
            "level": np.array([[level, 10 * level] for level in levels], np.float32),
            "angle": np.full((steps + 1, 1), 359.0, np.float32),
            "mode": np.zeros(steps + 1, np.int64),
        },
        actions={"valve": np.full((steps, 1), valve, np.float32)},
        exogenous={"inflow": np.full((steps, 1), 2.0, np.float32)},
        rewards={"gain": np.ones((steps, 1), np.float32)},
    )


def test_the_range_spans_all_episodes_per_component() -> None:
    found = ranges_of(SCHEMA, [episode(1.0, 3.0), episode(-1.0, 2.0, valve=0.75), episode(2.0)])
    assert found.keys() == {"level", "valve", "inflow"}, "no periodic, discrete or reward signals"
    np.testing.assert_array_equal(found["level"], [[-1, -10], [3, 30]])
    np.testing.assert_array_equal(found["valve"], [[0.5], [0.75]])
    np.testing.assert_array_equal(found["inflow"], [[2], [2]])


def test_missing_values_do_not_count() -> None:
    seen = replace(episode(1.0, 900.0, 3.0), observed={"level": np.array([True, False, True])})
    unseen = replace(episode(-5.0, 50.0), observed={"level": np.zeros(2, bool)})
    np.testing.assert_array_equal(ranges_of(SCHEMA, [unseen, seen])["level"], [[1, 10], [3, 30]])
    assert "level" not in ranges_of(SCHEMA, [unseen])


@pytest.mark.parametrize("gain", [0.5, 0.9, 1.0, 1.02, -1.1, 2.0])
def test_a_path_stays_near_the_logs_or_has_the_smallest_trust(gain: float) -> None:
    world, (low, high) = world_with(gain), ranges_of(TOY.schema, LOGS)["position"]
    rng, diverged = np.random.default_rng(0), 0
    for number, pushes in enumerate((np.ones((500, 2)), -np.ones((500, 2)), rng.choice([-1.0, 1.0], (500, 2)))):
        found = world.predict(LOGS[number].history(at=6), {"push": pushes.astype(np.float32)})
        path = found.signals["position"].mean
        if ((path < low - 10 * (high - low)) | (path > high + 10 * (high - low))).any():
            diverged += 1
            assert found.trust == smallest_trust(world)
    # A gain of 1 adds up constant pushes.
    assert diverged == (3 if abs(gain) > 1 else 2 if gain == 1 else 0)


def test_only_the_world_that_diverges_loses_trust() -> None:
    world = world_with(2.0)
    histories = History.stack([at(0.0, 0.0), at(2.0, 0.0), at(0.0, 0.1)])
    still = {"push": np.zeros((3, 6, 2), np.float32)}
    alone = np.asarray(world.predict(histories, {"push": still["push"][:, :1]}).trust)
    assert (alone > smallest_trust(world)).all()
    np.testing.assert_array_equal(world.predict(histories, still).trust, [alone[0], smallest_trust(world), alone[2]])
    np.testing.assert_array_equal(
        world.score(histories, {"push": still["push"][:, None]}, GOAL_FOR_3).trust,
        [alone[0], smallest_trust(world), alone[2]],
    )


def test_scores_are_trusted_if_no_candidate_diverges() -> None:
    world, candidates = world_with(2.0), np.zeros((2, 6, 2), np.float32)
    trust = world.score(at(0.0, 0.0), {"push": candidates}, GOAL).trust
    assert trust > smallest_trust(world)
    candidates[1, 0, 0] = 1.0
    assert world.score(at(0.0, 0.0), {"push": candidates}, GOAL).trust == smallest_trust(world)


def test_a_plan_whose_path_diverges_is_not_trusted_and_refused_on_request() -> None:
    world, no_plan = world_with(2.0), PlanRequest(goal=GOAL, horizon=8, proposals={"push": np.ones((1, 8, 2))})
    world = replace(world, planner=FirstProposal())
    plan = world.answer_plan(at(0.5, 0.5), no_plan)
    assert plan.status is PlanStatus.CONVERGED
    assert plan.trust == smallest_trust(world)
    assert plan.prediction is not None
    assert plan.prediction.trust == plan.trust
    refused = world.answer_plan(at(0.5, 0.5), replace(no_plan, min_trust=1.01 * smallest_trust(world)))
    assert refused.status is PlanStatus.REFUSED
    assert "expected path of the plan is out of distribution" in refused.reason
    assert refused.trust == smallest_trust(world)


def test_a_component_that_never_changed_has_no_scale() -> None:
    ranges = {"level": np.array([[0.0, 5.0], [1.0, 5.0]])}
    path = np.array([[[0.5, 90.0], [2.9, -90.0]], [[0.5, 5.0], [3.1, 5.0]], [[0.5, 5.0], [0.5, np.nan]]])
    np.testing.assert_array_equal(leaves_range(ranges, {"level": path}), [False, True, True])
