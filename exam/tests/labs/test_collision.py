from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from worldline.labs.playing import explore, replay
from worldline_exam.labs.collision import FIELD, MAX_PUSH, STEP_S, Collision
from worldline_exam.labs.parabola import FAST, SLOW


def pushes(seed: int, num_steps: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-MAX_PUSH, MAX_PUSH, (num_steps, 1)).astype(np.float32)


@given(st.floats(0.5, 7), st.floats(0.5, 7), st.floats(-5, 5), st.floats(0.06, 0.9), st.floats(0.3, 0.5))
def test_balls_touch_when_they_should_and_go_on_as_the_law_says(
    left: float, right: float, place: float, time: float, contact_s: float
) -> None:
    """Against the closed form: straight lines, half a swing of the spring, and straight lines again."""
    lab, num_steps = Collision(radius=1.2, contact_s=contact_s), 30
    start = lab.approach(*(np.array([number]) for number in (left, right, place, time)))
    path = lab.simulate(start, {"push": np.zeros((1, num_steps, 1), np.float32)})
    after = STEP_S * np.arange(1, num_steps + 1) - time
    middle, closing = (left - right) / 2, left + right
    rate = np.pi / contact_s
    deep = closing / rate * np.sin(rate * np.clip(after, 0, contact_s))
    gap = np.where(after < 0, -closing * after, np.where(after > contact_s, closing * (after - contact_s), -deep))
    np.testing.assert_allclose(path["left_position"][0, :, 0], place + middle * after - lab.radius - gap / 2, atol=0.01)
    np.testing.assert_allclose(
        path["right_position"][0, :, 0], place + middle * after + lab.radius + gap / 2, atol=0.01
    )
    if after[-1] > contact_s + STEP_S:
        np.testing.assert_allclose(path["left_velocity"][0, -1, 0], -right, atol=0.03)
        np.testing.assert_allclose(path["right_velocity"][0, -1, 0], left, atol=0.03)


@settings(max_examples=20)
@given(st.integers(0, 2**31))
def test_a_push_moves_the_left_ball_alone_and_momentum_is_kept(seed: int) -> None:
    lab = Collision()
    push = pushes(seed, 30)
    seen = replay(lab, seed, {"push": push}).observations
    total = (seen["left_velocity"] + seen["right_velocity"])[:, 0].astype(float)
    np.testing.assert_allclose(np.diff(total), STEP_S * push[:, 0], atol=1e-5)
    assert (seen["right_position"] > seen["left_position"]).all()


def test_the_logs_leave_out_a_gap_what_is_faster_and_a_combination() -> None:
    lab = Collision()
    episodes = [explore(lab, seed, 30) for seed in range(150)]
    left, right = (np.array([e.observations[f"{b}_velocity"] for e in episodes])[..., 0] for b in ("left", "right"))
    bands = [np.array([[a <= abs(v) <= b for a, b in (SLOW, FAST)] for v in one[:, 0]]) for one in (left, right)]
    assert all((one.sum(1) == 1).all() for one in bands)
    fast_left, fast_right = bands[0][:, 1], bands[1][:, 1]
    assert (fast_left & fast_right).sum() > 30
    assert (~fast_left & fast_right).sum() > 30
    assert not (fast_left & ~fast_right).any()
    assert max(np.abs(left).max(), np.abs(right).max()) < 4.5
    met = (left[:, 0] > 0) & (left[:, -1] < left[:, 0] - 0.5)
    assert met.mean() > 0.9
    place = np.array([one.observations["left_position"] for one in episodes])
    assert np.abs(place).max() < FIELD


def test_balls_do_not_pass_through_each_other() -> None:
    """The fastest meeting of each pool closes at 8 m/s: 1.02 m deep in a contact of 0.4 s."""
    deep = 0.4 / np.pi * 8
    lab = Collision(radius=deep / 2 + 0.01)
    start = lab.approach(*(np.array([number]) for number in (4.0, 4.0, 0.0, 0.1)))
    path = lab.simulate(start, {"push": np.zeros((1, 20, 1), np.float32)})
    assert (path["right_position"] > path["left_position"]).all()
    assert path["left_velocity"][0, -1, 0] < 0
