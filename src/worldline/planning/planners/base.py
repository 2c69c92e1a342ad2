"""Planners see a cost of action sequences, and nothing else."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class ActionSpace:
    """Where actions live.

    Args:
        low: smallest value of each of the A components, physical units.
        high: largest value.
        choices: first component, and the one after the last, of each discrete action, one-hot; in order.
    """

    low: Float[Tensor, "A"]
    high: Float[Tensor, "A"]
    choices: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, kw_only=True)
class CostValue:
    """What a sequence costs.

    Args:
        cost: lower is better.
        violation: of C constraints, at least 0; a constraint holds where it is 0.
    """

    cost: Float[Tensor, "B N"]
    violation: Float[Tensor, "B N C"]


CostFunction = Callable[[Tensor], CostValue]
"""Takes actions [B, N, T, A], gives their cost; differentiable only where the caller says so."""


@dataclass(frozen=True, kw_only=True)
class PlannedActions:
    """What a planner found.

    Args:
        actions: the best sequence, inside the space's bounds.
        cost: its cost.
        violation: its violation of each constraint.
        num_evaluated: sequences costed for each of the B problems.
        converged: whether the search ended by its own criterion rather than by the deadline.
    """

    actions: Float[Tensor, "B T A"]
    cost: Float[Tensor, "B"]
    violation: Float[Tensor, "B C"]
    num_evaluated: int
    converged: bool


class Planner(ABC):
    """Searches for the action sequence of least cost whose violations are 0, or least."""

    @abstractmethod
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
        """The best sequence found for each of `batch` problems.

        Args:
            cost: the only view of the problem.
            space: bounds that every costed and returned action respects.
            batch: B, problems solved at once.
            horizon: T, steps.
            proposals: P sequences to start from; the result is never worse than the best of them.
            generator: for every draw.
            deadline_s: seconds in which the best so far is returned: what would take longer is not begun, but for a
                first few sequences and the proposals; None for no limit.
        """
