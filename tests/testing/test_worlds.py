"""Faults of worlds in shapes, options and determinism, and correct worlds."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest
from tests.testing.exact_world import HORIZON, Drawing, Exact, residual_paths, toy_case, toy_episodes, toy_goal
from tests.testing.planted import WORLD_EPISODES, altered, catches, instead, named, with_card, world_case

from worldline.engines.baselines import Persistence
from worldline.episode import Episode
from worldline.errors import InputError, UnsupportedError
from worldline.planning.base import Goal
from worldline.planning.planners.cem import Categorical
from worldline.schema import Kind, Role, Schema, Signal
from worldline.testing import check_world
from worldline.testing.clauses import breaches
from worldline.testing.worlds import NUM_THREADS
from worldline.world.base import Prediction
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
    (MutatesHistory, "arguments_unchanged", r"\(ForecastWindows\).history.observations.position"),
    (MutatesPlans, "arguments_unchanged", r"\(dict\).push differs"),
    (MutatesTheGoal, "arguments_unchanged", r"\(Goal\).targets.position differs"),
]


class Uncalibrated(Exact):
    calibrated = False


@pytest.mark.parametrize("world", [Exact, Drawing, Uncalibrated])
def test_a_correct_world_passes(world: type[Exact]) -> None:
    check_world(world(), WORLD_EPISODES, toy_goal(), horizon=HORIZON)


STATISTICAL = (*("coverage", "trust_is_p_value"), *("samples_calibrated", "surprise_is_p_value"))


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
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


class SharedBuffer(Exact):
    """Keeps the history that it works on where every thread can write to it."""

    def __init__(self) -> None:
        super().__init__()
        self.meeting = threading.Barrier(NUM_THREADS, timeout=20)
        self.mine = threading.local()

    def path(self, history, push, wind):
        self.history = history
        self.meet()
        return super().path(self.history, push, wind)

    def meet(self) -> None:
        """In each thread but the first, waits once until all have written: then all read what the last one wrote."""
        met = getattr(self.mine, "met", False)
        self.mine.met = True
        if not met and threading.current_thread() is not threading.main_thread():
            self.meeting.wait()


class SharedDraws(Drawing):
    """Draws from one generator: what a thread gets depends on who drew before."""

    def __init__(self) -> None:
        super().__init__()
        self.rng = np.random.default_rng(0)

    def samples(self, path):
        return path[:, :, None] + 0.1 * self.rng.standard_normal((16, path.shape[2], 2))


class RemembersTheLast(Exact):
    """Blends in where it was asked about before."""

    last = np.zeros(2)

    def path(self, history, push, wind):
        before, self.last = self.last, history.observations["position"][0, -1].astype(float)
        return super().path(history, push, wind) + 1e-9 * before


class WarmStart(Exact):
    """Starts its search from the plan before, whoever asked for it."""

    before = None

    def search(self, history, goal, constraints, horizon, exogenous, seed, sent, started, num_rounds):
        if self.before is not None and self.before.shape == started[0].shape:
            started = np.concatenate([started, self.before[None]])
        best = super().search(history, goal, constraints, horizon, exogenous, seed, sent, started, num_rounds)
        self.before = best
        return best


class RecalibratesOnWhatItIsAsked(Exact):
    seen_so_far = 1.0

    def surprise(self, episode):
        found = super().surprise(episode)
        self.seen_so_far *= 0.99
        return replace(found, p_values={"position": found.steps * self.seen_so_far})


WORLD_FAULTS += [
    (SharedBuffer, "calls_independent", "another result for equal arguments while 7 threads were calling:"),
    (SharedDraws, "calls_independent", "returned another result for equal arguments after other calls"),
    (RemembersTheLast, "calls_independent", "(plan|predict|score) returned another result for equal arguments after"),
    (WarmStart, "calls_independent", "plan returned another result for equal arguments after other calls:"),
    (RecalibratesOnWhatItIsAsked, "calls_independent", "surprise returned another result for equal arguments after"),
]


class ShortOnly(Exact):
    def check(self, history, actions, exogenous, *, plans):
        if actions["push"].shape[-2] > 6:
            raise InputError("bands are calibrated up to 6 steps. Predict fewer.")
        super().check(history, actions, exogenous, plans=plans)


class NanAfterTheHorizon(Exact):
    def forecast(self, mean, half, horizon):
        return super().forecast(mean, np.where(np.isinf(half), np.nan, half), horizon)


class FiniteAgain(Exact):
    def forecast(self, mean, half, horizon):
        half = np.array(half)
        half[:, 12:] = 1.0
        return super().forecast(mean, half, horizon)


class OtherBandByDefault(Exact):
    def predict(self, *args, level=None, **rest):
        found = super().predict(*args, level=level, **rest)
        return replace(found, level=0.5) if level is None else found


InventsSamples = instead(Uncalibrated, check_options=lambda *_, **__: None)


class RefusesSamples(Exact):
    def check_options(self, num_samples, images):
        if num_samples:
            raise UnsupportedError("sampled paths need a calibration. Calibrate.")
        super().check_options(num_samples, images)


class FloatImages(Exact):
    def predict(self, *args, images=False, **rest):
        found = super().predict(*args, **rest)
        camera = self.schema["camera"]
        frames = {"camera": np.zeros((len(found.signals["position"].mean), *camera.shape))}
        return replace(found, images=frames) if images else found


def independent(num_samples: int) -> np.ndarray:
    """Paths with the right spread at each step, but without memory."""
    paths = residual_paths(num_samples)
    rng = np.random.default_rng(0)
    return np.stack([rng.permutation(paths[:, step]) for step in range(paths.shape[1])], 1)


WORLD_FAULTS += [
    (ShortOnly, "bands_as_stated", "expected an answer, got InputError"),
    (NanAfterTheHorizon, "bands_as_stated", "neither finite nor -inf and inf"),
    (FiniteAgain, "bands_as_stated", "is finite at step 13"),
    (with_card(Exact, band_horizon=HORIZON + 1), "bands_as_stated", "bands of 7 steps .* is infinite at step 7"),
    (with_card(Exact, band_horizon=HORIZON - 1), "bands_as_stated", "bands of 5 steps .* is finite at step 6"),
    (with_card(Exact, band_level=0.99999), "bands_as_stated", "raised UnsupportedError: level 0.99999 needs"),
    (with_card(Exact, band_level=0.5), "bands_as_stated", "at level 0.75: expected UnsupportedError, got an answer"),
    (with_card(Exact, band_horizon=0, band_level=0.0), "bands_as_stated", "bands of 0 steps .* predictions have some"),
    (with_card(Uncalibrated, band_horizon=6, band_level=0.9), "bands_as_stated", "predictions have none"),
    (OtherBandByDefault, "level_available", "not that of the stated level 0.5"),
    (altered(Exact, "LevelOne", predict=lambda found: replace(found, level=1.0)), "level_available", "is 1.0"),
    (altered(Exact, "Narrow", draws=lambda draws: 0.5 * draws), "samples_calibrated", "of the samples are inside"),
    (altered(Exact, "NoMemory", draws=lambda draws: independent(len(draws))), "samples_calibrated", "are inside"),
    (InventsSamples, "samples_calibrated", "returned, but predictions are not calibrated"),
    (RefusesSamples, "samples_calibrated", "refused, but predictions are calibrated"),
    (FloatImages, "images_drawn", "dtype float64, expected uint8"),
]


test_a_planted_fault_is_caught = catches(WORLD_FAULTS, world_case)
