"""Searches that refine a distribution of action sequences: `cem`, `icem`, `mppi` and `categorical`."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor

from worldline.config import Bounds, Positive, Share, Size, Weight
from worldline.errors import ConfigError, UnsupportedError
from worldline.planning.planners.base import ActionSpace, NumCandidates, NumIterations, PlannedActions, Proposals
from worldline.planning.planners.gradient import descend
from worldline.planning.planners.population import (
    Candidates,
    Gaussian,
    Population,
    PopulationPlanner,
    SearchProblem,
    Sequences,
    coloured,
    inside,
    persistent,
    spread_of,
)


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

    def solve(self, problem: SearchProblem) -> PlannedActions:
        """The best sequence found. Proposals are always evaluated, whatever the deadline.

        Raises:
            InputError: see `Population.best`.
        """
        begun_s = time.monotonic()
        searched = super().solve(problem)
        if not (self.num_gradient_steps and searched.finished):
            return searched
        # The first gradient step has no time limit and was never timed. The time of the search so far is its bound.
        used_s = time.monotonic() - begun_s
        left_s = None if problem.deadline_s is None else problem.deadline_s - used_s
        if left_s is not None and left_s < used_s:
            return replace(searched, finished=False)
        # The descent evaluates its first sequence too, so its best costs no more than the best of the search.
        problem = replace(problem, starts=searched.actions[:, None], deadline_s=left_s)
        try:
            descended = descend(problem, num_iterations=self.num_gradient_steps, learning_rate=self.learning_rate)
        except UnsupportedError:
            return searched
        return replace(descended, num_evaluated=searched.num_evaluated + descended.num_evaluated)

    def candidates(self, space: ActionSpace, proposals: Proposals, generator: torch.Generator) -> Candidates:
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
        deviation = torch.where(won, self.proposal_deviation * width, normal.deviation)
        normal = Gaussian(mean=torch.where(won, best, normal.mean), deviation=deviation)
        # Elites stay in the fit until better sequences replace them: with few candidates, a population may have none.
        for _ in range(self.num_iterations - 1):
            population = yield self._draw(normal, generator)
            elites = elites.merge(population).first(self.num_elites)
            normal = normal.fit(elites, min_deviation)

    def _draw(self, normal: Gaussian, generator: torch.Generator) -> Sequences:
        """The mean and N - 1 sequences around it."""
        noise = persistent((1, self.num_candidates - 1, *normal.mean.shape[1:]), self.correlation, generator)
        return torch.cat([normal.mean[:, None], normal.draw(noise)], 1)


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

    def candidates(self, space: ActionSpace, proposals: Proposals, generator: torch.Generator) -> Candidates:
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

    def candidates(self, space: ActionSpace, proposals: Proposals, generator: torch.Generator) -> Candidates:
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
        scale = self.temperature * spread_of(score[..., None])
        return torch.exp(-above / scale.clamp(min=torch.finfo(score.dtype).tiny))


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

    def candidates(self, space: ActionSpace, proposals: Proposals, generator: torch.Generator) -> Candidates:
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

    def _draw(self, normal: Gaussian, space: ActionSpace, generator: torch.Generator) -> Sequences:
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
