"""Which action to take now to reach a goal.

Source: goal-conditioned inverse model (arXiv 2605.08732).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from worldline.nn.mlp import mlp


@dataclass(frozen=True, kw_only=True)
class InverseConfig:
    """Size of the head.

    Args:
        latent_size: D of the model.
        low: smallest value of each action component, physical units.
        high: largest value.
        width: of the three hidden layers.
    """

    latent_size: int
    low: tuple[float, ...]
    high: tuple[float, ...]
    width: int = 512


class Inverse(nn.Module):
    """The next action towards a goal; always inside the action's bounds."""

    low: Tensor
    high: Tensor

    def __init__(self, config: InverseConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("low", torch.tensor(config.low))
        self.register_buffer("high", torch.tensor(config.high))
        width = config.width
        self.layers = mlp([2 * config.latent_size, width, width, width, len(config.low)], norm=True)

    def forward(self, latent: Float[Tensor, "... D"], goal: Float[Tensor, "... D"]) -> Float[Tensor, "... A"]:
        """The action, physical units."""
        squashed = torch.tanh(self.layers(torch.cat([latent, goal], -1)))
        return self.low + (squashed + 1) / 2 * (self.high - self.low)
