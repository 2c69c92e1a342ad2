"""No search at all: what a proposer is worth alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from worldline.errors import InputError
from worldline.planning.planners.base import ActionSpace, CostFunction, PlannedActions, Planner
from worldline.planning.planners.population import check, costed


@dataclass(frozen=True, kw_only=True)
class FirstProposal(Planner):
    """The first proposal as it is, costed once: a baseline, such as the inverse head without a planner.

    On purpose it does not look at the other proposals, however good; give it one for the promise of `Planner`.
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
        """The first proposal, clipped to the bounds; nothing is drawn and no deadline can be missed.

        Raises:
            InputError: there is no proposal; see also `population.check` and `Population.best`.
        """
        del generator, deadline_s  # nothing is drawn, and there is nothing to cut short
        check(space, proposals, batch=batch, horizon=horizon, choices=True)
        if proposals is None:
            raise InputError("the planner first_proposal needs a proposal. Pass one, or use the planner 'cem'.")
        first = costed(cost, space, proposals[:, :1].to(space.low))
        return first.best(num_evaluated=1, converged=True)
