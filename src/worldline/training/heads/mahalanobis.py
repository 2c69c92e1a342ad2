"""The Mahalanobis distance of a latent from the training latents, one input of the out-of-distribution score."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from worldline.config import BoundedConfig, Size
from worldline.training.heads.base import Fit, Head, HeadData


@dataclass(frozen=True, kw_only=True)
class MahalanobisConfig(BoundedConfig):
    """Size of the head.

    Args:
        latent_size: D of the model.
    """

    latent_size: Size


class MahalanobisScore(Head):
    """Mahalanobis distance from the training latents.

    Source: Lee et al., "A simple unified framework for detecting out-of-distribution samples" (1807.03888).
    """

    name = "mahalanobis"
    Config = MahalanobisConfig
    config: MahalanobisConfig
    mean: Tensor
    whitening: Tensor

    def __init__(self, config: MahalanobisConfig) -> None:
        super().__init__(config)
        self.register_buffer("mean", torch.zeros(config.latent_size))
        self.register_buffer("whitening", torch.eye(config.latent_size))

    @classmethod
    def fit_to(cls, data: HeadData, fit: Fit, heads: Mapping[str, Head]) -> MahalanobisScore:
        """The head of the training latents."""
        head = cls(MahalanobisConfig(latent_size=data.table.features.shape[1])).to(data.table.device)
        head.fit(data.table.features.cpu())
        return head

    @torch.no_grad()
    def fit(self, latents: Float[Tensor, "M D"]) -> None:
        """Fits mean and covariance on `latents`. Small variances are raised to 1e-4 of the largest, as noise."""
        centred = (latents - latents.mean(0)).double()
        covariance = centred.T @ centred / len(centred)
        values, vectors = torch.linalg.eigh(covariance)
        floor = 1e-4 * float(values.max()) + 1e-12
        self.mean.copy_(latents.mean(0))
        self.whitening.copy_(vectors / values.clamp(min=floor).sqrt())

    def forward(self, latents: Float[Tensor, "... D"]) -> Float[Tensor, "..."]:
        """The distance; about the square root of D for training latents."""
        return torch.as_tensor(torch.linalg.vector_norm((latents - self.mean) @ self.whitening, dim=-1))
