from __future__ import annotations

import torch

from worldline.models.layers.observation_encoder import LatentLayout
from worldline.models.layers.predictors import (
    GruPredictor,
    GruPredictorConfig,
    TransformerPredictor,
    TransformerPredictorConfig,
)
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


def test_attention_steers_by_the_inputs_once_it_has_learned_to() -> None:
    torch.manual_seed(0)
    config = TransformerPredictorConfig(width=8, depth=1, num_heads=2, context=2)
    made, latent = TransformerPredictor(config, layout(PUSH)), torch.ones(2, 2)
    known = torch.tensor([[1.0], [-1.0]])
    change, cache = made(latent, known, None)
    assert torch.equal(change[0], change[1])
    assert cache.position == 1
    (change - latent)[0].square().sum().backward()  # both would cancel
    steer = made.layers.blocks[0].steer
    assert steer.weight.grad.abs().max() > 0
    free = TransformerPredictor(config, layout())  # a world in which nothing can be done
    assert free(latent, torch.zeros(2, 0), None)[0].shape == (2, 2)
