from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.world.gain_worlds import LOGS, TOY, at, smallest_trust, world_with

from worldline.engines.baselines import Linear
from worldline.episode import Episode, History
from worldline.errors import InputError
from worldline.planning.base import Chance, Goal
from worldline.planning.calls import PlanCall
from worldline.planning.costs import AtMost
from worldline.planning.planners.cem import CrossEntropy
from worldline.planning.planners.small_searches import FirstProposal
from worldline.testing.toys import Integrator
from worldline.world.base import PlanStatus
from worldline.world.fit_calibration import calibrate
from worldline.world.local import LocalWorld
from worldline.world.logged_range import history_excess, ranges_of
from worldline.world.session import Session

GOAL = Goal(targets={"position": np.zeros(2, np.float32)})
GOAL_FOR_3 = Goal(targets={"position": np.zeros((3, 2), np.float32)})


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


def test_a_plan_whose_path_diverges_is_not_trusted_and_refused_on_request() -> None:
    world, no_plan = (
        world_with(2.0),
        PlanCall(history=at(0.5, 0.5), goal=GOAL, horizon=8, proposals={"push": np.ones((1, 8, 2))}),
    )
    world = replace(world, planner=FirstProposal())
    plan = world.answer(no_plan)
    assert (plan.status, plan.trust) == (PlanStatus.SEARCHED, smallest_trust(world))
    assert plan.prediction is not None
    assert plan.prediction.trust == plan.trust
    refused = world.answer(replace(no_plan, min_trust=1.01 * smallest_trust(world)))
    assert refused.status is PlanStatus.REFUSED
    assert "expected path of the plan is out of distribution" in refused.reason
    assert refused.trust == smallest_trust(world)


EDGE = ranges_of(TOY.schema, LOGS)
"""Low and high of position and push."""


def beyond(name: str, share: float) -> float:
    """The value of the first component above its range by this share of the range."""
    low, high = EDGE[name][:, 0]
    return float(high + share * (high - low))


def half_widths(world: LocalWorld, history: History, pushes: np.ndarray) -> np.ndarray:
    forecast = world.predict(history, {"push": pushes}).signals["position"]
    return np.asarray(forecast.high - forecast.mean)


@pytest.mark.parametrize("share", [0.01, 0.05, 0.1])
def test_an_action_outside_widens_the_band_from_its_step_on(share: float) -> None:
    world, pushes = world_with(0.9), np.zeros((6, 2))
    inside = half_widths(world, at(0, 0), pushes)
    pushes[2, 0] = beyond("push", share)
    found = half_widths(world, at(0, 0), pushes) / inside
    np.testing.assert_allclose(found[:2], 1)
    np.testing.assert_allclose(found[2:], 1 + 20 * share, rtol=1e-5)


def test_actions_far_outside_their_bounds_are_refused_and_clipped_on_request() -> None:
    world, pushes = world_with(0.9), np.full((6, 2), 1.21)
    with pytest.raises(InputError, match=r"'push' is 1.21 at \[0, 0\], above its bound 1 m"):
        world.predict(at(0, 0), {"push": pushes})
    found = world.score(at(0, 0), {"push": pushes[None]}, GOAL, clip=True)
    np.testing.assert_array_equal(found.cost, world.score(at(0, 0), {"push": np.ones((1, 6, 2))}, GOAL).cost)


def test_an_observation_outside_widens_the_whole_band() -> None:
    world, pushes = world_with(0.9), np.zeros((6, 2))
    inside = half_widths(world, at(0, 0), pushes)
    for share in (0.02, 0.1, 3.0):  # accepted however far
        found = half_widths(world, at(beyond("position", share), 0), pushes) / inside
        np.testing.assert_allclose(found, 1 + 20 * share, rtol=1e-5)


def test_trust_falls_from_5_to_10_percent_outside() -> None:
    world, pushes = world_with(0.9), np.zeros((1, 2))
    trust = float(world.predict(at(0, 0), {"push": pushes}).trust)
    shares = (0.0, 0.04, 0.06, 0.08, 0.0999)
    found = []
    for share in shares:
        pushes[0, 0] = beyond("push", share)
        found.append(float(world.predict(at(0, 0), {"push": pushes}).trust))
        scored = world.score(at(0, 0), {"push": np.stack([0 * pushes, pushes])}, GOAL).trust
        assert scored == found[-1], "the lowest of the candidates"
    assert found[:2] == [trust, trust]
    np.testing.assert_allclose(found[2:4], [0.8 * trust, 0.4 * trust], rtol=1e-3)
    assert found[4] == smallest_trust(world)


def test_history_and_exogenous_outside_reduce_the_trust_of_every_verb() -> None:
    toy = Integrator(noise=0.1, camera=False)
    logs = toy.episodes(60, 12, seed=1)
    engine = Linear.fit(logs, toy.schema, context=1)
    world = LocalWorld(
        engine, calibrate(engine, logs, horizon=4, num_windows=1, seed=0), CrossEntropy(num_candidates=8)
    )
    low, high = ranges_of(toy.schema, logs)["wind"]
    still, usual = {"push": np.zeros((4, 2))}, {"wind": np.zeros((4, 2))}
    windy = {"wind": np.tile(high + 0.5 * (high - low), (4, 1))}
    trust = world.predict(at(0, 0), still, exogenous=usual).trust
    assert trust > smallest_trust(world)
    assert world.plan(at(0, 0), GOAL, horizon=4, exogenous=usual).trust == trust
    plans = {"push": still["push"][None]}
    assert world.predict(at(0, 0), still, exogenous=windy).trust == smallest_trust(world)
    assert world.score(at(0, 0), plans, GOAL, exogenous=windy).trust == smallest_trust(world)
    refused = world.plan(at(0, 0), GOAL, horizon=4, exogenous=windy, min_trust=2 * smallest_trust(world))
    assert (refused.status, refused.trust) == (PlanStatus.REFUSED, smallest_trust(world))
    assert "; exogenous outside the logged range: wind" in refused.reason
    far = world.plan(at(500.0, 0), GOAL, horizon=4, exogenous=usual)
    assert far.reason.startswith("history outside the logged range: position[0] 500 m, logged")
    past = History(
        observations={"position": np.zeros((2, 2))},
        actions={"push": np.zeros((1, 2))},
        exogenous={"wind": windy["wind"][:1]},
    )
    assert world.predict(past, still, exogenous=usual).trust == smallest_trust(world)


def test_a_value_that_is_not_observed_is_not_outside() -> None:
    ranges = {"position": np.array([[15.0], [25.0]])}
    history = History(
        observations={"position": np.array([[[20.0], [0.0], [26.0]]])},
        actions={},
        observed={"position": np.array([[True, False, True]])},
    )
    np.testing.assert_allclose(history_excess(ranges, ["position"], history), [[0, 0, 0.1]], atol=1e-5)
    np.testing.assert_array_equal(history_excess(ranges, [], history), [[0, 0, 0]], "the engine does not read it")


@pytest.mark.parametrize(("context", "factors"), [(1, [1, 2.6, 1, 1]), (3, [1, 2.6, 2.6, 2.6])])
def test_an_observation_outside_counts_as_long_as_the_model_sees_it(context: int, factors: list[float]) -> None:
    engine = replace(world_with(0.9).engine, context=context)
    world = LocalWorld(engine, calibrate(engine, LOGS, horizon=8, num_windows=1, seed=0), CrossEntropy())
    session, usual = (Session(world, rate=0.0, num_kept=8) for _ in range(2))
    pushes = {"push": np.zeros((4, 2))}
    for step, (place, factor) in enumerate(zip((0.0, beyond("position", 0.08), 0.0, 0.0), factors, strict=True)):
        for one, value in ((session, place), (usual, 0.0)):
            one.observe({"position": np.array([value, 0.0])}, actions={"push": np.zeros(2)} if step else None)
        expected = factor * usual.predict(pushes).signals["position"].half_width
        for found in (session.predict(pushes), world.predict(session.history, pushes)):
            np.testing.assert_allclose(found.signals["position"].half_width, expected, rtol=1e-5)


def test_a_chance_constraint_uses_the_widened_band() -> None:
    world, rule = world_with(0.9), Chance(constraint=AtMost(signal="position", bound=(6.0, np.inf)), level=0.9)
    outside = at(beyond("position", 0.1), 0.0)
    plans = {"push": np.zeros((1, 4, 2))}
    found = world.score(outside, plans, GOAL, [rule]).violation[0, 0]
    band = world.predict(outside, {"push": plans["push"][0]}, level=0.9).signals["position"].high
    assert found == pytest.approx(max(0.0, float(band[:, 0].max()) - 6.0), rel=1e-5)


def test_a_goal_that_the_logs_never_came_near_is_named() -> None:
    world, (low, high) = world_with(0.9), EDGE["position"]
    target = np.array([700.0, 0.0], np.float32)
    plan = world.plan(at(0, 0), Goal(targets={"position": target}), horizon=3)
    assert plan.status is PlanStatus.GOAL_OUTSIDE_LOGS
    assert plan.reason == (f"goal outside the logged range: position[0] 700 m, logged {low[0]:.4g} to {high[0]:.4g}")
    assert "goal_outside_logs (goal outside the logged range" in plan.headline()
    assert plan.actions["push"][:, 0].min() > 0.5, "it still approaches the goal"
    near = Goal(targets={"position": high + 0.09 * (high - low)})
    assert world.plan(at(0, 0), near, horizon=3).status is PlanStatus.SEARCHED
    beyond_it = world.plan(at(0, 0), Goal(targets={"position": high + 0.11 * (high - low)}), horizon=3)
    assert beyond_it.status is PlanStatus.GOAL_OUTSIDE_LOGS


def test_an_infeasible_or_refused_plan_keeps_its_status() -> None:
    world, goal = world_with(0.9), Goal(targets={"position": np.array([700.0, 0.0], np.float32)})
    never = AtMost(signal="position", bound=-90.0)
    found = world.plan(at(0, 0), goal, constraints=[never], horizon=2)
    assert found.status is PlanStatus.INFEASIBLE
    assert found.reason.startswith("no plan was found that keeps constraint 0")
    assert world.plan(at(900, 0), goal, horizon=2, min_trust=0.5).status is PlanStatus.REFUSED
