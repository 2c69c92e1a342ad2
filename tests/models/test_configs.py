"""Settings of every family that make no sense, and what is said of them."""

from __future__ import annotations

from typing import Any

import pytest

from worldline.errors import ConfigError
from worldline.models.ensemble import EnsembleConfig
from worldline.models.features import FeaturesConfig
from worldline.models.jepa import JepaConfig
from worldline.models.layers.auxiliary_losses import AuxiliaryConfig
from worldline.models.layers.forecasting_predictors import ConservedPredictorConfig, LinearResidualPredictorConfig
from worldline.models.layers.observation_encoder import ObservationEncoderConfig
from worldline.models.layers.predictors import (
    BlockPredictorConfig,
    GruPredictorConfig,
    MlpPredictorConfig,
    TransformerPredictorConfig,
)
from worldline.models.layers.regularizers import SigregConfig, VicregConfig
from worldline.models.lewm import LewmConfig
from worldline.models.rssm import RssmConfig
from worldline.models.token import TokenConfig

FAMILIES: dict[type, dict[str, Any]] = {
    **{kind: {"inputs": ("camera",)} for kind in (EnsembleConfig, JepaConfig, LewmConfig, RssmConfig, TokenConfig)},
    FeaturesConfig: {"inputs": ("camera",), "encoder": "", "architecture": "{}", "weights_sha256": ""},
}
WRONG: dict[type, dict[str, Any]] = {
    EnsembleConfig: {"num_members": 1, "history": 0, "beta": 2.0, "blanked": 1.0, "path_weight": -1.0},
    FeaturesConfig: {"grid": 0, "span": 0, "stride": -1, "components": -1},
    JepaConfig: {"latent_size": 0, "signal_weight": -0.1, "gradient_steps": -1},
    LewmConfig: {"patch": 0, "history": 0, "num_slices": -1, "dropout": 1.0, "sigreg_weight": -1.0},
    RssmConfig: {
        **{"hidden_size": 0, "num_groups": 0, "num_classes": 1, "num_samples": 0, "context": 0, "free_nats": -1.0},
        "image_weight": -0.1,
    },
    TokenConfig: {"num_bins": 11, "context_steps": 0, "depth": 0, "num_samples": 0, "smoothing": -1.0, "hidden": 1.0},
    ObservationEncoderConfig: {"channels": -1},
    SigregConfig: {"num_slices": 0, "weight": -1.0},
    VicregConfig: {"variance_weight": -1.0},
    MlpPredictorConfig: {"width": 0},
    GruPredictorConfig: {"memory_size": 0},
    BlockPredictorConfig: {"frameskip": 0},
    LinearResidualPredictorConfig: {"history": 0, "values": -1},
    ConservedPredictorConfig: {"trim": 0.5},
    AuxiliaryConfig: {"straightening_weight": -1.0, "delta_steps": 0},
}


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        *((kind, {name: value}, f"{name} is {value}") for kind, many in WRONG.items() for name, value in many.items()),
        *((kind, {"inputs": ()}, "inputs is (empty|.*exactly one camera)") for kind in FAMILIES),
        (LewmConfig, {"inputs": ("left", "right")}, "exactly one camera"),
        (LewmConfig, {"num_heads": 5}, "latent_size is 192. It must be a multiple of num_heads, 5"),
        (RssmConfig, {"num_classes": 1}, "It must be at least 2"),
        (TokenConfig, {"num_bins": 11}, "It must be at least 12"),
        (TransformerPredictorConfig, {"num_heads": 3}, "multiple of twice num_heads, 6"),
        (FeaturesConfig, {"library": "tim"}, "Did you mean 'timm'"),
        (FeaturesConfig, {"pooling": "patch"}, "Did you mean 'patches'"),
        (FeaturesConfig, {"pixel_deviation": (1.0, 0.0, 1.0)}, "Each must be positive"),
    ],
)
def test_impossible_settings_are_refused(kind: type, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        kind(**{**FAMILIES.get(kind, {}), **settings})
