from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from worldline.data.store import Store
from worldline.episode import Episode
from worldline.recipes.ensemble import ensemble, ensemble_memory
from worldline.recipes.recipe import Recipe
from worldline.schema import Kind, Role, Schema, Signal
from worldline.workflows.training import learn_world

LEVEL = Signal(name="level", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(1,), unit="m")


VALVE = Signal(name="valve", role=Role.ACTION, kind=Kind.VECTOR, shape=(1,), low=(-1.0,), high=(1.0,))


DELAY = 5


def tank(path: Path, num_episodes: int, num_steps: int, seed: int = 0) -> Store:
    """A tank that the valve fills five steps later."""
    store, generator = Store.create(path, Schema(signals=(LEVEL, VALVE), step_s=1.0)), np.random.default_rng(seed)
    for _ in range(num_episodes):
        valve, level = generator.uniform(-1, 1, (num_steps, 1)), [generator.uniform(0.5, 2, 1)]
        for step in range(num_steps):
            inflow = 1.2 + valve[step - DELAY] if step >= DELAY else 1.2
            level.append(np.maximum(level[-1] + 0.3 * (inflow - np.sqrt(level[-1])), 0.01))
        store.append(
            Episode(observations={"level": np.array(level, np.float32)}, actions={"valve": valve.astype(np.float32)})
        )
    return store


@pytest.mark.parametrize(
    ("make", "num_steps", "history", "window"),
    [(ensemble, 100, 5, 29), (ensemble_memory, 100, 12, 36), (ensemble_memory, 24, 8, 25), (ensemble_memory, 2, 1, 3)],
)
def test_histories_leave_room_for_predictions(
    tmp_path: Path, make: Callable[[Store], Recipe], num_steps: int, history: int, window: int
) -> None:
    recipe = make(tank(tmp_path / "store", 6, num_steps))
    assert (recipe.model_config.history, recipe.training.window) == (history, window)


def test_a_past_holds_what_is_on_its_way(tmp_path: Path) -> None:
    """The error with a longer past against that with a short one, after 4 steps of fresh episodes."""
    store, fresh = tank(tmp_path / "store", 40, 60), tank(tmp_path / "fresh", 10, 40, seed=1)
    errors = {}
    for make in (ensemble, ensemble_memory):
        recipe = make(store)
        training = replace(recipe.training, num_updates=40, num_checks=2, num_validation=32)
        recipe = replace(recipe, training=training, horizon=4, num_windows=1)
        world = learn_world(store, recipe, folder=tmp_path / recipe.name).world
        miss = []
        for number in range(10):
            one = fresh.episode(number)
            future = {"valve": one.actions["valve"][20:24]}
            found = world.predict(one.history(20, 21), future, level=0.5).signals["level"].mean
            miss.append(found[:, 0] - one.observations["level"][21:25, 0])
        errors[recipe.name] = float(np.sqrt(np.mean(np.square(miss), 0))[3])
    assert errors["ensemble"] > 0.1
    assert errors["ensemble-memory"] < 0.2 * errors["ensemble"]
