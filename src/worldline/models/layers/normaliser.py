"""Conversion between physical units and z-scores; part of the model, saved with its weights."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Normaliser(nn.Module):
    """Mean and standard deviation per component; the identity until `fit`.

    Args:
        size: number of components.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("deviation", torch.ones(size))

    @torch.no_grad()
    def fit(self, values: Float[Tensor, "M size"]) -> None:
        """Fits mean and standard deviation on `values`. A constant component gets standard deviation 1."""
        deviation, mean = torch.std_mean(values.double(), dim=0)
        self.mean.copy_(mean)
        self.deviation.copy_(torch.where(deviation > 1e-6 * (1 + mean.abs()), deviation, 1.0))

    def forward(self, values: Float[Tensor, "... size"]) -> Float[Tensor, "... size"]:
        """z-scores of `values`."""
        return (values - self.mean) / self.deviation

    def inverse(self, scores: Float[Tensor, "... size"]) -> Float[Tensor, "... size"]:
        """Physical values of z-scores."""
        return scores * self.deviation + self.mean
