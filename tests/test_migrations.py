"""Settings of `jepa` in format 1. The golden bundles cover its predictors with their tensors."""

from __future__ import annotations

import json
from typing import Any

import pytest

from worldline.config import from_json
from worldline.migrations import BUNDLE_FORMAT, current_tensor, current_text
from worldline.models.jepa import JepaConfig
from worldline.models.layers.auxiliary_losses import AuxiliaryConfig
from worldline.models.layers.observation_encoder import ObservationEncoderConfig
from worldline.models.layers.predictors import BlockPredictorConfig, MlpPredictorConfig
from worldline.models.layers.regularizers import SigregConfig, VicregConfig


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (
            {
                "channels": 8,
                "encoder_width": 16,
                "predictor_width": 32,
                "gated": True,
                "sigreg_weight": 2.0,
                "depth": 2,
            },
            {
                "encoder": ObservationEncoderConfig(channels=8, width=16),
                "predictor": MlpPredictorConfig(width=32, gated=True),
                "regularizer": SigregConfig(weight=2.0),
                "auxiliary": AuxiliaryConfig(width=32),
            },
        ),
        (
            {"sigreg_weight": 0.0, "variance_weight": 16.0, "covariance_weight": 4.0, "delta_weight": 1.0},
            {"regularizer": VicregConfig(covariance_weight=4.0), "auxiliary": AuxiliaryConfig(delta_weight=1.0)},
        ),
        (
            {"frameskip": 3, "targets": ["heat"]},
            {
                "predictor": BlockPredictorConfig(frameskip=3),
                "auxiliary": AuxiliaryConfig(targets=("heat",)),
            },
        ),
    ],
)
def test_flat_settings_become_parts(settings: dict[str, Any], expected: dict[str, Any]) -> None:
    text = current_text("model.json", json.dumps({"inputs": ["camera"], "timed": True, **settings}), 1, "jepa")
    assert from_json(JepaConfig, text, where="here") == JepaConfig(inputs=("camera",), timed=True, **expected)


@pytest.mark.parametrize(
    ("file", "number", "model"),
    [("model.json", BUNDLE_FORMAT, "jepa"), ("model.json", 1, "rssm"), ("heads/readout.json", 1, "jepa")],
)
def test_other_files_stay_as_they_are(file: str, number: int, model: str) -> None:
    assert current_text(file, '{"channels": 8}', number, model) == '{"channels": 8}'
    tensors = file.replace("json", "safetensors")
    assert current_tensor(tensors, "predictor.0.bias", number, model) == "predictor.0.bias"


def test_damaged_settings_are_left_to_the_reader() -> None:
    assert current_text("model.json", "[1", 1, "jepa") == "[1"
