"""Evaluated action sequences in order of quality, and the checks that all planners share."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import one_hot

from worldline.errors import InputError, UnsupportedError
from worldline.planning.planners.base import ActionSpace, CostFunction, PlanCosts, PlannedActions


@dataclass(frozen=True, kw_only=True)
class Population:
    """N sequences for each of B problems, best first: sorted by total violation, then by cost (stable).

    Args:
        actions: within the bounds.
        cost: infinite if the cost or a violation was not finite.
        violation: as returned by the cost function.
    """

    actions: Float[Tensor, "B N T A"]
    cost: Float[Tensor, "B N"]
    violation: Float[Tensor, "B N C"]

    def first(self, count: int) -> Population:
        """The best `count` of each problem, or all if there are fewer."""
        return Population(
            actions=self.actions[:, :count], cost=self.cost[:, :count], violation=self.violation[:, :count]
        )

    def merge(self, other: Population) -> Population:
        """Both populations together; ties keep their order, `self` first."""
        return _ranked(
            torch.cat([self.actions, other.actions], 1),
            torch.cat([self.cost, other.cost], 1),
            torch.cat([self.violation, other.violation], 1),
        )

    def best(self, *, num_evaluated: int, finished: bool) -> PlannedActions:
        """The best sequence of each problem.

        Raises:
            InputError: a problem has no sequence of finite cost.
        """
        failed = self.cost[:, 0].isinf().nonzero().flatten().tolist()
        if failed:
            raise InputError(
                f"none of the {num_evaluated} sequences for problem {failed[0]} has a finite cost and violation "
                f"({len(failed)} of {len(self.cost)} problems). Check the cost function and its inputs."
            )
        return PlannedActions(
            actions=self.actions[:, 0],
            cost=self.cost[:, 0],
            violation=self.violation[:, 0],
            num_evaluated=num_evaluated,
            finished=finished,
        )


def inside(space: ActionSpace, actions: Float[Tensor, "*lead A"]) -> Float[Tensor, "*lead A"]:
    """`actions` clipped to the bounds; discrete actions become one-hot at their largest component."""
    # The continuous components before, between and after the choices, which are in order.
    parts, next_start = list[Tensor](), 0
    for start, stop in space.choices:
        chosen = one_hot(actions[..., start:stop].argmax(-1), stop - start).to(actions)
        numbers = slice(next_start, start)
        parts += [actions[..., numbers].clamp(space.low[numbers], space.high[numbers]), chosen]
        next_start = stop
    return torch.cat([*parts, actions[..., next_start:].clamp(space.low[next_start:], space.high[next_start:])], -1)


def initial(
    space: ActionSpace,
    proposals: Float[Tensor, "B P T A"] | None,
    *,
    batch: int,
    horizon: int,
    num_random: int,
    generator: torch.Generator,
) -> Float[Tensor, "B N T A"]:
    """The proposals, clipped to the space, and uniformly random sequences, which all problems share."""
    shape = (1, num_random, horizon, len(space.low))
    shares = torch.rand(shape, generator=generator, device=generator.device).to(space.low)
    drawn = (space.low + shares * (space.high - space.low)).expand(batch, -1, -1, -1)
    return inside(space, drawn if proposals is None else torch.cat([proposals.to(drawn), drawn], 1))


def evaluated(cost: CostFunction, space: ActionSpace, actions: Float[Tensor, "B N T A"]) -> Population:
    """The population of `actions`, clipped to the space and evaluated in one call."""
    actions = inside(space, actions)
    return ranked(actions, cost(actions))


def ranked(actions: Float[Tensor, "B N T A"], value: PlanCosts) -> Population:
    """The population of sequences with these costs."""
    # A cost that is not finite marks a sequence that cannot be judged; infinity sorts it last.
    usable = value.cost.isfinite() & value.violation.isfinite().all(-1)
    return _ranked(actions, value.cost.detach().where(usable, torch.inf), value.violation.detach())


def finite_deviation(values: Float[Tensor, "B N C"]) -> Float[Tensor, "B C"]:
    """The standard deviation over N of the finite values; 0 if there are none."""
    known = values.isfinite()
    count = known.sum(1).clamp(min=1)
    mean = values.where(known, 0.0).sum(1) / count
    error = (values - mean[:, None]).where(known, 0.0)
    return torch.as_tensor((error.square().sum(1) / count).sqrt())


def check(
    space: ActionSpace, proposals: Float[Tensor, "B P T A"] | None, *, batch: int, horizon: int, choices: bool = False
) -> None:
    """Checks the arguments of `Planner.plan`.

    Args:
        space: the bounds.
        proposals: initial sequences.
        batch: B.
        horizon: T.
        choices: whether the planner supports discrete actions.

    Raises:
        InputError: a range is unbounded or empty, `batch` or `horizon` is 0, or proposals are misshapen or not finite.
        UnsupportedError: the space has a discrete action, and the planner supports continuous ones only.
    """
    if batch < 1 or horizon < 1:
        raise InputError(f"batch is {batch} and horizon {horizon}. Both must be at least 1.")
    # Every planner clips to the bounds and scales its noise by their range, so a bound must be finite.
    if not (space.low.isfinite().all() and space.high.isfinite().all() and bool((space.low <= space.high).all())):
        raise InputError(
            f"actions in [{space.low.tolist()}, {space.high.tolist()}] cannot be searched. Give every component a "
            "finite low and high, low at most high."
        )
    if space.choices and not choices:
        start, stop = space.choices[0]
        raise UnsupportedError(
            f"components {start} to {stop - 1} of the actions are a choice between {stop - start} values, and this "
            "planner supports continuous actions only. Use the planner 'categorical'."
        )
    if proposals is None:
        return
    expected = (batch, proposals.shape[1], horizon, len(space.low))
    if proposals.shape != expected or proposals.shape[1] < 1:
        raise InputError(
            f"proposals have shape {tuple(proposals.shape)}, expected [B, P, T, A] = {expected} with P >= 1."
        )
    # Clipping keeps NaN, and a planner that continues from such a proposal would spread it to all sequences.
    if not proposals.isfinite().all():
        raise InputError("proposals hold NaN or infinity. Leave such sequences out.")


def _ranked(
    actions: Float[Tensor, "B N T A"], cost: Float[Tensor, "B N"], violation: Float[Tensor, "B N C"]
) -> Population:
    # A sequence without a finite cost must not win by its violation.
    total = violation.sum(-1).where(cost.isfinite(), torch.inf)
    # Two stable sorts: by violation, and by cost among equal violations.
    by_cost = cost.argsort(dim=1, stable=True)
    order = by_cost.gather(1, total.gather(1, by_cost).argsort(dim=1, stable=True))
    problem = torch.arange(len(cost), device=cost.device)[:, None]
    return Population(actions=actions[problem, order], cost=cost[problem, order], violation=violation[problem, order])
