"""VICReg: the variance and covariance terms, which prevent collapse of the latents.

Sources: VICReg (arXiv 2105.04906) for the terms; PLDM (arXiv 2502.14819) for applying them at each time separately;
eb_jepa, whose weights (16 and 8) belong to the mean over pairs used here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from worldline.config import require_at_least
from worldline.models.layers.gather import gather
from worldline.models.layers.regularizer import Regularizer, Terms

TARGET_DEVIATION = 1.0
"""Standard deviation below which a component is penalised."""
VARIANCE_FLOOR = 1e-4
"""Added to a variance, so that the gradient of its root is finite at 0."""


@dataclass(frozen=True, kw_only=True)
class VicregConfig:
    """Configures `Vicreg`. Use it with `AuxiliaryConfig(similarity_weight=12.0, inverse_weight=1.0)` (eb_jepa).

    Args:
        variance_weight: of the shortfall of each component's standard deviation from 1.
        covariance_weight: of the squared covariance of two components.
    """

    kind: Literal["vicreg"] = "vicreg"
    variance_weight: float = 16.0
    covariance_weight: float = 8.0

    def __post_init__(self) -> None:
        require_at_least(0, self, "variance_weight", "covariance_weight")


class Vicreg(Regularizer):
    """Keeps each component's standard deviation at 1 or more, and components uncorrelated."""

    def __init__(self, config: VicregConfig) -> None:
        super().__init__()
        self.config = config

    def forward(
        self,
        latents: Float[Tensor, "T B L"],
        *,
        counted: Bool[Tensor, "T B"],
        constant_size: int,
        generator: torch.Generator,
    ) -> Terms:
        """The terms `variance` and `covariance`. Constants are features like the others."""
        del constant_size, generator
        return {
            "variance": (self.config.variance_weight, variance(latents, counted=counted)),
            "covariance": (self.config.covariance_weight, covariance(latents, counted=counted)),
        }


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
