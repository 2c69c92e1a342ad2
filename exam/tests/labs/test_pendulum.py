from __future__ import annotations

import numpy as np
from exam.tests.labs.integration import runge_kutta
from hypothesis import given
from hypothesis import strategies as st

from worldline_exam.labs.driven import STEP_S
from worldline_exam.labs.pendulum import GRAVITY, Pendulum


@given(
    st.floats(-3.0, 3.0), st.floats(-6.0, 6.0), st.floats(-3.0, 3.0), st.floats(0.0, 1.0), st.floats(0.5, 2.0),
    st.floats(0.5, 1.5),
)  # fmt: skip
def test_a_step_solves_the_equation(angle: float, speed: float, torque: float, damping: float, mass, length) -> None:
    """Against Runge and Kutta in a hundred small steps."""
    lab = Pendulum(mass=mass, length=length)
    state = np.array([[np.cos(angle), np.sin(angle), speed]])
    found = lab.advance(state, np.array([[torque]]), np.array([damping]))[0]

    def slope(now: np.ndarray) -> np.ndarray:
        pull = torque / (mass * length**2) - GRAVITY / length * np.sin(now[0])
        return np.array([now[1], pull - damping * now[1]])

    now = runge_kutta(slope, np.array([angle, speed]), STEP_S, 100)
    np.testing.assert_allclose(found, [np.cos(now[0]), np.sin(now[0]), now[1]], atol=1e-5)


def test_energy_is_kinetic_and_potential() -> None:
    lab = Pendulum(mass=2.0, length=0.5)
    shown = {"angle": np.array([[1.0, 0.0], [-1.0, 0.0]]), "angular_velocity": np.array([[0.0], [4.0]])}
    np.testing.assert_allclose(lab.energy(shown), [0.0, 0.5 * 2 * 4.0 + 2 * GRAVITY * 1.0])
