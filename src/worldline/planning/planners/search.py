"""The search loop: evaluates the populations of an algorithm until it ends or the deadline comes."""

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
from worldline.planning.planners.population import Population, check, evaluated, inside

Candidates = Generator[Tensor, Population, None]
"""An algorithm: yields sequences [B, N, T, A], receives them evaluated and best first, and returns at its end."""


FIRST: Final = 16
"""Sequences that are evaluated even after the deadline; a batch of them takes hardly longer than one sequence."""


def search(
    candidates: Candidates,
    cost: CostFunction,
    space: ActionSpace,
    *,
    deadline_s: float | None,
    num_proposals: int = 0,
    clock: Callable[[], float] = time.monotonic,
) -> PlannedActions:
    """The best of the sequences that `candidates` yields, or of those that can be evaluated before the deadline.

    Without a deadline each population is evaluated in one call. With a deadline it is evaluated in batches that fit
    into the remaining time.

    Args:
        candidates: the algorithm.
        cost: as in `Planner`.
        space: as in `Planner`.
        deadline_s: as in `Planner`.
        num_proposals: number of proposals at the front of the first population. They are always evaluated, and so are
            the first `FIRST` sequences.
        clock: a monotonic clock in seconds.

    Raises:
        InputError: see `Population.best`.
    """
    batcher = DeadlineBatcher(deadline_s, first=max(FIRST, num_proposals), clock=clock)
    best: Population | None = None
    num_evaluated, actions = 0, next(candidates)
    while True:
        found, left = None, actions
        while left.shape[1] and (count := batcher.next(left.shape[1])):
            part = evaluated(cost, space, left[:, :count])
            num_evaluated += count
            found = part if found is None else found.merge(part)
            left = left[:, count:]
        if found is not None:
            best = found.first(1) if best is None else best.merge(found).first(1)
        if found is None or left.shape[1]:
            candidates.close()
            break
        try:
            actions = candidates.send(found)
        except StopIteration:
            break
    assert best is not None
    return best.best(num_evaluated=num_evaluated, converged=found is not None and not left.shape[1])


class PopulationPlanner(Planner):
    """Base class of planners whose algorithm yields populations."""

    chooses: ClassVar[bool] = False
    """Whether the planner supports discrete actions."""

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
        initial = empty if proposals is None else inside(space, proposals.to(empty))
        candidates = self.candidates(space, initial, generator)
        return search(candidates, cost, space, deadline_s=deadline_s, num_proposals=initial.shape[1])
