from __future__ import annotations

import numpy as np
import pytest

from worldline.episode import Future, History
from worldline.errors import DataError, InputError
from worldline.labs.playing import explore
from worldline_exam.labs.collision import Collision
from worldline_exam.labs.parabola import Parabola
from worldline_exam.references.nearest_case import NearestCase

LAB = Collision()
EPISODES = [explore(LAB, seed, 25) for seed in range(6)]
PLACES = ("left_position", "right_position")


def engine() -> NearestCase:
    return NearestCase(schema=LAB.schema, episodes=EPISODES, places=PLACES)


def at(number: int, first: int, moved: float = 0.0) -> History:
    """A present of the logs, somewhere else on the track."""
    seen = {name: value[None, first : first + 1].copy() for name, value in EPISODES[number].observations.items()}
    for name in PLACES:
        seen[name] += np.float32(moved)
    return History(observations=seen, actions={"push": np.zeros((1, 0, 1), np.float32)})


@pytest.mark.parametrize(("number", "first", "moved"), [(0, 0, 0.0), (3, 7, 0.0), (5, 13, 4.5)])
def test_a_case_of_the_logs_is_copied_to_where_things_are(number: int, first: int, moved: float) -> None:
    belief = engine().observe(None, at(number, first, moved), seed=0)
    push = EPISODES[number].actions["push"][None, None, first : first + 10]
    found = engine().imagine(belief, Future(actions={"push": push}), num_samples=3, seed=0).signals
    for name, value in found.items():
        due = EPISODES[number].observations[name][first + 1 : first + 11] + (moved if name in PLACES else 0.0)
        np.testing.assert_allclose(value[0, 0, 0], due, atol=1e-5)


def test_what_is_faster_than_any_case_gets_a_slower_one() -> None:
    lab = Parabola()
    copy = NearestCase(schema=lab.schema, episodes=[explore(lab, s, 25) for s in range(6)], places=("ball_position",))
    shown = {"ball_position": [0.0, 0.0], "ball_velocity": [9.0, 0.0], "gravity": [1.5]}
    history = History(
        observations={name: np.array([[value]], np.float32) for name, value in shown.items()},
        actions={"lift": np.zeros((1, 0, 1), np.float32)},
    )
    future = Future(actions={"lift": np.zeros((1, 2, 20, 1), np.float32)})
    found = copy.imagine(copy.observe(None, history, seed=0), future, num_samples=1, seed=0).signals
    assert found["ball_position"].shape == (1, 2, 1, 20, 2)
    assert 0 < found["ball_position"][0, 0, 0, -1, 0] <= 4.0 + 1e-5


def test_logs_that_are_too_short_and_foreign_beliefs_are_refused() -> None:
    future = Future(actions={"push": np.zeros((1, 1, 26, 1), np.float32)})
    with pytest.raises(DataError, match="26"):
        engine().imagine(engine().observe(None, at(0, 0), seed=0), future, num_samples=1, seed=0)
    with pytest.raises(InputError, match="belief"):
        engine().imagine("nothing", future, num_samples=1, seed=0)
