from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.data.stores import stored

from worldline.audit.diagnostics import diagnose
from worldline.data.store import Store
from worldline.data.windows import evenly_spaced_windows
from worldline.episode import Episode
from worldline.recipes.vectors import vectors
from worldline.schema import Kind, Role, Schema, Signal
from worldline.workflows.evaluation import comparisons, honest
from worldline.workflows.training import learn_world

FAST = Signal(name="fast", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(1,), unit="m")
SLOW = Signal(name="slow", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(2,), unit="kg")
LAMP = Signal(name="lamp", role=Role.OBSERVATION, kind=Kind.DISCRETE, shape=(), num_values=2)


PUSH = Signal(name="push", role=Role.ACTION, kind=Kind.VECTOR, shape=(1,), low=(-1.0,), high=(1.0,))
WIND = Signal(name="wind", role=Role.EXOGENOUS, kind=Kind.VECTOR, shape=(1,))
SCHEMA = Schema(signals=(FAST, SLOW, PUSH))


def episode(generator: np.random.Generator, num_steps: int) -> Episode:
    """The push bends what is fast, and that adds up to what is slow: 1/1000 of its spread a step."""
    push = generator.uniform(-1, 1, (num_steps, 1))
    fast, slow = np.zeros((num_steps + 1, 1)), np.zeros((num_steps + 1, 2))
    fast[0], slow[0] = generator.uniform(-1, 1), generator.uniform(-1, 1, 2)
    for t in range(num_steps):
        fast[t + 1] = 0.5 * fast[t] + np.sin(2 * push[t])
        slow[t + 1] = slow[t] + 1e-3 * np.abs(fast[t]) * np.array([1, -1])
    return Episode(
        observations={"fast": fast.astype(np.float32), "slow": slow.astype(np.float32)},
        actions={"push": push.astype(np.float32)},
        truncated=True,
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    generator = np.random.default_rng(0)
    return stored(tmp_path_factory.mktemp("toy") / "store", SCHEMA, (episode(generator, 30) for _ in range(60)))


def test_all_vectors_go_in_and_discrete_signals_do_not(tmp_path: Path, store: Store) -> None:
    other = Store.create(tmp_path / "store", replace(SCHEMA, signals=(FAST, LAMP, SLOW, PUSH, WIND)))
    one = store.episode(0)
    lamp, wind = np.zeros(31, LAMP.dtype), np.zeros((30, 1), np.float32)
    other.append(replace(one, observations={**one.observations, "lamp": lamp}, exogenous={"wind": wind}))
    recipe = vectors(other)
    assert recipe.model_config.inputs == ("fast", "slow")
    assert recipe.model_config.latent_size > 3


@pytest.mark.parametrize(("lengths", "window", "horizon"), [((100, 100), 9, 48), ((4, 4, 4), 5, 4), ((1, 1), 3, 2)])
def test_windows_and_bands_are_as_long_as_the_episodes_allow(
    tmp_path: Path, lengths: tuple[int, ...], window: int, horizon: int
) -> None:
    made = stored(tmp_path / "store", SCHEMA, (episode(np.random.default_rng(0), length) for length in lengths))
    recipe = vectors(made)
    assert (recipe.training.window, recipe.horizon) == (window, horizon)


def test_it_beats_standing_still_on_the_fast_and_on_the_slow(tmp_path: Path, store: Store) -> None:
    recipe = vectors(store)
    short = replace(recipe.training, num_updates=160, batch_size=64, num_checks=2)
    learned = learn_world(store, replace(recipe, training=short, horizon=10), folder=tmp_path)
    assert "reaches" not in learned.engine.describe().abilities  # a goal on vectors is a cost in units
    episodes = [store.episode(number) for number in learned.split.held_out]
    windows = evenly_spaced_windows(episodes, length=3, horizon=10, per_episode=8)
    found = diagnose(
        honest(learned),
        windows,
        comparisons=comparisons(store, learned),
        horizons=(1, 10),
        level=None,
        seed=0,
    )
    skills = {(one.against, one.signal): one.skill for one in found.skills}
    for signal in ("fast", "slow"):
        assert skills["persistence", signal].at(1).low > 0.3
        assert skills["persistence", signal].at(10).low > 0.5
    assert skills["linear", "slow"].at(10).low > 0
