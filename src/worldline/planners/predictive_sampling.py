"""Predictive sampling: the best of smooth variations on the best plan so far."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

from worldline.contracts.planner import ActionSpace, CostFunction, PlannedActions, Planner
from worldline.errors import ConfigError
from worldline.planners.population import check
from worldline.planners.search import Candidates, search


@dataclass(frozen=True, kw_only=True)
class PredictiveSampling(Planner):
    """Adds noise to the best plan so far, keeps what is better, and repeats. It has nothing to tune but the noise.

    Args:
        num_candidates: sequences of each population, at least 1.
        num_iterations: populations, at least 1; with plans shifted from step to step one is enough.
        deviation: of the noise, as a share of each component's range; above 0.
        num_knots: points at which noise is drawn, with straight lines between; at least 1, and no more than the
            horizon are used.

    Source: Howell et al. 2022 (2212.00541), section 4.
    """

    num_candidates: int = 64
    num_iterations: int = 3
    deviation: float = 0.2
    num_knots: int = 4

    def __post_init__(self) -> None:
        if min(self.num_candidates, self.num_iterations, self.num_knots) < 1 or not self.deviation > 0:
            raise ConfigError(
                f"num_candidates {self.num_candidates}, num_iterations {self.num_iterations} and num_knots "
                f"{self.num_knots} must be at least 1, deviation {self.deviation} above 0."
            )

    def plan(
        self,
        cost: CostFunction,
        space: ActionSpace,
        *,
        batch: int,
        horizon: int,
        proposals: Float[Tensor, "B P T A"] | None = None,
        generator: torch.Generator,
        deadline_s: float | None = None,
    ) -> PlannedActions:
        """The best sequence found; see `Planner`. The sequences that it starts from are costed in any case.

        Raises:
            InputError: see `population.check` and `Population.best`.
            UnsupportedError: an action is discrete.
        """
        check(space, proposals, batch=batch, horizon=horizon)
        middle = ((space.low + space.high) / 2).expand(batch, 1, horizon, -1)
        start = middle if proposals is None else torch.cat([proposals.to(middle), middle], 1)
        candidates = self._candidates(start, space.high - space.low, generator)
        return search(candidates, cost, space, deadline_s=deadline_s)

    def _candidates(
        self, start: Float[Tensor, "B P T A"], width: Float[Tensor, "A"], generator: torch.Generator
    ) -> Candidates:
        steps, size = start.shape[2:]
        knots = min(self.num_knots, steps)
        best = (yield start).first(1)
        for _ in range(self.num_iterations):
            drawn = torch.randn((self.num_candidates, size, knots), generator=generator, device=generator.device)
            noise = interpolate(drawn.to(start), size=steps, mode="linear", align_corners=True).transpose(1, 2)
            found = yield best.actions + self.deviation * width * noise
            best = best.merge(found).first(1)
