"""Scores a configuration of a learning run, for searches such as Ray Tune and Optuna."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np

from worldline.data.store import Store
from worldline.engines.learned import LearnedEngine
from worldline.errors import ConfigError, DataError
from worldline.workflows.candidate_errors import MIN_ERROR, comparison_data
from worldline.workflows.choosing_images import part_data, validation_errors
from worldline.workflows.learn import learn_logs
from worldline.workflows.learn_options import Options
from worldline.workflows.training import Learned

OPTIONS: Final[Mapping[str, tuple[type, ...]]] = {
    "recipe": (str,),
    "model": (str,),
    "split": (str,),
    "budget": (str, int, float),
    "seed": (int,),
    "device": (str,),
}
"""Options of `learn` that a configuration may hold, and their types; its other keys are settings of the recipe."""


def trial(config: Mapping[str, Any]) -> float:
    """The validation error of a world that is learned with this configuration; lower is better.

    The error of each signal is divided by its standard deviation and averaged over the signals. The score is the
    geometric mean over 1, 10 and 48 steps ahead, up to the horizon. A prediction of the mean has about 1. Errors below
    0.0001 count as 0.0001. Without vector observations, the mean colours of 16 patches of the images are compared.

    No model was fitted to the compared episodes. They are the validation part; families with folds are cross-validated
    on all episodes that are not held out. Scores are comparable for equal logs, split and horizon. The held-out
    episodes do not affect the score. The world itself is deleted.

    Args:
        config: "logs" as for `learn`, best a store, because other logs are imported in every trial. Optional are
            "recipe", "model", "split", "budget", "seed" and "device", see `Options`. All other keys are settings of
            the recipe by path, such as "training.learning_rate".

    Raises:
        ConfigError: "logs" is missing, or a value has the wrong type or is out of range.
        UnknownNameError: there is no such setting, recipe or family.
        CollapseError: the latents collapsed, or the loss diverged.
        DataError: the logs cannot be used, or no observation of the model varies.
    """
    settings = {name: value for name, value in config.items() if value is not None}
    if "logs" not in settings:
        raise ConfigError(f"logs is missing in the configuration, which has {', '.join(config) or 'no keys'}. Add it.")
    logs, options = settings.pop("logs"), {name: settings.pop(name) for name in OPTIONS if name in settings}
    for name, value in options.items():
        is_function = name == "recipe" and callable(value)
        if not (isinstance(value, OPTIONS[name]) or is_function) or isinstance(value, bool):
            expected = " or ".join(kind.__name__ for kind in OPTIONS[name])
            raise ConfigError(f"{name} is {value!r}. Expected {expected}.")
    with TemporaryDirectory() as folder:
        result = learn_logs(logs, Path(folder) / "world", Options(**options, set=settings))
        return _validation_error(result.store, result.learned)


def _validation_error(store: Store, learned: Learned) -> float:
    recipe, engine, unseen = learned.recipe, learned.engine, learned.unseen
    data = part_data(store, recipe, "validation") if unseen is None else comparison_data(store, recipe)
    if not data.spreads and not data.windows.truth:
        raise DataError("no observation of the model varies", fix="Add a signal that varies.", file=store.path)
    if unseen is not None:
        errors = data.unseen_errors(engine, unseen)
    else:
        assert isinstance(engine, LearnedEngine), "forecasters have an unseen engine"
        errors = validation_errors(store, recipe, engine, data)
    return float(np.exp(np.log(np.maximum(errors.value, MIN_ERROR)).mean()))
