"""Means, bands and sampled paths stay inside the bounds that the schema declares."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.world.gain_worlds import LOGS, WIDE, Gain, at

from worldline.engines.base import Parts
from worldline.planning.planners.cem import CrossEntropy
from worldline.schema import Schema
from worldline.world.base import Forecast
from worldline.world.fit_calibration import calibrate
from worldline.world.local import LocalWorld
from worldline.world.session import Session

INF = float("inf")


def world_within(low: tuple[float, ...] | None, high: tuple[float, ...] | None, **changes: float) -> LocalWorld:
    """The exact world of the toy, whose position has these bounds; its engine ignores them."""
    position = replace(WIDE["position"], low=low, high=high, **changes)
    schema = Schema(signals=(position, WIDE["push"]))
    engine = Gain.from_parts(schema, Parts(config={"gain": 0.9}))
    calibration = calibrate(engine, LOGS, horizon=8, num_windows=1, seed=0)
    return LocalWorld(engine, calibration, CrossEntropy())


def predicted(world: LocalWorld, num_steps: int = 8) -> Forecast:
    found = world.predict(at(0.1, 0.1), {"push": np.zeros((num_steps, 2))}, level=0.9, num_samples=200)
    return found.signals["position"]


def test_band_and_samples_are_cut_at_declared_bounds_only() -> None:
    free, cut = predicted(world_within(None, None)), predicted(world_within((0.0, -INF), None))
    assert free.low.min() < -0.1
    np.testing.assert_array_equal(cut.low[:, 0], np.maximum(free.low[:, 0], 0))
    np.testing.assert_array_equal(cut.low[:, 1], free.low[:, 1])
    np.testing.assert_array_equal(cut.high, free.high)
    np.testing.assert_array_equal(cut.samples[..., 0], np.maximum(free.samples[..., 0], 0))
    np.testing.assert_array_equal(cut.samples[..., 1], free.samples[..., 1])
    np.testing.assert_array_equal(cut.mean, free.mean)
    np.testing.assert_allclose(cut.half_width, free.high - free.mean, rtol=1e-12)


def test_the_logged_range_of_an_observation_does_not_cut_its_band() -> None:
    world = world_within(None, None)
    assert world.calibration is not None
    low, high = world.calibration.logged_range["position"]
    found = world.predict(at(*high), {"push": np.ones((8, 2))}).signals["position"]
    assert (found.high > high).all()
    assert (found.low > low).all()


def test_a_mean_outside_is_moved_to_the_bound() -> None:
    found = predicted(world_within((0.3, 0.3), (0.5, 0.5)))
    for part in (found.mean, found.low, found.high, found.samples):
        assert ((part >= 0.3) & (part <= 0.5)).all()
    assert (found.low <= found.mean).all()
    assert (found.mean <= found.high).all()


def test_a_periodic_signal_has_no_bounds_to_cut_at() -> None:
    free, angle = (predicted(world_within((0.0, 0.0), None, **change)) for change in ({}, {"period": 10.0}))
    assert (free.low >= 0).all()
    assert angle.low.min() < -0.1


@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_a_session_widens_the_band_without_the_cut(rate: float) -> None:
    cut, free = (Session(world_within(low, None), rate=rate, level=0.9) for low in ((0.0, 0.0), None))
    for step in range(5):
        for session in (cut, free):
            place = np.full(2, 0.5 + 0.45 * (step % 2))
            session.observe({"position": place}, actions={"push": np.zeros(2)} if step else None)
    assert cut.widening == pytest.approx(free.widening)
    assert (rate == 0) == (not cut.widening)
    ours, theirs = (one.predict({"push": np.zeros((3, 2))}, num_samples=9).signals["position"] for one in (cut, free))
    np.testing.assert_allclose(ours.low, np.maximum(theirs.low, 0), rtol=1e-12)
    np.testing.assert_allclose(ours.high, theirs.high, rtol=1e-12)
    np.testing.assert_allclose(ours.samples, np.maximum(theirs.samples, 0), rtol=1e-12, atol=1e-12)
