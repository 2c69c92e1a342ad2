"""Any logs without pictures: `worldline learn LOGS --out world/`.

The settings were chosen on the greenhouse (recipes/greenhouse.py), where they are measured by
benchmarks/greenhouse.py; docs/design/vectors.md says why they are what they are.
"""

from __future__ import annotations

import numpy as np

from worldline.data.splits import split_store
from worldline.data.store import Store
from worldline.errors import UnsupportedError
from worldline.models.jepa_config import JepaConfig
from worldline.planning.planners.cem import CrossEntropy
from worldline.recipes.recipe import Recipe, planner_for
from worldline.schema import Kind
from worldline.training.heads import HeadsConfig, can_reach
from worldline.training.updates import TrainingConfig

NUM_LEARNED = 16
"""Numbers of the latent beside the vectors themselves."""
LONGEST_WINDOW = 9
LONGEST_HORIZON = 48


def vectors(store: Store) -> Recipe:
    """All vector observations go in, and all are predicted; discrete ones are left out.

    Distance and inverse are fitted where actions are bounded vectors and nothing acts from outside. Windows and
    bands are as long as four episodes in five allow, up to 9 observations and 48 steps.

    Raises:
        UnsupportedError: the logs hold no vector observation.
    """
    signals = [signal for signal in store.schema.observations if signal.kind is Kind.VECTOR]
    if not signals:
        raise UnsupportedError(
            "this recipe needs a vector observation to predict, and the logs have none. "
            "Write a recipe for what they have: a function that gives a Recipe."
        )
    num_steps = max(2, int(np.quantile(store.num_steps, 0.2)))
    return Recipe(
        name="vectors",
        model="jepa",
        model_config=JepaConfig(
            inputs=tuple(signal.name for signal in signals),
            latent_size=sum(signal.size for signal in signals) + NUM_LEARNED,
            encoder_width=128,
            predictor_width=256,
            sigreg_weight=0.1,
            num_slices=16,
            signal_weight=1.0,
            timed=store.has_step_s() and store.schema.step_s is not None,
        ),
        # The guard is for latents that may vanish; vectors that are in there as they are cannot.
        training=TrainingConfig(
            num_updates=1500,
            window=min(LONGEST_WINDOW, num_steps + 1),
            batch_size=128,
            learning_rate=5e-3,
            min_rank=1.0,
            min_deviation=0.0,
        ),
        heads=HeadsConfig(goals=can_reach(store.schema), readout_updates=0, far=max(2.0, num_steps / 4)),
        horizon=min(LONGEST_HORIZON, num_steps),
        num_windows=8,
        planner=planner_for(store.schema, CrossEntropy(num_candidates=128, num_iterations=4)),
        num_proposals=1,
        split=split_store,
    )
