"""The cross-entropy method for choices, alone or beside numbers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from worldline.errors import ConfigError
from worldline.planning.planners.base import ActionSpace
from worldline.planning.planners.gaussian import Gaussian
from worldline.planning.planners.population import Population, inside
from worldline.planning.planners.search import Candidates, PopulationPlanner


@dataclass(frozen=True, kw_only=True)
class Categorical(PopulationPlanner):
    """Draws each choice of each step from probabilities that move towards the frequencies among the best sequences.

    Numbers in the same space are drawn from a normal distribution, as in the cross-entropy method. The most probable
    sequence is part of each population, elites survive, and the best sequence ever costed is returned.

    Args:
        num_candidates: sequences drawn for each population, at least 2.
        num_iterations: populations, at least 1.
        num_elites: the best sequences, which probabilities are fitted to; in [1, num_candidates].
        momentum: share of the last probabilities that stays, in [0, 1): above 0, no value is given up at once.
        deviation: first standard deviation of numbers, as a share of each component's range; above 0.
        min_deviation: their deviation never falls below this, likewise; 0 for no limit.

    Source: de Boer et al. 2005, "A tutorial on the cross-entropy method", section 3.
    """

    num_candidates: int = 64
    num_iterations: int = 5
    num_elites: int = 8
    momentum: float = 0.2
    deviation: float = 0.5
    min_deviation: float = 0.02

    def __post_init__(self) -> None:
        if self.num_candidates < 2 or self.num_iterations < 1 or not 1 <= self.num_elites <= self.num_candidates:
            raise ConfigError(
                f"num_candidates {self.num_candidates} must be at least 2, num_iterations {self.num_iterations} 1, "
                f"num_elites {self.num_elites} in [1, num_candidates]."
            )
        if not (0 <= self.momentum < 1 and self.deviation > 0 and self.min_deviation >= 0):
            raise ConfigError(
                f"momentum {self.momentum} must be in [0, 1), deviation {self.deviation} above 0, min_deviation "
                f"{self.min_deviation} at least 0."
            )

    chooses = True

    def candidates(
        self, space: ActionSpace, proposals: Float[Tensor, "B P T A"], generator: torch.Generator
    ) -> Candidates:
        """See `PopulationPlanner`; of a choice `normal.mean` holds the probabilities."""
        normal = Gaussian.over(space, proposals, deviation=self.deviation)
        least = self.min_deviation * (space.high - space.low)
        mean = normal.mean.clone()
        for start, stop in space.choices:
            mean[..., start:stop] = 1 / (stop - start)
        normal = Gaussian(mean=mean, deviation=normal.deviation)
        elites: Population | None = None
        for number in range(self.num_iterations):
            beside = proposals if number == 0 else proposals[:, :0]
            found = yield torch.cat([beside, self._draw(normal, space, generator)], 1)
            elites = (found if elites is None else elites.merge(found)).first(self.num_elites)
            fitted = normal.fit(elites, least)
            mean = fitted.mean.clone()
            for start, stop in space.choices:
                some = slice(start, stop)
                mean[..., some] = torch.lerp(fitted.mean[..., some], normal.mean[..., some], self.momentum)
            normal = Gaussian(mean=mean, deviation=fitted.deviation)

    def _draw(self, normal: Gaussian, space: ActionSpace, generator: torch.Generator) -> Float[Tensor, "B N T A"]:
        """The most probable sequence, and N - 1 draws."""
        shape = (1, self.num_candidates - 1, *normal.mean.shape[1:])
        drawn = normal.draw(torch.randn(shape, generator=generator, device=generator.device))
        uniform = torch.rand(shape, generator=generator, device=generator.device).to(drawn)
        for start, stop in space.choices:
            some = slice(start, stop)  # with Gumbel's noise on log p, a value is the largest with probability p
            drawn[..., some] = normal.mean[:, None, ..., some].log() - (-uniform[..., some].log()).log()
        return inside(space, torch.cat([normal.mean[:, None], drawn], 1))
