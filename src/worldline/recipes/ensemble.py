"""Recipes for nonlinear plants: `worldline learn LOGS --recipe ensemble --out world/`, or `--recipe ensemble-memory`.

A linear forecast from the last steps is fitted first; several small networks predict its residual. They learn single
steps first, which is fast, and then open-loop predictions. benchmarks/stranger_errors.py compares `learn`, which
chooses among them, with other methods.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

from worldline.data.store import Store
from worldline.models.ensemble import EnsembleConfig
from worldline.models.layers.offset import GAIN
from worldline.models.recurrent import RecurrentConfig
from worldline.recipes.recipe import Recipe, vector_planner
from worldline.recipes.vectors import vectors
from worldline.schema import Role

SHORT_HISTORY: Final = 5
"""Observations from which velocities and accelerations follow, with some noise."""
LONG_HISTORY: Final = 12
"""Observations that show hidden states and short delays."""
LONGEST_HISTORY: Final = 24
"""Observations that show long delays and slow hidden states."""
CONTEXT: Final = 24
"""Observations from which a recurrent state is computed in training."""
MAX_OPEN_LOOP_STEPS: Final = 24
"""Steps of a training window after its history."""
UPDATES: Final = (5000, 40_000)
"""Fewest and most updates; between them two updates per training step."""
MAX_COLUMNS: Final = 400
"""Maximum number of values and inputs in all steps of a history; more shorten it."""


def ensemble(store: Store) -> Recipe:
    """Predicts all vector observations from the last 3; discrete observations are left out. For measured states.

    Raises:
        UnsupportedError: the logs hold no vector observation.
    """
    return _with_history(store, "ensemble", SHORT_HISTORY)


def ensemble_memory(store: Store) -> Recipe:
    """Predicts all vector observations from the last 12; discrete observations are left out. For hidden states.

    Raises:
        UnsupportedError: the logs hold no vector observation.
    """
    return _with_history(store, "ensemble-memory", LONG_HISTORY)


def ensemble_delays(store: Store) -> Recipe:
    """Predicts all vector observations from the last 24; discrete observations are left out. For long delays.

    Raises:
        UnsupportedError: the logs hold no vector observation.
    """
    return _with_history(store, "ensemble-delays", LONGEST_HISTORY)


def recurrent(store: Store) -> Recipe:
    """Predicts all vector observations with recurrent networks; discrete observations are left out. For noisy sensors.

    Raises:
        UnsupportedError: the logs hold no vector observation.
    """
    base = _with_history(store, "recurrent", LONG_HISTORY)
    num_steps = max(2, int(np.quantile(store.num_steps, 0.2)))
    context = max(1, min(CONTEXT, num_steps // 3))
    config = RecurrentConfig(
        inputs=base.model_config.inputs,
        history=min(base.model_config.history, context),
        context=context,
        timed=base.model_config.timed,
        folds=True,
        gain=GAIN,
    )
    training = replace(
        base.training,
        window=min(context + MAX_OPEN_LOOP_STEPS, num_steps + 1),
        batch_size=16,
        learning_rate=0.02,  # a third of it for open-loop paths
        open_loop_share=1.0,
        clip_norm=1.0,
    )
    return replace(base, model="recurrent", model_config=config, training=training)


def _with_history(store: Store, name: str, history: int) -> Recipe:
    """The recipe with so many observations, at most a third of what four in five episodes have.

    Goal heads do not suit it: an observation is not the complete state, so it cannot be a goal.
    """
    plain = vectors(store)
    inputs, num_steps = plain.model_config.inputs, max(2, int(np.quantile(store.num_steps, 0.2)))
    size = sum(s.size for s in store.schema.signals if s.name in inputs or s.role in (Role.ACTION, Role.EXOGENOUS))
    history = max(1, min(history, num_steps // 3, MAX_COLUMNS // size))
    config = EnsembleConfig(
        inputs=inputs,
        history=history,
        width=64,
        layers=2,
        blanked=0.0,
        bootstrap=False,
        timed=plain.model_config.timed,
        linear=True,
        noise=False,
        folds=True,
        gain=GAIN,
    )
    training = replace(
        plain.training,
        num_updates=int(np.clip(2 * store.num_steps.sum(), *UPDATES)),
        num_checks=12,
        num_validation=128,
        window=min(history + MAX_OPEN_LOOP_STEPS, num_steps + 1),
        batch_size=32,
        learning_rate=6e-3,
        clip_norm=10.0,
        warm_up=0.05,
        open_loop_share=0.1,
        choose="validation",
        precision="float32",  # the networks are too small to gain from half precision
    )
    return replace(
        plain,
        name=name,
        model="ensemble",
        model_config=config,
        training=training,
        heads=replace(plain.heads, dynamics_updates=0),
        planner=vector_planner(store.schema),
        num_proposals=0,
    )
