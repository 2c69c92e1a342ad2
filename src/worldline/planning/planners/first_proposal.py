"""The first proposal without a search, as a baseline."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from worldline.errors import UnsupportedError
from worldline.planning.planners.base import ActionSpace, CostFunction, PlannedActions, Planner
from worldline.planning.planners.population import check, evaluated


@dataclass(frozen=True, kw_only=True)
class FirstProposal(Planner):
    """Returns the first proposal: a baseline that shows the quality of the inverse head without a search.

    It ignores other proposals by design, so it satisfies the contract of `Planner` for one proposal only.
    """

    searches = False

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
        """The first proposal, clipped to the bounds. It draws nothing and ignores the deadline.

        Raises:
            UnsupportedError: there is no proposal.
            InputError: as in `population.check` and `Population.best`.
        """
        del generator, deadline_s  # no draws, and one evaluation only
        check(space, proposals, batch=batch, horizon=horizon, choices=True)
        if proposals is None:
            raise UnsupportedError("the planner first_proposal needs a proposal. Pass one, or use the planner 'cem'.")
        # Its evaluation is needed for the cost in the result, not for a choice.
        first = evaluated(cost, space, proposals[:, :1].to(space.low))
        return first.best(num_evaluated=1, finished=True)
