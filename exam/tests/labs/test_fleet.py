from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worldline.labs.playing import replay
from worldline_exam.labs.fleet import BOATS, CONFOUNDING, DRILL_SHARE, DRILLED, MAX_MOTOR, STEADY, Fleet, Weather

SEEDS = st.integers(0, 2**31)


def motors_of(seed: int, num_steps: int) -> dict[str, np.ndarray]:
    draws = np.random.default_rng(seed).uniform(-MAX_MOTOR, MAX_MOTOR, (num_steps, len(BOATS), 1))
    return {boat.motor: draws[:, number].astype(np.float32) for number, boat in enumerate(BOATS)}


def drifts_of(observations: dict[str, np.ndarray]) -> np.ndarray:
    """[T + 1, B]."""
    return np.concatenate([observations[boat.drift] for boat in BOATS], -1).astype(float)


def sailed(lab: Fleet, seed: int, num_steps: int) -> tuple[np.ndarray, ...]:
    """Motors, drifts after them, winds that blew [T, B] and drills [T], under the lab's own explorer."""
    rng, (shown, _) = np.random.default_rng([1, seed]), lab.reset(seed=seed)
    policy, rows = lab.explorer(), []
    policy.reset(rng)
    for _ in range(num_steps):
        action, before = policy.act(shown, rng), shown
        shown = lab.step(action)[0]
        motors, drifts = ([float(of[name][0]) for name in names] for of, names in (
            (action, [boat.motor for boat in BOATS]), (shown, [boat.drift for boat in BOATS])))  # fmt: skip
        rows.append((motors, drifts, before["winds"], before["drill"][0]))
    return tuple(np.array(part, dtype=float) for part in zip(*rows, strict=True))


@settings(max_examples=15, deadline=None)
@given(SEEDS)
def test_a_step_is_the_equation(seed: int) -> None:
    motors, drifts, winds, _ = sailed(Fleet(motor_effect=0.7, wind_effect=2.0, noise=0.0), seed, 6)
    np.testing.assert_allclose(drifts, 0.7 * motors + 2.0 * winds, atol=1e-5)


def test_options_change_one_thing() -> None:
    lab, motors = Fleet(), motors_of(0, 6)
    wind = lab.hidden(3)["steady_90_wind"]
    plain, same = replay(lab, 3, motors), replay(lab, 3, motors, {"steady_90_wind": wind})
    other = replay(lab, 3, motors, {"steady_90_wind": wind + 1, "gusty_60_drift": 2.5})
    for name, value in plain.observations.items():
        np.testing.assert_array_equal(value, same.observations[name])
        due = value.astype(float).copy()
        if name == "steady_90_drift":
            due[1:] += lab.wind_effect
        if name == "gusty_60_drift":
            due[0] = 2.5
        np.testing.assert_allclose(other.observations[name], due, atol=1e-5)


def test_only_steady_winds_stay() -> None:
    _, _, winds, _ = sailed(Fleet(), 5, 30)
    assert (winds[:, STEADY] == winds[0, STEADY]).all()
    assert (winds[1:, ~STEADY] != winds[:-1, ~STEADY]).all()
    named = Fleet().hidden(5)
    assert set(named) == {f"{boat.name}_wind" for boat in BOATS if boat.weather is Weather.STEADY}
    np.testing.assert_allclose(list(named.values()), winds[0, STEADY])


def test_who_regresses_drift_on_motor_finds_the_confounded_slope_but_for_drills() -> None:
    """And the true one once the winds are known; a drill is flagged before it, and one step in ten."""
    lab = Fleet()
    motors, drifts, winds, drill = (np.concatenate(part) for part in zip(*(sailed(lab, seed, 8) for seed in range(500)),
                                                                           strict=True))  # fmt: skip
    drill = drill.astype(bool)
    assert drill.mean() == pytest.approx(DRILL_SHARE, abs=0.02)
    slope = (motors * drifts).sum(0) / (motors**2).sum(0)
    calm = (motors * drifts)[~drill].sum(0) / (motors**2)[~drill].sum(0)
    due = lab.motor_effect + lab.wind_effect * CONFOUNDING
    np.testing.assert_allclose(slope[~DRILLED], due[~DRILLED], atol=0.15)
    np.testing.assert_allclose(calm[DRILLED], due[DRILLED], atol=0.15)
    inside = (motors * drifts)[drill].sum(0) / (motors**2)[drill].sum(0)
    np.testing.assert_allclose(inside[DRILLED], lab.motor_effect, atol=0.15)
    np.testing.assert_allclose(motors[~drill].std(0), 1.0, atol=0.12)
    for boat in range(len(BOATS)):
        known = np.linalg.lstsq(np.stack([motors[:, boat], winds[:, boat]], 1), drifts[:, boat], rcond=None)[0]
        np.testing.assert_allclose(known, [lab.motor_effect, lab.wind_effect], atol=0.1)


def test_what_is_expected_is_the_mean_over_noise_and_gusts() -> None:
    lab, motors = Fleet(), motors_of(0, 5)
    winds = lab.hidden(0)
    paths = np.array([drifts_of(replay(lab, seed, motors, winds).observations)[1:] for seed in range(300)])
    due = lab.expected({}, {k: v[None] for k, v in motors.items()}, {k: np.array([v]) for k, v in winds.items()})
    np.testing.assert_allclose(paths.mean(0), drifts_of(due)[0], atol=5 * 1.6 / np.sqrt(300))
