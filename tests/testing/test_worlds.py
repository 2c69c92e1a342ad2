from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.testing.exact_world import HORIZON, Drawing, Exact, toy_case, toy_episodes, toy_goal
from tests.testing.planted import WORLD_EPISODES, altered, catches, named, world_case

from worldline.engines.base import Card
from worldline.engines.baselines import Persistence
from worldline.episode import Episode
from worldline.planning.base import Goal
from worldline.planning.planners.categorical import Categorical
from worldline.schema import Kind, Role, Schema, Signal
from worldline.testing import check_world
from worldline.testing.cases import WorldCase
from worldline.testing.clauses import breaches
from worldline.world.base import Prediction, World
from worldline.world.local import LocalWorld

TOLERANCE = {"place": 1.0}


class MutatesHistory(Exact):
    def seen(self, history):
        history.observations["position"][:] += 0.01
        return super().seen(history)


class MutatesTheGoal(Exact):
    def supported(self, goal):
        goal.targets["position"][:] += 0.1


def without_band(found: Prediction) -> Prediction:
    return replace(found, signals={"position": replace(found.signals["position"], low=None, high=None)})


class MutatesPlans(Exact):
    def inputs(self, push):
        push += 0.1
        return super().inputs(push)


WORLD_FAULTS = [
    (altered(Exact, "NoBand", predict=without_band), "prediction_shapes", "low of 'position' is None"),
    (altered(Exact, "WrongLevel", predict=lambda found: replace(found, level=0.9)), "prediction_shapes", "level 0.9"),
    (altered(Exact, "BatchMean", path=lambda path: path + 0.1 * path.mean(0)), "batch_is_loop", "mean of 'position'"),
    (altered(Exact, "TrustOfTheBatch", trust=lambda trust: np.full_like(trust, trust.min())), "batch_is_loop", "trust"),
    (MutatesHistory, "arguments_unchanged", "ForecastWindows, was changed in place: history.observations.position"),
    (MutatesPlans, "arguments_unchanged", "was changed in place: push"),
    (MutatesTheGoal, "arguments_unchanged", "Goal, was changed in place: targets.position"),
]
test_a_planted_fault_is_caught = catches(WORLD_FAULTS, world_case)


class Uncalibrated(Exact):
    calibrated = False


@pytest.mark.parametrize("world", [Exact, Drawing, Uncalibrated])
def test_a_correct_world_passes(world: type[Exact]) -> None:
    check_world(world(), WORLD_EPISODES, toy_goal(), horizon=HORIZON)


STATISTICAL = (
    *("bands_ordered", "coverage", "trust_is_p_value", "trust_depends_on_steps", "horizon_honest"),
    *("samples_calibrated", "surprise_is_p_value"),
)


@pytest.mark.parametrize("seed", range(3))
def test_chance_alone_breaks_nothing(seed: int) -> None:
    case = replace(toy_case(Exact(), toy_episodes(100 + seed)), seed=seed)
    assert breaches(case, [named("world", name) for name in STATISTICAL]) == []


def geared(*observations: Signal) -> tuple[LocalWorld, list[Episode]]:
    """A world whose one input is a choice, so that no price and no bound can be written on an input; and its logs."""
    gear = Signal(name="gear", role=Role.ACTION, kind=Kind.DISCRETE, shape=(), num_values=3)
    rng, schema = np.random.default_rng(0), Schema(signals=(*observations, gear))
    episodes = [
        Episode(
            observations={
                one.name: rng.integers(0, 3, 13) if one.kind is Kind.DISCRETE else rng.normal(size=(13, 2)).astype("f4")
                for one in observations
            },
            actions={"gear": rng.integers(0, 3, 12)},
        )
        for _ in range(6)
    ]
    return LocalWorld(Persistence.fit(episodes, schema), None, Categorical()), episodes


PLACE = Signal(name="place", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(2,))
LIGHT = Signal(name="light", role=Role.OBSERVATION, kind=Kind.DISCRETE, shape=(), num_values=3)


@pytest.mark.parametrize("observation", [PLACE, LIGHT])
def test_a_world_without_a_vector_input_is_judged_by_what_it_has(observation: Signal) -> None:
    world, episodes = geared(observation)
    target = np.asarray(episodes[0].observations[observation.name][0])
    goal = Goal(targets={observation.name: target}, tolerance=TOLERANCE if observation is PLACE else {})
    check_world(world, episodes, goal)


def test_constraints_on_what_is_predicted_are_not_to_be_forgotten() -> None:
    class Forgetful(Exact):
        def __init__(self, world: World) -> None:
            self.world = world

        def describe(self) -> Card:
            return self.world.describe()

        def score(self, *arguments, **rest):
            found = self.world.score(*arguments, **rest)
            return replace(found, violation=0 * found.violation)

    world, episodes = geared(PLACE)
    goal = Goal(targets={"place": np.zeros(2)}, tolerance=TOLERANCE)
    with pytest.raises(AssertionError, match=r"world\.scores_each_plan. violation is not that of the constraints"):
        named("world", "scores_each_plan")(WorldCase(world=Forgetful(world), episodes=episodes, goal=goal))
