from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worldline.labs.playing import replay
from worldline_exam.labs.wind import DECAY, MAX_MOTOR, MOTOR_EFFECT, WIND_EFFECT, Wind

SEEDS = st.integers(0, 2**31)


def run(lab: Wind, seed: int, motors: np.ndarray, **options: object) -> np.ndarray:
    """Positions [T + 1]."""
    return replay(lab, seed, {"motor": motors}, options).observations["boat_position"][:, 0].astype(float)


def motors_of(seed: int, num_steps: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-MAX_MOTOR, MAX_MOTOR, (num_steps, 1)).astype(np.float32)


def sail(lab: Wind, seed: int) -> tuple[float, float, float]:
    """Motor, drift and wind of the first step under the lab's own explorer."""
    rng, (shown, _) = np.random.default_rng((1, seed)), lab.reset(seed=seed)
    policy = lab.explorer()
    policy.reset(rng)
    action = policy.act(shown, rng)
    before, after = float(shown["boat_position"][0]), float(lab.step(action)[0]["boat_position"][0])
    return float(action["motor"][0]), after - DECAY * before, lab.hidden(seed)["wind"]


@given(SEEDS)
def test_a_step_is_the_equation(seed: int) -> None:
    lab, motors = Wind(noise=0.0), motors_of(seed, 12)
    place = run(lab, seed, motors)
    due = DECAY * place[:-1] + MOTOR_EFFECT * motors[:, 0] + WIND_EFFECT * lab.hidden(seed)["wind"]
    np.testing.assert_allclose(place[1:], due, atol=1e-5)


def test_options_change_one_thing() -> None:
    lab, motors = Wind(), motors_of(0, 10)
    drawn = lab.hidden(3)["wind"]
    np.testing.assert_array_equal(run(lab, 3, motors), run(lab, 3, motors, wind=drawn))
    apart = run(lab, 3, motors, wind=drawn + 1) - run(lab, 3, motors)
    np.testing.assert_allclose(apart, WIND_EFFECT * (1 - DECAY ** np.arange(11)) / (1 - DECAY), atol=1e-5)
    assert run(lab, 3, motors, position=2.0)[0] == 2.0


@pytest.mark.parametrize("confounding", [0.0, 0.6, 0.9])
def test_who_regresses_drift_on_motor_finds_the_confounded_slope(confounding: float) -> None:
    """And finds the true one once the wind is known."""
    lab = Wind(confounding)
    motor, drift, wind = np.array([sail(lab, seed) for seed in range(2000)]).T
    spread = np.sqrt((1 - confounding**2) * WIND_EFFECT**2 + lab.noise**2)
    due = MOTOR_EFFECT + WIND_EFFECT * confounding
    assert np.polyfit(motor, drift, 1)[0] == pytest.approx(due, abs=4 * spread / np.sqrt(2000))
    known = np.linalg.lstsq(np.stack([motor, wind], 1), drift, rcond=None)[0]
    np.testing.assert_allclose(known, [MOTOR_EFFECT, WIND_EFFECT], atol=0.15)
    assert motor.std() == pytest.approx(1.0, abs=0.1)


def test_what_is_expected_is_the_mean_over_noise() -> None:
    lab, motors = Wind(), motors_of(0, 10)
    paths = np.array([run(lab, seed, motors, wind=0.7, position=1.0)[1:] for seed in range(400)])
    shown = {"boat_position": np.array([[1.0]], np.float32)}
    due = lab.expected(shown, {"motor": motors[None]}, {"wind": np.array([0.7])})["boat_position"]
    np.testing.assert_allclose(paths.mean(0), due[0, :, 0], atol=5 * paths.std(0).max() / 20)
