from __future__ import annotations

import numpy as np
import pytest
from exam.tests.labs.integration import runge_kutta
from hypothesis import given, settings
from hypothesis import strategies as st

from worldline.labs.playing import explore
from worldline_exam.labs.driven import STEP_S
from worldline_exam.labs.two_bodies import FAR, TwoBodies


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.0, 1.0), st.floats(0.5, 2.0), st.floats(0.5, 2.0), st.floats(0.0, 2.0))
def test_a_step_follows_the_energy(seed: int, damping: float, driven: float, free: float, trap: float) -> None:
    """Forces as slopes of the potential, by differences, and Runge and Kutta in small steps."""
    lab = TwoBodies(masses=(driven, free), trap=trap)
    rng = np.random.default_rng(seed)
    state, push = 0.8 * rng.standard_normal(8), rng.uniform(-1.5, 1.5, 2)
    found = lab.advance(state[None], push[None], np.array([damping]))[0]
    masses, places, speeds = np.repeat([driven, free], 2), [0, 1, 4, 5], [2, 3, 6, 7]

    def slope(now: np.ndarray) -> np.ndarray:
        nudged = now + 1e-5 * np.stack([np.eye(8)[places], -np.eye(8)[places]])
        energy = lab.energy(lab.split(nudged))
        force = -(energy[0] - energy[1]) / 2e-5 + np.concatenate([push, np.zeros(2)])
        change = np.zeros(8)
        change[places], change[speeds] = now[speeds], force / masses - damping * now[speeds]
        return change

    np.testing.assert_allclose(found, runge_kutta(slope, state, STEP_S, 40), atol=1e-5)


def test_they_pull_each_other_and_nobody_else() -> None:
    """Without trap, damping and push, what both carry together goes on straight."""
    lab = TwoBodies(masses=(1.0, 2.0), trap=0.0)
    state = lab.draw_states(np.random.default_rng(0), 50)
    masses = np.array([1.0, 2.0])[:, None]
    before = (masses * state.reshape(-1, 2, 2, 2)[:, :, 1]).sum(1)
    for _ in range(40):
        state = lab.advance(state, np.zeros((50, 2)), np.zeros(50))
    np.testing.assert_allclose((masses * state.reshape(-1, 2, 2, 2)[:, :, 1]).sum(1), before, atol=1e-12)


def test_at_rest_in_the_middle_there_is_no_energy() -> None:
    lab = TwoBodies()
    assert lab.energy(lab.split(np.zeros(8))) == 0
    assert (lab.energy(lab.split(lab.draw_states(np.random.default_rng(0), 100))) > 0).all()


@pytest.mark.slow
def test_whoever_pushes_at_random_stays_in_the_picture() -> None:
    """In all but a few steps: a world of pictures is asked where the bodies are, and cannot say it of what is gone."""
    walks = [explore(TwoBodies(), seed, 126) for seed in range(40)]
    reached = np.abs([walk.observations["driven_position"] for walk in walks]).max(-1)
    assert (reached > FAR).mean() < 0.01
