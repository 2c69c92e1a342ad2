"""Constraints as prices: an augmented Lagrangian around the cross-entropy method."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from worldline.errors import ConfigError
from worldline.planning.planners.base import ActionSpace, CostFunction, CostValue, PlannedActions, Planner
from worldline.planning.planners.cem import CrossEntropy
from worldline.planning.planners.deadline import HEADROOM
from worldline.planning.planners.population import check, inside, ranked


@dataclass(frozen=True, kw_only=True)
class AugmentedLagrangian(Planner):
    """Searches several times, each time with a higher price on what the plan before it violated.

    A planner that puts every allowed sequence before all others (as `cem` does) is soon shut in where few are allowed;
    here the search may pass through what is forbidden. The best allowed sequence ever costed is returned, or the one
    of least violation where none is.

    Args:
        search: of each round, with the prices in its cost.
        num_rounds: at least 1.
        penalty: first weight of a squared violation: at 1 the spread of the violations among random sequences is as
            dear as that of their costs; above 0.
        growth: of that weight from round to round, at least 1.
        num_probes: random sequences that these spreads are taken from, at least 2.

    Source: Nocedal and Wright, Numerical Optimization, 2nd edition, section 17.4.
    """

    search: CrossEntropy = field(default_factory=CrossEntropy)
    num_rounds: int = 5
    penalty: float = 0.1
    growth: float = 8.0
    num_probes: int = 32

    def __post_init__(self) -> None:
        if self.num_rounds < 1 or self.num_probes < 2 or not (self.penalty > 0 and self.growth >= 1):
            raise ConfigError(
                f"num_rounds {self.num_rounds} must be at least 1, num_probes {self.num_probes} 2, penalty "
                f"{self.penalty} above 0, growth {self.growth} at least 1."
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
        """The best sequence found; see `Planner`. The probes and the proposals are costed however short the deadline.

        Raises:
            InputError: see `population.check` and `Population.best`.
            UnsupportedError: an action is discrete.
        """
        started = time.monotonic()
        check(space, proposals, batch=batch, horizon=horizon)
        shape = (1, self.num_probes, horizon, len(space.low))
        shares = torch.rand(shape, generator=generator, device=generator.device).to(space.low)
        first = (space.low + shares * (space.high - space.low)).expand(batch, -1, -1, -1)
        if proposals is not None:
            first = torch.cat([proposals.to(first), first], 1)
        first = inside(space, first)
        priced = _Priced(cost, first, self.penalty)
        probes_s = time.monotonic() - started
        starts, converged = priced.best.actions, True
        for number in range(self.num_rounds):
            left_s = None if deadline_s is None else deadline_s - (time.monotonic() - started)
            if left_s is not None and left_s <= HEADROOM * probes_s:  # a round costs a first few, however late it is
                converged = False
                break
            found = self.search.plan(
                priced,
                space,
                batch=batch,
                horizon=horizon,
                proposals=starts,
                generator=generator,
                deadline_s=left_s,
            )
            converged &= found.converged
            if found.converged and number < self.num_rounds - 1:
                priced.raise_prices(found.actions, self.growth)
                starts = torch.cat([priced.best.actions, found.actions[:, None]], 1)
        return priced.best.best(num_evaluated=priced.num_evaluated, converged=converged)


class _Priced:
    """A cost with prices on violations, that keeps the best sequence by its true cost.

    Args:
        cost: of the problem.
        first: sequences that are costed now.
        penalty: as in `AugmentedLagrangian`.

    Attributes:
        best: one sequence of each problem.
        num_evaluated: sequences costed for each problem.
    """

    def __init__(self, cost: CostFunction, first: Float[Tensor, "B P T A"], penalty: float) -> None:
        self.cost, self.num_evaluated = cost, first.shape[1]
        value = cost(first)
        self.best = ranked(first, value).first(1)
        dear, wrong = _spread(value.cost[..., None]), _spread(value.violation)
        self.weight = penalty * dear.where(dear > 0, 1.0) / wrong.square().where(wrong > 0, 1.0)
        self.price = torch.zeros_like(self.weight)

    def __call__(self, actions: Float[Tensor, "B N T A"]) -> CostValue:
        """The cost with its prices; nothing is left to be violated."""
        value = self._true(actions)
        due = (self.price[:, None] + 0.5 * self.weight[:, None] * value.violation) * value.violation
        return CostValue(cost=value.cost + due.sum(-1), violation=value.violation[..., :0])

    def raise_prices(self, actions: Float[Tensor, "B T A"], growth: float) -> None:
        """By what is violated in the best plan for these prices."""
        self.price = self.price + self.weight * self._true(actions[:, None]).violation[:, 0].nan_to_num(0.0)
        self.weight = growth * self.weight

    def _true(self, actions: Float[Tensor, "B N T A"]) -> CostValue:
        value = self.cost(actions)
        self.num_evaluated += actions.shape[1]
        self.best = self.best.merge(ranked(actions, value)).first(1)
        return value


def _spread(values: Float[Tensor, "B N C"]) -> Float[Tensor, "B C"]:
    """The standard deviation over N of what is finite."""
    known = values.isfinite()
    count = known.sum(1).clamp(min=1)
    values = values.where(known, 0.0)
    away = (values - (values.sum(1) / count)[:, None]).where(known, 0.0)
    return torch.as_tensor((away.square().sum(1) / count).sqrt())
