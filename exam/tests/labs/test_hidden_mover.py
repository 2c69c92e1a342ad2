from __future__ import annotations

import numpy as np
from exam.tests.labs.integration import runge_kutta
from hypothesis import example, given, settings
from hypothesis import strategies as st

from worldline.labs.playing import explore, replay, stacked
from worldline_exam.labs.hidden_mover import GAPS, MAX_PUSH, OPEN, STEP_S, HiddenMover

SEEDS = st.integers(0, 2**31)
OPEN_LID: dict[str, object] = {"lid": []}


def pushes_of(seed: int, num_steps: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-MAX_PUSH, MAX_PUSH, (num_steps, 2)).astype(np.float32)


def path_of(lab: HiddenMover, seed: int, pushes: np.ndarray, **options: object) -> np.ndarray:
    """Positions [T + 1, 2] with the lid up."""
    return replay(lab, seed, {"push": pushes}, {**OPEN_LID, **options}).observations["puck_position"]


@given(SEEDS, st.floats(0.0, 4.0), st.floats(0.2, 3.0))
@example(0, 1.192092896e-07, 1.0)
@example(0, 0.0099, 1.0)
@example(0, 0.0101, 1.0)
def test_a_step_solves_the_equation(seed: int, drag: float, mass: float) -> None:
    """Against Runge and Kutta in fifty small steps, far from any wall."""
    rng = np.random.default_rng(seed)
    position, velocity, push = rng.uniform(-1, 1, (3, 2))
    found = HiddenMover(drag, mass=mass, half_side=100.0).move(position, velocity, push)

    def slope(now: np.ndarray) -> np.ndarray:
        return np.stack([now[1], push / mass - drag * now[1]])

    due = runge_kutta(slope, np.stack([position, velocity]), STEP_S, 50)
    np.testing.assert_allclose(np.stack(found), due, rtol=1e-7, atol=1e-7)


def test_a_wall_throws_back_by_its_bounce() -> None:
    lab = HiddenMover(0.0, bounce=0.5, half_side=1.0)
    position, velocity = lab.move(np.array([0.95, -0.95]), np.array([1.0, -2.0]), np.zeros(2))
    np.testing.assert_allclose(position, [1 - 0.5 * 0.05, -1 + 0.5 * 0.15])
    np.testing.assert_allclose(velocity, [-0.5, 1.0])


@settings(max_examples=10, deadline=None)
@given(SEEDS)
def test_many_at_once_go_as_one_does(seed: int) -> None:
    lab, pushes = HiddenMover(), pushes_of(seed, 40)
    rng = np.random.default_rng(seed)
    start = {"position": rng.uniform(-2, 2, 2), "velocity": 2 * rng.standard_normal(2)}
    due = path_of(lab, seed, pushes, **start)
    many = {f"puck_{name}": np.stack([value, value]) for name, value in start.items()}
    found = lab.simulate(many, {"push": np.stack([pushes, pushes])})["puck_position"]
    np.testing.assert_array_equal(found[1].astype(np.float32), due[1:])


def test_under_the_lid_it_goes_on_and_the_log_says_that_it_was_not_seen() -> None:
    pushes = pushes_of(1, 30)
    hidden = replay(HiddenMover(), 1, {"push": pushes}, {"lid": [(5, 10), (20, 5)]})
    due = np.ones(31, bool)
    due[5:15] = due[20:25] = False
    np.testing.assert_array_equal(hidden.observed["puck_position"], due)
    shown = hidden.observations["puck_position"]
    np.testing.assert_array_equal(shown[due], path_of(HiddenMover(), 1, pushes)[due])
    assert not shown[~due].any()


def test_logs_hold_every_gap_and_enough_in_between() -> None:
    logs = stacked([explore(HiddenMover(), seed, 100) for seed in range(60)])
    seen = logs.observed["puck_position"]
    edges = np.diff(np.pad((~seen).astype(int), ((0, 0), (1, 1))), axis=1)
    gaps = [int(b - a) for row in edges for a, b in zip(*(np.flatnonzero(row == x) for x in (1, -1)), strict=True)]
    assert set(GAPS) <= set(gaps)
    assert seen[:, : OPEN[0]].all()
    assert 0.4 < seen.mean() < 0.8
    assert (np.lib.stride_tricks.sliding_window_view(seen, 25, axis=1).all(-1).sum(1) > 0).mean() > 0.6


def test_the_picture_shows_the_puck_or_the_lid() -> None:
    lab = HiddenMover(pictures=True)
    left, right = (lab.draw(np.array([x, 0.0]), lid_down=False).astype(int) for x in (-1.0, 1.0))
    red = [frame[..., 0] - frame[..., 2] > 100 for frame in (left, right)]
    columns = [np.argwhere(mask)[:, 1].mean() for mask in red]
    assert columns[0] < 24
    assert columns[1] > 40
    slid = lab.draw(np.array([1.01, 0.0]), lid_down=False)
    assert (slid != right).any()  # less than a pixel of motion shows
    covered = [lab.draw(np.array([x, 0.0]), lid_down=True) for x in (-1.0, 1.0)]
    np.testing.assert_array_equal(*covered)
    episode = replay(lab, 0, {"push": pushes_of(0, 8)}, {"lid": [(3, 5)]})
    np.testing.assert_array_equal(episode.observations["camera"][3], covered[0])
    assert (episode.observations["camera"][8] != covered[0]).any()
