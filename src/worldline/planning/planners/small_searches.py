"""Small searches: around proposals, around the best plan so far, at random, and none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch.nn.functional import interpolate

from worldline.config import Bounds, Positive, Share, Size, Weight
from worldline.errors import UnsupportedError
from worldline.planning.planners.base import ActionSpace, NumIterations, PlannedActions, Proposals
from worldline.planning.planners.population import (
    Candidates,
    CheckedPlanner,
    Gaussian,
    PopulationPlanner,
    SearchProblem,
    evaluated,
    initial,
    persistent,
)


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

    def candidates(self, space: ActionSpace, proposals: Proposals, generator: torch.Generator) -> Candidates:
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

    def candidates(self, space: ActionSpace, proposals: Proposals, generator: torch.Generator) -> Candidates:
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


@dataclass(frozen=True, kw_only=True)
class Shooting(PopulationPlanner):
    """The best of uniformly random sequences and the proposals.

    Args:
        num_candidates: random sequences for each problem, the same for all problems of a batch; at least 1.
        chunk: number of sequences per evaluation, which bounds memory; at least 1.
    """

    num_candidates: Size = 256
    chunk: Size = 256

    def candidates(self, space: ActionSpace, proposals: Proposals, generator: torch.Generator) -> Candidates:
        """The algorithm; a population is a chunk, and the first one contains the proposals."""
        for start in range(0, self.num_candidates, self.chunk):
            count = min(self.chunk, self.num_candidates - start)
            yield initial(space, proposals if start == 0 else proposals[:, :0], count, generator)


@dataclass(frozen=True, kw_only=True)
class FirstProposal(CheckedPlanner):
    """Returns the first proposal: a baseline that shows the quality of the inverse head without a search.

    It ignores other proposals by design, so it satisfies the contract of `Planner` for one proposal only.
    """

    searches = False
    chooses = True

    def solve(self, problem: SearchProblem) -> PlannedActions:
        """The first proposal, clipped to the bounds. It draws nothing and ignores the deadline.

        Raises:
            UnsupportedError: there is no proposal.
            InputError: as in `Population.best`.
        """
        if not problem.starts.shape[1]:
            raise UnsupportedError("the planner first_proposal needs a proposal. Pass one, or use the planner 'cem'.")
        # Its evaluation is needed for the cost in the result, not for a choice.
        first = evaluated(problem.cost, problem.space, problem.starts[:, :1])
        return first.best(num_evaluated=1, finished=True)
