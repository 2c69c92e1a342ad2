"""A small search around proposals, for good proposals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor

from worldline.config import Bounds, Positive, Share, Weight
from worldline.planning.planners.base import ActionSpace, NumIterations
from worldline.planning.planners.gaussian import Gaussian
from worldline.planning.planners.noise import persistent
from worldline.planning.planners.search import Candidates, PopulationPlanner


@dataclass(frozen=True, kw_only=True)
class Guided(PopulationPlanner):
    """Evaluates the proposals, then samples around the best of them.

    Without proposals it samples around the centre of the space with a deviation of half the range. It uses the same
    deviation around a proposal that violates a constraint or has no finite cost.

    Args:
        num_candidates: sequences of each population, at least 1.
        num_iterations: number of populations, at least 1.
        num_elites: number of best sequences, including proposals, for the fit; at least 2.
        deviation: of the first population, as a share of each component's range; above 0.
        min_deviation: lower limit of the deviation, as a share of the range; 0 for no limit.
        correlation: of the noise of neighbouring steps, in [0, 1).

    Source: an inverse model's plan as the first mean of a search, 2605.08732.
    """

    num_candidates: Annotated[int, Bounds(at_least=1, at_most=10_000)] = 16
    num_iterations: NumIterations = 2
    num_elites: Annotated[int, Bounds(at_least=2, at_most=10_000)] = 4
    deviation: Positive = 0.1
    min_deviation: Weight = 0.02
    correlation: Share = 0.6

    def candidates(
        self, space: ActionSpace, proposals: Float[Tensor, "B P T A"], generator: torch.Generator
    ) -> Candidates:
        """The algorithm; the first population is the proposals, or the centre of the space."""
        # Half the range, so that draws reach the bounds.
        wide = Gaussian.over(space, proposals, deviation=0.5)
        has_proposals, width = proposals.shape[1] > 0, space.high - space.low
        population = yield proposals if has_proposals else wide.mean[:, None]
        elites = population.first(self.num_elites)
        # Feasible sequences may be far from an infeasible proposal, so the search around it is wide.
        infeasible = (elites.violation[:, 0].sum(-1) > 0) | elites.cost[:, 0].isinf()
        narrow = self.deviation * width if has_proposals else wide.deviation
        deviation = torch.where(infeasible[:, None, None], wide.deviation, narrow)
        normal = Gaussian(mean=elites.actions[:, 0], deviation=deviation)
        shape = (1, self.num_candidates, *wide.mean.shape[1:])
        for _ in range(self.num_iterations):
            population = yield normal.draw(persistent(shape, self.correlation, generator))
            elites = elites.merge(population).first(self.num_elites)
            normal = normal.fit(elites, self.min_deviation * width)
