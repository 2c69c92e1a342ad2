from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from worldline.audit.diagnostics import Diagnostics, diagnose
from worldline.data.store import Store
from worldline.data.windows import evenly_spaced_windows
from worldline.recipes.greenhouse import SCHEMA, greenhouse, greenhouse_split
from worldline.recipes.vectors import vectors
from worldline.registry import load
from worldline.workflows.evaluation import comparisons, honest
from worldline.workflows.training import Learned, learn_world

pytest.importorskip("lettuce_greenhouse_gym")

SIGNALS = ["dry_weight", "air_co2", "air_temperature", "air_humidity"]


def measure(learned: Learned, store: Store) -> Diagnostics:
    episodes = [store.episode(number) for number in learned.split.held_out]
    windows = evenly_spaced_windows(episodes, length=3, horizon=48, per_episode=6)
    return diagnose(
        honest(learned),
        windows,
        comparisons=comparisons(store, learned),
        horizons=(2, 12, 48),
        level=None,
        seed=0,
    )


def test_it_is_the_recipe_for_vectors_split_by_date(store: Store) -> None:
    recipe = load("recipe", "greenhouse")(store)
    assert recipe.split(store) == greenhouse_split(store)
    assert recipe == replace(vectors(store), name="greenhouse", split=greenhouse_split)
    assert list(recipe.model_config.inputs) == SIGNALS
    assert recipe.horizon * SCHEMA.step_s == 24 * 3600


def test_a_little_learning_tells_most_of_the_next_day(store: Store, tmp_path: Path) -> None:
    recipe = greenhouse(store)
    short = replace(recipe.training, num_updates=60, num_checks=2)
    found = measure(learn_world(store, replace(recipe, training=short), folder=tmp_path), store)
    day = {one.signal: one.skill.at(48).value for one in found.skills if one.against == "persistence"}
    assert min(day["dry_weight"], day["air_temperature"], day["air_humidity"]) > 0.4
