"""A normal distribution of action sequences, which a search refines."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from worldline.planning.planners.base import ActionSpace
from worldline.planning.planners.population import Population


@dataclass(frozen=True, kw_only=True)
class Gaussian:
    """An independent normal distribution per component and step, for each of B problems."""

    mean: Float[Tensor, "B T A"]
    deviation: Float[Tensor, "B T A"]

    @classmethod
    def over(cls, space: ActionSpace, like: Float[Tensor, "B P T A"], *, deviation: float) -> Gaussian:
        """Centred in the space, with the batch and horizon of `like`; `deviation` is a share of each range."""
        mean = ((space.low + space.high) / 2).expand(len(like), like.shape[2], -1)
        return cls(mean=mean, deviation=(deviation * (space.high - space.low)).expand_as(mean))

    def draw(self, noise: Float[Tensor, "1 N T A"]) -> Float[Tensor, "B N T A"]:
        """Sequences from standard normal `noise`, which all problems share."""
        return self.mean[:, None] + self.deviation[:, None] * noise.to(self.mean)

    def fit(
        self, population: Population, min_deviation: Float[Tensor, "A"], weight: Float[Tensor, "B N"] | None = None
    ) -> Gaussian:
        """The distribution fitted to a population.

        The mean needs one sequence of finite cost and the deviation two; with fewer they keep their values.

        Args:
            population: of the same problems.
            min_deviation: lower limit of the deviation.
            weight: of each sequence, at least 0; None for equal weights.
        """
        # A sequence without a finite cost has weight 0, whatever the caller's weight.
        usable = population.cost.isfinite().to(self.mean)
        weight = (usable if weight is None else weight * usable)[:, :, None, None]
        count, total = (weight > 0).sum(1), weight.sum(1)
        # Without any weight, `total` only has to avoid a division by 0: the values below are not used then.
        total = total.where(total > 0, 1.0)
        fitted = (weight * population.actions).sum(1) / total
        squares = (weight * (population.actions - fitted[:, None]) ** 2).sum(1)
        mean = torch.where(count >= 1, fitted, self.mean)
        # The deviation of a single sequence is 0, and a search would never leave it.
        deviation = torch.where(count >= 2, (squares / total).sqrt(), self.deviation)
        return Gaussian(mean=mean, deviation=deviation.maximum(min_deviation))
