from __future__ import annotations

import math
import sys

import numpy as np
import pytest
from reacher_task import WRIST, Flail, Reacher, reacher, turned

from worldline.data.store import Store
from worldline.errors import MissingExtraError
from worldline.workflows.record import record

pytest.importorskip("dm_control")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    env, path = Reacher(), tmp_path_factory.mktemp("reacher") / "store"
    return record(env, path, policy=Flail(), num_episodes=12, max_steps=60, seed=0, schema=env.schema)


def replayed(store: Store, episode: int, steps: int) -> tuple[np.ndarray, np.ndarray]:
    env, torques = Reacher(), store.read("torque", episode, 0, steps)
    seen = [env.reset(seed=store.entry(episode).seed)[0]]
    seen += [env.step({"torque": torque})[0] for torque in torques]
    angles, velocity = (np.stack([one[name] for one in seen]) for name in ("angles", "velocity"))
    return angles, velocity


def test_an_episode_replays_from_its_seed(store: Store) -> None:
    angles, velocity = replayed(store, 3, 60)
    np.testing.assert_allclose(angles, store.read("angles", 3, 0, 61), atol=1e-5)
    np.testing.assert_allclose(velocity, store.read("velocity", 3, 0, 61), atol=1e-5)


def test_angles_are_what_the_velocity_adds_up_to_and_turn_all_the_way_round(store: Store) -> None:
    for number in range(len(store)):
        angles, velocity = (store.read(name, number, 0, 61).astype(float) for name in ("angles", "velocity"))
        assert (angles >= -math.pi - 1e-6).all()
        assert (angles < math.pi).all()
        assert np.abs(angles[:, 1]).max() < WRIST + 0.3  # its stop gives way a little
        between = turned(np.diff(angles, axis=0))  # the velocity after a step is what moved it
        np.testing.assert_allclose(between[:, 0], 0.02 * velocity[1:, 0], atol=2e-3)


def test_the_recipe_reads_angles_as_what_they_are(store: Store) -> None:
    recipe = reacher(store)
    assert recipe.model_config.inputs == ("angles", "velocity")
    assert store.schema["angles"].period == pytest.approx(2 * math.pi)
    assert recipe.heads.goals


def test_without_dm_control_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dm_control", None)
    with pytest.raises(MissingExtraError, match="envs"):
        Reacher()
