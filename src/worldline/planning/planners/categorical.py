"""The cross-entropy method for discrete actions, alone or together with continuous ones."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from worldline.config import Positive, Share, Size, Weight
from worldline.errors import ConfigError
from worldline.planning.planners.base import ActionSpace, NumCandidates, NumIterations
from worldline.planning.planners.gaussian import Gaussian
from worldline.planning.planners.population import Population, inside
from worldline.planning.planners.search import Candidates, PopulationPlanner


@dataclass(frozen=True, kw_only=True)
class Categorical(PopulationPlanner):
    """Draws each discrete action from probabilities that are fitted to the frequencies among the best sequences.

    Continuous components are drawn from a normal distribution, as in the cross-entropy method. Each population contains
    the most probable sequence, and elites are kept. The best evaluated sequence is returned.

    Args:
        num_candidates: sequences drawn for each population, at least 2.
        num_iterations: number of populations, at least 1.
        num_elites: number of best sequences for the fit; in [1, num_candidates].
        momentum: weight of the previous probabilities, in [0, 1). Above 0, no value gets probability 0 at once.
        deviation: initial standard deviation of continuous components, as a share of their range; above 0.
        min_deviation: lower limit of that deviation, as a share of the range; 0 for no limit.

    Source: de Boer et al. 2005, "A tutorial on the cross-entropy method", section 3.
    """

    num_candidates: NumCandidates = 64
    num_iterations: NumIterations = 5
    num_elites: Size = 8
    momentum: Share = 0.2
    deviation: Positive = 0.5
    min_deviation: Weight = 0.02

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_elites > self.num_candidates:
            raise ConfigError(f"num_elites {self.num_elites} must be in [1, num_candidates = {self.num_candidates}].")

    chooses = True

    def candidates(
        self, space: ActionSpace, proposals: Float[Tensor, "B P T A"], generator: torch.Generator
    ) -> Candidates:
        """The algorithm; `normal.mean` holds the probabilities of discrete actions."""
        normal = Gaussian.over(space, proposals, deviation=self.deviation)
        min_deviation = self.min_deviation * (space.high - space.low)
        # At first all values of a discrete action are equally probable.
        mean = normal.mean.clone()
        for start, stop in space.choices:
            mean[..., start:stop] = 1 / (stop - start)
        normal = Gaussian(mean=mean, deviation=normal.deviation)
        elites: Population | None = None
        for number in range(self.num_iterations):
            kept = proposals if number == 0 else proposals[:, :0]
            population = yield torch.cat([kept, self._draw(normal, space, generator)], 1)
            elites = (population if elites is None else elites.merge(population)).first(self.num_elites)
            # Discrete actions are one-hot, so their fitted mean is the frequency of each value among the elites.
            fitted = normal.fit(elites, min_deviation)
            mean = fitted.mean.clone()
            # Momentum above 0 keeps every probability above 0: a value of probability 0 is never drawn again.
            for start, stop in space.choices:
                choice = slice(start, stop)
                mean[..., choice] = torch.lerp(fitted.mean[..., choice], normal.mean[..., choice], self.momentum)
            normal = Gaussian(mean=mean, deviation=fitted.deviation)

    def _draw(self, normal: Gaussian, space: ActionSpace, generator: torch.Generator) -> Float[Tensor, "B N T A"]:
        """The most probable sequence and N - 1 draws."""
        shape = (1, self.num_candidates - 1, *normal.mean.shape[1:])
        drawn = normal.draw(torch.randn(shape, generator=generator, device=generator.device))
        uniform = torch.rand(shape, generator=generator, device=generator.device).to(drawn)
        for start, stop in space.choices:
            choice = slice(start, stop)
            # Gumbel-max trick: with Gumbel noise on log p, argmax has probability p.
            gumbel = -(-uniform[..., choice].log()).log()
            drawn[..., choice] = normal.mean[:, None, ..., choice].log() + gumbel
        return inside(space, torch.cat([normal.mean[:, None], drawn], 1))
