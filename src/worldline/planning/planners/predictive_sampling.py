"""Predictive sampling: smooth random variations of the best plan so far."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

from worldline.config import Bounds, Positive, Size
from worldline.planning.planners.base import ActionSpace, NumIterations
from worldline.planning.planners.search import Candidates, PopulationPlanner


@dataclass(frozen=True, kw_only=True)
class PredictiveSampling(PopulationPlanner):
    """Adds noise to the best plan so far, keeps improvements, and repeats. Only the noise needs tuning.

    Args:
        num_candidates: sequences of each population, at least 1.
        num_iterations: number of populations, at least 1. One is enough if each plan starts from the previous one.
        deviation: of the noise, as a share of each component's range; above 0.
        num_knots: points at which noise is drawn, with linear interpolation between them; at least 1. At most the
            horizon is used.

    Source: Howell et al. 2022 (2212.00541), section 4.
    """

    num_candidates: Annotated[int, Bounds(at_least=1, at_most=10_000)] = 64
    num_iterations: NumIterations = 3
    deviation: Positive = 0.2
    num_knots: Size = 4

    def candidates(
        self, space: ActionSpace, proposals: Float[Tensor, "B P T A"], generator: torch.Generator
    ) -> Candidates:
        """The algorithm; the first population is the proposals and the centre of the space."""
        batch, _, steps, size = proposals.shape
        middle = ((space.low + space.high) / 2).expand(batch, 1, steps, size)
        knots, width = min(self.num_knots, steps), space.high - space.low
        population = yield torch.cat([proposals, middle], 1)
        best = population.first(1)
        for _ in range(self.num_iterations):
            drawn = torch.randn((self.num_candidates, size, knots), generator=generator, device=generator.device)
            # interpolate works along the last axis, which is the steps here.
            noise = interpolate(drawn.to(middle), size=steps, mode="linear", align_corners=True).transpose(1, 2)
            population = yield best.actions + self.deviation * width * noise
            best = best.merge(population).first(1)
