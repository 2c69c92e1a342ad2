from __future__ import annotations

import numpy as np

from worldline_exam.labs.driven import STEP_S
from worldline_exam.labs.elastic_pucks import HALF, ElasticPucks

NOBODY = np.zeros((1, 4))


def after(lab: ElasticPucks, red: list[float], blue: list[float], num_steps: int) -> np.ndarray:
    """Position and velocity [2, 4] of the pucks, undamped and not pushed."""
    state = np.array([[*red, *blue]], dtype=float)
    for _ in range(num_steps):
        state = lab.advance(state, NOBODY, np.zeros(1))
    return state.reshape(2, 4)


def test_a_wall_turns_a_puck_round() -> None:
    """It meets the wall at 0.75 after 0.25 s, and is 0.15 on the way back at 0.4 s."""
    red, blue = after(ElasticPucks(), [0.5, 0.0, 1.0, 0.0], [-0.5, 0.0, 0.0, 0.0], 4)
    np.testing.assert_allclose(red, [0.6, 0.0, -1.0, 0.0], atol=1e-12)
    np.testing.assert_allclose(blue, [-0.5, 0.0, 0.0, 0.0], atol=1e-12)


def test_a_contact_turns_what_is_along_the_normal() -> None:
    """A glancing blow, against the textbook's formula for two masses in the plane."""
    lab = ElasticPucks(masses=(1.0, 3.0), radii=(0.2, 0.3))
    red, blue = after(lab, [-0.4, 0.0, 1.5, 0.0], [0.2, 0.3, 0.0, 0.0], 3)
    reach = np.sqrt(0.5**2 - 0.3**2)
    normal = np.array([reach, 0.3]) / 0.5
    handed = 2 * (np.array([1.5, 0.0]) @ normal) / (1 + 3.0)
    np.testing.assert_allclose(red[2:], np.array([1.5, 0.0]) - 3.0 * handed * normal, atol=1e-12)
    np.testing.assert_allclose(blue[2:], handed * normal, atol=1e-12)


def test_nothing_ever_passes_through() -> None:
    lab = ElasticPucks()
    rng = np.random.default_rng(1)
    state = lab.draw_states(rng, 300)
    for _ in range(100):
        state = lab.advance(state, rng.uniform(-1, 1, (300, 4)), np.full(300, 0.2))
        pucks = state.reshape(-1, 2, 4)
        assert np.abs(pucks[:, :, :2]).max() <= HALF - 0.25 + 1e-9
        assert np.linalg.norm(pucks[:, 1, :2] - pucks[:, 0, :2], axis=-1).min() >= 0.5 - 1e-9


def test_pushed_and_damped_it_follows_the_formula() -> None:
    lab, damping, mass = ElasticPucks(masses=(2.0, 1.0)), 0.8, 2.0
    state = np.array([[-0.5, 0.0, 0.3, 0.0, 0.5, 0.6, 0.0, 0.0]])
    for _ in range(5):
        state = lab.advance(state, np.array([[1.0, 0.0, 0.0, 0.0]]), np.array([damping]))
    final, time = 1.0 / (mass * damping), 5 * STEP_S
    speed = final + (0.3 - final) * np.exp(-damping * time)
    np.testing.assert_allclose(state[0, 2], speed, atol=1e-12)
    place = -0.5 + final * time + (0.3 - final) * (1 - np.exp(-damping * time)) / damping
    np.testing.assert_allclose(state[0, 0], place, atol=1e-4)


def test_the_explorers_logs_hold_contacts() -> None:
    lab, rng = ElasticPucks(), np.random.default_rng(0)
    state, force, met = lab.draw_states(rng, 200), rng.uniform(-1, 1, (200, 4)), 0
    for _ in range(60):
        force = np.where(rng.random((200, 1)) > 0.8, rng.uniform(-1, 1, (200, 4)), force)
        pucks = state.reshape(-1, 2, 4)
        met += int((np.linalg.norm(pucks[:, 1, :2] - pucks[:, 0, :2], axis=-1) < 0.56).sum())
        state = lab.advance(state, force, np.zeros(200))
    assert met > 200
