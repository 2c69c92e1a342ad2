"""A LeWM of a few numbers, and what it sees."""

from __future__ import annotations

from typing import Any

import torch
from tests.models.windows import random_window, seeded

from worldline.models.base import Window
from worldline.models.lewm import LatentHistory, Lewm, LewmConfig
from worldline.schema import Kind, Role, Schema, Signal

CAMERA = Signal(name="camera", role=Role.OBSERVATION, kind=Kind.IMAGE, shape=(16, 24, 3))
PUSH = Signal(name="push", role=Role.ACTION, kind=Kind.VECTOR, shape=(2,))
GRIP = Signal(name="grip", role=Role.ACTION, kind=Kind.DISCRETE, shape=(), num_values=3)
WIND = Signal(name="wind", role=Role.EXOGENOUS, kind=Kind.VECTOR, shape=(1,))
SMALL = {"latent_size": 8, "patch": 8, "depth": 2, "num_heads": 2, "projector_width": 12, "predictor_depth": 2}
SMALL |= {"predictor_heads": 2, "head_size": 4, "predictor_width": 12, "code_size": 4, "num_slices": 8}
BATCH, LENGTH = 4, 6


def schema(*, exogenous: bool = False) -> Schema:
    return Schema(signals=(CAMERA, PUSH, GRIP, *((WIND,) if exogenous else ())))


def model(*, exogenous: bool = False, **settings: Any) -> Lewm:
    """Small, and as if trained: at first its inputs have no effect (AdaLN-zero)."""
    torch.manual_seed(0)
    net = Lewm(schema=schema(exogenous=exogenous), config=LewmConfig(inputs=("camera",), **{**SMALL, **settings}))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    return net


def window(*, exogenous: bool = False, batch: int = BATCH, length: int = LENGTH, seed: int = 5) -> Window:
    return random_window(schema(exogenous=exogenous), batch, length, seed=seed)


def encoded(net: Lewm, on: Window) -> LatentHistory:
    return net.encode(on, generator=seeded())
