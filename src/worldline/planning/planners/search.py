"""The search loop of planners: evaluates the populations of an algorithm until it ends or the deadline comes."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Generator
from typing import ClassVar, Final

import torch
from jaxtyping import Float
from torch import Tensor

from worldline.planning.planners.base import ActionSpace, CostFunction, PlannedActions, Planner
from worldline.planning.planners.deadline import DeadlineBatcher
from worldline.planning.planners.population import Population, check, inside, ranked

Candidates = Generator[Tensor, Population, None]
"""An algorithm: yields sequences [B, N, T, A], receives them evaluated and best first, and returns at its end."""


FIRST: Final = 16
"""Sequences that are evaluated even after the deadline; a batch of them takes hardly longer than one sequence."""


class PopulationPlanner(Planner):
    """Base class of planners whose algorithm yields populations."""

    chooses: ClassVar[bool] = False
    """Whether the planner supports discrete actions."""
    clock: ClassVar[Callable[[], float]] = time.monotonic
    """A monotonic clock in seconds."""

    @abstractmethod
    def candidates(
        self, space: ActionSpace, proposals: Float[Tensor, "B P T A"], generator: torch.Generator
    ) -> Candidates:
        """The algorithm, for B problems of T steps.

        Args:
            space: the bounds.
            proposals: initial sequences within the bounds; P may be 0.
            generator: source of all random draws.
        """

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
            UnsupportedError: an action is discrete, and the planner supports continuous ones only.
        """
        check(space, proposals, batch=batch, horizon=horizon, choices=self.chooses)
        empty = space.low.new_zeros(batch, 0, horizon, len(space.low))
        starts = empty if proposals is None else inside(space, proposals.to(empty))
        algorithm = self.candidates(space, starts, generator)
        # Without a deadline each population is evaluated in one call, else in batches that fit into the remaining time.
        batcher = DeadlineBatcher(deadline_s, first=max(FIRST, starts.shape[1]), clock=type(self).clock)
        best: Population | None = None
        num_evaluated, actions = 0, next(algorithm)
        while True:
            # Evaluates as much of the population as the deadline allows; `left` is the rest.
            population, left = None, actions
            while left.shape[1] and (count := batcher.next(left.shape[1])):
                sequences = inside(space, left[:, :count])
                part = ranked(sequences, cost(sequences))
                num_evaluated += count
                population = part if population is None else population.merge(part)
                left = left[:, count:]
            if population is not None:
                best = population.first(1) if best is None else best.merge(population).first(1)
            # An algorithm must not be fitted to a part of its population, so an incomplete one ends the search.
            if population is None or left.shape[1]:
                algorithm.close()
                break
            try:
                actions = algorithm.send(population)
            except StopIteration:
                break
        assert best is not None  # the first sequences are always evaluated
        return best.best(num_evaluated=num_evaluated, finished=population is not None and not left.shape[1])
