"""Recipe for partially observed vectors: `worldline learn LOGS --recipe memory --out world/`.

For worlds with delayed effects, with velocities that are not signals, or with temporarily unobserved signals. It
extends `vectors`: each step is predicted from up to 24 earlier steps. A linear forecast is solved by least squares, and
a network learns its residual. If the logs conserve a quantity such as the energy, the predictions conserve it too
(docs/design/conserved.md).

docs/understanding.md has the results on the exam. The settings were chosen on the exam's development generators:
benchmarks/log/exam-recipes.md.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np
import torch

from worldline.data.splits import split_store
from worldline.data.store import Store
from worldline.models.jepa import Jepa, JepaConfig
from worldline.models.layers.forecasting_predictors import ConservedPredictor, ConservedPredictorConfig, forecast_of
from worldline.models.layers.linear_forecast import ScoredWindows, choose_forecast
from worldline.models.linear import HISTORIES
from worldline.recipes.recipe import Recipe
from worldline.recipes.vectors import vectors
from worldline.training.batches import covering_window, fit_normaliser

MAX_HISTORY_STEPS: Final = 24
"""Effects with a longer delay are not learned."""
MAX_EXTRA_ERROR: Final = 0.02
"""Largest relative increase of the error with a shorter history. Each step of history costs time at every update."""
TRIMMED_SHARE: Final = 0.2
"""Share of the steps that the linear forecast is not fitted to, such as those around a contact."""
NUM_VALUES: Final = 3
"""Observations in the linear forecast, or all. Two determine a velocity, three a change of it; if they are noisy or
quantised, more determine them better. The network takes three in any case."""
MAX_VALUES_ERROR: Final = 0.1
"""Accepted relative increase of the open-loop error of the linear forecast with three observations or fewer lags."""
OPEN_LOOP_STEPS: Final = 8
"""Steps of a training window that are predicted in open loop after its history."""
MAX_WINDOW: Final = 17
WIDTH: Final = 128
GRADIENT_STEPS: Final = 4
SIGNAL_WEIGHT: Final = 10.0
"""Weight of the vectors relative to the learned features of the latent."""
LEARNING_RATE: Final = 1e-2
MIN_UPDATES, MAX_UPDATES = 1800, 3600
NUM_EPOCHS: Final = 30
"""Predicted steps in training per logged step, within the limits on updates."""


def memory(store: Store) -> Recipe:
    """Predicts all vector observations from their history and the inputs.

    A history has up to 24 steps, limited by the length of four in five episodes and by its benefit for a linear
    forecast. Goal heads do not suit it: an observation is not the complete state, so it cannot be a goal.

    Raises:
        UnsupportedError: the logs hold no vector observation.
    """
    base = vectors(store)
    num_steps = int(np.quantile(store.num_steps, 0.2))
    longest = min(MAX_WINDOW, max(2, num_steps) + 1)
    predictor = ConservedPredictorConfig(
        # A third of an episode, so that two thirds remain for predictions.
        history=max(1, min(MAX_HISTORY_STEPS, num_steps // 3)),
        values=NUM_VALUES,
        taken=NUM_VALUES,
        trim=TRIMMED_SHARE,
        width=WIDTH,
        gated=True,
    )
    config = replace(base.model_config, signal_weight=SIGNAL_WEIGHT, gradient_steps=GRADIENT_STEPS, predictor=predictor)
    predictor = _helpful_past(store, config, longest)
    window = min(longest, predictor.history + OPEN_LOOP_STEPS)
    updates = NUM_EPOCHS * int(store.num_steps.sum()) // (base.training.batch_size * (window - 1))
    return replace(
        base,
        name="memory",
        model_config=replace(config, predictor=predictor),
        training=replace(
            base.training,
            window=window,
            num_updates=min(max(updates, MIN_UPDATES), MAX_UPDATES),
            learning_rate=LEARNING_RATE,
            # Other rules choose by decoding the action from one step, which fails with delayed effects.
            choose="last",
        ),
    )


def _helpful_past(store: Store, config: JepaConfig, window: int) -> ConservedPredictorConfig:
    """The predictor with the shortest history that nearly has the linear forecast error of the longest.

    It reads all observations of a history if this makes the open-loop error of the forecast much smaller.
    """
    with torch.random.fork_rng(devices=[]):
        model = Jepa(schema=store.schema, config=config)
    train, whole = split_store(store).train, config.predictor
    fit_normaliser(model, store, train, config.inputs, window)
    assert isinstance(model.predictor, ConservedPredictor)  # for the type checker
    assert isinstance(whole, ConservedPredictorConfig)
    few = replace(whole, history=model.predictor.smallest_history(MAX_EXTRA_ERROR))
    longer = [steps for steps in HISTORIES if max(few.history, NUM_VALUES) < steps <= whole.history]
    candidates = [few, *(replace(whole, history=steps, values=steps) for steps in longer)]
    logged = covering_window(store, train, config.inputs, history=whole.history)
    scored = ScoredWindows(
        values=model.encoder.exact_scores(logged),
        known=model.encoder.inputs(logged.past)[:, 0],
        observed=model.encoder.exact_flags(logged.observed),
    )
    forecasts = [forecast_of(candidate, model.layout) for candidate in candidates]
    return candidates[choose_forecast(forecasts, scored, warm=whole.history, slack=MAX_VALUES_ERROR)]
