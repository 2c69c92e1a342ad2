"""Model-predictive path integral control: a weighted mean of all sequences."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from worldline.config import Positive, Share, Weight
from worldline.planning.planners.base import ActionSpace, NumCandidates, NumIterations
from worldline.planning.planners.gaussian import Gaussian
from worldline.planning.planners.noise import persistent
from worldline.planning.planners.population import Population, finite_deviation
from worldline.planning.planners.search import Candidates, PopulationPlanner


@dataclass(frozen=True, kw_only=True)
class PathIntegral(PopulationPlanner):
    """Moves a normal distribution to the mean and deviation of its draws, weighted by exp(-cost / temperature).

    Each population contains the mean, and the best evaluated sequence is returned. If some sequences satisfy all
    constraints, only these have weight; otherwise the total violation replaces the cost.

    Args:
        num_candidates: sequences of each population, at least 2.
        num_iterations: number of populations, at least 1.
        temperature: as a share of the standard deviation of a population's costs; above 0. With a low temperature, few
            sequences have weight.
        deviation: initial standard deviation, as a share of each component's range; above 0.
        min_deviation: lower limit of the deviation, as a share of the range; 0 for no limit.
        correlation: of the noise of neighbouring steps, in [0, 1).

    Source: Williams et al. 2017, "Information theoretic MPC", algorithm 1; the deviation is fitted too, as in
        TD-MPC2 (2310.16828), appendix on planning.
    """

    num_candidates: NumCandidates = 64
    num_iterations: NumIterations = 4
    temperature: Positive = 0.3
    deviation: Positive = 0.5
    min_deviation: Weight = 0.02
    correlation: Share = 0.6

    def candidates(
        self, space: ActionSpace, proposals: Float[Tensor, "B P T A"], generator: torch.Generator
    ) -> Candidates:
        """The algorithm."""
        normal = Gaussian.over(space, proposals, deviation=self.deviation)
        shape = (1, self.num_candidates - 1, *normal.mean.shape[1:])
        min_deviation = self.min_deviation * (space.high - space.low)
        for number in range(self.num_iterations):
            drawn = normal.draw(persistent(shape, self.correlation, generator))
            kept = proposals if number == 0 else proposals[:, :0]
            population = yield torch.cat([kept, normal.mean[:, None], drawn], 1)
            normal = normal.fit(population, min_deviation, self._weight(population))

    def _weight(self, population: Population) -> Float[Tensor, "B N"]:
        violation, usable = population.violation.sum(-1), population.cost.isfinite()
        # The score of an excluded sequence is infinite, so its weight is exp(-inf) = 0.
        feasible = (violation == 0) & usable
        cost = population.cost.where(feasible, torch.inf)
        score = torch.where(feasible.any(1, keepdim=True), cost, violation).where(usable, torch.inf)
        # Relative to the best score, at least one exponent is 0; without a finite score, inf - inf would be NaN.
        best = score.amin(1, keepdim=True)
        above = score - best.where(best.isfinite(), 0.0)
        # Equal costs have deviation 0; the limit then gives all sequences the same weight.
        scale = self.temperature * finite_deviation(score[..., None])
        return torch.exp(-above / scale.clamp(min=torch.finfo(score.dtype).tiny))
