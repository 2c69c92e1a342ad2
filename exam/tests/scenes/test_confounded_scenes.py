from __future__ import annotations

import numpy as np
import pytest
from exam.tests.grading import split
from hypothesis import given, settings
from hypothesis import strategies as st

from worldline.audit.baselines import as_world
from worldline.audit.queries import history_of
from worldline.episode import Episode, Future, History
from worldline.errors import InputError, UnsupportedError
from worldline.labs.playing import explore, stacked
from worldline_exam.base import Pool
from worldline_exam.exam_tests.confounded_log import ConfoundedLogTest
from worldline_exam.labs.fleet import BOATS, CONFOUNDING, DRILLED, MAX_MOTOR, STEADY, Fleet
from worldline_exam.scenes.confounded_scenes import (
    DRIFTS,
    ConfoundedOracle,
    _with_flag,
    drift_forecasts,
    fleet,
    scenes_of,
)

LAB = Fleet()


@pytest.fixture(scope="module")
def episodes() -> list[Episode]:
    return [explore(LAB, seed, 30) for seed in range(120)]


def scenes(seed: int = 0, **sizes: int) -> dict[str, np.ndarray]:
    return scenes_of(LAB, seed, **({"num_scenes": 80, "num_motors": 3, "num_steps": 6} | sizes), reach=2.0)


def test_scenes_are_the_same_for_a_seed_and_follow_the_law() -> None:
    first, again, other = scenes(), scenes(), scenes(1)
    assert all(np.array_equal(value, again[name]) for name, value in first.items())
    assert not np.array_equal(first["do.motors"], other["do.motors"])
    for group in ("seen", "do"):
        off = first[f"{group}.drifts"] - LAB.motor_effect * first[f"{group}.motors"]
        due = np.sqrt(LAB.wind_effect**2 + LAB.noise**2)
        np.testing.assert_allclose(off.std((0, 1)), due, rtol=0.25)
        within = (off - off.mean(1, keepdims=True)).std((0, 1)) * np.sqrt(3 / 2)
        np.testing.assert_allclose(within[STEADY], LAB.noise, rtol=0.15)
        np.testing.assert_allclose(within[~STEADY], due, rtol=0.15)
    assert np.abs(first["do.motors"]).max() <= 2.0


def test_the_wind_of_the_history_blows_on_where_it_is_steady() -> None:
    """And only motors that the explorer would choose lean on it."""
    found = scenes()
    history = history_of(found)
    past = np.stack(
        [(history.observations[boat.drift][:, 1:, 0] - history.actions[boat.motor][..., 0]).mean(1) for boat in BOATS],
        -1,
    )
    for group in ("seen", "do"):
        off = (found[f"{group}.drifts"] - found[f"{group}.motors"]).mean(1)
        alike = np.array([np.corrcoef(past[:, boat], off[:, boat])[0, 1] for boat in range(len(BOATS))])
        assert alike[STEADY].min() > 0.9
        assert np.abs(alike[~STEADY]).max() < 0.4
    wind = past / LAB.wind_effect
    for boat in np.flatnonzero(STEADY):
        leans = np.corrcoef(wind[:, boat], found["seen.motors"][:, :, boat].mean(1))[0, 1]
        assert (leans > 0.3) == (CONFOUNDING[boat] > 0)
        assert abs(np.corrcoef(wind[:, boat], found["do.motors"][:, :, boat].mean(1))[0, 1]) < 0.4


def test_the_lawful_sailor_finds_the_wind_and_the_effect() -> None:
    found = scenes(num_steps=12)
    answers = drift_forecasts(as_world(ConfoundedOracle.lawful(LAB, 13)), found, groups=("do", "seen"), bands=False)
    for group in ("do", "seen"):
        error = answers[f"{group}.mean"] - found[f"{group}.drifts"]
        np.testing.assert_allclose(error.std((0, 1))[STEADY], LAB.noise * np.sqrt(1 + 1 / 12), rtol=0.12)
        np.testing.assert_allclose(error.std((0, 1))[~STEADY], np.hypot(LAB.noise, LAB.wind_effect), rtol=0.15)


def test_sailors_that_are_fitted_find_the_slopes_that_can_be_found(episodes: list[Episode]) -> None:
    blind, adjusted = ConfoundedOracle.blind(episodes, LAB.schema), ConfoundedOracle.adjusted(episodes, LAB.schema, 7)
    confounded = LAB.motor_effect + LAB.wind_effect * CONFOUNDING
    np.testing.assert_allclose(blind.slopes[~DRILLED], confounded[~DRILLED], atol=0.25)
    told = STEADY | DRILLED
    np.testing.assert_allclose(adjusted.slopes[told], LAB.motor_effect, atol=0.12)
    np.testing.assert_allclose(adjusted.slopes[~told], confounded[~told], atol=0.12)
    np.testing.assert_allclose(adjusted.doubt[STEADY], (LAB.noise / LAB.wind_effect) ** 2, rtol=0.4)
    assert np.isinf(blind.doubt).all()
    assert np.isinf(adjusted.doubt[~STEADY]).all()


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 5))
def test_a_sailor_that_sees_step_by_step_believes_the_same(seed: int, at: int) -> None:
    sailor, episode = ConfoundedOracle.lawful(LAB, 7), stacked([explore(LAB, seed, 6)])
    whole = History(observations=episode.observations, actions=episode.actions)
    first, rest = split(whole, at)
    future = Future(actions={boat.motor: np.full((1, 2, 3, 1), 0.5, np.float32) for boat in BOATS})
    due = sailor.imagine(sailor.observe(None, whole, seed=0), future, num_samples=1, seed=0).signals
    belief = sailor.observe(sailor.observe(None, first, seed=0), rest, seed=0)
    found = sailor.imagine(belief, future, num_samples=1, seed=0).signals
    for name in DRIFTS:
        assert due[name].shape == (1, 2, 1, 3, 1)
        np.testing.assert_allclose(found[name], due[name], atol=1e-5)
    with pytest.raises(InputError, match="belief is a str"):
        sailor.imagine("nothing", future, num_samples=1, seed=0)


def test_worlds_see_the_flag_of_the_group() -> None:
    found = scenes_of(LAB, 0, num_scenes=3, num_motors=1, num_steps=2, reach=MAX_MOTOR)
    for group, flag in (("do", 1.0), ("seen", 0.0)):
        shown = _with_flag(found, group)
        assert set(shown.observations) == {*DRIFTS, "drill"}
        assert (shown.observations["drill"][:, -1] == flag).all()


def test_bands_are_asked_of_worlds_that_give_them() -> None:
    with pytest.raises(UnsupportedError, match="gives no bands"):
        drift_forecasts(as_world(ConfoundedOracle.lawful(LAB, 7)), scenes(num_scenes=2), groups=("do",), bands=True)


@pytest.mark.parametrize("pool", list(Pool))
def test_pools_are_other_labs(pool: Pool) -> None:
    made = ConfoundedLogTest(pool=pool).datasets()[0].make_lab()
    assert isinstance(made, Fleet)
    assert (made.motor_effect == 1.0) == (pool is Pool.REPORT)
    assert fleet(pool, pictures=True).pictures
