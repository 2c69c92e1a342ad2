"""Recipes for a pretrained forecaster, without training: `worldline adopt fracast LOGS --out world/`.

Nothing is fitted to the logs. They calibrate the bands, and the report compares the forecasts with baselines.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from worldline.config import BoundedConfig, Size
from worldline.data.store import Store
from worldline.engines.forecast.forecasters import Chronos, Fracast
from worldline.errors import InputError
from worldline.planning.planners.cem import CrossEntropy
from worldline.recipes.recipe import Recipe, planner_for
from worldline.recipes.vectors import vectors

MAX_CONTEXT: Final = 512
"""Most observations that a forecaster reads by default; a belief holds them for every world."""


@dataclass(frozen=True, kw_only=True)
class AdoptedConfig(BoundedConfig):
    """The settings of a forecaster in a world.

    Args:
        inputs: vector observations that it reads and predicts.
        context: observations that it reads, at most those that it was trained for.
    """

    inputs: tuple[str, ...]
    context: Size


def fracast(store: Store) -> Recipe:
    """Fracast-0, which forecasts each component of the vector observations alone, and ignores actions.

    Raises:
        MissingExtraError: fracast is not installed.
        UnsupportedError: the logs hold no vector observation.
    """
    return _recipe(store, Fracast())


def chronos(store: Store, weights: Path | None = None) -> Recipe:
    """Chronos-2 in the folder `weights`, with actions and exogenous signals as future covariates.

    Raises:
        InputError: `weights` is missing.
        DataError: the folder has another layout.
        MissingExtraError: chronos-forecasting is not installed.
        UnsupportedError: the logs hold no vector observation.
    """
    if weights is None:
        raise InputError("the recipe chronos needs the local folder of Chronos-2. Add --weights FOLDER.")
    return _recipe(store, Chronos.from_folder(weights))


def _recipe(store: Store, forecaster: Fracast | Chronos) -> Recipe:
    """The recipe, whose horizon and context fit four in five episodes."""
    base, usual = vectors(store), int(np.quantile(store.num_steps, 0.2))
    horizon = max(1, min(base.horizon, forecaster.horizon, usual * 2 // 3))
    context = max(1, min(MAX_CONTEXT, forecaster.context, usual - horizon + 1))
    return replace(
        base,
        name=forecaster.name,
        model="forecast",
        model_config=AdoptedConfig(inputs=base.model_config.inputs, context=context),
        training=replace(base.training, num_updates=0),
        heads=replace(base.heads, goals=False, dynamics_updates=0),
        horizon=horizon,
        num_windows=2,  # forecasts take long
        planner=planner_for(store.schema, CrossEntropy()),  # forecasters have no gradients
        num_proposals=0,
        forecaster=forecaster,
    )
