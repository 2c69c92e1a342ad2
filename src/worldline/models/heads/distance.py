"""The distance head: the number of steps between two latents.

Sources: the quasimetric form of IQE and MRN (arXiv 2208.08133); training on predicted latents: arXiv 2608.12959.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from worldline.config import BoundedConfig, Size
from worldline.models.layers.mlp import mlp


@dataclass(frozen=True, kw_only=True)
class DistanceConfig(BoundedConfig):
    """Size of the head.

    Args:
        latent_size: D of the model.
        width: units of the two hidden layers.
        size: dimension of the embedding; one half gives the symmetric, the other the asymmetric part of distances.
        pictures: whether the head also embeds goals that consist of images only.
    """

    latent_size: Size
    width: Size = 256
    size: Size = 128
    pictures: bool = False


class Distance(nn.Module):
    """A quasimetric: at least 0, 0 from a latent to itself, triangle inequality, not symmetric."""

    def __init__(self, config: DistanceConfig) -> None:
        super().__init__()
        self.config = config
        sizes = [config.latent_size, config.width, config.width, config.size]
        self.embedding = mlp(sizes)
        self.pictures = mlp(sizes) if config.pictures else None

    def embed(self, latents: Float[Tensor, "... D"]) -> Float[Tensor, "... size"]:
        """Embeddings of latents."""
        return torch.as_tensor(self.embedding(latents))

    def embed_pictures(self, latents: Float[Tensor, "... D"]) -> Float[Tensor, "... size"]:
        """Embeddings of latents of image-only goals; each stands for all states with these images."""
        assert self.pictures is not None, "the head was fitted without image-only goals"
        return torch.as_tensor(self.pictures(latents))

    def between(self, start: Float[Tensor, "... size"], goal: Float[Tensor, "... size"]) -> Float[Tensor, "..."]:
        """Steps from `start` to `goal`, both embedded."""
        half = self.config.size // 2
        # 1e-6 keeps the gradient of the root finite at 0.
        symmetric = (start[..., :half] - goal[..., :half]).square().sum(-1).add(1e-6).sqrt()
        return symmetric + (goal[..., half:] - start[..., half:]).relu().amax(-1)

    def forward(self, start: Float[Tensor, "... D"], goal: Float[Tensor, "... D"]) -> Float[Tensor, "..."]:
        """Steps from latent `start` to latent `goal`."""
        return self.between(self.embed(start), self.embed(goal))
