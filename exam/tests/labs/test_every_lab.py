"""What every lab of the exam does alike; `tests/labs/test_base.py` has what all labs do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st

from worldline.labs.playing import explore, replay
from worldline.registry import load, names
from worldline_exam.labs.base import ExamLab

SEEDS = st.integers(0, 2**31)
LABS = [name for name in names("lab") if issubclass(load("lab", name), ExamLab)]
CALM: Mapping[str, Mapping[str, Any]] = {
    "clips": {"noise": 0.0}, "collision": {}, "containers": {}, "lamp": {"noise": 0.0}, "parabola": {},
}  # fmt: skip
"""Settings of labs without noise, whose observations hold the whole state."""
every_lab = pytest.mark.parametrize("name", LABS)


def made(name: str, **given: Any) -> ExamLab:
    lab = load("lab", name)(**given)
    assert isinstance(lab, ExamLab)
    return lab


@every_lab
@settings(max_examples=5, deadline=None)
@given(seed=SEEDS, before=SEEDS)
def test_a_seed_holds_every_draw(name: str, seed: int, before: int) -> None:
    lab, other = made(name, pictures=True), made(name, pictures=True)
    explore(lab, before, 3)  # another episode before it leaves nothing behind
    first, second = (explore(one, seed, 8) for one in (lab, other))
    for group in ("observations", "observed", "actions"):
        for signal, value in vars(first)[group].items():
            np.testing.assert_array_equal(value, vars(second)[group][signal])


@every_lab
def test_pictures_follow_the_observations(name: str) -> None:
    """They change within an episode and between episodes, with a visible contrast."""
    lab = made(name, pictures=True)
    first, second = (explore(lab, seed, 12).observations["camera"] for seed in (0, 1))
    assert len(np.unique(first.reshape(len(first), -1), axis=0)) > 1
    assert (first[-1] != second[-1]).any()
    assert np.ptp(first) > 100


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


@pytest.mark.parametrize(("name", "option", "value"), [
    ("collision", "left_velocity", [0.0]),
    ("parabola", "gravity", [9.0]),
    ("pusher-block", "block_position", [0.1, -0.2]),
])  # fmt: skip
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
