from __future__ import annotations

import numpy as np

from worldline.labs.occluder import Occluder
from worldline.labs.playing import explore, replay, stacked
from worldline.labs.wind import Wind


def test_what_a_lab_hides_is_logged_as_not_observed() -> None:
    lab = Occluder()
    options = {"x": -0.5, "speed": 1.0, "wall": 1, "floor": 1, "gap": 0.5, "colour": 0.5}
    episode = replay(lab, 0, {"push": np.zeros((10, 1), np.float32)}, options)
    assert all(np.isfinite(value).all() for value in episode.observations.values())
    assert set(episode.observed) == {"ball_position", "ball_velocity", "ball_brightness", "wall"}
    assert not episode.observed["ball_position"][-1]
    assert episode.observed["ball_position"][0]
    assert explore(Wind(), 0, 5).observed == {}


def test_episodes_are_stacked_with_the_gaps_of_each() -> None:
    lab = Occluder()
    push = {"push": np.zeros((10, 1), np.float32)}
    common = {"speed": 1.0, "wall": 0, "floor": 1, "gap": 0.5, "colour": 0.5}
    hidden, seen = (replay(lab, 0, push, {**common, "x": x}) for x in (-0.5, 1.2))
    assert seen.observed == {}
    both = stacked([seen, hidden])
    np.testing.assert_array_equal(both.observed["wall"], [np.ones(11, bool), hidden.observed["wall"]])
    assert both.observations["ball_position"].shape == (2, 11, 2)
