"""Recipe for a linear model in seconds: `worldline learn LOGS --recipe linear --out world/`.

It fits an autoregression with inputs (`models/linear.py`) in closed form. Use it as a baseline, for small logs, and for
plants that are nearly linear. docs/howto/choose-a-family.md has more.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

from worldline.data.store import Store
from worldline.models.linear import LinearConfig, choose_lags
from worldline.recipes.recipe import Recipe, vector_planner
from worldline.recipes.vectors import vectors
from worldline.training.batches import covering_window

MAX_HISTORY_STEPS: Final = 24
"""Effects with a longer delay are not learned."""


def linear(store: Store) -> Recipe:
    """Takes and predicts all vector observations; discrete observations are left out. See `with_linear`.

    Raises:
        UnsupportedError: the logs hold no vector observation.
    """
    return replace(with_linear(vectors(store), store), name="linear")


def with_linear(recipe: Recipe, store: Store) -> Recipe:
    """The recipe with a linear model, without training and without distance and inverse heads.

    A history has up to 24 steps, at most a third of what four in five episodes have. Its length and the ridge penalty
    are chosen by open-loop errors in cross-validation over all episodes but the held-out ones.

    Args:
        recipe: its inputs are vectors or discrete values.
        store: the training data.
    """
    config = recipe.model_config
    # A third of an episode, so that two thirds remain for predictions.
    longest = max(1, min(MAX_HISTORY_STEPS, int(np.quantile(store.num_steps, 0.2)) // 3))
    base = LinearConfig(inputs=config.inputs, history=longest, timed=getattr(config, "timed", False))
    window = covering_window(store, recipe.split(store).not_held_out, base.inputs, history=longest)
    return replace(
        recipe,
        name=f"{recipe.name}, linear",
        model="linear",
        model_config=choose_lags(store.schema, base, window),
        training=replace(recipe.training, num_updates=0),
        heads=replace(recipe.heads, goals=False, dynamics_updates=0),
        planner=vector_planner(store.schema),
        num_proposals=0,
    )
