from __future__ import annotations

import torch

from worldline.models.layers.observation_encoder import LatentLayout
from worldline.models.layers.predictors import GruPredictor, GruPredictorConfig
from worldline.models.layers.standardizer import InputNormaliser
from worldline.schema import Kind, Role, Schema, Signal

PUSH = Signal(name="push", role=Role.ACTION, kind=Kind.VECTOR, shape=(1,))
GRU = GruPredictorConfig(width=8, memory_size=4)


def layout(*signals: Signal) -> LatentLayout:
    return LatentLayout(size=2, constant_size=0, vectors=None, inputs=InputNormaliser(Schema(signals=signals)))


def test_a_recurrent_state_stays_in_full_precision() -> None:
    torch.manual_seed(0)
    made, latent = GruPredictor(GRU, layout(PUSH)), torch.ones(1, 2).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        _, hidden = made(latent, torch.ones(1, 1).bfloat16(), made.restore(latent, torch.zeros(1, 4)))
    assert hidden.state.dtype == torch.float32
