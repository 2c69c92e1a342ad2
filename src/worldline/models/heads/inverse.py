"""The inverse-dynamics head: the next action towards a goal, given the number of remaining steps.

Source: goal-conditioned inverse model with the number of remaining steps as input (arXiv 2605.08732).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from worldline.config import BoundedConfig, Size
from worldline.models.layers.mlp import mlp


@dataclass(frozen=True, kw_only=True)
class InverseConfig(BoundedConfig):
    """Size of the head.

    Args:
        latent_size: D of the model.
        low: smallest value of each action component, physical units.
        high: largest value of each action component, physical units.
        width: units of the three hidden layers.
        longest: maximum number of remaining steps; larger numbers are clipped to it.
    """

    latent_size: Size
    low: tuple[float, ...]
    high: tuple[float, ...]
    width: Size = 512
    longest: Size = 12


class Inverse(nn.Module):
    """Predicts the next action towards a goal, always within the action bounds."""

    low: Tensor
    high: Tensor

    def __init__(self, config: InverseConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("low", torch.tensor(config.low))
        self.register_buffer("high", torch.tensor(config.high))
        width = config.width
        self.layers = mlp([2 * config.latent_size, width, width, width, len(config.low)], norm=True)
        self.haste = nn.Linear(2, width, bias=False)
        nn.init.zeros_(self.haste.weight)  # the remaining steps have no effect at initialisation

    def forward(
        self, latent: Float[Tensor, "... D"], goal: Float[Tensor, "... D"], steps_left: Int[Tensor, "..."]
    ) -> Float[Tensor, "... A"]:
        """The action, physical units.

        Args:
            latent: of the present.
            goal: latent of the goal.
            steps_left: number of remaining steps, including this one, at least 1.
        """
        steps = steps_left.clamp(1, self.config.longest).to(latent.dtype)
        first = self.layers[0](torch.cat([latent, goal], -1))
        hidden = first + self.haste(torch.stack([steps.log(), 1 / steps], -1))
        squashed = torch.tanh(self.layers[1:](hidden))
        return self.low + (squashed + 1) / 2 * (self.high - self.low)
