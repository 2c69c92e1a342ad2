"""Settings of every family that make no sense, and what is said of them."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any, get_args, get_type_hints

import pytest

from worldline.config import Bounds
from worldline.errors import ConfigError
from worldline.models.base import WorldModel
from worldline.models.ensemble import EnsembleConfig
from worldline.models.features import FeaturesConfig
from worldline.models.jepa import JepaConfig
from worldline.models.layers.forecasting_predictors import ConservedPredictorConfig
from worldline.models.layers.predictors import TransformerPredictorConfig
from worldline.models.layers.regularizers import SigregConfig, VicregConfig
from worldline.models.lewm import LewmConfig
from worldline.models.rssm import Rssm, RssmConfig
from worldline.models.token import TokenConfig, TokenModel
from worldline.registry import BUILTIN, load
from worldline.schema import Kind, Role, Schema, Signal
from worldline.training.heads.fitting import HEADS
from worldline.training.updates import TrainingConfig

FAMILIES: dict[type, dict[str, Any]] = {
    **{kind: {"inputs": ("camera",)} for kind in (EnsembleConfig, JepaConfig, LewmConfig, RssmConfig, TokenConfig)},
    FeaturesConfig: {"inputs": ("camera",), "encoder": "", "architecture": "{}", "weights_sha256": ""},
}
WRONG: list[tuple[type, dict[str, Any]]] = [
    (EnsembleConfig, {"num_members": 1}),
    (FeaturesConfig, {"components": -1}),
    (JepaConfig, {"signal_weight": -0.1}),
    (LewmConfig, {"dropout": 1.0}),
    (RssmConfig, {"num_classes": 1}),
    (TokenConfig, {"hidden": 1.0}),
    (VicregConfig, {"variance_weight": -1.0}),
    (ConservedPredictorConfig, {"trim": 0.5}),
    (TrainingConfig, {"num_updates": -1}),
    (TrainingConfig, {"num_updates": 10, "window": 2}),
]
"""One setting out of bounds, the last of each."""


@pytest.mark.parametrize(("kind", "settings", "message"), [
    *((kind, values, "{} is {}. It must be".format(*list(values.items())[-1])) for kind, values in WRONG),
    *((kind, {"inputs": ()}, "inputs is (empty|.*exactly one camera)") for kind in FAMILIES),
    (LewmConfig, {"inputs": ("left", "right")}, "exactly one camera"),
    (LewmConfig, {"num_heads": 5}, "latent_size is 192. It must be a multiple of num_heads, 5"),
    (TokenConfig, {"num_bins": 11}, "It must be at least 12"),
    (TransformerPredictorConfig, {"num_heads": 3}, "multiple of twice num_heads, 6"),
    (JepaConfig, {"inputs": ("camera", "camera")}, "Name each signal once"),
    (JepaConfig, {"latent_size": 10**9}, "It must be at least 1 and at most 100000"),
    (TransformerPredictorConfig, {"depth": 101}, "It must be at least 1 and at most 100"),
    (SigregConfig, {"weight": float("nan")}, "It must be at least 0"),
    (FeaturesConfig, {"pooling": "patch"}, "pooling is 'patch'. Choose 'patches' or 'mean' or 'cls'"),
    (FeaturesConfig, {"pixel_deviation": (1.0, 0.0, 1.0)}, "Each must be positive"),
])  # fmt: skip
def test_impossible_settings_are_refused(kind: type, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        kind(**{**FAMILIES.get(kind, {}), **settings})


def configs() -> dict[str, type]:
    """The configurations of everything that a bundle builds, with their parts, by name."""
    kinds: list[Any] = [head.Config for head in HEADS]
    kinds += [load("model", name).Config for name in BUILTIN["model"]]
    kinds += [load("planner", name) for name in BUILTIN["planner"]]
    for kind in kinds:  # grows by the parts
        for hint in get_type_hints(kind).values():
            kinds += [part for part in (hint, *get_args(hint)) if is_dataclass(part) and part not in (*kinds, Signal)]
    return {kind.__name__: kind for kind in kinds if is_dataclass(kind)}


@pytest.mark.parametrize("name", configs())
def test_every_size_has_an_upper_bound(name: str) -> None:
    """Without one, a bundle could make its reader build a network for hours."""
    hints = get_type_hints(configs()[name], include_extras=True)
    for field in fields(configs()[name]):
        kind, *notes = get_args(hints[field.name]) or [hints[field.name]]
        if kind is int:
            assert any(isinstance(note, Bounds) and note.at_most <= 100_000 for note in notes), field.name


@pytest.mark.parametrize(("family", "signal", "count"), [
    (Rssm, Signal(name="a", role=Role.OBSERVATION, kind=Kind.IMAGE, shape=(32, 32, 1)), 65),
    (TokenModel, Signal(name="a", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(2049,)), 2),
    (TokenModel, Signal(name="a", role=Role.OBSERVATION, kind=Kind.DISCRETE, shape=(), num_values=10**9), 1),
])  # fmt: skip
def test_more_signals_than_a_family_takes_are_refused(family: type[WorldModel], signal: Signal, count: int) -> None:
    """A schema is untrusted too."""
    names = tuple(str(number) for number in range(count))
    schema = Schema(signals=tuple(replace(signal, name=name) for name in names))
    with pytest.raises(ConfigError, match=r"too many|components"):
        family(schema=schema, config=family.Config(inputs=names))
