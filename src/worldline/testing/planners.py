"""Clauses on `Planner` (`planning/planners/base.py`), checked on quadratic bowls."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from worldline.config import Bounds, Size
from worldline.errors import UnsupportedError
from worldline.planning.planners.base import ActionSpace, CostFunction, PlanCosts, PlannedActions, Planner
from worldline.testing.clauses import Case, TwoOrMore, clause
from worldline.testing.comparing import equal, has_shape, holds, unchanged


@dataclass(frozen=True, kw_only=True)
class PlannerCase(Case):
    """A planner and the size of its test problems.

    Args:
        planner: the planner.
        optimality: highest allowed cost on a quadratic bowl, relative to the mean cost of uniformly random
            sequences, in (0, 1). Random search needs about 0.6, a good search reaches 0.05.
        batch: B, at least 2.
        horizon: T, at least 1.
        tolerance: largest relative difference between two costs that must be equal.
        seed: of all draws.
    """

    kind: ClassVar[str] = "planner"

    planner: Planner
    optimality: Annotated[float, Bounds(above=0, below=1)] = 0.6
    batch: TwoOrMore = 3
    horizon: Size = 4
    tolerance: float = 1e-5
    seed: int = 0

    @property
    def space(self) -> ActionSpace:
        """Two components with different bounds, not centred at 0."""
        return ActionSpace(low=torch.tensor([-1.0, 2.0]), high=torch.tensor([3.0, 2.5]))

    def uniform(self, num: int, offset: int = 1, space: ActionSpace | None = None) -> Float[Tensor, "B N T A"]:
        """Sequences drawn uniformly from the space."""
        space, generator = space or self.space, torch.Generator().manual_seed(self.seed + offset)
        share = torch.rand(self.batch, num, self.horizon, len(space.low), generator=generator)
        return space.low + (space.high - space.low) * share

    def bowl(self, sleep_s: float = 0.0) -> Bowl:
        """A cost with a different optimum inside the space for each problem."""
        return Bowl(self.uniform(1, offset=7)[:, 0], sleep_s=sleep_s)

    def plan(self, cost: CostFunction, *, space: ActionSpace | None = None, **options: Any) -> PlannedActions:
        """The planner's result, with fixed draws; `options` are other arguments of `Planner.plan`."""
        draws = torch.Generator().manual_seed(self.seed)
        options = {"batch": self.batch, "horizon": self.horizon, "generator": draws, **options}
        return self.planner.plan(cost, space or self.space, **options)


class Bowl:
    """A quadratic cost around `center` that records its calls.

    Args:
        center: [B, T, A], where the cost is 0.
        limit: highest allowed mean of the first component over the steps.
        sleep_s: duration of one call.

    Attributes:
        calls: actions [B, N, T, A] of every call.
        started_s: start of every call on the monotonic clock.
    """

    def __init__(self, center: Float[Tensor, "B T A"], *, limit: float = 10.0, sleep_s: float = 0.0) -> None:
        self.center, self.limit, self.sleep_s = center, limit, sleep_s
        self.calls, self.started_s = list[Tensor](), list[float]()

    def __call__(self, actions: Tensor) -> PlanCosts:
        """The cost of actions [B, N, T, A]."""
        self.started_s.append(time.monotonic())
        time.sleep(self.sleep_s)
        self.calls.append(actions.detach().clone())
        return self.value(actions)

    def value(self, actions: Tensor) -> PlanCosts:
        """The cost, without recording the call."""
        cost = (actions - self.center[:, None]).square().sum((-2, -1))
        return PlanCosts(cost=cost, violation=(actions[..., 0].mean(-1, keepdim=True) - self.limit).clamp(min=0.0))

    def of(self, planned: PlannedActions) -> tuple[Tensor, Tensor]:
        """The cost [B] and violation [B, 1] of the returned sequences, without recording the call."""
        value = self.value(planned.actions[:, None])
        return value.cost[:, 0], value.violation[:, 0]

    def evaluated(self) -> PlanCosts:
        """The costs of all evaluated sequences."""
        return self.value(torch.cat(self.calls, 1))


@clause("planner", "PlannedActions; actions [B, T, A], cost [B], violation [B, C], and num_evaluated")
def result_honest(case: PlannerCase) -> None:
    """The result has the shapes of the contract and the cost of its actions, and is as good as the best evaluated."""
    for proposals in (None, case.uniform(2)):
        cost = case.bowl()
        planned = case.plan(cost, proposals=proposals)
        for name, shape in {"actions": (case.horizon, 2), "cost": (), "violation": (1,)}.items():
            has_shape(name, getattr(planned, name), (case.batch, *shape))
        for actions in cost.calls:
            has_shape("the argument of the cost function", actions, (case.batch, actions.shape[1], case.horizon, 2))
        (true, _), best = cost.of(planned), cost.evaluated().cost.amin(1)
        case.equal(planned.cost, true, "the cost is not that of the actions")
        behind, counted = float((true - best).max()), sum(actions.shape[1] for actions in cost.calls)
        problem = f"the returned sequence costs {behind:.4g} more than the best evaluated one"
        holds(behind <= case.tolerance * float(1 + best.max()), problem)
        holds(planned.num_evaluated == counted, f"num_evaluated is {planned.num_evaluated}, expected {counted}")


@clause("planner", "ActionSpace; evaluated and returned actions lie inside, proposals too; choices are one-hot")
def bounds(case: PlannerCase) -> None:
    """Evaluated and returned actions are inside the bounds, even if the optimum and the proposals are outside.

    Choices are one-hot, or the planner raises UnsupportedError.
    """
    outside, space = torch.tensor([9.0, -9.0]), case.space
    cost = Bowl(outside.expand(case.batch, case.horizon, 2))
    planned = case.plan(cost, proposals=case.uniform(2) + outside)
    slack = 1e-6 * (space.high - space.low)  # one rounding
    for actions in (planned.actions, *cost.calls):
        low, high = actions.flatten(0, -2).aminmax(dim=0)
        problem = f"actions range from {low.tolist()} to {high.tolist()}, outside {space.low} to {space.high}"
        holds((low >= space.low - slack) & (high <= space.high + slack), problem)
    low, high = torch.tensor([-1.0, 0.0, 0.0, 0.0]), torch.tensor([3.0, 1.0, 1.0, 1.0])
    space, cost = ActionSpace(low=low, high=high, choices=((1, 4),)), Bowl(cost.center[..., :1].expand(-1, -1, 4))
    try:
        planned = case.plan(cost, space=space, proposals=case.uniform(2, space=space))
    except UnsupportedError:
        return
    for actions in (planned.actions, *cost.calls):
        one_hot = (actions[..., 1:].amax(-1) == 1) & (actions[..., 1:].count_nonzero(-1) == 1)
        holds(one_hot, "the choice of an evaluated or returned action is not a one-hot vector")


@clause("planner", "Planner.plan; the result is never worse than a proposal")
def proposals_kept(case: PlannerCase) -> None:
    """The result is never worse than the best proposal, even if only a proposal is good."""
    proposals = case.uniform(3)
    needle = proposals[:, 1]

    def cost(actions: Tensor) -> PlanCosts:
        away = (actions - needle[:, None]).abs().amax((-2, -1))
        value = torch.where(away < 1e-4, torch.zeros_like(away), 10.0 - away)  # the gradient points away from it
        return PlanCosts(cost=value, violation=value.new_zeros(*value.shape, 0))

    planned = case.plan(cost, proposals=proposals.clone())
    worst = float(torch.maximum(planned.cost, cost(planned.actions[:, None]).cost[:, 0]).max())
    holds(worst <= 1e-6, f"the result costs {worst:.4g}, but a proposal of cost 0 was given")


@clause("planner", "Planner.plan; a quadratic bowl, compared with random sequences")
def optimum(case: PlannerCase) -> None:
    """On a quadratic bowl the cost is at most `optimality` times that of random sequences."""
    cost = case.bowl()
    share = float((cost.of(case.plan(cost))[0] / cost.value(case.uniform(1000)).cost.mean(1)).max())
    holds(share <= case.optimality, f"relative cost {share:.3g}, allowed {case.optimality}")


@clause("planner", "Planner.plan; a problem must not see the costs of others")
def plans_independent(case: PlannerCase) -> None:
    """The plan of a problem does not depend on the other problems of the batch."""
    centers = case.bowl().center
    others = centers.flip(1, 2) * 3.0
    others[0] = centers[0]
    first, second = case.plan(Bowl(centers)), case.plan(Bowl(others))
    case.equal(first.actions[0], second.actions[0], "the plan of problem 0 changed with the others of the batch")


@clause("planner", "Planner.plan; draws come from the generator, without other state")
def deterministic(case: PlannerCase) -> None:
    """Equal seeds give equal plans; only the generator is used, and no argument is changed."""
    space, proposals = case.space, case.uniform(2)
    with unchanged(space, proposals):
        plans = [case.plan(case.bowl(), space=space, proposals=proposals) for _ in range(2)]
    equal(plans[0].actions, plans[1].actions, "equal seeds gave different plans")


@clause("planner", "Planner.plan; least cost among sequences without violation")
def feasible_first(case: PlannerCase) -> None:
    """A sequence without violation is preferred to any with one; else the least violation is chosen."""
    middle = (case.space.low + case.space.high) / 2
    center = torch.stack([case.space.high[0], middle[1]]).expand(case.batch, case.horizon, 2)  # violates the constraint
    cost = Bowl(center, limit=float(middle[0]))
    planned = case.plan(cost, proposals=center[:, None].clone())
    _, violation = cost.of(planned)
    holds(not violation.any(), f"violation {float(violation.max()):.4g}, but plans without one exist")
    case.equal(planned.violation, violation, "violation is not that of the actions")
    never = Bowl(center, limit=float(case.space.low[0]) - 1.0)
    _, violation = never.of(case.plan(never))
    behind = float((violation.sum(-1) - never.evaluated().violation.sum(-1).amin(1)).max())
    holds(behind <= case.tolerance, f"a plan with {behind:.4g} less violation was evaluated")


@clause("planner", "deadline_s; the best sequence so far is returned, finished is False")
def deadline(case: PlannerCase) -> None:
    """At most one batch is evaluated after the deadline, and a search that was cut short has not finished."""
    limit_s, proposals = 0.02, case.uniform(2)
    free, cost = case.plan(case.bowl(), proposals=proposals), case.bowl(sleep_s=1.5 * limit_s)
    start = time.monotonic()
    planned = case.plan(cost, proposals=proposals, deadline_s=limit_s)
    late = sum(started > start + limit_s for started in cost.started_s)
    holds(late <= 1, f"{late} batches were evaluated after the deadline, expected at most 1")
    cut = planned.num_evaluated < free.num_evaluated
    holds(not (cut and planned.finished), "finished is True, but the deadline cut the search short")
    best = cost.value(proposals).cost.amin(1)
    holds(cost.of(planned)[0] <= best * (1 + case.tolerance), "the best sequence so far was not returned")
