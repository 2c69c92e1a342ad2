"""Numerical integration, as ground truth for the equations of motion of the labs."""

from collections.abc import Callable

import numpy as np


def runge_kutta(slope: Callable[[np.ndarray], np.ndarray], state: np.ndarray, time: float, parts: int) -> np.ndarray:
    """The state after `time`, by `parts` steps of the fourth-order Runge-Kutta method."""
    dt = time / parts
    for _ in range(parts):
        first = slope(state)
        second = slope(state + dt / 2 * first)
        third = slope(state + dt / 2 * second)
        state = state + dt / 6 * (first + 2 * second + 2 * third + slope(state + dt * third))
    return state
