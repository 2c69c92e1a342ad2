"""The cross-entropy method, for few candidates and good proposals."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from worldline.contracts.planner import ActionSpace, CostFunction, PlannedActions, Planner
from worldline.errors import ConfigError
from worldline.planners.population import Population, check, costed

Sequences = Float[Tensor, "B T A"]


@dataclass(frozen=True, kw_only=True)
class CrossEntropy(Planner):
    """Draws sequences, moves the distribution towards the best of them, and repeats.

    It departs from the textbook in five ways. The sequence returned is the best ever costed, not the mean of the
    last elites. The mean itself is costed in each population. Elites survive into the next one. Every sequence
    is inside the bounds before it is costed. One draw of noise serves all problems of a batch, so a batch gives
    the same plans as its problems one at a time.

    Where a proposal beats all of the first population, the search goes on around it with `proposal_deviation`.

    Args:
        num_candidates: sequences drawn for each population, at least 2.
        num_iterations: populations, at least 1.
        num_elites: the best sequences, which the distribution is fitted to; in [2, num_candidates].
        deviation: first standard deviation, as a share of each component's range; above 0.
        proposal_deviation: the deviation around a proposal that won, likewise.
        min_deviation: the deviation never falls below this, likewise; 0 for no limit.
        correlation: of the noise of neighbouring steps, in [0, 1): above 0, candidates persist in a direction.

    Source: de Boer et al. 2005, "A tutorial on the cross-entropy method", section 4; kept elites and correlated
        noise after Pinneri et al. 2020 (2008.06389), section 3.
    """

    num_candidates: int = 64
    num_iterations: int = 3
    num_elites: int = 8
    deviation: float = 0.5
    proposal_deviation: float = 0.1
    min_deviation: float = 0.02
    correlation: float = 0.6

    def __post_init__(self) -> None:
        if self.num_candidates < 2 or self.num_iterations < 1:
            raise ConfigError(
                f"num_candidates {self.num_candidates} must be at least 2, num_iterations {self.num_iterations} 1."
            )
        if not 2 <= self.num_elites <= self.num_candidates:
            raise ConfigError(f"num_elites {self.num_elites} must be in [2, num_candidates = {self.num_candidates}].")
        if not (self.deviation > 0 and self.proposal_deviation > 0 and self.min_deviation >= 0):
            raise ConfigError(
                f"deviation {self.deviation} and proposal_deviation {self.proposal_deviation} must be above 0, "
                f"min_deviation {self.min_deviation} at least 0."
            )
        if not 0 <= self.correlation < 1:
            raise ConfigError(f"correlation is {self.correlation}. It must be in [0, 1).")

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
        """The best sequence found; see `Planner`. One population is costed however short the deadline.

        Raises:
            InputError: see `population.check` and `Population.best`.
        """
        started = time.monotonic()
        check(space, proposals, batch=batch, horizon=horizon)
        width = (space.high - space.low).expand(batch, horizon, -1)
        mean, deviation = space.low + width / 2, self.deviation * width
        candidates = self._draw(mean, deviation, generator)
        if proposals is not None:
            candidates = torch.cat([proposals.to(mean), candidates], 1)
        elites = costed(cost, space, candidates).first(self.num_elites)
        mean, deviation = self._fit(elites, mean, deviation, width)
        if proposals is not None:
            won = _is_among(elites.actions[:, 0], proposals.to(mean).clamp(space.low, space.high))[:, None, None]
            mean = torch.where(won, elites.actions[:, 0], mean)
            deviation = torch.where(won, self.proposal_deviation * width, deviation)
        num_iterations = 1
        while num_iterations < self.num_iterations:
            if deadline_s is not None and time.monotonic() - started >= deadline_s:
                break
            found = costed(cost, space, self._draw(mean, deviation, generator))
            elites = elites.merge(found).first(self.num_elites)
            mean, deviation = self._fit(elites, mean, deviation, width)
            num_iterations += 1
        num_evaluated = candidates.shape[1] + (num_iterations - 1) * self.num_candidates
        return elites.best(num_evaluated=num_evaluated, converged=num_iterations == self.num_iterations)

    def _draw(self, mean: Sequences, deviation: Sequences, generator: torch.Generator) -> Float[Tensor, "B N T A"]:
        """The mean, and N - 1 sequences around it: each component a stationary AR(1) process over the steps."""
        shape = (1, self.num_candidates - 1, *mean.shape[1:])
        noise = torch.randn(shape, generator=generator, device=generator.device).to(mean)
        for step in range(1, noise.shape[2]):
            fresh = (1 - self.correlation**2) ** 0.5 * noise[:, :, step]
            noise[:, :, step] = self.correlation * noise[:, :, step - 1] + fresh
        return torch.cat([mean[:, None], mean[:, None] + deviation[:, None] * noise], 1)

    def _fit(
        self, elites: Population, mean: Sequences, deviation: Sequences, width: Sequences
    ) -> tuple[Sequences, Sequences]:
        """Mean and deviation of the elites; as they were where too few elites have a finite cost."""
        weight = elites.cost.isfinite().to(mean)[:, :, None, None]
        count = weight.sum(1)
        fitted = (weight * elites.actions).sum(1) / count.clamp(min=1)
        squares = (weight * (elites.actions - fitted[:, None]) ** 2).sum(1)
        mean = torch.where(count >= 1, fitted, mean)
        deviation = torch.where(count >= 2, (squares / count.clamp(min=1)).sqrt(), deviation)
        return mean, deviation.maximum(self.min_deviation * width)


def _is_among(sequence: Float[Tensor, "B T A"], proposals: Float[Tensor, "B P T A"]) -> Bool[Tensor, " B"]:
    """Whether the sequence of each problem is one of its proposals."""
    return (sequence[:, None] == proposals).flatten(2).all(2).any(1)
