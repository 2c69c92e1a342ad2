"""Episodes of a lab, and their twins."""

from typing import Any

import numpy as np
import pytest

from worldline.engines.simulator import SimulatorEngine
from worldline.errors import InputError, UnknownNameError, UnsupportedError
from worldline.labs.playing import explore, replay, stacked
from worldline.labs.two_rooms import TwoRooms
from worldline_exam.labs.elastic_pucks import ElasticPucks
from worldline_exam.labs.gusty_puck import GustyPuck
from worldline_exam.labs.occluder import Occluder
from worldline_exam.labs.wind import Wind


def test_a_twin_is_the_same_up_to_the_branch_and_keeps_its_noise() -> None:
    lab = GustyPuck()
    taken = explore(lab, 5, 20)
    others = taken.actions["push"].copy()
    others[8:] = 0.0
    twin, twin_again = replay(lab, 5, {"push": others}), replay(GustyPuck(), 5, {"push": others})
    before, after = slice(0, 9), slice(9, None)
    for name, value in taken.observations.items():
        assert np.array_equal(value[before], twin.observations[name][before])
        assert not np.array_equal(value[after], twin.observations[name][after])
        assert np.array_equal(twin.observations[name], twin_again.observations[name])


def test_an_option_takes_the_place_of_what_the_seed_draws_and_of_nothing_else() -> None:
    lab = GustyPuck(friction=(0.5, 2.0))
    taken = explore(lab, 5, 6)
    same = replay(lab, 5, taken.actions, {"friction": lab.hidden(5)["friction"]})
    other = replay(lab, 5, taken.actions, {"friction": 2.0})
    for name in taken.observations:
        assert np.array_equal(taken.observations[name], same.observations[name])
        assert np.array_equal(taken.observations[name][0], other.observations[name][0])
        assert not np.array_equal(taken.observations[name][1:], other.observations[name][1:])


def test_a_seed_is_kept_only_where_it_alone_leads_to_the_episode() -> None:
    lab = GustyPuck()
    taken = explore(lab, 5, 6)
    assert [replay(lab, 5, taken.actions, options).seed for options in (None, {})] == [5, 5]
    other = replay(lab, 5, taken.actions, {"friction": 2.0})
    assert other.seed is None
    engine = SimulatorEngine(make_environment=GustyPuck, schema=lab.schema)
    with pytest.raises(UnsupportedError, match="no reset seed"):
        engine.abduct(other, 0)  # whose friction the seed does not tell


class _Short(TwoRooms):
    """Ends at the third step."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict[str, Any], Any]:
        self._left = 3
        return super().reset(seed=seed, options=options)

    def step(self, action: dict[str, Any]) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        self._left -= 1
        shown, reward, _, _, info = super().step(action)
        return shown, reward, self._left == 0, False, info


def test_an_episode_ends_where_the_lab_ends_it_and_pictures_keep_their_type() -> None:
    found = explore(_Short(), 0, 9)
    assert (found.num_steps, found.observations["camera"].dtype) == (3, np.uint8)


def test_what_makes_no_episode_is_refused() -> None:
    lab, push = ElasticPucks(), np.zeros((3, 2), np.float32)
    assert replay(lab, 0, {"blue_push": push, "red_push": push}).num_steps == 3
    with pytest.raises(InputError, match=r"lacks .*'blue_push'"):
        replay(lab, 0, {"red_push": push})
    with pytest.raises(ValueError, match="shorter"):
        replay(lab, 0, {"red_push": push, "blue_push": push[:2]})
    assert replay(lab, 0, {"red_push": push[:0], "blue_push": push[:0]}).num_steps == 0  # how it begins
    with pytest.raises(InputError, match="action 'blue_push' is"):
        replay(lab, 0, {"red_push": push, "blue_push": push[:, :1]})
    with pytest.raises(UnknownNameError, match=r"'red_pusk'.*Did you mean 'red_push'"):
        replay(lab, 0, {"red_pusk": push, "blue_push": push})


def test_stacked_episodes_lead_with_the_scene() -> None:
    lab = GustyPuck()
    episodes = [explore(lab, seed, 4) for seed in range(3)]
    both = stacked(episodes)
    assert both.observations["puck_position"].shape == (3, 5, 2)
    assert np.array_equal(both.actions["push"][1], episodes[1].actions["push"])


def test_what_a_lab_hides_is_logged_as_not_observed() -> None:
    lab = Occluder()
    options = {"rail": 1, "x": -0.5, "speed": 1.0, "wall": 1, "pit": -1, "door": 0.0, "colour": 0.5}
    episode = replay(lab, 0, {"push": np.zeros((10, 1), np.float32)}, options)
    assert all(np.isfinite(value).all() for value in episode.observations.values())
    assert set(episode.observed) == {"ball_position", "ball_velocity", "ball_brightness", "wall"}
    assert not episode.observed["ball_position"][-1]
    assert episode.observed["ball_position"][0]
    assert explore(Wind(), 0, 5).observed == {}


def test_episodes_are_stacked_with_the_gaps_of_each() -> None:
    lab = Occluder()
    push = {"push": np.zeros((10, 1), np.float32)}
    common = {"rail": 1, "speed": 1.0, "wall": -1, "pit": -1, "door": 0.0, "colour": 0.5}
    hidden, seen = (replay(lab, 0, push, {**common, "x": x}) for x in (-0.5, 1.2))
    assert all(mask.all() for mask in seen.observed.values())
    both = stacked([seen, hidden])
    np.testing.assert_array_equal(both.observed["wall"], [np.ones(11, bool), hidden.observed["wall"]])
    assert both.observations["ball_position"].shape == (2, 11, 2)
