from __future__ import annotations

from dataclasses import replace
from itertools import count
from typing import Any

import numpy as np
import pytest
from scipy.special import ndtr

from worldline.data.windows import forecast_windows
from worldline.engines.base import Card, Samples
from worldline.engines.baselines import ActionBlind, ConstantVelocity, Linear, Persistence
from worldline.episode import Episode, History
from worldline.errors import DataError, InputError, UnsupportedError
from worldline.planning.planners.cem import CrossEntropy
from worldline.stats import tails
from worldline.testing.toys import Integrator
from worldline.world.calibration import Calibration
from worldline.world.fit_calibration import calibrate, design_effect
from worldline.world.local import LocalWorld
from worldline.world.prediction_errors import residuals

TOY = Integrator(noise=0.1, camera=False, wind=False)
RARE = 1e-4
"""Chance that an honest calibration fails one of these counts."""


def random_errors(engine: Linear, episodes: list[Episode], horizon: int, seed: int) -> np.ndarray:
    """Absolute errors [W, T, 2] of one random window of each episode."""
    rng = np.random.default_rng(seed)
    places = [(episode, int(rng.integers(0, episode.num_steps - horizon + 1))) for episode in episodes]
    windows = forecast_windows(places, length=1, horizon=horizon, schema=TOY.schema, targets=["position"])
    return np.abs(residuals(engine, windows, seed=0)["position"])


@pytest.mark.parametrize("level", [0.5, 0.9])
@pytest.mark.parametrize("horizon", [1, 8])
def test_joint_bands_cover_fresh_trajectories_at_their_level(
    engine: Linear, calibration: Calibration, fresh: list[Episode], level: float, horizon: int
) -> None:
    error = random_errors(engine, fresh, horizon, seed=3)
    inside = (error <= calibration.band_half_width("position", horizon, level)).all((1, 2)).sum()
    chance = tails(int(inside), len(fresh), level, calibration.num_episodes)
    assert min(chance.low, chance.high) > RARE, f"{inside} of {len(fresh)}"


@pytest.mark.parametrize("correlation", [0.0, 0.3, 1.0])
def test_bands_of_few_episodes_hold_their_share_on_average(calibration: Calibration, correlation: float) -> None:
    """Scores of known distribution: 12 episodes with 8 windows each."""
    rng, covered = np.random.default_rng(1), []
    for _ in range(400):
        common, own = rng.normal(size=(12, 1)), rng.normal(size=(12, 8))
        scores = np.sqrt(correlation) * common + np.sqrt(1 - correlation) * own
        made = replace(
            calibration, num_windows=8, novelty=np.zeros(96), scores={"position": np.sort(scores.reshape(1, -1))},
            design_effect={"position": design_effect(scores.reshape(1, -1), 8)},
            scale={"position": np.ones((1, 2))},
        )  # fmt: skip
        covered.append(ndtr(made.band_half_width("position", 1, 0.9)[0, 0]))
    assert 0.89 < np.mean(covered) < 0.94  # an episode for a window would give 0.97 without correlation


def test_levels_and_lengths_that_cannot_be_supported_are_refused(engine: Linear, calibration: Calibration) -> None:
    with pytest.raises(UnsupportedError, match="calibrated up to 8"):
        calibration.band_half_width("position", 9, 0.9)
    with pytest.raises(InputError, match="between 0 and 1"):
        calibration.band_half_width("position", 2, 1.0)
    few = calibrate(engine, TOY.episodes(11, 12, seed=1), horizon=2, num_windows=5, seed=0)
    message = r"level 0.95 needs about 10 episodes that set the width of bands; there are 9"
    with pytest.raises(UnsupportedError, match=message):
        few.band_half_width("position", 2, 0.95)
    enough = calibrate(engine, TOY.episodes(25, 12, seed=1), horizon=2, num_windows=5, seed=0)
    enough.band_half_width("position", 2, 0.95)


def test_an_exact_engine_has_bands_without_width() -> None:
    toy = Integrator(noise=0.0, camera=False, wind=False)
    still = [
        Episode(observations={"position": np.ones((13, 2), np.float32)}, actions=episode.actions)
        for episode in toy.episodes(40, 12, seed=0)
    ]
    calibration = calibrate(Persistence.fit(still, toy.schema), still, horizon=4, num_windows=1, seed=0)
    assert (calibration.band_half_width("position", 4, 0.9) == 0).all()
    assert calibration.horizon_of("position", 4) == 4
    assert (calibration.tolerance("position") > 0).all()


@pytest.mark.parametrize(("decay", "least", "most"), [(0.0, 0, 0), (0.5, 1, 3), (0.95, 8, 8)])
def test_the_horizon_ends_where_skill_ends(decay: float, least: int, most: int) -> None:
    # Nothing is known of the pushes to come, so what is foretold decays as fast as the world forgets its present.
    toy = Integrator(decay=decay, noise=0.1, camera=False, wind=False)
    engine = ActionBlind.fit(toy.episodes(60, 50, seed=0), toy.schema, context=1)
    calibration = calibrate(engine, toy.episodes(200, 60, seed=1), horizon=8, num_windows=8, seed=0)
    found = calibration.horizon_of("position", 8)
    assert least <= found <= most
    assert calibration.horizon_of("position", 3) == min(found, 3)


def test_what_was_not_observed_is_no_error_of_nought() -> None:
    """Pushes do next to nothing, so nobody foretells better than the mean, however seldom a value is observed."""
    toy = Integrator(decay=0.0, noise=1.0, camera=False, wind=False)
    engine = Persistence.fit(toy.episodes(20, 20, seed=0), toy.schema)
    rng = np.random.default_rng(0)
    sparse = [replace(e, observed={"position": rng.random(21) < 0.03}) for e in toy.episodes(120, 20, seed=1)]
    calibration = calibrate(engine, sparse, horizon=6, num_windows=1, seed=0, with_causes=False)
    assert calibration.horizon_of("position", 6) == 0


SELDOM = 0.3


@pytest.fixture(scope="module")
def sparse(engine: Linear) -> Calibration:
    """Of episodes of which three observations in ten were made, and the present."""
    return calibrate(engine, [*map(seldom, TOY.episodes(400, 8, seed=1), count())], horizon=4, num_windows=1, seed=0)


def seldom(episode: Episode, seed: int) -> Episode:
    seen = np.random.default_rng(seed).random(episode.num_steps + 1) < SELDOM
    return replace(episode, observed={"position": seen})


def test_bands_cover_what_is_observed_though_it_seldom_is(engine: Linear, sparse: Calibration) -> None:
    rng, half = np.random.default_rng(0), sparse.band_half_width("position", 1, 0.8)
    shown = [seldom(episode, 10_000 + number) for number, episode in enumerate(TOY.episodes(900, 8, seed=2))]
    places = [(one, int(rng.integers(0, 8))) for one in shown]
    windows = forecast_windows(places, length=1, horizon=1, schema=TOY.schema, targets=["position"])
    error = np.abs(residuals(engine, windows, seed=0)["position"])[windows.known["position"].all(1)]
    inside, of = int((error <= half).all((1, 2)).sum()), len(error)
    chance = tails(inside, of, 0.8, int(SELDOM * sparse.num_episodes))
    assert of > 200
    assert min(chance.low, chance.high) > RARE, f"{inside} of {of}"


def test_what_was_never_observed_has_no_finite_band_and_surprises_nobody(engine: Linear) -> None:
    blind = [replace(e, observed={"position": np.arange(9) < 1}) for e in TOY.episodes(40, 8, seed=1)]
    blind = [replace(e, observed={"position": np.arange(9) < (5 if n < 3 else 1)}) for n, e in enumerate(blind)]
    calibration = calibrate(engine, blind, horizon=4, num_windows=1, seed=0, trust_steps=0)
    assert np.isinf(calibration.band_half_width("position", 4, 0.8)).all()
    again = Calibration.from_arrays(calibration.to_arrays())
    assert again.surprise(TOY.schema, {"position": np.full((1, 2), 9.0)}).signals["position"][0] > 0.2


def test_arrays_hold_everything(engine: Linear, calibration: Calibration) -> None:
    again = Calibration.from_arrays(calibration.to_arrays())
    assert (again.num_episodes, again.num_windows) == (calibration.num_episodes, calibration.num_windows)
    half_width = calibration.band_half_width("position", 8, 0.9)
    np.testing.assert_array_equal(again.band_half_width("position", 8, 0.9), half_width)
    error = np.array([[0.1, 0.0], [1.0, 2.0]])
    found, due = (one.surprise(TOY.schema, {"position": error}) for one in (again, calibration))
    np.testing.assert_array_equal(found.signals["position"], due.signals["position"])
    np.testing.assert_array_equal(found.steps, due.steps)
    assert again.logged_range.keys() == {"position", "push"}
    for name, ends in calibration.logged_range.items():
        np.testing.assert_array_equal(again.logged_range[name], ends)
    assert again.input_novelty is not None
    arrays = calibration.to_arrays()
    for wrong in (
        {name: value for name, value in arrays.items() if name != "spread/position"},
        arrays | {"ood_scores": np.concatenate([calibration.novelty[None], calibration.ood_scores])},  # as it once was
    ):
        with pytest.raises(DataError, match="not those of a calibration"):
            Calibration.from_arrays(wrong)


def test_too_few_or_short_episodes_are_refused(engine: Linear) -> None:
    with pytest.raises(DataError, match="0 of 5 calibration episodes have the 20 steps"):
        calibrate(engine, TOY.episodes(5, 12, seed=0), horizon=20, num_windows=1, seed=0)
    with pytest.raises(InputError, match="num_windows 0"):
        calibrate(engine, TOY.episodes(5, 12, seed=0), horizon=2, num_windows=0, seed=0)


def test_each_episode_is_predicted_by_the_engine_that_was_fitted_without_it(engine: Linear) -> None:
    episodes, poor = TOY.episodes(40, 12, seed=1), Persistence.fit(TOY.episodes(20, 12, seed=0), TOY.schema)

    def half_widths(*engines: Linear | Persistence) -> tuple[float, float]:
        """At levels 0.4 and 0.9, with the engines in turn."""
        turns = [engines[number % len(engines)] for number in range(len(episodes))]
        found = calibrate(engine, episodes, horizon=4, num_windows=2, seed=0, out_of_fold=turns)
        low, high = (float(found.band_half_width("position", 4, level).mean()) for level in (0.4, 0.9))
        return low, high

    alone = calibrate(engine, episodes, horizon=4, num_windows=2, seed=0)
    assert half_widths(engine)[1] == pytest.approx(float(alone.band_half_width("position", 4, 0.9).mean()))
    good, mixed, bad = (half_widths(*engines) for engines in ((engine,), (engine, poor), (poor,)))
    assert mixed[1] / mixed[0] > 1.5 * max(good[1] / good[0], bad[1] / bad[0])  # half of the errors are small


def test_a_world_that_predicts_nothing_is_calibrated_for_its_trust() -> None:
    class Silent(Persistence):
        def describe(self) -> Card:
            return replace(super().describe(), predicts=())

        def imagine(self, *arguments: Any, **rest: Any) -> Samples:
            return Samples(signals={})

    engine = Silent.fit(TOY.episodes(5, 9, seed=0), TOY.schema)
    silent = Silent(schema=engine.schema, typical=engine.typical, context=1)
    calibration = calibrate(silent, TOY.episodes(30, 9, seed=1), horizon=2, num_windows=1, seed=0)
    assert not calibration.has_error_scores
    again = Calibration.from_arrays(calibration.to_arrays())
    assert again.trust(np.array([1e9]))[0] == pytest.approx(1 / (calibration.num_episodes + 1))


LAG = 4


@pytest.fixture(scope="module")
def lagged() -> tuple[ConstantVelocity, Calibration]:
    """An engine that has no velocity after one observation, calibrated for each length."""
    engine = replace(ConstantVelocity.fit(TOY.episodes(4, 30, seed=8), TOY.schema), context=LAG)
    return engine, calibrate(engine, TOY.episodes(60, 30, seed=1), horizon=6, num_windows=4, seed=0)


@pytest.mark.parametrize("length", [1, 2, 3, LAG, 9])
def test_bands_and_trust_hold_for_each_length(lagged: tuple[ConstantVelocity, Calibration], length: int) -> None:
    engine, calibration = lagged
    assert set(calibration.shorter) == {1, 2, 3}
    world = LocalWorld(engine, calibration, CrossEntropy())
    episodes = TOY.episodes(300, 30, seed=5)
    push = np.stack([episode.actions["push"][14:20] for episode in episodes])
    truth = np.stack([episode.observations["position"][15:21] for episode in episodes])
    histories = History.stack([episode.history(14, length) for episode in episodes])
    found = world.predict(histories, {"push": push}, level=0.9)
    band = found.signals["position"]
    assert 0.85 < ((truth >= band.low) & (truth <= band.high)).all((1, 2)).mean() < 0.95
    assert np.mean(np.asarray(found.trust) < 0.1) < 0.14
