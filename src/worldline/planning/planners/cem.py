"""The cross-entropy method, for few candidates and good proposals."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor

from worldline.config import Bounds, Positive, Share, Size, Weight
from worldline.errors import ConfigError, UnsupportedError
from worldline.planning.planners.base import ActionSpace, CostFunction, NumCandidates, NumIterations, PlannedActions
from worldline.planning.planners.gaussian import Gaussian
from worldline.planning.planners.gradient import descend
from worldline.planning.planners.noise import persistent
from worldline.planning.planners.search import Candidates, PopulationPlanner


@dataclass(frozen=True, kw_only=True)
class CrossEntropy(PopulationPlanner):
    """Draws sequences, fits the distribution to the best of them, and repeats.

    It departs from the textbook in five ways. It returns the best evaluated sequence, not the mean of the last elites.
    Each population contains the mean. Elites are kept for the next population. Every sequence is clipped to the bounds
    before its evaluation. All problems of a batch share their noise, so a batch and single problems get the same plans.

    If a proposal beats the whole first population, the search continues around it with `proposal_deviation`.

    Args:
        num_candidates: sequences drawn for each population, at least 2.
        num_iterations: number of populations, at least 1.
        num_elites: number of best sequences for the fit; in [2, num_candidates].
        deviation: initial standard deviation, as a share of each component's range; above 0.
        proposal_deviation: deviation around a winning proposal, as a share of the range; above 0.
        min_deviation: lower limit of the deviation, as a share of the range; 0 for no limit.
        correlation: of the noise of neighbouring steps, in [0, 1). Above 0, candidates persist in a direction.
        num_gradient_steps: steps of Adam from the best sequence after the last population, at least 0. The
            plan never costs more after them. Without effect if the cost has no gradient, as with discrete actions.
        num_newton_steps: Gauss-Newton steps after the search, at least 0, instead of gradient steps. Without effect
            unless all costs and constraints are convex in the signals, see `is_convex`.
        learning_rate: initial rate of Adam, as a share of each component's range; above 0. It falls linearly to 0.

    Source: de Boer et al. 2005, "A tutorial on the cross-entropy method", section 4; kept elites and correlated
        noise after Pinneri et al. 2020 (2008.06389), section 3; gradient steps after Bharadhwaj et al. 2020
        (2004.08763).
    """

    num_candidates: NumCandidates = 64
    num_iterations: NumIterations = 3
    num_elites: Size = 8
    deviation: Positive = 0.5
    proposal_deviation: Positive = 0.1
    min_deviation: Weight = 0.02
    correlation: Share = 0.6
    num_gradient_steps: Annotated[int, Bounds(at_least=0, at_most=1_000)] = 0
    num_newton_steps: Annotated[int, Bounds(at_least=0, at_most=100)] = 0
    learning_rate: Positive = 0.03

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 2 <= self.num_elites <= self.num_candidates:
            raise ConfigError(f"num_elites {self.num_elites} must be in [2, num_candidates = {self.num_candidates}].")

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
        """The best sequence found. Proposals are always evaluated, whatever the deadline.

        Raises:
            InputError: see `population.check` and `Population.best`.
            UnsupportedError: an action is discrete.
        """
        begun_s = time.monotonic()
        searched = super().plan(
            cost, space, batch=batch, horizon=horizon, proposals=proposals, generator=generator, deadline_s=deadline_s
        )
        if not (self.num_gradient_steps and searched.finished):
            return searched
        # The first gradient step has no time limit and was never timed. The time of the search so far is its bound.
        used_s = time.monotonic() - begun_s
        left_s = None if deadline_s is None else deadline_s - used_s
        if left_s is not None and left_s < used_s:
            return replace(searched, finished=False)
        # The descent evaluates its first sequence too, so its best costs no more than the best of the search.
        try:
            descended = descend(
                cost,
                space,
                searched.actions[:, None],
                num_iterations=self.num_gradient_steps,
                learning_rate=self.learning_rate,
                deadline_s=left_s,
            )
        except UnsupportedError:
            return searched
        return replace(descended, num_evaluated=searched.num_evaluated + descended.num_evaluated)

    def candidates(
        self, space: ActionSpace, proposals: Float[Tensor, "B P T A"], generator: torch.Generator
    ) -> Candidates:
        """The algorithm; the first population contains all proposals."""
        normal = Gaussian.over(space, proposals, deviation=self.deviation)
        width = space.high - space.low
        min_deviation = self.min_deviation * width
        population = yield torch.cat([proposals, self._draw(normal, generator)], 1)
        elites = population.first(self.num_elites)
        normal, best = normal.fit(elites, min_deviation), elites.actions[:, 0]
        # A proposal that beats the whole population is far better than random sequences: a fit to the elites would
        # average it with them, and the search would lose it. So the next population is drawn around it alone.
        is_proposal = (best[:, None] == proposals).flatten(2).all(2)
        won = is_proposal.any(1)[:, None, None]
        normal = Gaussian(
            mean=torch.where(won, best, normal.mean),
            deviation=torch.where(won, self.proposal_deviation * width, normal.deviation),
        )
        # Elites stay in the fit until better sequences replace them: with few candidates, a population may have none.
        for _ in range(self.num_iterations - 1):
            population = yield self._draw(normal, generator)
            elites = elites.merge(population).first(self.num_elites)
            normal = normal.fit(elites, min_deviation)

    def _draw(self, normal: Gaussian, generator: torch.Generator) -> Float[Tensor, "B N T A"]:
        """The mean and N - 1 sequences around it."""
        noise = persistent((1, self.num_candidates - 1, *normal.mean.shape[1:]), self.correlation, generator)
        return torch.cat([normal.mean[:, None], normal.draw(noise)], 1)
