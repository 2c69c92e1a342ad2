"""Recipes for Two Rooms from pixels: `worldline demo`, or `worldline demo --walls random`.

benchmarks/demo.py measures reached goals of held-out pairs, with 200 pairs for each of three seeds. Fixed wall: 600 of
600. Random walls: 570 of 600, including 120 of the 147 that a straight-line baseline misses.
"""

from __future__ import annotations

from dataclasses import replace

from worldline.data.store import Store
from worldline.models.jepa import JepaConfig
from worldline.models.layers.predictors import MlpPredictorConfig
from worldline.models.layers.regularizers import SigregConfig
from worldline.planning.planners.cem import CrossEntropy
from worldline.recipes.recipe import Recipe
from worldline.training.heads.base import HeadsConfig
from worldline.training.updates import TrainingConfig


def two_rooms(store: Store) -> Recipe:
    """For the fixed wall, with 500 episodes of 60 steps."""
    del store
    return Recipe(
        name="two-rooms",
        model="jepa",
        model_config=JepaConfig(
            inputs=("camera",), predictor=MlpPredictorConfig(width=512), regularizer=SigregConfig(weight=1.0)
        ),
        training=TrainingConfig(num_updates=800),
        heads=HeadsConfig(
            readout_updates=800, distance_updates=1800, inverse_updates=700, decoder_updates=1000, unroll=5
        ),
        horizon=20,
        num_windows=2,
        planner=CrossEntropy(num_iterations=2),
        num_proposals=1,
    )


def two_rooms_random(store: Store) -> Recipe:
    """For a wall and a door that move between episodes, with 1,600 episodes of 60 steps."""
    fixed = two_rooms(store)
    return replace(
        fixed,
        name="two-rooms-random",
        model_config=replace(fixed.model_config, latent_size=128, constant_size=16),
        training=TrainingConfig(num_updates=2500),
        heads=HeadsConfig(
            dynamics_updates=6000, distance_updates=2500, inverse_updates=700, decoder_updates=1000, unroll=5, width=384
        ),
        planner=CrossEntropy(num_candidates=64, num_iterations=3),
        num_proposals=0,  # proposals of the inverse head exploit model errors at the door
    )
