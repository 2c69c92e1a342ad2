"""Gradient descent on action sequences, from several initial sequences in parallel."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

import torch

from worldline.config import Bounds, Positive
from worldline.errors import UnsupportedError
from worldline.planning.planners.base import CostFunction, NumIterations, PlanCosts, PlannedActions
from worldline.planning.planners.population import (
    CheckedPlanner,
    DeadlineBatcher,
    Population,
    SearchProblem,
    Sequences,
    initial,
    inside,
    ranked,
)


@dataclass(frozen=True, kw_only=True)
class GradientPlanner(CheckedPlanner):
    """Adam on sequences, projected onto the bounds after each step. Returns the best evaluated sequence.

    A sequence that violates a constraint descends its total violation; any other descends its cost.

    Args:
        num_restarts: uniformly random initial sequences in addition to the proposals; at least 1.
        num_iterations: number of steps, at least 1.
        learning_rate: initial rate of Adam, as a share of each component's range; above 0. It falls linearly to 0.

    Source: Adam, 1412.6980; descent on latent plans with restarts, as in 2603.12231.
    """

    num_restarts: Annotated[int, Bounds(at_least=1, at_most=1_000)] = 8
    num_iterations: NumIterations = 30
    learning_rate: Positive = 0.1

    def solve(self, problem: SearchProblem) -> PlannedActions:
        """The best sequence found. The initial sequences are always evaluated, whatever the deadline.

        Raises:
            InputError: see `Population.best`.
            UnsupportedError: the cost has no gradient in the actions.
        """
        # A descent ends in the nearest minimum, so random restarts look for others than those near the proposals.
        starts = initial(problem.space, problem.starts, self.num_restarts, problem.generator)
        problem = replace(problem, starts=starts)
        return descend(problem, num_iterations=self.num_iterations, learning_rate=self.learning_rate)


def descend(problem: SearchProblem, *, num_iterations: int, learning_rate: float) -> PlannedActions:
    """Descends with Adam from sequences within the bounds, and projects onto the bounds after each step.

    Args:
        problem: its initial sequences are always evaluated; there is at least one.
        num_iterations: number of steps, at least 1.
        learning_rate: as in `GradientPlanner`.

    Raises:
        InputError: see `Population.best`.
        UnsupportedError: the cost has no gradient in the actions.
    """
    space, start = problem.space, problem.starts
    width, batcher = space.high - space.low, DeadlineBatcher(problem.deadline_s, first=start.shape[1])
    # Adam optimizes the displacement as a share of the range, so that one rate fits components of any unit.
    actions, moved = start, torch.zeros_like(start)
    optimizer = torch.optim.Adam([moved], lr=learning_rate)
    best: Population | None = None
    num_evaluated, finished = 0, True
    # One evaluation more than steps: the last step is evaluated too.
    for number in range(num_iterations + 1):
        if batcher.next(start.shape[1]) < start.shape[1]:
            finished = False
            break
        value, slope = _slope(problem.cost, actions)
        population = ranked(actions, value)
        num_evaluated += actions.shape[1]
        best = population.first(1) if best is None else best.merge(population).first(1)
        # The gradient with respect to the share, by the chain rule.
        moved.grad = slope * width
        optimizer.param_groups[0]["lr"] = learning_rate * (1 - number / num_iterations)
        optimizer.step()
        actions = inside(space, start + moved * width)
        # Adam continues from the projected sequence, not from beyond the bounds.
        moved.copy_((actions - start) / width.where(width > 0, 1.0))
    assert best is not None  # the first batch has no time limit
    return best.best(num_evaluated=num_evaluated, finished=finished)


def _slope(cost: CostFunction, actions: Sequences) -> tuple[PlanCosts, Sequences]:
    """The costs, and the gradient of the total violation of each sequence, or of its cost if the violation is 0."""
    with torch.enable_grad():
        leaf = actions.detach().requires_grad_()
        value = cost(leaf)
        violation = value.violation.sum(-1)
        objective = torch.where(violation > 0, violation, value.cost)
        if not objective.requires_grad:
            raise UnsupportedError(
                "the cost has no gradient in the actions, which a gradient planner needs. Use the planner 'cem', "
                "or a cost function that has one."
            )
        # Sequences do not depend on each other, so the gradient of the sum holds the gradient of each of them.
        total = objective.where(objective.isfinite(), 0.0).sum()
        (slope,) = torch.autograd.grad(total, leaf)
    return value, slope.nan_to_num(0.0, 0.0, 0.0)
