from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worldline.episode import Arrays
from worldline_exam.labs.collision import MAX_PUSH, STEP_S, Collision
from worldline_exam.references.false_laws import passing, slowed, slowed_at_contact, sticking
from worldline_exam.references.lab_oracle import Law

NUM_STEPS = 30
FASTEST = 4.0


def started(lab: Collision, left: float, right: float, time: float) -> Arrays:
    return lab.approach(*(np.array([number]) for number in (left, right, 0.5, time)))


def pushes(seed: int) -> Arrays:
    drawn = np.random.default_rng(seed).uniform(-MAX_PUSH, MAX_PUSH, (1, NUM_STEPS, 1))
    return {"push": drawn.astype(np.float32)}


def still() -> Arrays:
    return {"push": np.zeros((1, NUM_STEPS, 1), np.float32)}


@pytest.mark.parametrize(
    "made",
    [lambda lab: passing(), sticking, lambda lab: slowed_at_contact(lab, FASTEST)],
    ids=["pass", "stick", "slow"],
)
@settings(max_examples=20)
@given(st.floats(1, 7), st.floats(1, 7), st.floats(0.1, 0.9), st.integers(0, 99))
def test_balls_that_are_apart_move_as_they_do(
    made: Callable[[Collision], Law], left: float, right: float, time: float, seed: int
) -> None:
    lab = Collision()
    start, taken = started(lab, left, right, time), pushes(seed)
    true, told = lab.simulate(start, taken), made(lab)(start, taken)
    before = STEP_S * np.arange(1, NUM_STEPS + 1) < time - STEP_S
    for name, value in true.items():
        assert told[name].shape == value.shape
        np.testing.assert_allclose(told[name][:, before], value[:, before], atol=1e-4)


@settings(max_examples=20)
@given(st.floats(1, 7), st.floats(1, 7), st.floats(0.1, 0.9), st.integers(0, 99))
def test_who_sticks_touches_once_and_keeps_momentum(left: float, right: float, time: float, seed: int) -> None:
    lab = Collision(radius=1.2, contact_s=0.5)
    path = sticking(lab)(started(lab, left, right, time), pushes(seed))
    gap = (path["right_position"] - path["left_position"])[0, :, 0] - 2 * lab.radius
    after = STEP_S * np.arange(1, NUM_STEPS + 1) > time + STEP_S
    np.testing.assert_allclose(gap[after], 0, atol=2e-3)
    total = (path["left_velocity"] + path["right_velocity"])[0, :, 0]
    assert (np.abs(total - (left - right)) <= NUM_STEPS * STEP_S * MAX_PUSH + 1e-5).all()
    unpushed = sticking(lab)(started(lab, left, right, time), still())
    np.testing.assert_allclose(unpushed["left_velocity"][0, -1], (left - right) / 2, atol=1e-5)
    np.testing.assert_allclose(unpushed["right_velocity"][0, -1], (left - right) / 2, atol=1e-5)


@settings(max_examples=20)
@given(st.floats(5, 7), st.floats(5, 7), st.floats(0.1, 0.7))
def test_who_is_slow_in_a_contact_parts_at_the_fastest_that_was_logged(left: float, right: float, time: float) -> None:
    """It has touched when and where balls do, and its contact takes the same time."""
    lab = Collision()
    start = started(lab, left, right, time)
    path, true = slowed_at_contact(lab, FASTEST)(start, still()), lab.simulate(start, still())
    np.testing.assert_allclose(path["left_velocity"][0, -1], -FASTEST, atol=0.1)
    np.testing.assert_allclose(path["right_velocity"][0, -1], FASTEST, atol=0.1)
    gap, real = (one["right_position"] - one["left_position"] - 2 * lab.radius for one in (path, true))
    assert abs(int((gap < 0).sum()) - int((real < 0).sum())) <= 1
    slow = slowed(lab, FASTEST)(start, still())
    np.testing.assert_allclose(slow["left_velocity"][0, 0], FASTEST, atol=1e-5)
