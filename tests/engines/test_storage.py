from __future__ import annotations

from typing import Any

import pytest

from worldline.engines.storage import LabName, build_lab
from worldline.errors import DataError
from worldline.labs.abilities import Configured
from worldline.registry import load, names

WRONG: dict[str, dict[str, Any]] = {
    "clips": {"drag": -1.0},
    "collision": {"radius": 0.0},
    "containers": {"num_discs": 0},
    "delayed-actuator": {"fade": 1.0},
    "elastic-pucks": {"masses": [0.0, 1.0]},
    "fleet": {"noise": -1.0},
    "gusty-puck": {"mass": 0.0},
    "hidden-mover": {"bounce": 2.0},
    "lamp": {"effect": 0.0},
    "occluder": {"depth": 0.0},
    "parabola": {"buoyancy": 1.0},
    "pendulum": {"length": 2.0},
    "pusher-block": {"block_half": 1.0},
    "two-bodies": {"softening": 0.0},
    "two-rooms": {"walls": "none"},
    "wind": {"confounding": 2.0},
}
"""For each lab that can be built again, settings of the right type out of their range."""


def test_every_lab_that_can_be_built_again_is_tried() -> None:
    assert set(WRONG) == {name for name in names("lab") if issubclass(load("lab", name), Configured)}


@pytest.mark.parametrize("name", WRONG)
def test_a_stored_lab_with_settings_that_do_not_fit_is_bad_data(name: str) -> None:
    settings = load("lab", name)().settings
    assert build_lab(LabName(lab=name, settings=settings)).settings == settings
    for wrong in (WRONG[name], {"colour": "red"}, dict.fromkeys(WRONG[name])):
        with pytest.raises(DataError, match="Fetch or save the world again"):
            build_lab(LabName(lab=name, settings={**settings, **wrong}))
