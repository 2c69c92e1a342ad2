"""The planner contract. A planner sees a cost function of action sequences, and nothing else."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from worldline.config import BoundedConfig, Bounds

NumCandidates = Annotated[int, Bounds(at_least=2, at_most=10_000)]
"""Number of sequences of a population."""
NumIterations = Annotated[int, Bounds(at_least=1, at_most=1_000)]
"""Number of populations, or of steps of a descent."""
Proposals = Float[Tensor, "B P T A"]
"""P initial action sequences of T steps for each of B problems, physical units."""


@dataclass(frozen=True, kw_only=True)
class ActionSpace:
    """The bounds of actions.

    Args:
        low: smallest value of each of the A components, physical units.
        high: largest value of each component, physical units.
        choices: per discrete action (one-hot) its first component and the one after its last; in order.
    """

    low: Float[Tensor, "A"]
    high: Float[Tensor, "A"]
    choices: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, kw_only=True)
class PlanCosts:
    """Costs and constraint violations of action sequences.

    Args:
        cost: lower is better.
        violation: of C constraints, at least 0; a constraint holds if it is 0.
    """

    cost: Float[Tensor, "B N"]
    violation: Float[Tensor, "B N C"]


CostFunction = Callable[[Tensor], PlanCosts]
"""Maps actions [B, N, T, A] to their costs. Only some are differentiable; gradient planners check this."""


@dataclass(frozen=True, kw_only=True)
class PlannedActions:
    """The result of a search.

    Args:
        actions: the best sequence, within the bounds.
        cost: its cost.
        violation: its violation of each constraint.
        num_evaluated: number of evaluated sequences per problem.
        finished: whether the search ended by its own criterion, not by the deadline.
        bound: no sequence without more violation costs less; None if nothing is known.
    """

    actions: Float[Tensor, "B T A"]
    cost: Float[Tensor, "B"]
    violation: Float[Tensor, "B C"]
    num_evaluated: int
    finished: bool
    bound: Float[Tensor, "B"] | None = None


class Planner(BoundedConfig, ABC):
    """Searches for the action sequence of lowest cost among those of lowest total violation."""

    searches: ClassVar[bool] = True
    """Whether the planner looks for the best sequence, so that an exact solution may stand in for it."""

    @abstractmethod
    def plan(
        self,
        cost: CostFunction,
        space: ActionSpace,
        *,
        batch: int,
        horizon: int,
        proposals: Proposals | None = None,
        generator: torch.Generator,
        deadline_s: float | None = None,
    ) -> PlannedActions:
        """The best sequence found for each of `batch` problems.

        Args:
            cost: evaluates sequences. Planners pass it sequences within the bounds only.
            space: the bounds, which the result respects too.
            batch: B, number of problems that are solved at once.
            horizon: T, number of steps.
            proposals: P initial sequences; the result is never worse than the best of them.
            generator: source of all random draws.
            deadline_s: time limit in seconds; None for none. The planner begins no evaluation that would exceed it, and
                returns the best sequence so far. Proposals and a first few sequences are always evaluated.
        """
