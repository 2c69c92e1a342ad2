"""From a latent to signals in physical units."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from worldline.nn.mlp import mlp
from worldline.nn.normaliser import Normaliser


@dataclass(frozen=True, kw_only=True)
class ReadoutConfig:
    """Size of the head.

    Args:
        latent_size: D of the model.
        signals: vector signals to read, and the size of each.
        width: of the two hidden layers.
    """

    latent_size: int
    signals: Mapping[str, int]
    width: int = 256


class Readout(nn.Module):
    """Reads vector signals from a latent: a linear map and a small correction to it."""

    def __init__(self, config: ReadoutConfig) -> None:
        super().__init__()
        self.config = config
        size = sum(config.signals.values())
        self.normaliser = Normaliser(size)
        self.linear = nn.Linear(config.latent_size, size)
        self.layers = mlp([config.latent_size, config.width, config.width, size])

    def scores(self, latents: Float[Tensor, "... D"]) -> Float[Tensor, "... size"]:
        """z-scores of all signals, side by side."""
        return torch.as_tensor(self.linear(latents) + self.layers(latents))

    def forward(self, latents: Float[Tensor, "... D"]) -> dict[str, Float[Tensor, "... _"]]:
        """Per signal its value, physical units."""
        values = self.normaliser.inverse(self.scores(latents))
        parts = values.split(list(self.config.signals.values()), -1)
        return dict(zip(self.config.signals, parts, strict=True))
