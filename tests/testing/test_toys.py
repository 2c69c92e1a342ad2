from __future__ import annotations

import numpy as np
import pytest

from worldline.data.checks import check_episode
from worldline.testing.toys import SIDE, Integrator, picture


@pytest.mark.parametrize("wind", [True, False])
@pytest.mark.parametrize("camera", [True, False])
def test_episodes_fit_the_schema(wind: bool, camera: bool) -> None:
    toy = Integrator(noise=0.1, wind=wind, camera=camera)
    for episode in toy.episodes(3, 7, seed=0):
        assert check_episode(episode, toy.schema) == ()
        assert episode.num_steps == 7


def test_the_dynamics_are_exact_without_noise() -> None:
    toy = Integrator()
    (episode,) = toy.episodes(1, 20, seed=1)
    position = episode.observations["position"]
    moved = toy.step(position[:-1], episode.actions["push"], episode.exogenous["wind"])
    np.testing.assert_allclose(moved, position[1:], atol=1e-5)
    assert np.abs(episode.actions["push"]).max() <= 1


def test_noise_has_the_deviation_that_was_asked_for() -> None:
    toy = Integrator(noise=0.5)
    left = [
        episode.observations["position"][1:]
        - toy.step(episode.observations["position"][:-1], episode.actions["push"], episode.exogenous["wind"])
        for episode in toy.episodes(20, 50, seed=2)
    ]
    assert np.std(left) == pytest.approx(0.5, rel=0.05)


def test_equal_seeds_give_equal_logs_whatever_their_number() -> None:
    toy = Integrator(noise=0.1)
    few, many = toy.episodes(2, 5, seed=3), toy.episodes(4, 5, seed=3)
    np.testing.assert_array_equal(few[1].observations["position"], many[1].observations["position"])
    assert not np.array_equal(many[2].observations["position"], many[3].observations["position"])


def test_the_camera_shows_where_it_is() -> None:
    seen = picture(np.array([2.5, -1.5]))
    assert seen.shape == (SIDE, SIDE, 1)
    assert np.unravel_index(seen.argmax(), seen.shape)[:2] == (2, 6)
