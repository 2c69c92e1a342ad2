"""The demo, reduced: fewer episodes and updates, the same protocol."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from worldline.data.store import Store
from worldline.recipes.recipe import Recipe
from worldline.recipes.two_rooms import two_rooms
from worldline.workflows.demo import demo


def reduced(store: Store) -> Recipe:
    recipe = two_rooms(store)
    return replace(
        recipe,
        training=replace(recipe.training, num_updates=300, num_checks=5),
        heads=replace(recipe.heads, readout_updates=300, distance_updates=800, inverse_updates=400),
    )


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_it_learns_to_reach_goals_across_the_wall(tmp_path: Path) -> None:
    result = demo(tmp_path / "demo", num_episodes=200, num_pairs=80, recipe=reduced)
    assert result.success_low > max(result.random, result.no_move) + 0.2
    assert result.success >= result.inverse - 0.05
    assert result.success >= 0.8
    assert result.success > result.straight  # who walks straight at the goal needs no model
    assert result.oracle >= 0.99
