"""Two corridors side by side, joined at one end only, as an exact toy of a maze."""

from __future__ import annotations

import torch
from torch import Tensor

from worldline.training.heads.distance import Distance, DistanceConfig
from worldline.training.stored_latents import LatentTable

LENGTH = 10
WAY = torch.tensor(
    [(x, 0.0) for x in range(LENGTH + 1)]
    + [(float(LENGTH), y) for y in (1.0, 2.0, 3.0, 4.0, 5.0)]
    + [(x, 6.0) for x in range(LENGTH, -1, -1)]
)
"""Places [27, 2], a step apart: along one corridor, and back along the other, which is 6 away."""


class Straight(Distance):
    """How far places are apart as the crow flies, through any wall."""

    def embed(self, latents: Tensor) -> Tensor:
        return latents

    def between(self, start: Tensor, goal: Tensor) -> Tensor:
        return (start - goal).norm(dim=-1)


def straight() -> Straight:
    return Straight(DistanceConfig(latent_size=2, width=2, size=2))


def walks(*ways: Tensor) -> LatentTable:
    """Equally long episodes of places [T+1, 2]."""
    length = len(ways[0])
    rows = torch.arange(len(ways) * length)
    return LatentTable(
        features=torch.cat(ways), actions=torch.zeros(len(rows), 1), exogenous=None, step_s=torch.ones(len(rows)),
        episode=rows // length, first=rows // length * length, length=torch.full((len(rows),), length),
        held_out=torch.zeros(len(rows), dtype=torch.bool), whole=torch.ones(len(rows), dtype=torch.bool),
    )  # fmt: skip
