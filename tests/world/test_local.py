from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.world.toy_worlds import TOY as CALM
from tests.world.toy_worlds import Biased

from worldline.engines.base import CallCost, Card, EngineBelief, Samples
from worldline.engines.baselines import Linear, Persistence
from worldline.engines.numpy_engine import NumpyEngine, NumpyNovelty
from worldline.episode import Episode, Future, History
from worldline.errors import ConfigError, InputError, UnsupportedError
from worldline.planning.base import Goal
from worldline.planning.planners.cem import CrossEntropy
from worldline.schema import Kind, Role, Schema, Signal
from worldline.testing import check_world
from worldline.testing.toys import Integrator
from worldline.world.fit_calibration import calibrate
from worldline.world.local import LocalWorld

PUSH = {"push": np.array([[0.5, 0.0], [-0.5, 1.0], [0.0, 0.0]], np.float32)}
GOAL = Goal(targets={"position": np.array([0.5, 0.0], np.float32)})


def test_the_card_says_what_a_call_costs(world: LocalWorld) -> None:
    cost, own = CallCost(latency_s=0.5), CallCost(latency_s=2.0, price=0.01, currency="USD")
    assert world.describe().call is None
    assert replace(world, call=cost).describe() == replace(world.describe(), call=cost)
    assert LocalWorld(Priced(own), None, CrossEntropy(), call=cost).describe().call == own


def test_conforms_with_pictures_wind_and_gaps() -> None:
    toy = Integrator(noise=0.2)
    engine = Persistence.fit(toy.episodes(10, 20, seed=0), toy.schema)
    calibration = calibrate(engine, toy.episodes(132, 12, seed=1), horizon=4, num_windows=1, seed=0)
    world = LocalWorld(engine, calibration, CrossEntropy())
    check_world(world, toy.episodes(60, 12, seed=2), GOAL, num_calibration=calibration.num_episodes)


def test_a_prediction_follows_the_actions(world: LocalWorld, history: History) -> None:
    found = world.predict(history, PUSH)
    position = np.array([1.0, -1.0])
    for step, push in enumerate(PUSH["push"]):
        position = 0.9 * position + push
        np.testing.assert_allclose(found.signals["position"].mean[step], position, atol=0.1)
    assert found.calibrated
    assert isinstance(found.trust, float)
    assert found.signals["position"].horizon == 3


def test_without_calibration_nothing_is_claimed(engine: Linear, history: History, fresh: list[Episode]) -> None:
    world = LocalWorld(engine, None, CrossEntropy())
    found = world.predict(history, PUSH)
    assert not found.calibrated
    assert np.isnan(found.trust)
    assert (found.signals["position"].low, found.signals["position"].horizon) == (None, 0)
    with pytest.raises(UnsupportedError, match="surprise needs a calibration"):
        world.surprise(fresh[0])


class Dice(NumpyEngine, NumpyNovelty):
    """Three signals that do not follow from anything; four sides to the die."""

    schema = Schema(
        signals=(
            Signal(name="level", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(1,)),
            Signal(name="view", role=Role.OBSERVATION, kind=Kind.IMAGE, shape=(1, 1, 1)),
            Signal(name="side", role=Role.OBSERVATION, kind=Kind.DISCRETE, shape=(), num_values=4),
            Signal(name="push", role=Role.ACTION, kind=Kind.VECTOR, shape=(1,), low=(-1.0,), high=(1.0,)),
        )
    )

    def describe(self) -> Card:
        names = ("level", "view", "side")
        return Card(
            name="dice", engine="dice", schema=self.schema, inputs=("level",), predicts=names, context=1,
            deterministic=False, abilities=("novelty",),
        )  # fmt: skip

    def observe(self, belief: EngineBelief | None, steps: History, *, seed: int) -> EngineBelief:
        return steps.observations["level"][:, -1, 0]

    def novelty(self, belief: EngineBelief) -> np.ndarray:
        assert isinstance(belief, np.ndarray)
        return np.abs(belief)

    def novelty_ahead(self, belief: EngineBelief, future: Future, *, seed: int) -> np.ndarray:
        return np.abs(future.actions["push"][..., 0])

    def imagine(self, belief: EngineBelief, future: Future, *, num_samples: int, seed: int, **rest: Any) -> Samples:
        worlds, versions, horizon = future.actions["push"].shape[:3]
        shape = (worlds, versions, num_samples, horizon)
        number = np.broadcast_to(np.arange(num_samples)[:, None], shape)
        return Samples(
            signals={
                "level": number[..., None].astype(np.float32),
                "view": (10 * number)[..., None, None, None].astype(np.uint8),
                "side": np.where(number < 2, 1, np.where(number < 5, 3, number % 3)),
            }
        )


class Priced(Dice):
    """Knows what it costs."""

    def __init__(self, call: CallCost) -> None:
        self.call = call

    def describe(self) -> Card:
        return replace(super().describe(), call=self.call)


def dice(num_episodes: int, num_steps: int) -> list[Episode]:
    rng = np.random.default_rng(0)
    return [
        Episode(
            observations={
                "level": rng.normal(size=(num_steps + 1, 1)).astype(np.float32),
                "view": rng.integers(0, 9, (num_steps + 1, 1, 1, 1)).astype(np.uint8),
                "side": rng.integers(0, 4, num_steps + 1),
            },
            actions={"push": rng.uniform(-1, 1, (num_steps, 1)).astype(np.float32)},
        )
        for _ in range(num_episodes)
    ]


def test_samples_become_a_mean_a_picture_and_a_label() -> None:
    calibration = calibrate(Dice(), dice(40, 5), horizon=2, num_windows=1, seed=0)
    world = LocalWorld(Dice(), calibration, CrossEntropy())
    found = world.predict(dice(1, 0)[0].history(0, 1), {"push": np.zeros((2, 1), np.float32)})
    numbers = np.arange(16)
    assert found.signals["level"].mean[0, 0] == numbers.mean()
    assert found.signals["view"].mean[0] == np.rint(10 * numbers.mean())
    assert found.signals["view"].mean.dtype == np.uint8
    labels = np.where(numbers < 2, 1, np.where(numbers < 5, 3, numbers % 3))
    assert found.signals["side"].mean[0] == np.bincount(labels).argmax()
    assert found.signals["view"].low is None
    assert found.signals["level"].low is not None


def test_an_engine_that_measures_novelty_is_asked() -> None:
    calibration = calibrate(Dice(), dice(40, 5), horizon=2, num_windows=1, seed=0)
    assert calibration.input_novelty is None
    world = LocalWorld(Dice(), calibration, CrossEntropy())
    batch = replace(
        dice(1, 0)[0], observations={k: v[None].repeat(2, 0) for k, v in dice(1, 0)[0].observations.items()}
    )
    levels = np.array([[[0.0]], [[99.0]]], np.float32)
    history = History(observations={**batch.observations, "level": levels}, actions={"push": np.zeros((2, 0, 1))})
    found = world.predict(history, {"push": np.zeros((2, 1, 1), np.float32)})
    np.testing.assert_allclose(found.trust, [1.0, 1 / 31])
    other = Persistence.fit(dice(2, 5), Dice.schema)
    with pytest.raises(ConfigError, match="Calibrate this engine"):
        LocalWorld(other, calibration, CrossEntropy())


@pytest.mark.parametrize("at", [-1, 10, 12])
def test_a_branch_that_does_not_fit_is_refused(world: LocalWorld, fresh: list[Episode], at: int) -> None:
    with pytest.raises(InputError, match=f"3 steps from observation {at} exceed the episode of 12 steps"):
        world.what_if(fresh[0], at, PUSH)


def test_an_episode_with_a_value_beyond_the_arithmetic_is_refused(world: LocalWorld, fresh: list[Episode]) -> None:
    position = fresh[0].observations["position"].copy()
    position[2, 1] = 3e38
    (low, high), size = (ends := world.calibration.logged_range["position"])[:, 1], np.abs(ends[:, 1]).max()
    reach = 1e6 * max(high - low, size)
    bounds = re.escape(f"computes with {low - reach:.4g} to {high + reach:.4g}")
    with pytest.raises(UnsupportedError, match=rf"position\[1\] is 3e\+38 .*{bounds}"):
        world.what_if(replace(fresh[0], observations={"position": position}), 3, PUSH)


def test_surprise_flags_a_planted_jump(world: LocalWorld, fresh: list[Episode]) -> None:
    episode = fresh[0]
    position = episode.observations["position"].copy()
    position[6:, 0] += 3
    found = world.surprise(replace(episode, observations={"position": position})).p_values["position"]
    assert found.shape == (12,)
    assert found[5] == pytest.approx(0.01)  # as small as 99 episodes can tell
    assert found.argmin() == 5
    missing = np.arange(13) != 6
    blind = world.surprise(replace(episode, observations={"position": position}, observed={"position": missing}))
    assert blind.p_values["position"][5] == 1


def test_surprise_counts_the_early_steps_too() -> None:
    toy = Integrator(noise=0.1, camera=False, wind=False)
    engine = Linear.fit(toy.episodes(60, 50, seed=0), toy.schema, context=4)
    world = LocalWorld(
        engine, calibrate(engine, toy.episodes(50, 9, seed=1), horizon=2, num_windows=1, seed=0), CrossEntropy()
    )
    for num_steps in (1, 3, 4, 9):
        assert world.surprise(toy.episodes(1, num_steps, seed=3)[0]).p_values["position"].shape == (num_steps,)
    with pytest.raises(InputError, match="no step"):
        world.surprise(Episode(observations={"position": np.zeros((1, 2))}, actions={"push": np.zeros((0, 2))}))


def test_what_is_predicted_and_not_shown_surprises_nobody() -> None:
    world = LocalWorld(Dice(), calibrate(Dice(), dice(40, 5), horizon=2, num_windows=1, seed=0), CrossEntropy())
    episode = dice(1, 4)[0]
    found = world.surprise(replace(episode, observations={"level": episode.observations["level"]}))
    assert (found.p_values["view"] == 1).all()
    assert (found.p_values["side"] == 1).all()
    np.testing.assert_array_equal(found.p_values["level"], world.surprise(episode).p_values["level"])


class FewAtOnce(Biased):
    """Takes two worlds and six candidates in a call."""

    def describe(self) -> Card:
        return replace(super().describe(), max_batch=2, max_candidates=6)


def test_calls_beyond_the_limits_of_the_card_are_refused(histories: History) -> None:
    typical = {"position": np.zeros(2, np.float32)}
    engine = FewAtOnce(schema=CALM.schema, typical=typical, context=1, bias=0.0)
    few = LocalWorld(engine, None, CrossEntropy(num_candidates=8, num_elites=4, num_iterations=2))
    two = histories.worlds([0, 1])
    goal = Goal(targets={"position": np.zeros((2, 2), np.float32)}, tolerance={"position": 1.0})

    def pushes(*size: int) -> dict[str, np.ndarray]:
        return {"push": np.zeros((*size, 4, 2), np.float32)}

    few.predict(two, pushes(2))
    few.score(two, pushes(2, 3), goal)
    few.plan(two, goal, horizon=4, proposals=pushes(2, 3))  # the planner may search more
    with pytest.raises(UnsupportedError, match=r"3.worlds in one call, but the card allows 2 \(max_batch\)"):
        few.predict(histories, pushes(3))
    many = pushes(2, 4)
    for verb in (lambda: few.score(two, many, goal), lambda: few.plan(two, goal, horizon=4, proposals=many)):
        with pytest.raises(UnsupportedError, match=r"8.candidates in one call, but the card allows 6"):
            verb()
