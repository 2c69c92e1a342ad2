"""VICReg: keeps every number of the latents of a batch apart, and any two of them from saying the same.

Sources: VICReg (arXiv 2105.04906) for the two terms; PLDM (arXiv 2502.14819), which takes them at each time by itself,
and eb_jepa, whose weights (16 and 8) are for the mean over pairs that is taken here.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from worldline.models.layers.gather import gather

MARGIN = 1.0
"""The deviation that each number is to have."""
FLOOR = 1e-4
"""Added to a variance, so that its root has a finite gradient at 0."""


def variance(latents: Float[Tensor, "T B D"], *, counted: Bool[Tensor, "T B"] | None = None) -> Float[Tensor, ""]:
    """How far deviations over the batch fall short of 1, on average over numbers and times.

    Args:
        latents: T groups, each compared by itself; of all processes where several train together.
        counted: latents that belong to their group; None for all. A group of fewer than two does not count.
    """
    covariances, groups = _covariances(latents, counted)
    deviation = (covariances.diagonal(dim1=1, dim2=2) + FLOOR).sqrt()
    return (torch.relu(MARGIN - deviation).mean(-1) * groups).sum() / groups.sum().clamp(min=1)


def covariance(latents: Float[Tensor, "T B D"], *, counted: Bool[Tensor, "T B"] | None = None) -> Float[Tensor, ""]:
    """The square of the covariance of two different numbers of a latent, on average over pairs and times.

    Args:
        latents: T groups, as for `variance`; D of 1 has no pairs and gives 0.
        counted: as for `variance`.
    """
    covariances, groups = _covariances(latents, counted)
    size = latents.shape[-1]
    apart = covariances - torch.diag_embed(covariances.diagonal(dim1=1, dim2=2))
    pairs = apart.square().sum((1, 2)) / max(1, size * (size - 1))
    return (pairs * groups).sum() / groups.sum().clamp(min=1)


def _covariances(
    latents: Float[Tensor, "T B D"], counted: Bool[Tensor, "T B"] | None
) -> tuple[Float[Tensor, "T D D"], Float[Tensor, " T"]]:
    """The unbiased covariance of each group, and 1 for each group that has one, else 0."""
    if counted is None:
        counted = torch.ones_like(latents[..., 0], dtype=torch.bool)
    with torch.autocast(latents.device.type, enabled=False):
        values, here = gather(latents.float(), dim=1), gather(counted.float(), dim=1)[..., None]
        count = here.sum(1, keepdim=True)
        centred = (values - (values * here).sum(1, keepdim=True) / count.clamp(min=1)) * here
        return centred.transpose(1, 2) @ centred / (count - 1).clamp(min=1), (count[:, 0, 0] >= 2).float()
