"""The loop around every search: what an algorithm proposes is costed, until it ends or time is up."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Generator
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from worldline.contracts.planner import ActionSpace, CostFunction, PlannedActions, Planner
from worldline.planners.population import Population, check, costed, inside

Candidates = Generator[Tensor, Population, None]
"""An algorithm: it yields sequences [B, N, T, A], is told what they cost, best first, and returns when it is done."""


def search(
    candidates: Candidates, cost: CostFunction, space: ActionSpace, *, deadline_s: float | None
) -> PlannedActions:
    """The best of all sequences that `candidates` yields; see `Planner`. The first are costed however short the time.

    Raises:
        InputError: see `Population.best`.
    """
    started = time.monotonic()
    best, num_evaluated, converged = None, 0, True
    actions: Float[Tensor, "B N T A"] = next(candidates)
    while True:
        found = costed(cost, space, actions)
        num_evaluated += actions.shape[1]
        best = found.first(1) if best is None else best.merge(found).first(1)
        try:
            actions = candidates.send(found)
        except StopIteration:
            break
        if deadline_s is not None and time.monotonic() - started >= deadline_s:
            candidates.close()
            converged = False
            break
    return best.best(num_evaluated=num_evaluated, converged=converged)


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
        """The best sequence found; see `Planner`. The first population is costed however short the deadline.

        Raises:
            InputError: see `population.check` and `Population.best`.
            UnsupportedError: an action is discrete, and the planner does not choose.
        """
        check(space, proposals, batch=batch, horizon=horizon, choices=self.chooses)
        none = space.low.new_zeros(batch, 0, horizon, len(space.low))
        given = none if proposals is None else inside(space, proposals.to(none))
        return search(self.candidates(space, given, generator), cost, space, deadline_s=deadline_s)
