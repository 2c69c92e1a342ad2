"""Learned world models; each family has its own file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worldline.lazy import lazy_names

if TYPE_CHECKING:
    from worldline.models.base import Adapts, Belief, Inputs, LatentRollout, Losses, ModelConfig, Window, WorldModel
    from worldline.models.jepa import Jepa, JepaConfig
    from worldline.models.layers.auxiliary_losses import AuxiliaryConfig
    from worldline.models.layers.forecasting_predictors import ConservedPredictorConfig, LinearResidualPredictorConfig
    from worldline.models.layers.observation_encoder import ObservationEncoder, ObservationEncoderConfig
    from worldline.models.layers.predictors import (
        BlockPredictorConfig,
        GruPredictorConfig,
        MlpPredictorConfig,
        Predictor,
        TransformerPredictorConfig,
    )
    from worldline.models.layers.regularizers import Regularizer, SigregConfig, VicregConfig

__all__ = [
    "Adapts",
    "AuxiliaryConfig",
    "Belief",
    "BlockPredictorConfig",
    "ConservedPredictorConfig",
    "GruPredictorConfig",
    "Inputs",
    "Jepa",
    "JepaConfig",
    "LatentRollout",
    "LinearResidualPredictorConfig",
    "Losses",
    "MlpPredictorConfig",
    "ModelConfig",
    "ObservationEncoder",
    "ObservationEncoderConfig",
    "Predictor",
    "Regularizer",
    "SigregConfig",
    "TransformerPredictorConfig",
    "VicregConfig",
    "Window",
    "WorldModel",
]

__getattr__ = lazy_names(__name__)
