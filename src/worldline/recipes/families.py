"""Any recipe with another family of models: `worldline learn LOGS --out world/ --model rssm`.

Inputs, split, horizon and planner of the recipe stay, so that the families can be compared. Only LeWM takes fewer
inputs: one image. The settings of the families are here; a family of another package keeps its defaults and the
training of the recipe. docs/families.md holds the results, measured by benchmarks/families.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields, replace
from operator import attrgetter
from pathlib import Path
from typing import Any, Final

import numpy as np

from worldline.config import replace_at
from worldline.data.store import Store
from worldline.errors import InputError, UnsupportedError
from worldline.models.base import WorldModel
from worldline.models.ensemble import EnsembleConfig
from worldline.models.features import Features, features_config, load_encoder
from worldline.models.jepa import JepaConfig
from worldline.models.lewm import LewmConfig
from worldline.models.lewm_checkpoint import read_lewm
from worldline.models.rssm import RssmConfig
from worldline.models.token import TokenConfig
from worldline.recipes.linear import with_linear
from worldline.recipes.recipe import Recipe
from worldline.registry import load
from worldline.schema import Kind
from worldline.training.heads.base import HeadsConfig

WIDTHS: Final[Mapping[str, tuple[str, ...]]] = {
    "jepa": ("encoder.channels", "encoder.width", "predictor.width"),
    "lewm": (),  # fixed at the published size
    "rssm": ("hidden_size", "width", "channels", "image_width"),
}
"""Per family the settings that scale with the size of the model; in other families `width`, if there is one."""


def with_family(recipe: Recipe, store: Store, name: str, *, weights: Path | None = None) -> Recipe:
    """The recipe with the family of this name.

    A family of another package needs a `Config` that is complete with `inputs` alone.

    Args:
        recipe: gives inputs, split, horizon and planner. "lewm" keeps only the image of the inputs.
        store: the training data.
        name: registered name of a family.
        weights: folder of pretrained weights. "features" needs it; "lewm" starts from the published weights if it is
            given.

    Raises:
        UnknownNameError: there is no such family.
        UnsupportedError: the family cannot learn from the recipe's inputs; the message gives the reason.
        InputError: weights are missing, or given for a family that does not use them.
    """
    family = load("model", name)  # an unknown name must fail before other checks
    if weights is not None and name not in ("features", "lewm"):
        raise InputError(f"weights are given, and the family {name!r} starts from none. Leave them out.")
    if name == recipe.model and weights is None:
        return recipe
    if name == "jepa" or not recipe.training.num_updates:
        raise UnsupportedError(
            f"the recipe {recipe.name!r} cannot be turned into one with the family {name!r}. "
            "Use a recipe that has it, such as --recipe pixels or vectors, or write one."
        )
    images = [signal for signal in recipe.model_config.inputs if store.schema[signal].kind is Kind.IMAGE]
    if images and name in ("ensemble", "linear", "recurrent", "token"):
        raise UnsupportedError(
            f"the family {name!r} has no encoder for images, and {recipe.name!r} learns from {', '.join(images)}. "
            "Choose jepa, rssm, features or lewm; or learn from the vector signals alone: --recipe vectors."
        )
    if name in ("features", "lewm") and not images:
        raise UnsupportedError(
            f"the family {name!r} learns from images, and {recipe.name!r} has none. "
            "Choose jepa, rssm, ensemble or token."
        )
    if name == "linear":
        return with_linear(recipe, store)
    if name == "features":
        return _features(recipe, weights)
    if name == "lewm":
        return _lewm(recipe, store, weights)
    settings_of = {"ensemble": _ensemble, "rssm": _rssm, "token": _token}
    own = settings_of.get(name)
    config, training = _registered(recipe, name, family) if own is None else own(recipe, store)
    return _change(recipe, name, config, training)


def resized(recipe: Recipe, size: float) -> Recipe:
    """The recipe with layers of `size` times their width, in multiples of 16; families of fixed size do not change."""
    if size == 1:
        return recipe
    config = recipe.model_config
    names = WIDTHS.get(recipe.model, ("width",) if hasattr(config, "width") else ())
    widths = {name: max(16, 16 * round(attrgetter(name)(config) * size / 16)) for name in names}
    return replace(recipe, model_config=replace_at(config, widths))


def _registered(recipe: Recipe, name: str, family: type[WorldModel]) -> tuple[Any, dict[str, Any]]:
    """The default configuration of a family of another package."""
    missing = [
        field.name
        for field in fields(family.Config)
        if field.name != "inputs" and field.default is MISSING and field.default_factory is MISSING
    ]
    if missing:
        raise UnsupportedError(
            f"the configuration of the family {name!r} has no default for {', '.join(missing)}. Add defaults, or write "
            "a recipe: a function that returns a Recipe."
        )
    config = family.Config(inputs=recipe.model_config.inputs)
    return config, {"num_updates": 0} if family.closed_form else {}


def _change(recipe: Recipe, name: str, config: Any, training: Mapping[str, Any]) -> Recipe:
    """The recipe with this model, without the collapse check: the latents of these families hold the observations."""
    return replace(
        recipe,
        name=f"{recipe.name}, {name}",
        model=name,
        model_config=config,
        training=replace(recipe.training, min_rank=1.0, min_deviation=0.0, **training),
        heads=replace(recipe.heads, dynamics_updates=0),
        pretrained=None,
    )


def _window(store: Store, longest: int) -> int:
    """The number of observations that four in five episodes have, at most `longest`."""
    return max(3, min(longest, int(np.quantile(store.num_steps, 0.2)) + 1))


def _ensemble(recipe: Recipe, store: Store) -> tuple[EnsembleConfig, dict[str, Any]]:
    timed = isinstance(recipe.model_config, JepaConfig) and recipe.model_config.timed
    config = EnsembleConfig(inputs=recipe.model_config.inputs, timed=timed)
    return config, {"window": _window(store, 9), "learning_rate": 5e-3}


def _token(recipe: Recipe, store: Store) -> tuple[TokenConfig, dict[str, Any]]:
    window = _window(store, 9)  # longer than the context of attention
    config = TokenConfig(inputs=recipe.model_config.inputs, context_steps=min(8, window - 1))
    return config, {"window": window, "learning_rate": 1e-2, "batch_size": 32}


def _rssm(recipe: Recipe, store: Store) -> tuple[RssmConfig, dict[str, Any]]:
    window = _window(store, 16)
    ends = bool(store.terminated.any())
    config = RssmConfig(inputs=recipe.model_config.inputs, continuation=ends, context=min(8, window - 1))
    return config, {"window": window, "learning_rate": 2e-3, "batch_size": 16, "num_validation": 128}


def _features(recipe: Recipe, weights: Path | None) -> Recipe:
    if weights is None:
        raise InputError("the family 'features' needs a pretrained encoder. Give its folder: --weights.")
    config = features_config(inputs=recipe.model_config.inputs, folder=weights)

    def fill(model: WorldModel) -> None:
        assert isinstance(model, Features)
        load_encoder(model, weights)

    changed = _change(recipe, "features", config, {"learning_rate": 3e-3, "batch_size": 16, "num_validation": 64})
    return replace(changed, pretrained=fill)


def _lewm(recipe: Recipe, store: Store, weights: Path | None) -> Recipe:
    (camera, *others) = [n for n in recipe.model_config.inputs if store.schema[n].kind is Kind.IMAGE]
    if others:
        raise UnsupportedError(f"LeWM takes one image, and {recipe.name!r} learns from {camera}, {', '.join(others)}.")
    recipe = _image_alone(recipe, camera)
    training = {"window": 4, "learning_rate": 3e-4, "batch_size": 32, "num_validation": 64, "weight_decay": 1e-3}
    if weights is None:
        config = LewmConfig(inputs=(camera,), patch=14 if store.schema[camera].shape[0] == 224 else 8)
        return _change(recipe, "lewm", config, training)
    published = read_lewm(weights, schema=store.schema, camera=camera)

    def fill(model: WorldModel) -> None:
        model.load_state_dict(published.state_dict())

    return replace(_change(recipe, "lewm", published.config, training), pretrained=fill)


def _image_alone(recipe: Recipe, camera: str) -> Recipe:
    """The recipe with readouts for the inputs other than the image, which the latent no longer contains directly."""
    if recipe.model_config.inputs == (camera,):
        return recipe
    updates = max(recipe.heads.readout_updates, HeadsConfig().readout_updates)
    return replace(recipe, heads=replace(recipe.heads, readout_updates=updates))
