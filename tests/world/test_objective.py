from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tests.world.wrapped import Wrapped

from worldline.engines.base import Card, Engine, EngineBelief, Noise, Novelty
from worldline.engines.baselines import Linear, Persistence
from worldline.engines.numpy_engine import NumpyGoalDistance
from worldline.episode import Arrays, Episode, Future, History
from worldline.errors import InputError, UnsupportedError
from worldline.planning.base import Chance, Goal, Rollout
from worldline.planning.costs import AtLeast, AtMost, Change, OODPenalty, Price, RequireInDistribution
from worldline.planning.costs.from_numpy import from_numpy
from worldline.planning.planners.base import Planner
from worldline.planning.planners.cem import CrossEntropy
from worldline.planning.planners.gradient import GradientPlanner
from worldline.planning.planners.small_searches import FirstProposal
from worldline.testing.toys import Integrator, picture
from worldline.world.fit_calibration import calibrate
from worldline.world.local import LocalWorld

TOY = Integrator()
EPISODES = TOY.episodes(30, 30, seed=0)


class Seeing(Wrapped, NumpyGoalDistance):
    """The linear engine, with a distance to pictures: how far the position is from where the picture is brightest."""

    def distance(self, belief: EngineBelief, future: Future, goal: Arrays, *, seed: int) -> np.ndarray:
        position = self.imagine(belief, future, num_samples=1, seed=seed).signals["position"][:, :, 0]
        return np.linalg.norm(position - self.place(goal)[:, None, None], axis=-1)

    def propose(
        self,
        belief: EngineBelief,
        goal: Arrays,
        horizon: int,
        *,
        num_proposals: int,
        pending: Arrays | None = None,
        budget_s: float | None = None,
        seed: int,
    ) -> Mapping[str, np.ndarray]:
        towards = np.sign(self.place(goal)).astype(np.float32)
        return {"push": towards[:, None, None] * np.ones((1, min(2, num_proposals), horizon, 1), np.float32)}

    def place(self, goal: Arrays) -> np.ndarray:
        if "camera" not in goal:
            return goal["position"].astype(float)
        flat = goal["camera"].reshape(len(goal["camera"]), -1).argmax(1)
        return np.stack([flat % 8, flat // 8], -1) - 3.5


@pytest.fixture(scope="module")
def linear() -> Linear:
    return Linear.fit(EPISODES, TOY.schema)


@pytest.fixture(scope="module")
def plain(linear: Linear) -> LocalWorld:
    return LocalWorld(linear, None, CrossEntropy())


def at_origin(episode: Episode = EPISODES[0]) -> History:
    return History(
        observations={"position": np.zeros((1, 2), np.float32), "camera": picture(np.zeros((1, 2)))},
        actions={"push": np.zeros((0, 2), np.float32)},
        exogenous={"wind": np.zeros((0, 2), np.float32)},
    )


WIND = {"wind": np.zeros((2, 2), np.float32)}
PLANS = {"push": np.array([[[1, 0], [0, 0]], [[0, 0], [0, 0]], [[1, 1], [1, 1]]], np.float32)}
AT_REST = Goal(targets={"position": np.zeros(2, np.float32)}, tolerance={"position": 1.0})
PICTURE = Goal(targets={"camera": picture(np.array([1.5, -2.5]))})


def test_the_cost_is_the_squared_error_over_the_tolerance_of_all_steps(plain: LocalWorld) -> None:
    goal = Goal(targets={"position": np.zeros(2, np.float32)}, tolerance={"position": 0.5})
    found = plain.score(at_origin(), PLANS, goal, exogenous=WIND)
    np.testing.assert_allclose(found.cost, [(1 + 0.81) / 2 / 0.25, 0, (1 + 1.9**2) / 0.25], rtol=1e-3, atol=1e-4)
    assert found.violation.shape == (3, 0)


def test_a_target_needs_a_tolerance_from_somewhere(linear: Linear) -> None:
    with pytest.raises(UnsupportedError, match=r"'position' has no tolerance and .* is not calibrated\. Set one in m"):
        LocalWorld(linear, None, CrossEntropy()).score(
            at_origin(), PLANS, Goal(targets={"position": np.zeros(2)}), exogenous=WIND
        )


def test_constraints_are_judged_beside_the_cost(plain: LocalWorld) -> None:
    rules = (AtMost(signal="position", bound=0.5), AtMost(signal="position", bound=9.0))
    found = plain.score(at_origin(), PLANS, AT_REST, rules, exogenous=WIND)
    np.testing.assert_allclose(found.violation, [[0.5, 0], [0, 0], [1.4, 0]], atol=1e-2)
    with pytest.raises(InputError, match=r"constraint 0: expected shape \[W, N\] = \(1, 3\), got shape \(\)"):
        plain.score(at_origin(), PLANS, AT_REST, [lambda rollout: torch.zeros(())], exogenous=WIND)


def test_a_picture_needs_a_distance_head(linear: Linear) -> None:
    for engine in (linear, Persistence.fit(EPISODES, TOY.schema)):
        world = LocalWorld(engine, None, CrossEntropy())
        with pytest.raises(UnsupportedError, match="no distance head, which in_steps or a goal on camera needs"):
            world.score(at_origin(), PLANS, PICTURE, exogenous=WIND)
        with pytest.raises(UnsupportedError, match="distance head"):
            world.plan(at_origin(), PICTURE, horizon=2, exogenous=WIND)


def test_a_picture_is_approached_by_its_distance(linear: Linear) -> None:
    world = LocalWorld(Seeing(linear), None, CrossEntropy(num_iterations=6))
    scores = world.score(at_origin(), PLANS, PICTURE, [AtMost(signal="position", bound=0.5)], exogenous=WIND)
    goal = np.array([1.5, -2.5])
    np.testing.assert_allclose(
        scores.cost, [sum(np.linalg.norm(np.array(p) - goal) for p in path) for path in
                      ([(1, 0), (0.9, 0)], [(0, 0), (0, 0)], [(1, 1), (1.9, 1.9)])], rtol=1e-3)  # fmt: skip
    np.testing.assert_allclose(scores.violation[:, 0], [0.5, 0, 1.4], atol=1e-2)
    plan = world.plan(at_origin(), PICTURE, horizon=2, exogenous=WIND)
    np.testing.assert_allclose(plan.actions["push"][0], [1, -1], atol=0.1)


def test_a_predicted_target_is_approached_in_steps_where_the_goal_says_so(linear: Linear) -> None:
    """The distance of the stand-in is that of the plane, its error to a target the square of it."""
    world, goal = LocalWorld(Seeing(linear), None, CrossEntropy()), replace(AT_REST, in_steps=True)
    steps, squares = (world.score(at_origin(), PLANS, one, exogenous=WIND).cost for one in (goal, AT_REST))
    np.testing.assert_allclose(steps, [1.9, 0, np.sqrt(2) * 2.9], atol=1e-2)
    np.testing.assert_allclose(squares, [(1 + 0.81) / 2, 0, 1 + 1.9**2], atol=1e-2)
    with pytest.raises(UnsupportedError, match="which in_steps or a goal on position needs"):
        LocalWorld(linear, None, CrossEntropy()).score(at_origin(), PLANS, goal, exogenous=WIND)


def test_the_engine_proposes_where_the_distance_counts(linear: Linear) -> None:
    world = LocalWorld(Seeing(linear), None, FirstProposal(), num_proposals=1)
    plan = world.plan(at_origin(), PICTURE, horizon=2, exogenous=WIND)
    np.testing.assert_array_equal(plan.actions["push"], [[1, -1], [1, -1]])
    given = {"push": np.full((1, 2, 2), 0.25, np.float32)}
    plan = world.plan(at_origin(), PICTURE, horizon=2, exogenous=WIND, proposals=given)
    np.testing.assert_array_equal(plan.actions["push"], given["push"][0])  # the user's come first
    deaf = LocalWorld(Seeing(linear), None, CrossEntropy(num_candidates=8, num_iterations=1), num_proposals=0)
    plan = deaf.plan(at_origin(), PICTURE, horizon=2, exogenous=WIND)
    assert not np.array_equal(plan.actions["push"], [[1, -1], [1, -1]])


def test_goals_that_make_no_sense_are_refused(linear: Linear, plain: LocalWorld) -> None:
    with pytest.raises(InputError, match="no target, no cost and no reward"):
        plain.score(at_origin(), PLANS, Goal(), exogenous=WIND)
    for name in ("risk", "discount"):
        for value in (0.0, 1.5, float("nan")):
            with pytest.raises(InputError, match=f"goal's {name} is {value}"):
                plain.score(at_origin(), PLANS, replace(PICTURE, **{name: value}), exogenous=WIND)
    flat = Goal(costs=(lambda rollout: rollout.signals["push"].sum((2, 3, 4)),))
    with pytest.raises(InputError, match=r"cost 0: expected shape \[W, N, S, T\] .* got shape \(1, 3\)"):
        plain.score(at_origin(), PLANS, flat, exogenous=WIND)
    short = Goal(costs=(lambda rollout: torch.zeros((1, 3, 1, 3)),))
    with pytest.raises(InputError, match=r"= \(1, 3, 1, 2\), got shape \(1, 3, 1, 3\)"):
        plain.score(at_origin(), PLANS, short, exogenous=WIND)
    with pytest.raises(UnsupportedError, match=r"risk is 0\.5, but the distance to camera is a mean"):
        LocalWorld(Seeing(linear), None, CrossEntropy()).score(
            at_origin(), PLANS, replace(PICTURE, risk=0.5), exogenous=WIND
        )


def test_what_one_world_has_not_seen_does_not_change_another(world: LocalWorld) -> None:
    position = np.array([[[0.0, 0.0]], [[1.0, 1.0]]], np.float32)
    history = History(
        observations={"position": position},
        actions={"push": np.zeros((2, 0, 2), np.float32)},
        observed={"position": np.array([[False], [True]])},
    )
    goal, plans = Goal(costs=(Change(signal="position", tolerance=1.0),)), np.zeros((2, 1, 2, 2), np.float32)
    both = world.score(history, {"push": plans}, goal).cost
    alone = History(observations={"position": position[1]}, actions={"push": np.zeros((0, 2), np.float32)})
    assert both[1] == pytest.approx(world.score(alone, {"push": plans[1]}, goal).cost)
    assert np.isfinite(both).all()


class Steep(Engine):
    """The linear engine in torch, without noise: what is left of a push decays."""

    def __init__(self, samples: int = 1, limit: int = 1000) -> None:
        self.toy, self.samples, self.limit = Integrator(camera=False, wind=False), samples, limit
        self.num_rollouts = 0

    def describe(self) -> Card:
        return Card(
            name="steep", engine="steep", schema=self.toy.schema, inputs=("position",), predicts=("position",),
            context=1,
            deterministic=self.samples == 1, abilities=("differentiable",),
        )  # fmt: skip

    def observe(self, belief: EngineBelief | None, steps: History, *, seed: int) -> EngineBelief:
        return torch.from_numpy(steps.observations["position"][:, -1].astype(float))

    def max_candidates(self, belief: EngineBelief, horizon: int, num_samples: int) -> int:
        return self.limit

    def rollout(
        self,
        belief: EngineBelief,
        actions: torch.Tensor,
        exogenous: torch.Tensor | None,
        *,
        num_samples: int,
        noise: Noise | None = None,
        seed: int,
    ) -> Rollout:
        assert isinstance(belief, torch.Tensor)
        assert actions.shape[1] <= self.limit
        self.num_rollouts += 1
        strength = 1 + torch.arange(self.samples)[:, None]  # of the pushes, in each sample
        now, path = belief[:, None, None], []
        for push in actions.unbind(2):
            now = self.toy.decay * now + strength * push[:, :, None]
            path.append(now)
        return Rollout(
            signals={"position": torch.stack(path, 3).float()},
            goal_distance=lambda goal: torch.stack(path, 3).sub(goal).norm(dim=-1).mean(2),
        )


CALM_ORIGIN = History(observations={"position": np.zeros((1, 2), np.float32)}, actions={"push": np.zeros((0, 2), "f4")})


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("settings", [{}, {"discount": 0.5}, {"last_only": True}, {"risk": 0.5}])
def test_the_slope_of_a_cost_is_what_a_small_change_changes(samples: int, settings: dict[str, float]) -> None:
    goal = Goal(targets={"position": np.array([1.0, -2.0])}, tolerance={"position": 0.7}, **settings)
    aims, draw = [], np.random.default_rng(0)

    class Catching(Planner):
        def plan(self, cost, space, *, batch, horizon, **rest):
            actions = torch.from_numpy(draw.uniform(-0.5, 0.5, (batch, 2, horizon, 2)).astype(np.float32))
            leaf = actions.clone().requires_grad_()
            cost(leaf).cost.sum().backward()
            way = torch.from_numpy(draw.normal(size=actions.shape).astype(np.float32))
            ends = [float(cost(actions + sign * 1e-2 * way).cost.sum()) for sign in (1, -1)]
            assert leaf.grad is not None
            aims.append((float((leaf.grad * way).sum()), (ends[0] - ends[1]) / 2e-2))
            return CrossEntropy().plan(cost, space, batch=batch, horizon=horizon, **rest)

    LocalWorld(Steep(samples), None, Catching()).plan(CALM_ORIGIN, goal, horizon=4)
    ((told, seen),) = aims
    assert told == pytest.approx(seen, rel=2e-2, abs=2e-2)


def test_the_gradient_planner_is_refused_what_has_no_slope(world: LocalWorld, history: History, linear: Linear) -> None:
    goal = Goal(targets={"position": np.zeros(2, np.float32)}, tolerance={"position": 1.0})
    with pytest.raises(UnsupportedError, match="linear does not compute with torch"):
        replace(world, planner=GradientPlanner()).plan(history, goal, horizon=2)
    steep = LocalWorld(Steep(), None, GradientPlanner())
    flat = from_numpy(lambda rollout: np.abs(rollout.signals["push"][..., 0]))
    with pytest.raises(UnsupportedError, match="from_numpy has no gradient"):
        steep.plan(CALM_ORIGIN, replace(goal, costs=(flat,)), horizon=2)


def test_a_numpy_cost_counts_as_the_same_cost_in_torch(plain: LocalWorld) -> None:
    costs = (
        from_numpy(lambda rollout: np.abs(rollout.signals["position"]).sum(-1)),
        lambda rollout: rollout.signals["position"].abs().sum(-1),
    )
    found = [plain.score(at_origin(), PLANS, Goal(costs=(cost,)), exogenous=WIND).cost for cost in costs]
    np.testing.assert_allclose(found[0], found[1], rtol=1e-6)
    assert found[0][0] > 1
    for broken in (lambda rollout: np.zeros((1, 3, 1, 2)), lambda rollout: 0.0):
        with pytest.raises(InputError, match="wrap a NumPy function in from_numpy"):
            plain.score(at_origin(), PLANS, Goal(costs=(broken,)), exogenous=WIND)
        with pytest.raises(InputError, match="wrap a NumPy function in from_numpy"):
            plain.score(at_origin(), PLANS, AT_REST, [broken], exogenous=WIND)


def test_a_population_is_rolled_out_once_or_in_parts_that_fit() -> None:
    goal = replace(AT_REST, targets={"position": np.array([1.5, 0.0])}, costs=(Price(signal="push", price=1.0),))
    rules = [AtMost(signal="position", bound=0.4), AtLeast(signal="position", bound=-5.0)]
    plans = {"push": np.random.default_rng(0).uniform(-1, 1, (10, 3, 2)).astype(np.float32)}
    whole, parts = Steep(), Steep(limit=4)
    found = [LocalWorld(one, None, CrossEntropy()).score(CALM_ORIGIN, plans, goal, rules) for one in (whole, parts)]
    assert (whole.num_rollouts, parts.num_rollouts) == (1, 3)
    np.testing.assert_array_equal(found[0].cost, found[1].cost)
    np.testing.assert_array_equal(found[0].violation, found[1].violation)


def test_a_chance_needs_a_calibration_that_reaches_as_far(world: LocalWorld, history: History) -> None:
    rule = Chance(constraint=AtMost(signal="position", bound=1.0), level=0.9)
    goal = Goal(targets={"position": np.zeros(2, np.float32)}, tolerance={"position": 1.0})
    with pytest.raises(UnsupportedError, match=r"probability 0\.9, but the world is not calibrated"):
        replace(world, calibration=None).plan(history, goal, constraints=[rule], horizon=2)
    with pytest.raises(UnsupportedError, match="calibrated up to 8"):
        world.plan(history, goal, constraints=[rule], horizon=9)


def test_a_rule_that_is_planned_with_a_chance_is_kept_that_often(world: LocalWorld) -> None:
    """The goal lies behind the bound, so plans go as near as they may."""
    toy, count, horizon = Integrator(noise=0.1, camera=False, wind=False), 200, 4
    start = np.random.default_rng(3).uniform(-1, 0.5, (count, 1, 2)).astype(np.float32)
    history = History(observations={"position": start}, actions={"push": np.zeros((count, 0, 2), np.float32)})
    goal = Goal(targets={"position": np.full((count, 2), 3.0, np.float32)}, tolerance={"position": 1.0})
    broken = []
    rule = AtMost(signal="position", bound=1.0)
    for constraint in (rule, Chance(constraint=rule, level=0.9)):
        plan = world.plan(history, goal, constraints=[constraint], horizon=horizon)
        place, over, draw = start[:, 0].astype(float), np.zeros(count, bool), np.random.default_rng(4)
        for step in range(horizon):
            place = toy.step(place, plan.actions["push"][:, step], np.zeros((count, 2)))
            place = place + 0.1 * draw.standard_normal((count, 2))
            over |= (place > 1.0).any(1)
        broken.append(over.mean())
    assert broken[0] > 0.3
    assert broken[1] <= 0.1


def test_a_chance_of_what_was_hardly_observed_is_refused() -> None:
    toy = Integrator(camera=False, wind=False, noise=0.1)
    logs, linear = toy.episodes(40, 12, seed=1), Linear.fit(toy.episodes(20, 12, seed=0), toy.schema, context=1)
    logs = [replace(one, observed={"position": np.arange(13) < (9 if n < 3 else 1)}) for n, one in enumerate(logs)]
    seldom = calibrate(linear, logs, horizon=4, num_windows=1, seed=0, trust_steps=0)
    world, episode = LocalWorld(linear, seldom, CrossEntropy(num_candidates=16, num_iterations=2)), logs[0]
    rule = AtMost(signal="position", bound=9.0)
    goal = Goal(targets={"position": np.zeros(2)})
    with pytest.raises(UnsupportedError, match=r"constraint 0 .* probability 0.8, but too few calibration windows"):
        world.plan(episode.history(3, 1), goal, constraints=[Chance(constraint=rule, level=0.8)], horizon=4)
    assert world.plan(episode.history(3, 1), goal, constraints=[rule], horizon=4).reason == ""


class Drawn(Steep):
    """Draws as many strengths of the pushes as it is asked for, and keeps these numbers."""

    def __init__(self) -> None:
        super().__init__(2)
        self.asked: list[int] = []

    def rollout(self, *args: Any, num_samples: int, **rest: Any) -> Rollout:
        self.asked.append(num_samples)
        self.samples = num_samples
        return super().rollout(*args, num_samples=num_samples, **rest)


@pytest.mark.parametrize(("risk", "searched"), [(1.0, 5), (0.5, 16)])
def test_a_search_draws_few_samples_and_its_best_plans_are_compared_with_all(risk: float, searched: int) -> None:
    engine = Drawn()
    world = LocalWorld(engine, None, CrossEntropy(num_candidates=32, num_iterations=3))
    goal = Goal(targets={"position": np.array([4.0, -3.0])}, tolerance={"position": 1.0}, risk=risk)
    plan = world.plan(CALM_ORIGIN, goal, horizon=2)
    # After the search: the best plans with all samples, and the expected path.
    assert engine.asked == [searched] * 3 + [16] * (searched < 16) + [16]
    every = world.score(CALM_ORIGIN, {"push": plan.actions["push"][None]}, goal)
    assert plan.cost == pytest.approx(every.cost[0], rel=1e-6)


class Local(Steep, Novelty):
    """The engine in torch, to which a position is the less familiar the further it is from the origin."""

    def describe(self) -> Card:
        return replace(super().describe(), abilities=("differentiable", "novelty"))

    def rollout(self, *args: Any, **kwargs: Any) -> Rollout:
        found = super().rollout(*args, **kwargs)
        return replace(found, ood_score=lambda: found.signals["position"].norm(dim=-1).mean(2))

    def novelty(self, belief: EngineBelief) -> np.ndarray:
        assert isinstance(belief, torch.Tensor)
        return belief.norm(dim=-1).numpy()


def test_the_gradient_planner_returns_to_familiar_states() -> None:
    """The goal lies outside of all that was seen."""
    engine = Local()
    calibration = calibrate(engine, engine.toy.episodes(40, 12, seed=0), horizon=12, num_windows=4, seed=0)
    world = LocalWorld(engine, calibration, GradientPlanner(num_iterations=100))
    edge = float(calibration.novelty[calibration.trust(calibration.novelty) >= 0.1].max())
    far = Goal(targets={"position": np.full(2, 30.0)}, tolerance={"position": 1.0})
    penalised = replace(far, costs=(OODPenalty(trust=0.1, weight=1e4),))

    def furthest(goal: Goal, *rules: RequireInDistribution) -> float:
        plan = world.plan(CALM_ORIGIN, goal, constraints=rules, horizon=12)
        assert (plan.violation == 0).all()
        return float(np.linalg.norm(world.predict(CALM_ORIGIN, plan.actions).signals["position"].mean, axis=-1).max())

    assert furthest(far) > 1.5 * edge
    assert 0.7 * edge < furthest(far, RequireInDistribution(trust=0.1)) <= edge + 1e-3
    assert 0.7 * edge < furthest(penalised) <= edge + 1e-3


def test_a_trust_that_so_few_episodes_cannot_tell_is_refused() -> None:
    """Nothing would ever lie below it, and the rule would keep nothing out."""
    engine = Local()
    calibration = calibrate(engine, engine.toy.episodes(30, 12, seed=0), horizon=4, num_windows=1, seed=0)
    world, least = LocalWorld(engine, calibration, CrossEntropy()), 1 / (calibration.num_episodes + 1)
    goal = Goal(targets={"position": np.zeros(2, np.float32)})
    with pytest.raises(UnsupportedError, match="calibration episodes give none below"):
        world.score(CALM_ORIGIN, PLANS, goal, [RequireInDistribution(trust=least)])
    far = world.score(CALM_ORIGIN, PLANS, goal, [RequireInDistribution(trust=1.5 * least)])
    assert far.violation.shape == (3, 1)


def test_what_the_better_samples_cost_does_not_matter_however_much(linear: Linear) -> None:
    """Nor does an infinite cost of the worse ones become anything else."""
    world = LocalWorld(Steep(4), None, CrossEntropy())
    plan = {"push": np.full((1, 1, 2), 0.1, np.float32)}

    def told(costs: list[float], risk: float) -> float:
        goal = Goal(costs=(lambda rollout: torch.tensor(costs).reshape(1, 1, 4, 1),), risk=risk)
        return float(world.score(CALM_ORIGIN, plan, goal).cost[0])

    assert told([0, np.inf, np.inf, np.inf], 0.5) == np.inf
    assert told([-np.inf, 1, 2, 3], 0.5) == pytest.approx(2.5)
    assert told([3, 0, 1, 2], 0.25) == pytest.approx(3)


def test_a_world_that_cannot_tell_the_new_does_not_pretend_to(world: LocalWorld, history: History) -> None:
    plans, goal = {"push": np.zeros((1, 2, 2), np.float32)}, Goal(costs=(OODPenalty(),))
    with pytest.raises(UnsupportedError, match="does not measure novelty"):
        world.score(history, plans, goal)
    with pytest.raises(UnsupportedError, match="not calibrated"):
        LocalWorld(Local(), None, CrossEntropy()).score(CALM_ORIGIN, PLANS, goal)
