"""Recipe for logs without images: `worldline learn LOGS --out world/`.

The settings were chosen on the greenhouse (examples/greenhouse_plant.py) and are measured by benchmarks/greenhouse.py.
docs/design/vectors.md gives the reasons.
"""

from __future__ import annotations

import numpy as np

from worldline.data.store import Store
from worldline.errors import UnsupportedError
from worldline.models.jepa import JepaConfig
from worldline.models.layers.observation_encoder import ObservationEncoderConfig
from worldline.models.layers.regularizers import SigregConfig
from worldline.planning.planners.cem import CrossEntropy
from worldline.recipes.recipe import Recipe, planner_for
from worldline.schema import Kind
from worldline.training.heads.base import HeadsConfig
from worldline.training.updates import TrainingConfig

NUM_LEARNED_FEATURES = 16
"""Features of the latent in addition to the vectors."""
MAX_WINDOW = 9
MAX_HORIZON = 48


def vectors(store: Store) -> Recipe:
    """Takes and predicts all vector observations; discrete observations are left out.

    It fits no goal heads, because a goal on vectors is a cost in units. Windows have up to 9 observations and bands up
    to 48 steps, both limited by the length of four in five episodes.

    Raises:
        UnsupportedError: the logs hold no vector observation.
    """
    signals = [signal for signal in store.schema.observations if signal.kind is Kind.VECTOR]
    if not signals:
        raise UnsupportedError(
            "this recipe needs a vector observation to predict, and the logs have none. "
            "Write a recipe for these logs: a function that returns a Recipe."
        )
    num_steps = max(2, int(np.quantile(store.num_steps, 0.2)))
    return Recipe(
        name="vectors",
        model="jepa",
        model_config=JepaConfig(
            inputs=tuple(signal.name for signal in signals),
            latent_size=sum(signal.size for signal in signals) + NUM_LEARNED_FEATURES,
            signal_weight=1.0,
            timed=store.has_step_s() and store.schema.step_s is not None,
            encoder=ObservationEncoderConfig(width=128),
            regularizer=SigregConfig(weight=0.1, num_slices=16),
        ),
        # No collapse check: the vectors are part of the latent, so it cannot collapse.
        training=TrainingConfig(
            num_updates=1500,
            window=min(MAX_WINDOW, num_steps + 1),
            batch_size=128,
            learning_rate=5e-3,
            min_rank=1.0,
            min_deviation=0.0,
        ),
        heads=HeadsConfig(goals=False, readout_updates=0, far=max(2.0, num_steps / 4)),
        horizon=min(MAX_HORIZON, num_steps),
        num_windows=8,
        planner=planner_for(store.schema, CrossEntropy(num_candidates=128, num_iterations=4)),
        num_proposals=1,
    )
