"""What labs promise beside being one."""

from __future__ import annotations

import numpy as np
import pytest

from worldline.labs.base import DrawsImages, Lab
from worldline.registry import BUILTIN, load
from worldline.schema import Kind

NEEDLESS = {
    "clips": {"red_velocity", "green_velocity", "blue_velocity"},
    "collision": {"left_velocity", "right_velocity"},
    "containers": {"disc_0_velocity", "disc_1_velocity"},
    "gusty-puck": {"puck_velocity"},
    "hidden-mover": {"puck_position"},  # without it the lid is drawn
    "occluder": {"ball_velocity"},
    "parabola": {"ball_velocity"},
}
"""Signals that a picture does not show."""
DRAWS = [name for name in BUILTIN["lab"] if issubclass(load("lab", name), DrawsImages)]


@pytest.mark.parametrize("name", DRAWS)
def test_what_is_known_tells_the_picture_or_there_is_none(name: str) -> None:
    lab = load("lab", name)(pictures=True)
    assert isinstance(lab, Lab)
    assert isinstance(lab, DrawsImages)
    lab.reset(seed=1)
    space = lab.action_space
    space.seed(0)
    done = space.sample()
    seen = lab.step(done)[0]
    vectors = {signal.name for signal in lab.schema.observations if signal.kind is Kind.VECTOR}
    shown = {**{one: seen[one] for one in vectors}, **done}
    picture = lab.drawn(shown)
    assert picture is not None
    assert np.abs(picture.astype(int) - seen["camera"]).max() <= 1  # from float32
    needed = vectors - NEEDLESS.get(name, set())
    for one in shown:
        found = lab.drawn({other: value for other, value in shown.items() if other != one})
        assert (found is None) == (one in needed or (name, one) == ("delayed-actuator", "valves")), one
    assert lab.drawn({}) is None or name == "hidden-mover"
