"""What every lab of the exam does alike; `tests/labs/test_base.py` has what all labs do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st

from worldline.engines.storage import build_lab, name_lab
from worldline.errors import ConfigError, InputError
from worldline.labs.playing import explore, replay
from worldline.registry import load
from worldline_exam.labs.base import ExamLab
from worldline_exam.labs.collision import USUAL as MEETINGS
from worldline_exam.labs.parabola import SLOW
from worldline_exam.labs.parabola import USUAL as THROWS

SEEDS = st.integers(0, 2**31)
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "clips": {"drag": 0.1, "bounce": 0.9, "noise": 0.01},
    "collision": {"meetings": MEETINGS[:2], "radius": 0.9, "contact_s": 0.3},
    "containers": {"size": 2.2, "restitution": 0.8},
    "delayed-actuator": {"lags": (3, 1, 0, 2, 9), "fade": 0.5},
    "elastic-pucks": {"masses": (1.0, 2.0), "radii": (0.2, 0.3)},
    "fleet": {"motor_effect": 0.5, "wind_effect": 2.0, "noise": 0.1},
    "gusty-puck": {"friction": (0.4, 3.0), "gust": 0.2, "mass": 0.6, "spring": 0.7, "tilt": (0.1, 0.0), "speed": 1.5},
    "hidden-mover": {"drag": 0.5, "bounce": 0.3, "mass": 1.5, "half_side": 1.2},
    "lamp": {"effect": -2.0, "noise": 0.3},
    "occluder": {"half_screen": 0.25, "shade": 0.5, "depth": 0.4},
    "parabola": {"throws": THROWS[:1], "buoyancy": 0.2},
    "pendulum": {"mass": 1.3, "length": 0.9},
    "pusher-block": {"block_half": 0.12, "pusher_radius": 0.04},
    "two-bodies": {"masses": (1.0, 2.0), "strength": 0.5, "softening": 0.4, "trap": 0.3},
    "wind": {"confounding": 0.6, "noise": 0.1},
}
"""Settings that differ from the defaults."""
WRONG: Mapping[str, tuple[Mapping[str, Any], ...]] = {
    "clips": ({"drag": -0.1}, {"bounce": 0.0}, {"bounce": 1.1}, {"noise": -1.0}),
    "collision": ({"meetings": ()}, {"radius": 0.0}, {"contact_s": 0.0}),
    "containers": (
        {"num_discs": 0},
        {"num_discs": 9},
        {"restitution": 0.0},
        {"radius": -1.0},
        {"stiffness": 0.0},
        {"pen": (0.1, 0.5)},
    ),
    "delayed-actuator": ({"lags": (1, 2)}, {"lags": (0, 1, 2, 3, -1)}, {"fade": 1.0}, {"fade": -0.1}),
    "elastic-pucks": ({"masses": (1.0, 0.0)}, {"radii": (0.0, 0.2)}, {"radii": (0.5, 0.5)}),
    "fleet": ({"noise": -1.0},),
    "gusty-puck": (
        {"friction": (0.0, 1.0)},
        {"friction": (2.0, 1.0)},
        {"gust": -0.1},
        {"mass": 0.0},
        {"spring": 0.0},
        {"speed": 0.0},
    ),
    "hidden-mover": ({"drag": -0.1}, {"bounce": 1.1}, {"mass": 0.0}, {"half_side": 0.0}),
    "lamp": ({"effect": 0.0}, {"noise": -0.1}),
    "occluder": ({"half_screen": 0.1}, {"shade": 0.0}, {"depth": 0.0}, {"depth": 2.0}),
    "parabola": ({"throws": ()}, {"throws": (((2.0, 1.0), SLOW),)}, {"buoyancy": 1.0}),
    "pendulum": ({"mass": 0.0}, {"length": 0.0}, {"length": 2.0}),
    "pusher-block": ({"block_half": 0.5}, {"pusher_radius": 0.0}),
    "two-bodies": ({"masses": (0.0, 1.0)}, {"strength": -1.0}, {"softening": 0.0}, {"trap": -1.0}),
    "wind": ({"confounding": 1.1}, {"confounding": -0.1}, {"noise": -1.0}),
}
"""Settings out of range."""
CALM: Mapping[str, Mapping[str, Any]] = {
    "clips": {"noise": 0.0},
    "collision": {},
    "containers": {},
    "lamp": {"noise": 0.0},
    "parabola": {},
}
"""Settings of labs without noise, whose observations hold the whole state."""
every_lab = pytest.mark.parametrize("name", SETTINGS)


def made(name: str, **given: Any) -> ExamLab:
    lab = load("lab", name)(**given)
    assert isinstance(lab, ExamLab)
    return lab


def assert_same_episode(one: ExamLab, other: ExamLab, seed: int) -> None:
    first, second = (explore(lab, seed, 8) for lab in (one, other))
    for group in ("observations", "observed", "actions"):
        for name, value in vars(first)[group].items():
            np.testing.assert_array_equal(value, vars(second)[group][name])


@every_lab
@settings(max_examples=5, deadline=None)
@given(seed=SEEDS, before=SEEDS)
def test_a_seed_holds_every_draw(name: str, seed: int, before: int) -> None:
    lab, other = made(name, pictures=True), made(name, pictures=True)
    explore(lab, before, 3)  # another episode before it leaves nothing behind
    assert_same_episode(lab, other, seed)


@every_lab
def test_it_is_built_again_from_its_settings(name: str) -> None:
    lab = made(name, **SETTINGS[name], pictures=True)
    again = build_lab(name_lab(lab))
    assert type(again) is type(lab)
    assert again.settings == lab.settings != made(name, pictures=True).settings
    assert again.schema == lab.schema
    assert_same_episode(lab, again, 1)
    for wrong in ({**lab.settings, "waves": 1.0}, {}):
        with pytest.raises(ConfigError):
            type(lab).from_settings(wrong)


@pytest.mark.parametrize(("name", "wrong"), [(name, one) for name, given in WRONG.items() for one in given])
def test_settings_out_of_range_are_refused(name: str, wrong: Mapping[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        made(name, **wrong)


@every_lab
def test_actions_beyond_the_bounds_are_cut(name: str) -> None:
    lab = made(name)
    edge = {one.name: np.broadcast_to(np.array(one.high, one.dtype), (6, *one.shape)) for one in lab.schema.actions}
    near, far = (replay(lab, 3, {key: times * value for key, value in edge.items()}) for times in (1, 9))
    for key, value in near.observations.items():
        np.testing.assert_array_equal(value, far.observations[key])


@pytest.mark.parametrize("name", ["fleet", "gusty-puck", "wind"])
def test_hidden_causes_are_those_of_the_seed_and_no_log_holds_them(name: str) -> None:
    lab = made(name)
    explore(lab, 4, 3)
    assert lab.hidden(5) == made(name).hidden(5) != lab.hidden(6)
    assert lab.hidden(5).keys().isdisjoint(signal.name for signal in lab.schema.signals)


@pytest.mark.parametrize(
    ("name", "noise"),
    [("clips", "noise"), ("fleet", "noise"), ("gusty-puck", "gust"), ("lamp", "noise"), ("wind", "noise")],
)
@settings(max_examples=5, deadline=None)
@given(seed=SEEDS)
def test_noise_lamps_and_drills_do_not_depend_on_what_is_done(name: str, noise: str, seed: int) -> None:
    """Noise adds the same to observations, whatever the actions are."""
    rng, paths = np.random.default_rng(seed), []
    for _ in range(2):
        actions = {
            signal.name: rng.uniform(signal.low, signal.high, (10, *signal.shape)).astype(np.float32)
            for signal in made(name).schema.actions
        }
        paths.append([replay(lab, seed, actions).observations for lab in (made(name), made(name, **{noise: 0.0}))])
    added = [{key: noisy[key] - calm[key] for key in noisy} for noisy, calm in paths]
    assert max(np.abs(value).max() for value in added[0].values()) > 1e-3
    for key, value in added[0].items():
        np.testing.assert_allclose(value, added[1][key], atol=1e-4)
        if key.endswith(("lamp", "drill")):
            np.testing.assert_array_equal(paths[0][0][key], paths[1][0][key])


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("collision", "left_velocity", [0.0]),
        ("parabola", "gravity", [9.0]),
        ("pusher-block", "block_position", [0.1, -0.2]),
    ],
)
def test_an_option_changes_one_thing(name: str, option: str, value: list[float]) -> None:
    drawn, moved = (made(name).reset(seed=3, options=options)[0] for options in (None, {option: value}))
    np.testing.assert_allclose(moved[option], value, atol=1e-7)
    for other in drawn.keys() - {option}:
        np.testing.assert_array_equal(moved[other], drawn[other])


@pytest.mark.parametrize("name", CALM)
def test_simulating_many_at_once_is_stepping_each(name: str) -> None:
    lab = made(name, **CALM[name])
    played = [explore(lab, seed, 25) for seed in range(5)]
    start = {key: np.stack([one.observations[key][0] for one in played]) for key in played[0].observations}
    path = lab.simulate(start, {key: np.stack([one.actions[key] for one in played]) for key in played[0].actions})
    for number, one in enumerate(played):
        for key, value in path.items():
            np.testing.assert_allclose(value[number], one.observations[key][1:], atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*(infinity|symmetric and normalized|alternative render modes).*:UserWarning")
@pytest.mark.parametrize("pictures", [False, True])
@every_lab
def test_it_is_a_gymnasium_environment(name: str, pictures: bool) -> None:
    check_env(made(name, pictures=pictures))
