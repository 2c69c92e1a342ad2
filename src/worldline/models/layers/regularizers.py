"""Regularisers, which prevent the collapse of latents: SIGReg and VICReg.

Sources: LeJEPA (arXiv 2511.08544) for SIGReg, the Epps-Pulley statistic on random one-dimensional slices; VICReg (arXiv
2105.04906) for variance and covariance; PLDM (arXiv 2502.14819) for applying them at each time separately; eb_jepa,
whose weights (16 and 8) belong to the mean over pairs used here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from worldline.config import BoundedConfig, Size, Weight
from worldline.device import normal
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


NUM_POINTS, LAST_POINT = 17, 3.0
"""Number of quadrature points of the statistic, from 0 to the last point."""


def sigreg(
    latents: Float[Tensor, "T B D"],
    *,
    num_slices: int,
    generator: torch.Generator,
    counted: Bool[Tensor, "T B"] | None = None,
) -> Float[Tensor, ""]:
    """The distance of the B latents at each of T times from a standard Gaussian; 0 for the Gaussian itself.

    Unlike the published statistic it is not multiplied by B, so that its weight does not depend on the batch size. With
    several processes, B counts the latents of all.

    Args:
        latents: T groups, each compared separately.
        num_slices: M random directions, drawn anew at every call.
        generator: draws the directions.
        counted: whether each latent belongs to its group; None for all. Empty groups do not count.
    """
    if counted is None:
        counted = torch.ones_like(latents[..., 0], dtype=torch.bool)
    slices = normal((latents.shape[-1], num_slices), generator, latents.device)
    with torch.autocast(latents.device.type, enabled=False):  # half precision cannot resolve a misfit of 0.01
        projected = gather(latents.float(), dim=1) @ (slices / slices.norm(dim=0))
    member = gather(counted.float(), dim=1)
    share = (member / member.sum(1, keepdim=True).clamp(min=1))[..., None]
    points = torch.linspace(0, LAST_POINT, NUM_POINTS, device=latents.device)[1:]  # the misfit at 0 is always 0
    angle = projected * points[0]
    cosine, double = angle.cos() * share, 2 * angle.cos()
    mean_cosine = _multiples(cosine, share.expand_as(cosine), double)
    mean_sine = _multiples(angle.sin() * share, torch.zeros_like(angle), double)
    target = torch.exp(-points.square() / 2)[:, None, None]
    weights = 2 * target * points[0]
    weights[-1] /= 2
    misfit = ((mean_cosine - target).square() + mean_sine.square()) * weights
    groups = member.amax(1)
    return torch.as_tensor((misfit.mean(-1).sum(0) * groups).sum() / groups.sum().clamp(min=1))


def _multiples(now: Tensor, before: Tensor, double: Float[Tensor, "T B M"]) -> Float[Tensor, "K T M"]:
    """The weighted sums over B of cos(kx) or sin(kx), for k from 1 to 16.

    The points are equally spaced, so the Chebyshev recurrence needs two trigonometric functions instead of 32:
    cos(kx) = 2 cos(x) cos((k - 1) x) - cos((k - 2) x), and likewise for the sine.

    Args:
        now: weighted values for k = 1, [T, B, M].
        before: weighted values for k = 0, [T, B, M].
        double: 2 cos(x).
    """
    sums = [now.sum(1)]
    for _ in range(NUM_POINTS - 2):
        before, now = now, double * now - before
        sums.append(now.sum(1))
    return torch.stack(sums)


Latents = Float[Tensor, "T B L"]
Flags = Bool[Tensor, "T B"]
Terms = Mapping[str, tuple[float, Float[Tensor, ""]]]
"""Loss terms: per name its weight and its unweighted value."""


class Regularizer(nn.Module, ABC):
    """A loss that prevents the collapse of latents."""

    @abstractmethod
    def forward(self, latents: Latents, counted: Flags, constant_size: int, generator: torch.Generator) -> Terms:
        """The loss terms.

        Args:
            latents: learned features of T times.
            counted: whether each was observed.
            constant_size: number of last features that are constant within a window.
            generator: for random draws.
        """


@dataclass(frozen=True, kw_only=True)
class SigregConfig(BoundedConfig):
    """Configures `Sigreg`.

    Args:
        weight: of the loss.
        num_slices: random directions per update.
    """

    kind: Literal["sigreg"] = "sigreg"
    weight: Weight = 5.0
    num_slices: Size = 64


class Sigreg(Regularizer):
    """Pulls latents towards a standard Gaussian. Constants, and the change of half of the latent, are pulled too."""

    def __init__(self, config: SigregConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, latents: Latents, counted: Flags, constant_size: int, generator: torch.Generator) -> Terms:
        """The terms `sigreg`, and `constant` and `change` if there are constants; none if the weight is 0."""
        config, groups = self.config, {}
        if config.weight:
            groups["sigreg"] = latents, counted
        if config.weight and constant_size:
            change = latents[-1:] - latents[:1]
            groups["constant"] = latents[..., -constant_size:], counted
            groups["change"] = change[..., : change.shape[-1] // 2], counted[-1:] & counted[:1]
        return {
            name: (config.weight, sigreg(group, num_slices=config.num_slices, generator=generator, counted=seen))
            for name, (group, seen) in groups.items()
        }


@dataclass(frozen=True, kw_only=True)
class VicregConfig(BoundedConfig):
    """Configures `Vicreg`. Use it with `AuxiliaryConfig(similarity_weight=12.0, inverse_weight=1.0)` (eb_jepa).

    Args:
        variance_weight: of the shortfall of each component's standard deviation from 1.
        covariance_weight: of the squared covariance of two components.
    """

    kind: Literal["vicreg"] = "vicreg"
    variance_weight: Weight = 16.0
    covariance_weight: Weight = 8.0


class Vicreg(Regularizer):
    """Keeps each component's standard deviation at 1 or more, and components uncorrelated."""

    def __init__(self, config: VicregConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, latents: Latents, counted: Flags, constant_size: int, generator: torch.Generator) -> Terms:
        """The terms `variance` and `covariance`. Constants are features like the others."""
        del constant_size, generator
        return {
            "variance": (self.config.variance_weight, variance(latents, counted=counted)),
            "covariance": (self.config.covariance_weight, covariance(latents, counted=counted)),
        }
