"""The loop around every search: what an algorithm proposes is costed, until it ends or time is up."""

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
from worldline.planning.planners.population import Population, check, costed, inside

Candidates = Generator[Tensor, Population, None]
"""An algorithm: it yields sequences [B, N, T, A], is told what they cost, best first, and returns when it is done."""


FIRST: Final = 16
"""Sequences that are costed before a deadline however short it is; in a batch they take hardly longer than one."""


def search(
    candidates: Candidates,
    cost: CostFunction,
    space: ActionSpace,
    *,
    deadline_s: float | None,
    num_proposals: int = 0,
    clock: Callable[[], float] = time.monotonic,
) -> PlannedActions:
    """The best of all sequences that `candidates` yields, or of those that can be costed before the deadline.

    Without a deadline each population is costed in one call. With one, it is costed in as many as it takes to know
    how much fits: what would end too late is not begun.

    Args:
        candidates: the algorithm.
        cost: see `Planner`.
        space: likewise.
        deadline_s: likewise.
        num_proposals: at the front of the first population: they are costed however short the time, and so are as many
            as make them `FIRST`.
        clock: gives seconds that only go forward.

    Raises:
        InputError: see `Population.best`.
    """
    pace = DeadlineBatcher(deadline_s, first=max(FIRST, num_proposals), clock=clock)
    best: Population | None = None
    num_evaluated, actions = 0, next(candidates)
    while True:
        found, left = None, actions
        while left.shape[1] and (count := pace.next(left.shape[1])):
            part = costed(cost, space, left[:, :count])
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
    """A planner whose algorithm yields populations."""

    chooses: ClassVar[bool] = False
    """Whether it searches among choices too."""

    @abstractmethod
    def candidates(
        self, space: ActionSpace, proposals: Float[Tensor, "B P T A"], generator: torch.Generator
    ) -> Candidates:
        """The algorithm, for B problems of T steps.

        Args:
            space: where to search.
            proposals: inside of it; P may be 0.
            generator: for every draw.
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
        """The best sequence found; see `Planner`. The proposals are costed however short the deadline; see `search`.

        Raises:
            InputError: see `population.check` and `Population.best`.
            UnsupportedError: an action is discrete, and the planner does not choose.
        """
        check(space, proposals, batch=batch, horizon=horizon, choices=self.chooses)
        none = space.low.new_zeros(batch, 0, horizon, len(space.low))
        given = none if proposals is None else inside(space, proposals.to(none))
        candidates = self.candidates(space, given, generator)
        return search(candidates, cost, space, deadline_s=deadline_s, num_proposals=given.shape[1])
