"""The improved cross-entropy method: coloured noise, shrinking populations, kept elites."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor

from worldline.config import Bounds, Positive, Share, Size, Weight
from worldline.errors import ConfigError
from worldline.planning.planners.base import ActionSpace, NumCandidates, NumIterations
from worldline.planning.planners.gaussian import Gaussian
from worldline.planning.planners.noise import coloured
from worldline.planning.planners.search import Candidates, PopulationPlanner


@dataclass(frozen=True, kw_only=True)
class ImprovedCrossEntropy(PopulationPlanner):
    """A cross-entropy method for few candidates.

    Each population contains a share of the previous elites, and the last population contains the mean. The shifted
    elites of the previous control step come as proposals. It departs from the paper in one way: components beyond the
    bounds are clipped, not drawn again.

    Args:
        num_candidates: sequences of the first population, at least 2.
        num_iterations: number of populations, at least 1.
        num_elites: number of best sequences for the fit; in [2, num_candidates / 2].
        deviation: initial standard deviation, as a share of each component's range; above 0.
        min_deviation: lower limit of the deviation, as a share of the range; 0 for no limit.
        exponent: of the noise spectrum over the steps: 0 white, 1 pink, 2 red; at least 0.
        decay: factor by which populations shrink, at least 1. They have at least twice as many sequences as elites.
        kept: share of the elites that the next population contains, in [0, 1].
        momentum: weight of the previous mean and deviation, in [0, 1).

    Source: Pinneri et al. 2020 (2008.06389), algorithm 1.
    """

    num_candidates: NumCandidates = 64
    num_iterations: NumIterations = 3
    num_elites: Size = 8
    deviation: Positive = 0.5
    min_deviation: Weight = 0.02
    exponent: Weight = 1.0
    decay: Annotated[float, Bounds(at_least=1)] = 1.25
    kept: Annotated[float, Bounds(at_least=0, at_most=1)] = 0.3
    momentum: Share = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 4 <= 2 * self.num_elites <= self.num_candidates:
            raise ConfigError(
                f"num_elites {self.num_elites} must be in [2, num_candidates / 2 = {self.num_candidates / 2}]."
            )

    def candidates(
        self, space: ActionSpace, proposals: Float[Tensor, "B P T A"], generator: torch.Generator
    ) -> Candidates:
        """The algorithm."""
        normal = Gaussian.over(space, proposals, deviation=self.deviation)
        min_deviation, kept = self.min_deviation * (space.high - space.low), proposals
        for number in range(self.num_iterations):
            # Populations shrink as the distribution narrows: few sequences cover a narrow distribution.
            count = max(int(self.num_candidates * self.decay**-number), 2 * self.num_elites)
            noise = coloured((1, count, *normal.mean.shape[1:]), self.exponent, generator)
            drawn = normal.draw(noise)
            # Early means are averages of unlike plans. The last mean is often better than the draws around it.
            if number == self.num_iterations - 1:
                drawn = torch.cat([normal.mean[:, None], drawn[:, 1:]], 1)
            population = yield torch.cat([kept, drawn], 1)
            elites = population.first(self.num_elites)
            fitted = normal.fit(elites, min_deviation)
            normal = Gaussian(
                mean=torch.lerp(fitted.mean, normal.mean, self.momentum),
                deviation=torch.lerp(fitted.deviation, normal.deviation, self.momentum),
            )
            kept = elites.first(round(self.kept * self.num_elites)).actions
