"""Regularisers, which prevent the collapse of latents: SIGReg and VICReg."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from worldline.config import BoundedConfig, Size, Weight
from worldline.models.layers.sigreg import sigreg
from worldline.models.layers.vicreg import covariance, variance

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
