"""The interface of regularisers, which prevent the collapse of latents."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

Terms = Mapping[str, tuple[float, Float[Tensor, ""]]]
"""Loss terms: per name its weight and its unweighted value."""


class Regularizer(nn.Module, ABC):
    """A loss that prevents the collapse of latents."""

    @abstractmethod
    def forward(
        self,
        latents: Float[Tensor, "T B L"],
        *,
        counted: Bool[Tensor, "T B"],
        constant_size: int,
        generator: torch.Generator,
    ) -> Terms:
        """The loss terms.

        Args:
            latents: learned features of T times.
            counted: whether each was observed.
            constant_size: number of last features that are constant within a window.
            generator: for random draws.
        """
