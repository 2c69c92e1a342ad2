"""What every lab does alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
import pytest

from worldline.errors import InputError, UnknownNameError, UnsupportedError
from worldline.labs.base import Lab, read_action, read_options
from worldline.registry import BUILTIN, load
from worldline_exam.labs.wind import Wind

OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "clips": {"state": np.zeros((3, 2, 2))},
    "collision": {"left_position": [-3.0], "right_position": [3.0], "right_velocity": [-1.0]},
    "containers": {"position": [[0.4, 0.4], [1.5, 1.5]], "velocity": np.ones((2, 2))},
    "delayed-actuator": {"before": np.zeros((3, 5))},
    "elastic-pucks": {"red_position": [0.5, 0.5], "damping": [0.2]},
    "fleet": {"steady_90_wind": 1.0, "gusty_60_drift": 2.0},
    "gusty-puck": {"friction": 1.0, "position": [0.0, 1.0]},
    "hidden-mover": {"position": [0.0, 1.0], "lid": [(3, 5)]},
    "lamp": {"station_95_heat": 1.0, "station_99_lamp": 1},
    "occluder": {"rail": 1, "x": -1.0, "speed": 1.0, "pit": -1},
    "parabola": {"ball_position": [3.0, 4.0], "gravity": [2.0]},
    "pendulum": {"angle": [1.0, 0.0], "damping": [0.8]},
    "pusher-block": {"block_position": [0.1, -0.2]},
    "two-bodies": {"free_velocity": [1.0, 0.0], "damping": [0.8]},
    "two-rooms": {"position": [10.0, 50.0], "wall": [25.0, 40.0]},
    "wind": {"wind": 1.0, "position": 2.0},
}
every_lab = pytest.mark.parametrize("name", BUILTIN["lab"])


def made(name: str) -> Lab:
    lab = load("lab", name)()
    assert isinstance(lab, Lab)
    return lab


@every_lab
def test_options_that_do_not_fit_are_refused(name: str) -> None:
    lab = made(name)
    lab.reset(seed=3, options=dict(OPTIONS[name]))
    with pytest.raises(UnknownNameError, match=f"'boat_positions'.*Known: .*{next(iter(OPTIONS[name]))}"):
        lab.reset(seed=3, options={"boat_positions": 2.0})
    for option, value in OPTIONS[name].items():
        for wrong in (np.full(np.shape(value), np.nan), np.full(np.shape(value), np.inf), np.ones((7, 7, 7)), "much"):
            with pytest.raises(InputError, match=f"option '{option}'"):
                lab.reset(seed=3, options={**OPTIONS[name], option: wrong})


@pytest.mark.parametrize(("name", "unfit"), [
    ("pusher-block", {"block_position": [3.0, 3.0]}),
    ("pusher-block", {"block_angle": [5.0, 5.0]}),
    ("two-rooms", {"wall": [500.0, -3.0]}),
    ("two-rooms", {"wall": [32.0, 70.0]}),
])  # fmt: skip
def test_options_without_a_state_are_refused(name: str, unfit: Mapping[str, Any]) -> None:
    lab = made(name)
    with pytest.raises(InputError, match=f"{next(iter(unfit)).partition('_')[0]}.* (is|must be) |would be"):
        lab.reset(seed=3, options=dict(unfit))
    with pytest.raises(InputError, match="Call reset first"):
        lab.step(still_of(lab))


def test_options_are_copied_and_an_empty_list_fits_any_number_of_rows() -> None:
    given = np.ones(2)
    found = read_options({"place": given, "rows": []}, {"place": (2,), "rows": (None, 3), "other": ()})
    assert {name: value.shape for name, value in found.items()} == {"place": (2,), "rows": (0, 3)}
    given += 1
    assert (found["place"] == 1).all()
    assert read_options(None, {}) == {}


def still_of(lab: Lab) -> dict[str, Any]:
    return {signal.name: np.zeros(signal.shape, signal.dtype) for signal in lab.schema.actions}


@every_lab
def test_actions_that_do_not_fit_are_refused_and_change_nothing(name: str) -> None:
    lab, twin = made(name), made(name)
    still = still_of(lab)
    first = next(iter(still))
    shape = still[first].shape
    lab.reset(seed=3)
    for wrong in (np.full(shape, np.nan), np.full(shape, np.inf), np.zeros((2, *shape)), np.zeros(()), None, "much"):
        with pytest.raises(InputError, match=f"action '{first}' is"):
            lab.step({**still, first: wrong})
    with pytest.raises(InputError, match=f"lacks .*'{first}'"):
        lab.step({other: value for other, value in still.items() if other != first})
    with pytest.raises(UnknownNameError, match=f"'boat_motors'.*Known: .*{first}"):
        lab.step({**still, "boat_motors": np.zeros(1)})
    twin.reset(seed=3)
    for _ in range(2):
        due, found = twin.step(still)[0], lab.step(still)[0]
        for key, value in due.items():
            np.testing.assert_array_equal(found[key], value)


@every_lab
def test_no_step_comes_before_a_reset_nor_after_one_that_was_refused(name: str) -> None:
    lab = made(name)
    with pytest.raises(InputError, match="Call reset first"):
        lab.step(still_of(lab))
    lab.reset(seed=0)
    with pytest.raises(UnknownNameError):
        lab.reset(seed=0, options={"nothing": 1.0})
    with pytest.raises(InputError, match="Call reset first"):
        lab.step(still_of(lab))


def test_actions_are_read_by_name_and_discrete_ones_within_their_range() -> None:
    box, gear = gymnasium.spaces.Box(-1, 1, (2,), np.float32), gymnasium.spaces.Discrete(3, start=1)
    space = gymnasium.spaces.Dict({"push": box, "gear": gear})
    found = read_action({"gear": 3, "push": [0.5, -9.0]}, space)
    assert {name: (value.tolist(), value.dtype) for name, value in found.items()} == {
        "push": ([0.5, -9.0], np.float64),  # the lab cuts it
        "gear": (3, np.int64),
    }
    for wrong in (0, 4, 1.5, np.nan, [1]):
        with pytest.raises(InputError, match="action 'gear' is"):
            read_action({"push": np.zeros(2), "gear": wrong}, space)
    for nothing in (None, np.zeros(2), 1.0):
        with pytest.raises(InputError, match="Give a dictionary of 'gear', 'push'"):
            read_action(nothing, space)


@every_lab
def test_what_is_rendered_is_what_the_camera_shows(name: str) -> None:
    setting = "camera" if name == "two-rooms" else "pictures"
    lab, blind = (load("lab", name)(**{setting: shown}) for shown in (True, False))
    with pytest.raises(InputError, match="Call reset first"):
        lab.render()
    pairs = [(lab.reset(seed=2)[0], blind.reset(seed=2)[0])]
    np.testing.assert_array_equal(lab.render(), pairs[0][0]["camera"])
    seen, _ = lab.step(still_of(lab))[0], blind.step(still_of(lab))
    for one in (lab, blind):
        np.testing.assert_array_equal(one.render(), seen["camera"])
    assert (lab.metadata["render_modes"], lab.render_mode) == (["rgb_array"], "rgb_array")


def test_a_lab_that_draws_nothing_says_so() -> None:
    class Plain(Wind):
        _look = Lab._look

    lab = Plain()
    lab.reset(seed=0)
    with pytest.raises(UnsupportedError, match="Plain draws no images"):
        lab.render()


@every_lab
def test_what_was_shown_is_not_the_labs_own(name: str) -> None:
    lab = made(name)
    still = still_of(lab)
    lab.reset(seed=0)
    due = lab.step(still)[0]
    for value in lab.reset(seed=0)[0].values():
        value += 1
    again = lab.step(still)[0]
    for key, value in due.items():
        np.testing.assert_array_equal(again[key], value)
