"""Learned world models; each family has its own file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worldline.lazy import lazy_names

if TYPE_CHECKING:
    from worldline.models.base import Adapts as Adapts
    from worldline.models.base import Belief as Belief
    from worldline.models.base import Inputs as Inputs
    from worldline.models.base import LatentRollout as LatentRollout
    from worldline.models.base import Losses as Losses
    from worldline.models.base import ModelConfig as ModelConfig
    from worldline.models.base import Window as Window
    from worldline.models.base import WorldModel as WorldModel
    from worldline.models.base import unroll as unroll
    from worldline.models.jepa import Jepa as Jepa
    from worldline.models.jepa import JepaConfig as JepaConfig
    from worldline.models.layers.auxiliary_losses import AuxiliaryConfig as AuxiliaryConfig
    from worldline.models.layers.codes import vector_signals as vector_signals
    from worldline.models.layers.forecasting_predictors import ConservedPredictorConfig as ConservedPredictorConfig
    from worldline.models.layers.forecasting_predictors import (
        LinearResidualPredictorConfig as LinearResidualPredictorConfig,
    )
    from worldline.models.layers.observation_encoder import ObservationEncoderConfig as ObservationEncoderConfig
    from worldline.models.layers.predictors import GruPredictorConfig as GruPredictorConfig
    from worldline.models.layers.predictors import MlpPredictorConfig as MlpPredictorConfig
    from worldline.models.layers.predictors import TransformerPredictorConfig as TransformerPredictorConfig
    from worldline.models.layers.regularizers import SigregConfig as SigregConfig
    from worldline.models.layers.regularizers import VicregConfig as VicregConfig
    from worldline.models.layers.standardizer import InputNormaliser as InputNormaliser
    from worldline.models.layers.standardizer import Standardizer as Standardizer


__getattr__ = lazy_names(__name__)
