"""VICReg: the variance and covariance terms, which prevent collapse of the latents.

Sources: VICReg (arXiv 2105.04906) for the terms; PLDM (arXiv 2502.14819) for applying them at each time separately;
eb_jepa, whose weights (16 and 8) belong to the mean over pairs used here.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from worldline.models.layers.gather import gather

TARGET_DEVIATION = 1.0
"""Standard deviation below which a component is penalised."""
VARIANCE_FLOOR = 1e-4
"""Added to a variance, so that the gradient of its root is finite at 0."""


def variance(latents: Float[Tensor, "T B D"], *, counted: Bool[Tensor, "T B"] | None = None) -> Float[Tensor, ""]:
    """The shortfall of standard deviations over the batch from 1, averaged over components and times.

    Args:
        latents: T groups, each evaluated separately; with several processes, the latents of all count.
        counted: whether each latent belongs to its group; None for all. Groups of fewer than two do not count.
    """
    covariances, groups = _covariances(latents, counted)
    deviation = (covariances.diagonal(dim1=1, dim2=2) + VARIANCE_FLOOR).sqrt()
    return (torch.relu(TARGET_DEVIATION - deviation).mean(-1) * groups).sum() / groups.sum().clamp(min=1)


def covariance(latents: Float[Tensor, "T B D"], *, counted: Bool[Tensor, "T B"] | None = None) -> Float[Tensor, ""]:
    """The squared covariance of two different components, averaged over pairs and times.

    Args:
        latents: T groups, as for `variance`; with D = 1 there are no pairs and the result is 0.
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
    """The unbiased covariance of each group, and 1.0 for each group of at least two latents, else 0.0."""
    if counted is None:
        counted = torch.ones_like(latents[..., 0], dtype=torch.bool)
    with torch.autocast(latents.device.type, enabled=False):
        values, member = gather(latents.float(), dim=1), gather(counted.float(), dim=1)[..., None]
        count = member.sum(1, keepdim=True)
        centred = (values - (values * member).sum(1, keepdim=True) / count.clamp(min=1)) * member
        return centred.transpose(1, 2) @ centred / (count - 1).clamp(min=1), (count[:, 0, 0] >= 2).float()
