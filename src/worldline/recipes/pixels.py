"""Recipes for logs with images: `worldline learn LOGS --out world/`.

The settings for images were measured on Two Rooms with random walls (recipes/two_rooms.py). docs/design/vectors.md
explains the settings for vectors. The combination was tested in short runs only.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

from worldline.data.store import Store
from worldline.errors import UnsupportedError
from worldline.models.jepa import JepaConfig
from worldline.models.layers.auxiliary_losses import AuxiliaryConfig
from worldline.models.layers.codes import code_size
from worldline.models.layers.forecasting_predictors import LinearResidualPredictorConfig
from worldline.models.layers.observation_encoder import ObservationEncoderConfig
from worldline.models.layers.predictors import GruPredictorConfig, MlpPredictorConfig
from worldline.models.layers.regularizers import SigregConfig
from worldline.planning.planners.cem import CrossEntropy
from worldline.recipes.recipe import Recipe, planner_for
from worldline.schema import Kind
from worldline.training.heads.base import HeadsConfig
from worldline.training.heads.distance import goal_obstacles
from worldline.training.updates import TrainingConfig

MAX_CONTEXT: Final = 8
"""Largest number of frames that a belief is built from; longer windows cost training time."""
TARGET_WEIGHT: Final = 1.0
"""Weight of the auxiliary targets."""
MAX_HORIZON: Final = 48
WIDTH: Final = 512
"""Units of the predictor's hidden layers."""


def pixels(store: Store) -> Recipe:
    """Takes images only and reads out every vector signal.

    It fits distance and inverse heads if actions are bounded vectors and there are no exogenous signals.

    Raises:
        UnsupportedError: the logs have no image.
    """
    images = tuple(signal.name for signal in store.schema.observations if signal.kind is Kind.IMAGE)
    if not images:
        raise UnsupportedError(
            "this recipe needs an image observation, and the logs have none. Give logs with images (for an exam: "
            "--pixels), or learn from vectors: --recipe vectors."
        )
    return Recipe(
        name="pixels",
        model="jepa",
        model_config=JepaConfig(
            inputs=images,
            latent_size=128,
            constant_size=16,
            timed=store.has_step_s() and store.schema.step_s is not None,
            predictor=MlpPredictorConfig(width=WIDTH),
            regularizer=SigregConfig(weight=1.0),
        ),
        training=TrainingConfig(num_updates=2500),
        heads=HeadsConfig(
            goals=not goal_obstacles(store.schema),
            dynamics_updates=6000,
            distance_updates=2500,
            inverse_updates=700,
            decoder_updates=2000,
            unroll=5,
            width=384,
        ),
        # Bands need calibration episodes of this length.
        horizon=min(20, int(np.quantile(store.num_steps, 0.2))),
        num_windows=2,
        planner=planner_for(store.schema, CrossEntropy(num_candidates=64, num_iterations=3)),
    )


def film(store: Store) -> Recipe:
    """Takes image sequences, for worlds in which one image is not the complete state.

    It extends `pixels` by a recurrent predictor, which keeps velocities and temporarily hidden objects. Vector
    observations are auxiliary targets in training and no inputs. It fits no distance and inverse heads: an image is not
    the complete state, so it cannot be a goal.

    Raises:
        UnsupportedError: the logs have no image.
    """
    base, num_steps = pixels(store), int(np.quantile(store.num_steps, 0.2))
    context = max(2, min(MAX_CONTEXT, num_steps // 2))
    targets = tuple(signal.name for signal in store.schema.observations if signal.kind is Kind.VECTOR)
    return replace(
        base,
        name="film",
        model_config=replace(
            base.model_config,
            constant_size=0,
            encoder=ObservationEncoderConfig(channels=48),
            predictor=GruPredictorConfig(width=WIDTH, memory_size=128, context=context),
            auxiliary=AuxiliaryConfig(targets=targets, target_weight=TARGET_WEIGHT),
        ),
        # These settings let the exam finish in 53 minutes on two cores (benchmarks/log/exam-results.md).
        training=replace(
            base.training, num_updates=1500, window=min(2 * context, num_steps + 1), batch_size=32, choose="last"
        ),
        heads=replace(base.heads, goals=False, dynamics_updates=0, decoder_updates=0),
        horizon=min(MAX_HORIZON, num_steps),  # reduced by the context if both exceed an episode
    )


def pixels_and_vectors(store: Store) -> Recipe:
    """Takes images and vector observations, predicts the vectors, and reads out discrete signals.

    The vectors are part of the latent, with a linear forecast from their last two values. Distance and inverse heads
    are fitted as in `pixels`, also for goals that consist of images alone.

    Raises:
        UnsupportedError: the logs have no image, or no vector observation.
    """
    base, observations = pixels(store), store.schema.observations
    vectors = [signal for signal in observations if signal.kind is Kind.VECTOR]
    if not vectors:
        raise UnsupportedError("this recipe needs a vector observation, and the logs have none.")
    config = base.model_config
    return replace(
        base,
        name="pixels-and-vectors",
        model_config=replace(
            config,
            inputs=tuple(signal.name for signal in observations if signal.kind is not Kind.DISCRETE),
            latent_size=config.latent_size + sum(code_size(signal) for signal in vectors),
            signal_weight=1.0,
            predictor=LinearResidualPredictorConfig(width=WIDTH, history=2),
        ),
        heads=replace(
            base.heads,
            # Vectors are part of the latent: the least-squares readout finds them without training.
            readout_updates=base.heads.readout_updates if any(s.kind is Kind.DISCRETE for s in observations) else 0,
        ),
    )


def film_and_vectors(store: Store) -> Recipe:
    """Takes sequences of images and vectors, for worlds whose state neither shows at once.

    It has the memory of `film`. The vectors are part of the latent, as in `pixels_and_vectors`. It fits no distance and
    inverse heads unless they are asked for.

    Raises:
        UnsupportedError: the logs have no image, or no vector observation.
    """
    base, both = film(store), pixels_and_vectors(store)
    taken = {name: getattr(both.model_config, name) for name in ("inputs", "latent_size", "signal_weight", "auxiliary")}
    return replace(
        base,
        name="film-and-vectors",
        model_config=replace(base.model_config, **taken),
        heads=replace(base.heads, readout_updates=both.heads.readout_updates),
    )
