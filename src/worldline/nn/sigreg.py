"""SIGReg: pulls the latents of a batch towards a standard Gaussian, so that they cannot collapse.

Source: LeJEPA (arXiv 2511.08544): the Epps-Pulley statistic on random one-dimensional slices.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

NUM_POINTS = 17
LAST_POINT = 3.0


def sigreg(latents: Float[Tensor, "T B D"], *, num_slices: int, generator: torch.Generator) -> Float[Tensor, ""]:
    """How far the B latents at each of T times are from a standard Gaussian; 0 is the Gaussian itself.

    Unlike the published statistic this is not multiplied by B, so that its weight does not depend on the batch.

    Args:
        latents: T groups, each compared by itself.
        num_slices: M random directions, drawn anew at every call.
        generator: draws the directions.
    """
    latents = latents.float()
    slices = torch.randn(latents.shape[-1], num_slices, generator=generator, device=latents.device)
    projected = latents @ (slices / slices.norm(dim=0))
    points = torch.linspace(0, LAST_POINT, NUM_POINTS, device=latents.device)
    target = torch.exp(-points.square() / 2)
    weights = 2 * target * (points[1] - points[0])
    weights[[0, -1]] /= 2
    angles = projected.unsqueeze(-1) * points
    misfit = (angles.cos().mean(1) - target).square() + angles.sin().mean(1).square()
    return torch.as_tensor((misfit * weights).sum(-1).mean())
