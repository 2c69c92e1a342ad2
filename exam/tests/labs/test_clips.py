from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from worldline_exam.labs.clips import HALF_TABLE, Clips

SEEDS = st.integers(0, 2**31)


def run(lab: Clips, states: np.ndarray, num_steps: int) -> np.ndarray:
    """[T + 1, M, 3, 2, 2], without pushes or noise."""
    path = [states]
    for _ in range(num_steps):
        path.append(lab.advance(path[-1], np.zeros((len(states), 2))))
    return np.stack(path)


def reversed_velocity(states: np.ndarray) -> np.ndarray:
    return states * np.array([1.0, -1.0])[:, None]


@settings(max_examples=20, deadline=None)
@given(SEEDS)
def test_without_friction_a_path_runs_backwards_too(seed: int) -> None:
    lab = Clips(drag=0.0, bounce=1.0)
    path = run(lab, lab.starts(20, np.random.default_rng(seed)), 40)
    back = run(lab, reversed_velocity(path[-1]), 40)
    np.testing.assert_allclose(back[::-1], reversed_velocity(path), atol=1e-9)
    speed = np.linalg.norm(path[..., 1, :], axis=-1)
    np.testing.assert_allclose(speed, np.broadcast_to(speed[0], speed.shape), atol=1e-9)


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.floats(0.05, 2.0), st.floats(0.3, 1.0))
def test_with_friction_energy_is_only_lost(seed: int, drag: float, bounce: float) -> None:
    lab = Clips(drag=drag, bounce=bounce)
    path = run(lab, lab.starts(20, np.random.default_rng(seed)), 30)
    speed = np.linalg.norm(path[..., 1, :], axis=-1)
    assert (np.diff(speed, axis=0) < 0).all()
    np.testing.assert_array_less(np.abs(path[..., 0, :]), HALF_TABLE + 1e-9)


def test_drag_is_solved_exactly() -> None:
    """In the middle of the table, against many small steps of Euler."""
    lab, start = Clips(drag=0.7), np.zeros((1, 3, 2, 2))
    start[0, :, 1] = [[0.5, -0.3], [1.0, 0.2], [-0.8, 0.4]]
    found, place, speed = run(lab, start, 5)[-1, 0], np.zeros((3, 2)), start[0, :, 1].copy()
    for _ in range(50_000):
        place, speed = place + 1e-5 * speed, speed - 0.7 * 1e-5 * speed
    np.testing.assert_allclose(found[:, 0], place, atol=1e-4)
    np.testing.assert_allclose(found[:, 1], speed, atol=1e-4)


def test_a_cushion_gives_back_its_share() -> None:
    lab, start = Clips(drag=0.0, bounce=0.5), np.zeros((1, 3, 2, 2))
    start[0, 0] = [[0.95, 0.0], [1.0, 0.6]]
    red = lab.advance(start, np.zeros((1, 2)))[0, 0]
    np.testing.assert_allclose(red, [[1.0 - 0.5 * 0.05, 0.06], [-0.5, 0.6]])
