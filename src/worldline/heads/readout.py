"""From a latent to signals in physical units."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from worldline.nn.mlp import mlp
from worldline.nn.normaliser import Normaliser

RIDGE: Final = 1e-9
"""Penalty on the squared weights of the linear fit, relative; for latents with idle directions."""


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
    """Reads vector signals from a latent: a linear map and a small correction to it, which is 0 until it is trained."""

    def __init__(self, config: ReadoutConfig) -> None:
        super().__init__()
        self.config = config
        size = sum(config.signals.values())
        self.normaliser = Normaliser(size)
        self.linear = nn.Linear(config.latent_size, size)
        self.layers = mlp([config.latent_size, config.width, config.width, size])
        for parameter in self.layers[-1].parameters():
            nn.init.zeros_(parameter)

    @torch.no_grad()
    def fit_linear(
        self, latents: Float[Tensor, "M D"], values: Float[Tensor, "M size"], known: Bool[Tensor, "M size"]
    ) -> None:
        """Takes normaliser and linear map from `values` [physical units], by least squares over the known ones."""
        count = known.sum(0).clamp(min=1)
        mean = values.where(known, 0.0).double().sum(0) / count
        self.normaliser.fit(values.where(known, mean.to(values.dtype)))
        target = self.normaliser(values).double()
        wide = torch.cat([latents, torch.ones(len(latents), 1)], 1).double()
        patterns, pattern = known.unique(dim=1, return_inverse=True)
        for number, rows in enumerate(patterns.unbind(1)):
            seen, columns = wide[rows], (pattern == number).nonzero()[:, 0]
            products = seen.T @ seen
            ridge = RIDGE * products.diagonal().mean().clamp(min=1) * torch.eye(len(products))
            solved = torch.linalg.solve(products + ridge, seen.T @ target[rows][:, columns])
            self.linear.weight[columns] = solved[:-1].T.float()
            self.linear.bias[columns] = solved[-1].float()

    def scores(self, latents: Float[Tensor, "... D"]) -> Float[Tensor, "... size"]:
        """z-scores of all signals, side by side."""
        return torch.as_tensor(self.linear(latents) + self.layers(latents))

    def forward(self, latents: Float[Tensor, "... D"]) -> dict[str, Float[Tensor, "... _"]]:
        """Per signal its value, physical units."""
        values = self.normaliser.inverse(self.scores(latents))
        parts = values.split(list(self.config.signals.values()), -1)
        return dict(zip(self.config.signals, parts, strict=True))
