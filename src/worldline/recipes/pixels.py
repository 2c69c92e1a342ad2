"""Any logs with pictures: `worldline learn LOGS --out world/`.

The settings are those of Two Rooms with random walls, where they were measured (recipes/two_rooms.py).
"""

from __future__ import annotations

import numpy as np

from worldline.contracts.schema import Kind
from worldline.data.splits import split_store
from worldline.data.store import Store
from worldline.errors import InputError
from worldline.models.jepa import JepaConfig
from worldline.planners.cem import CrossEntropy
from worldline.recipes.recipe import Recipe
from worldline.train.heads import HeadsConfig, can_reach
from worldline.train.updates import TrainingConfig


def pixels(store: Store) -> Recipe:
    """The pictures and nothing else go in; every vector signal is read out.

    Distance and inverse are fitted where actions are bounded vectors and nothing acts from outside.

    Raises:
        InputError: the logs hold no picture.
    """
    images = tuple(signal.name for signal in store.schema.observations if signal.kind is Kind.IMAGE)
    if not images:
        raise InputError("the recipe 'pixels' needs an image observation, and the logs have none.")
    return Recipe(
        name="pixels",
        model="jepa",
        model_config=JepaConfig(
            inputs=images,
            latent_size=128,
            constant_size=16,
            sigreg_weight=1.0,
            predictor_width=512,
            timed=store.has_step_s() and store.schema.step_s is not None,
        ),
        training=TrainingConfig(num_updates=2500),
        heads=HeadsConfig(
            goals=can_reach(store.schema),
            dynamics_updates=6000,
            distance_updates=2500,
            inverse_updates=700,
            unroll=5,
            width=384,
        ),
        # Bands reach as far as most episodes do.
        horizon=min(20, int(np.quantile(store.num_steps, 0.2))),
        num_windows=2,
        planner=CrossEntropy(num_candidates=64, num_iterations=3),
        num_proposals=0,
        split=split_store,
    )
