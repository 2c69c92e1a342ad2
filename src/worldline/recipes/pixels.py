"""Any logs with pictures: `worldline learn LOGS --out world/`.

The settings for images were measured on Two Rooms with random walls (recipes/two_rooms.py). docs/design/vectors.md
explains the settings for vectors. The combination was tried in short runs only.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

from worldline.data.splits import split_store
from worldline.data.store import Store
from worldline.errors import UnsupportedError
from worldline.models.jepa_config import JepaConfig
from worldline.models.layers.codes import code_size
from worldline.planning.planners.cem import CrossEntropy
from worldline.recipes.recipe import Recipe, planner_for
from worldline.schema import Kind
from worldline.training.heads import HeadsConfig, can_reach
from worldline.training.updates import TrainingConfig

REMEMBERED: Final = 8
"""Frames that show a belief what it has to know; longer windows cost time."""
TOLD: Final = 1.0
"""Weight of the vectors that are told in training."""
LONGEST_HORIZON: Final = 48


def pixels(store: Store) -> Recipe:
    """The pictures and nothing else go in; every vector signal is read out.

    Distance and inverse are fitted where actions are bounded vectors and nothing acts from outside.

    Raises:
        UnsupportedError: the logs hold no picture.
    """
    images = tuple(signal.name for signal in store.schema.observations if signal.kind is Kind.IMAGE)
    if not images:
        raise UnsupportedError(
            "this recipe needs an image observation, and the logs have none. Give logs with pictures (an exam: "
            "--pixels), or learn from vectors: --recipe vectors."
        )
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
            decoder_updates=2000,
            unroll=5,
            width=384,
        ),
        # Bands reach as far as most episodes do.
        horizon=min(20, int(np.quantile(store.num_steps, 0.2))),
        num_windows=2,
        planner=planner_for(store.schema, CrossEntropy(num_candidates=64, num_iterations=3)),
        num_proposals=0,
        split=split_store,
    )


def film(store: Store) -> Recipe:
    """The pictures go in, with what earlier ones showed: for worlds of which one picture is not the whole state.

    As `pixels`, but the predictor remembers, so that speeds can be read, and what is hidden for a while is not lost.
    Vector observations are told in training and not looked at in use. Neither distance nor inverse is fitted: a
    picture is not the whole state, and so no goal to be reached for.

    Raises:
        UnsupportedError: the logs hold no picture.
    """
    base, num_steps = pixels(store), int(np.quantile(store.num_steps, 0.2))
    context = max(2, min(REMEMBERED, num_steps // 2))
    told = tuple(signal.name for signal in store.schema.observations if signal.kind is Kind.VECTOR)
    return replace(
        base,
        name="film",
        model_config=replace(
            base.model_config,
            constant_size=0,
            channels=48,
            memory="gru",
            context=context,
            memory_size=128,
            targets=told,
            target_weight=TOLD,
        ),
        # With these the exam takes 53 minutes on two cores (benchmarks/log/exam-results.md).
        training=replace(
            base.training, num_updates=1500, window=min(2 * context, num_steps + 1), batch_size=32, choose="last"
        ),
        heads=replace(base.heads, goals=False, dynamics_updates=0, decoder_updates=0),
        horizon=min(LONGEST_HORIZON, num_steps),  # what is remembered comes off it where it fills an episode
    )


def pixels_and_vectors(store: Store) -> Recipe:
    """All pictures and all vector observations go in, and all vectors are predicted; discrete signals are read out.

    The vectors are themselves part of the latent, and what is linear in their last two values is solved for. Distance
    and inverse are fitted as in `pixels`, also for goals of which only the pictures are known.

    Raises:
        UnsupportedError: the logs hold no picture, or no vector observation.
    """
    base, seen = pixels(store), store.schema.observations
    vectors = [signal for signal in seen if signal.kind is Kind.VECTOR]
    if not vectors:
        raise UnsupportedError("this recipe needs a vector observation, and the logs have none.")
    config = base.model_config
    return replace(
        base,
        name="pixels-and-vectors",
        model_config=replace(
            config,
            inputs=tuple(signal.name for signal in seen if signal.kind is not Kind.DISCRETE),
            latent_size=config.latent_size + sum(code_size(signal) for signal in vectors),
            signal_weight=1.0,
            linear_history=2,
        ),
        heads=replace(
            base.heads,
            # Vectors are in the latent as they are: the map that is solved for finds them.
            readout_updates=base.heads.readout_updates if any(s.kind is Kind.DISCRETE for s in seen) else 0,
        ),
    )
