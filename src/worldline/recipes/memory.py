"""Logs whose last observation does not show what comes: `worldline learn LOGS --recipe memory --out world/`.

For worlds of vectors in which something was done and has not shown yet, in which speeds are no signal, or in which
signals go unobserved for a while. As `vectors`, but each step is predicted from up to 24 steps before it, by a linear
forecast that is solved for and a network that learns what the forecast misses. What the logs conserve but for what is
done, such as the energy of what moves, its predictions conserve too (docs/design/conserved.md).

What it understands of the exam's labs, and what not, is in docs/understanding.md. The settings were chosen on the
exam's development generators: benchmarks/log/exam-recipes.md.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np
import torch

from worldline.data.splits import split_store
from worldline.data.store import Store
from worldline.models.jepa import Jepa
from worldline.models.jepa_config import JepaConfig
from worldline.recipes.recipe import Recipe
from worldline.recipes.vectors import vectors
from worldline.training.batches import fit_normaliser

LONGEST_HISTORY: Final = 24
"""Steps; what acts later than that is not seen to act."""
SLACK: Final = 0.02
"""Share that a shorter history may miss more than the longest: every step of it is paid for at every update."""
TRIM: Final = 0.2
"""Share of the steps that may be no part of what is linear, such as those around a contact."""
NUM_VALUES: Final = 3
"""Observations that the forecast is made from at most, beside what was done; two tell a speed, three that it turned."""
OPEN_LOOP: Final = 8
"""Steps of a training window that are foretold after what its history takes."""
LONGEST_WINDOW: Final = 17
WIDTH: Final = 128
GRADIENT_STEPS: Final = 4
SIGNAL_WEIGHT: Final = 10.0
"""Of the vectors, beside the few numbers that are learned with them."""
LEARNING_RATE: Final = 1e-2
NUM_UPDATES: Final = 1800, 3600
"""The fewest and the most."""
PASSES: Final = 30
"""Steps that are foretold in training for each that was logged, within these bounds."""


def memory(store: Store) -> Recipe:
    """All vector observations go in, with what was observed and done before them, and all are predicted.

    Neither distance nor inverse is fitted: an observation is not the whole state, and so no goal to be reached for.
    Histories are up to 24 steps long, or what four episodes in five allow, and no longer than helps a straight line.

    Raises:
        UnsupportedError: the logs hold no vector observation.
    """
    plain = vectors(store)
    assert isinstance(plain.model_config, JepaConfig)  # for the type checker
    num_steps = int(np.quantile(store.num_steps, 0.2))
    longest = min(LONGEST_WINDOW, max(2, num_steps) + 1)
    config = replace(
        plain.model_config,
        # A third of an episode, so that two are left to predict.
        linear_history=max(1, min(LONGEST_HISTORY, num_steps // 3)),
        linear_values=NUM_VALUES,
        linear_trim=TRIM,
        predictor_width=WIDTH,
        signal_weight=SIGNAL_WEIGHT,
        gated=True,
        gradient_steps=GRADIENT_STEPS,
        conserves=True,
    )
    history = _helpful_history(store, config, longest)
    window = min(longest, history + OPEN_LOOP)
    updates = PASSES * int(store.num_steps.sum()) // (plain.training.batch_size * (window - 1))
    return replace(
        plain,
        name="memory",
        model_config=replace(config, linear_history=history),
        training=replace(
            plain.training,
            window=window,
            num_updates=min(max(updates, NUM_UPDATES[0]), NUM_UPDATES[1]),
            learning_rate=LEARNING_RATE,
            # What shows late cannot be decoded from the step it was done in, by which others are chosen.
            choose="last",
        ),
        heads=replace(plain.heads, goals=False),
    )


def _helpful_history(store: Store, config: JepaConfig, window: int) -> int:
    """The fewest steps that a linear forecast misses as little from as from all."""
    with torch.random.fork_rng(devices=[]):
        model = Jepa(schema=store.schema, config=config)
    fit_normaliser(model, store, split_store(store).train, config.inputs, window)
    assert model.linear is not None  # for the type checker
    assert model.vectors is not None
    return model.linear.enough(model.vectors.change, SLACK)
