from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.data.stores import stored

from worldline.data.store import Store
from worldline.episode import Episode
from worldline.recipes.memory import NUM_VALUES, memory
from worldline.schema import Kind, Role, Schema, Signal
from worldline.workflows.training import learn_world

HEAT = Signal(name="heat", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(1,), unit="K")


VALVE = Signal(name="valve", role=Role.ACTION, kind=Kind.VECTOR, shape=(1,), low=(-1.0,), high=(1.0,))
SCHEMA = Schema(signals=(HEAT, VALVE))
LAG = 6


def episode(generator: np.random.Generator, num_steps: int) -> Episode:
    """What the valve does shows six steps later."""
    valve, heat = generator.uniform(-1, 1, (num_steps, 1)), np.zeros((num_steps + 1, 1))
    for t in range(num_steps):
        heat[t + 1] = 0.7 * heat[t] + (valve[t - LAG] if t >= LAG else 0)
    seen = np.ones(num_steps + 1, bool)
    seen[20:26] = False
    return Episode(
        observations={"heat": np.where(seen[:, None], heat, 0).astype(np.float32)},
        actions={"valve": valve.astype(np.float32)},
        observed={"heat": seen},
        truncated=True,
    )


def logs(path: Path, num_episodes: int, num_steps: int) -> Store:
    generator = np.random.default_rng(0)
    return stored(path, SCHEMA, (episode(generator, num_steps) for _ in range(num_episodes)))


@pytest.mark.parametrize(("num_steps", "window", "history"), [(100, 15, 7), (24, 15, 7), (18, 9, 1), (2, 3, 1)])
def test_histories_are_as_long_as_helps_and_the_episodes_allow(
    tmp_path: Path, num_steps: int, window: int, history: int
) -> None:
    recipe = memory(logs(tmp_path / "store", 40, num_steps))
    assert (recipe.training.window, recipe.model_config.predictor.history) == (window, history)


def test_what_was_done_before_shows_in_time_even_where_nothing_is_seen(tmp_path: Path) -> None:
    store = logs(tmp_path / "store", 50, 45)
    recipe = memory(store)
    training = replace(recipe.training, num_updates=20, batch_size=16, num_checks=2, num_validation=16)
    recipe = replace(recipe, training=training, horizon=10, num_windows=2)
    world = learn_world(store, recipe, folder=tmp_path / "run").world
    one = store.episode(3)
    history, nothing = one.history(25, 26), {"valve": np.zeros((10, 1), np.float32)}
    done = history.actions["valve"].copy()
    done[22] = 1.0 - done[22]  # under the gap, and on its way
    others = replace(history, actions={"valve": done})
    apart = [world.predict(past, nothing, level=0.5).signals["heat"].mean[:, 0] for past in (history, others)]
    due = np.where(np.arange(10) >= 3, 0.7 ** (np.arange(10) - 3.0), 0) * (1 - 2 * history.actions["valve"][22, 0])
    np.testing.assert_allclose(apart[1] - apart[0], due, atol=0.15 * np.abs(due).max())


def test_a_noisy_measurement_of_a_hidden_state_is_forecast_from_all_observations(tmp_path: Path) -> None:
    """A heater warms the sensor with a delay of second order, and the measurement is rounded."""
    store, generator = Store.create(tmp_path / "store", SCHEMA), np.random.default_rng(0)
    for _ in range(40):
        valve, heat, heater = generator.uniform(-1, 1, (10, 1)).repeat(10, 0), np.zeros((101, 1)), 0.0
        for t in range(100):
            heat[t + 1], heater = heat[t] + 0.1 * (heater - heat[t]), heater + 0.05 * (5 * valve[t] - heater)
        rounded = (heat / 0.2).round() * 0.2
        actions = {"valve": valve.astype(np.float32)}
        store.append(Episode(observations={"heat": rounded.astype(np.float32)}, actions=actions, truncated=True))
    predictor = memory(store).model_config.predictor
    assert predictor.values == predictor.history > NUM_VALUES
    assert predictor.taken == NUM_VALUES
