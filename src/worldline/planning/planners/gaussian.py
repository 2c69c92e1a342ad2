"""A normal distribution of action sequences, which searches narrow down."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from worldline.planning.planners.base import ActionSpace
from worldline.planning.planners.population import Population


@dataclass(frozen=True, kw_only=True)
class Gaussian:
    """Independent normal numbers for each of B problems.

    Args:
        mean: of each component at each step.
        deviation: likewise.
    """

    mean: Float[Tensor, "B T A"]
    deviation: Float[Tensor, "B T A"]

    @classmethod
    def over(cls, space: ActionSpace, like: Float[Tensor, "B P T A"], *, deviation: float) -> Gaussian:
        """Around the middle of the space, for as many problems and steps; `deviation` as a share of each range."""
        mean = ((space.low + space.high) / 2).expand(len(like), like.shape[2], -1)
        return cls(mean=mean, deviation=(deviation * (space.high - space.low)).expand_as(mean))

    def draw(self, noise: Float[Tensor, "1 N T A"]) -> Float[Tensor, "B N T A"]:
        """The sequences that standard normal `noise` stands for, the same noise for all problems."""
        return self.mean[:, None] + self.deviation[:, None] * noise.to(self.mean)

    def fit(
        self, population: Population, least: Float[Tensor, "A"], weight: Float[Tensor, "B N"] | None = None
    ) -> Gaussian:
        """Mean and deviation of a population; as they were where fewer than one or two sequences have a finite cost.

        Args:
            population: of the same problems.
            least: the deviation never falls below this.
            weight: of each sequence, at least 0; None for all alike.
        """
        usable = population.cost.isfinite().to(self.mean)
        weight = (usable if weight is None else weight * usable)[:, :, None, None]
        count, total = (weight > 0).sum(1), weight.sum(1)
        total = total.where(total > 0, 1.0)
        fitted = (weight * population.actions).sum(1) / total
        squares = (weight * (population.actions - fitted[:, None]) ** 2).sum(1)
        mean = torch.where(count >= 1, fitted, self.mean)
        deviation = torch.where(count >= 2, (squares / total).sqrt(), self.deviation)
        return Gaussian(mean=mean, deviation=deviation.maximum(least))
