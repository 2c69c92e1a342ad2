"""An augmented Lagrangian method for constraints, around the cross-entropy method."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor

from worldline.config import Bounds, Positive
from worldline.planning.planners.base import CostFunction, NumCandidates, PlanCosts, PlannedActions
from worldline.planning.planners.cem import CrossEntropy
from worldline.planning.planners.population import HEADROOM, CheckedPlanner, SearchProblem, initial, ranked, spread_of


@dataclass(frozen=True, kw_only=True)
class AugmentedLagrangian(CheckedPlanner):
    """Searches in several rounds, with multipliers that grow on the constraints that the last plan violated.

    A planner that ranks every feasible sequence before all others (as `cem` does) converges early if few are feasible.
    Here the search may pass through infeasible sequences. It returns the best feasible sequence, or the one of lowest
    violation if none is feasible.

    Args:
        search: the search of each round, with the penalties in its cost.
        num_rounds: at least 1.
        penalty: initial weight of squared violations, above 0. With 1, the spread of violations among random sequences
            weighs as much as the spread of their costs.
        growth: factor of that weight from round to round, at least 1.
        num_probes: number of random sequences for the spreads, at least 2.

    Source: Nocedal and Wright, Numerical Optimization, 2nd edition, section 17.4.
    """

    search: CrossEntropy = field(default_factory=CrossEntropy)
    num_rounds: Annotated[int, Bounds(at_least=1, at_most=100)] = 5
    penalty: Positive = 0.1
    growth: Annotated[float, Bounds(at_least=1)] = 8.0
    num_probes: NumCandidates = 32

    def solve(self, problem: SearchProblem) -> PlannedActions:
        """The best sequence found. Probes and proposals are always evaluated, whatever the deadline.

        Raises:
            InputError: see `Population.best`.
        """
        started_s = time.monotonic()
        # Random probes and the proposals give the scale of the penalties and the first best sequence.
        probes = initial(problem.space, problem.starts, self.num_probes, problem.generator)
        penalized = _PenalizedCost(problem.cost, probes, self.penalty)
        probes_s = time.monotonic() - started_s
        starts, finished = penalized.best.actions, True
        for number in range(self.num_rounds):
            # A round always evaluates a first few sequences, which take about as long as the probes.
            used_s = time.monotonic() - started_s
            left_s = None if problem.deadline_s is None else problem.deadline_s - used_s
            if left_s is not None and left_s <= HEADROOM * probes_s:
                finished = False
                break
            # Minimize the penalized cost. The search sees no constraints, so it may pass through infeasible sequences.
            planned = self.search.solve(replace(problem, cost=penalized, starts=starts, deadline_s=left_s))
            finished &= planned.finished
            # Multipliers are valid at a minimum of the penalized cost only, not where the deadline ended the search.
            if planned.finished and number < self.num_rounds - 1:
                penalized.update_multipliers(planned.actions, self.growth)
                starts = torch.cat([penalized.best.actions, planned.actions[:, None]], 1)
        return penalized.best.best(num_evaluated=penalized.num_evaluated, finished=finished)


class _PenalizedCost:
    """The augmented Lagrangian of a cost, scaled on the `first` sequences. Keeps the best sequence by its true cost."""

    def __init__(self, cost: CostFunction, first: Float[Tensor, "B P T A"], penalty: float) -> None:
        self.cost, self.num_evaluated = cost, first.shape[1]
        value = cost(first)
        self.best = ranked(first, value).first(1)
        cost_spread, violation_spread = spread_of(value.cost[..., None]), spread_of(value.violation)
        # The weights make costs and violations comparable, whatever their units.
        scale = violation_spread.square().where(violation_spread > 0, 1.0)
        self.weight = penalty * cost_spread.where(cost_spread > 0, 1.0) / scale
        self.multiplier = torch.zeros_like(self.weight)

    def __call__(self, actions: Float[Tensor, "B N T A"]) -> PlanCosts:
        """The cost with its penalties, and no constraints."""
        value = self._true(actions)
        # multiplier * violation + weight / 2 * violation ** 2
        slope = self.multiplier[:, None] + 0.5 * self.weight[:, None] * value.violation
        penalty = (slope * value.violation).sum(-1)
        return PlanCosts(cost=value.cost + penalty, violation=value.violation[..., :0])

    def update_multipliers(self, actions: Float[Tensor, "B T A"], growth: float) -> None:
        """Raises the multipliers by the violations of the best plan of a round."""
        violation = self._true(actions[:, None]).violation[:, 0].nan_to_num(0.0)
        self.multiplier = self.multiplier + self.weight * violation
        self.weight = growth * self.weight

    def _true(self, actions: Float[Tensor, "B N T A"]) -> PlanCosts:
        value = self.cost(actions)
        self.num_evaluated += actions.shape[1]
        self.best = self.best.merge(ranked(actions, value)).first(1)
        return value
