"""How many steps lie between two latents.

Source: the quasimetric form of IQE and MRN (arXiv 2208.08133); training on imagined latents: arXiv 2608.12959.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from worldline.models.layers.mlp import mlp


@dataclass(frozen=True, kw_only=True)
class DistanceConfig:
    """Size of the head.

    Args:
        latent_size: D of the model.
        width: of the two hidden layers.
        size: of the space that distances are measured in; half of it symmetric, half not.
        pictures: whether there are goals of which the pictures are known and nothing else.
    """

    latent_size: int
    width: int = 256
    size: int = 128
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
        """Where latents lie in the space of distances."""
        return torch.as_tensor(self.embedding(latents))

    def embed_pictures(self, latents: Float[Tensor, "... D"]) -> Float[Tensor, "... size"]:
        """Where goals lie of which the model saw the pictures only: a place for all states that look like that."""
        assert self.pictures is not None, "the head was fitted without such goals"
        return torch.as_tensor(self.pictures(latents))

    def between(self, start: Float[Tensor, "... size"], goal: Float[Tensor, "... size"]) -> Float[Tensor, "..."]:
        """Steps from `start` to `goal`, both embedded."""
        half = self.config.size // 2
        symmetric = (start[..., :half] - goal[..., :half]).square().sum(-1).add(1e-6).sqrt()
        return symmetric + (goal[..., half:] - start[..., half:]).relu().amax(-1)

    def forward(self, start: Float[Tensor, "... D"], goal: Float[Tensor, "... D"]) -> Float[Tensor, "..."]:
        """Steps from latent `start` to latent `goal`."""
        return self.between(self.embed(start), self.embed(goal))
