from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from worldline.labs.playing import explore, replay
from worldline_exam.labs.parabola import FAST, FIELD, MAX_LIFT, SLOW, STEP_S, STRONG, Parabola


@given(st.floats(-3, 3), st.floats(0.5, 6), st.floats(0, 5), st.floats(0, 0.9))
def test_under_a_steady_lift_the_path_is_the_parabola(
    lift: float, speed: float, gravity: float, buoyancy: float
) -> None:
    lab, num_steps = Parabola(buoyancy=buoyancy), 20
    options = {"ball_position": [1.0, 2.0], "ball_velocity": [speed, 0.5], "gravity": [gravity]}
    episode = replay(lab, 0, {"lift": np.full((num_steps, 1), lift, np.float32)}, options)
    time = STEP_S * np.arange(num_steps + 1)
    falling = lift - (1 - buoyancy) * gravity
    due = np.stack([1 + speed * time, 2 + 0.5 * time + falling * time**2 / 2], -1)
    np.testing.assert_allclose(episode.observations["ball_position"], due, atol=2e-5)
    np.testing.assert_allclose(episode.observations["ball_velocity"][:, 1], 0.5 + falling * time, atol=2e-5)
    assert (episode.observations["gravity"] == np.float32(gravity)).all()


def test_the_logs_leave_out_a_gap_what_is_faster_and_a_combination() -> None:
    lab = Parabola()
    episodes = [explore(lab, seed, 30) for seed in range(150)]
    speed = np.array([one.observations["ball_velocity"][:, 0] for one in episodes])
    gravity = np.array([one.observations["gravity"][0, 0] for one in episodes])
    slow, fast = (((low <= speed) & (speed <= high)).all(1) for low, high in (SLOW, FAST))
    assert (slow ^ fast).all()
    assert slow.sum() > 70
    assert fast.sum() > 30
    strong = gravity >= STRONG[0]
    assert (slow & strong).sum() > 30
    assert not (fast & strong).any()
    place = np.array([one.observations["ball_position"] for one in episodes])
    assert place[..., 0].min() > -FIELD
    assert place[..., 0].max() < FIELD
    lift = np.array([one.actions["lift"] for one in episodes])
    assert 0.4 * MAX_LIFT < lift.std() < 0.7 * MAX_LIFT
