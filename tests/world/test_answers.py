"""What a world answers where it could refuse: long horizons, few episodes, sampled paths, values outside of bounds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from worldline.engines.baselines import Linear
from worldline.episode import History
from worldline.errors import InputError, UnsupportedError
from worldline.planning.base import Goal
from worldline.planning.planners.cem import CrossEntropy
from worldline.testing.toys import Integrator
from worldline.world.calibration import Calibration
from worldline.world.fit_calibration import calibrate
from worldline.world.local import LocalWorld
from worldline.world.session import Session

TOY = Integrator(noise=0.1, camera=False, wind=False)
GOAL = Goal(targets={"position": np.array([0.5, 0.0], np.float32)})
SIGMA = 0.1 * np.sqrt(np.cumsum(0.9 ** (2 * np.arange(8))))
"""Standard deviation of the position that no model can predict, for 1 to 8 steps."""


def pushes(num_steps: int, value: float = 0.0) -> dict[str, np.ndarray]:
    return {"push": np.full((num_steps, 2), value, np.float32)}


@pytest.fixture(scope="module")
def few(engine: Linear) -> LocalWorld:
    """Calibrated on nine episodes: two set the shape of the band, seven its width."""
    calibration = calibrate(engine, TOY.episodes(9, 12, seed=1), horizon=4, num_windows=2, seed=0)
    return LocalWorld(engine, calibration, CrossEntropy(num_candidates=16, num_iterations=2))


def test_the_default_level_is_the_highest_that_few_episodes_support(few: LocalWorld, history: History) -> None:
    assert few.calibration is not None
    highest = few.calibration.highest_level
    # Seven episodes with two windows each: the windows are worth between 7 and 14 independent ones.
    assert 7 / 8 <= highest < 0.9
    assert few.predict(history, pushes(2)).level == pytest.approx(highest)
    with pytest.raises(UnsupportedError, match=r"level 0\.9 needs .* The highest available level is 0\.8"):
        few.predict(history, pushes(2), level=0.9)
    assert few.predict(history, pushes(2), level=0.875).level == 0.875


def test_a_band_is_infinite_after_the_calibrated_horizon(world: LocalWorld, history: History) -> None:
    found, short = (world.predict(history, pushes(steps)).signals["position"] for steps in (20, 8))
    assert found.low is not None
    assert found.high is not None
    assert np.isfinite(found.mean).all()
    np.testing.assert_allclose(found.low[:8], short.low, rtol=1e-6)
    assert (found.low[8:] == -np.inf).all()
    assert (found.high[8:] == np.inf).all()
    assert found.horizon == 8
    with pytest.raises(InputError, match=r"level is 1\.0"):
        world.predict(history, pushes(20), level=1.0)


def test_the_spread_of_samples_is_that_of_the_noise(world: LocalWorld, history: History) -> None:
    found = world.predict(history, pushes(8), num_samples=99).signals["position"]
    assert found.samples is not None
    assert found.samples.shape == (99, 8, 2)
    np.testing.assert_allclose(np.sqrt(((found.samples - found.mean) ** 2).mean((0, 2))), SIGMA, rtol=0.15)
    steps = found.samples - found.mean
    correlation = np.corrcoef(steps[:, 6].ravel(), steps[:, 7].ravel())[0, 1]
    assert correlation > 0.7  # 0.9 * SIGMA[6] / SIGMA[7] = 0.85 for a path, 0 for independent steps


def test_a_gap_in_the_calibration_data_does_not_narrow_the_samples(engine: Linear, history: History) -> None:
    rng, episodes = np.random.default_rng(3), TOY.episodes(200, 12, seed=1)
    gappy = [replace(one, observed={"position": rng.random(13) < 0.7}) for one in episodes]
    world = LocalWorld(engine, calibrate(engine, gappy, horizon=4, num_windows=1, seed=0), CrossEntropy())
    samples = world.predict(history, pushes(4), num_samples=150).signals["position"].samples
    assert samples is not None
    # A missing present adds uncertainty; a residual of 0 in the place of a missing one would halve the spread.
    assert (samples.std(0).mean(-1) > 0.95 * SIGMA[:4]).all()


def test_samples_wrap_with_the_period(engine: Linear, calibration: Calibration) -> None:
    position = replace(TOY.schema["position"], period=1.0)
    schema = replace(TOY.schema, signals=(position, *TOY.schema.actions))
    means = {"position": np.zeros((1, 8, 2))}
    paths = calibration.sample_paths(schema, means, 50, num_observations=1, seed=0)["position"]
    assert 0 <= paths.min() < 0.2
    assert 0.8 < paths.max() < 1


def test_uncalibrated_samples_are_refused(world: LocalWorld, calibration: Calibration, history: History) -> None:
    with pytest.raises(UnsupportedError, match="residuals of 9 steps, and this calibration has 8"):
        world.predict(history, pushes(9), num_samples=4)
    with pytest.raises(InputError, match="num_samples is -1"):
        world.predict(history, pushes(2), num_samples=-1)
    with pytest.raises(UnsupportedError, match="sampled paths need a calibration"):
        replace(world, calibration=None).predict(history, pushes(2), num_samples=4)
    old = replace(world, calibration=replace(calibration, residuals={}))
    with pytest.raises(UnsupportedError, match="sampled paths need stored residuals"):
        old.predict(history, pushes(2), num_samples=4)


def test_a_session_widens_samples_and_the_path_of_its_plans(world: LocalWorld) -> None:
    session, steady = Session(world, rate=0.5), Session(world, rate=0.0)
    for one in (session, steady):
        one.observe({"position": np.zeros(2)})
        for step in range(4):
            one.observe({"position": np.full(2, 3.0 * (step % 2))}, actions={"push": np.zeros(2)})
    wide, usual = (one.predict(pushes(2), num_samples=20).signals["position"] for one in (session, steady))
    factor = session.widening["position"]
    assert factor > 2
    np.testing.assert_allclose(wide.samples - wide.mean, factor * (usual.samples - usual.mean), atol=1e-5)
    path = session.plan(GOAL, horizon=2).prediction
    assert path is not None
    half = path.signals["position"].high - path.signals["position"].mean
    # The plan pushes at the bounds, a little more than any logged push.
    np.testing.assert_allclose(half, factor * (usual.high - usual.mean), rtol=1e-2)


def test_a_session_adapts_to_few_episodes_and_beyond_the_horizon(few: LocalWorld) -> None:
    session = Session(few, horizon=6)
    session.observe({"position": np.zeros(2)})
    for _ in range(12):
        session.observe({"position": np.zeros(2)}, actions={"push": np.zeros(2)})
    level = session.predict(pushes(2)).level
    assert few.calibration is not None
    assert level == pytest.approx(few.calibration.highest_level)
    assert session.widening["position"] == pytest.approx(np.exp(-0.05 * (1 - level)) ** 7)  # never missed


def test_images_need_a_decoder(world: LocalWorld, history: History) -> None:
    with pytest.raises(UnsupportedError, match="predicts no images and has no decoder"):
        world.predict(history, pushes(2), images=True)
