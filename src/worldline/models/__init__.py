"""Learned world models; each family has its own file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worldline.lazy import lazy_names

if TYPE_CHECKING:
    from worldline.models.base import (
        Adapts,
        Belief,
        Inputs,
        LatentRollout,
        Losses,
        ModelConfig,
        Window,
        WorldModel,
        unroll,
    )
    from worldline.models.jepa import Jepa, JepaConfig
    from worldline.models.layers.auxiliary_losses import AuxiliaryConfig
    from worldline.models.layers.codes import vector_signals
    from worldline.models.layers.forecasting_predictors import ConservedPredictorConfig, LinearResidualPredictorConfig
    from worldline.models.layers.observation_encoder import ObservationEncoderConfig
    from worldline.models.layers.predictors import GruPredictorConfig, MlpPredictorConfig, TransformerPredictorConfig
    from worldline.models.layers.regularizers import SigregConfig, VicregConfig
    from worldline.models.layers.standardizer import InputNormaliser, Standardizer

__all__ = [
    "Adapts",
    "AuxiliaryConfig",
    "Belief",
    "ConservedPredictorConfig",
    "GruPredictorConfig",
    "InputNormaliser",
    "Inputs",
    "Jepa",
    "JepaConfig",
    "LatentRollout",
    "LinearResidualPredictorConfig",
    "Losses",
    "MlpPredictorConfig",
    "ModelConfig",
    "ObservationEncoderConfig",
    "SigregConfig",
    "Standardizer",
    "TransformerPredictorConfig",
    "VicregConfig",
    "Window",
    "WorldModel",
    "unroll",
    "vector_signals",
]

__getattr__ = lazy_names(__name__)
