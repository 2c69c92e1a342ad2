"""Gradient descent on action sequences, from several starts at once."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from worldline.contracts.planner import ActionSpace, CostFunction, PlannedActions, Planner
from worldline.errors import ConfigError, UnsupportedError
from worldline.planners.population import check, inside, ranked


@dataclass(frozen=True, kw_only=True)
class Gradient(Planner):
    """Adam on sequences, which are brought back inside the bounds after each step; the best ever costed is returned.

    A sequence that breaks a constraint goes down its total violation, any other down its cost.

    Args:
        num_restarts: sequences drawn evenly from the space, beside the proposals; at least 1.
        num_iterations: steps, at least 1.
        learning_rate: of Adam at first, as a share of each component's range; above 0. It falls to 0 along a line.

    Source: Adam, 1412.6980; descent on latent plans with restarts, as in 2603.12231.
    """

    num_restarts: int = 8
    num_iterations: int = 30
    learning_rate: float = 0.1

    def __post_init__(self) -> None:
        if self.num_restarts < 1 or self.num_iterations < 1 or not self.learning_rate > 0:
            raise ConfigError(
                f"num_restarts {self.num_restarts} and num_iterations {self.num_iterations} must be at least 1, "
                f"learning_rate {self.learning_rate} above 0."
            )

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
        """The best sequence found; see `Planner`. The starts are costed however short the deadline.

        Raises:
            InputError: see `population.check` and `Population.best`.
            UnsupportedError: an action is discrete, or the cost cannot be differentiated in the actions.
        """
        started = time.monotonic()
        check(space, proposals, batch=batch, horizon=horizon)
        width = space.high - space.low
        shape = (1, self.num_restarts, horizon, len(width))
        drawn = torch.rand(shape, generator=generator, device=generator.device).to(space.low)
        shares = drawn.expand(batch, -1, -1, -1)
        if proposals is not None:
            given = inside(space, proposals.to(space.low))
            shares = torch.cat([(given - space.low) / width.where(width > 0, 1.0), shares], 1)
        shares = shares.clone().requires_grad_()
        optimizer = torch.optim.Adam([shares], lr=self.learning_rate)
        best, num_evaluated, converged = None, 0, True
        for number in range(self.num_iterations + 1):
            if best is not None and deadline_s is not None and time.monotonic() - started >= deadline_s:
                converged = False
                break
            with torch.enable_grad():
                candidates = inside(space, space.low + shares * width)
                value = cost(candidates)
                violation = value.violation.sum(-1)
                aim = torch.where(violation > 0, violation, value.cost)
            if not aim.requires_grad:
                raise UnsupportedError(
                    "the cost has no gradient in the actions, which the planner 'gradient' needs. Plan with an engine "
                    "that is Differentiable, or use the planner 'cem'."
                )
            found = ranked(candidates.detach(), value)
            num_evaluated += candidates.shape[1]
            best = found.first(1) if best is None else best.merge(found).first(1)
            (slope,) = torch.autograd.grad(aim.where(aim.isfinite(), 0.0).sum(), shares)
            shares.grad = slope.nan_to_num(0.0, 0.0, 0.0)
            optimizer.param_groups[0]["lr"] = self.learning_rate * (1 - number / self.num_iterations)
            optimizer.step()
            with torch.no_grad():
                shares.clamp_(0.0, 1.0)
        assert best is not None
        return best.best(num_evaluated=num_evaluated, converged=converged)
