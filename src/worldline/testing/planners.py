"""Is this a `Planner`? Every clause of `planning/planners/base.py`, one function each.

`check_planner(planner)` checks them all; `bounds(PlannerCase(planner=planner))` checks one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from worldline.errors import InputError, UnsupportedError
from worldline.planning.planners.base import ActionSpace, CostFunction, CostValue, PlannedActions, Planner
from worldline.testing.clauses import Clause, run


@dataclass(frozen=True, kw_only=True)
class PlannerCase:
    """A planner and the size of the problems to try it on.

    Args:
        planner: to be checked.
        optimality: what it must reach on a quadratic bowl, as a share of the mean cost of uniformly random
            sequences, in (0, 1); random search needs about 0.6, a good search reaches 0.05.
        batch: B, at least 2.
        horizon: T, at least 1.
        tolerance: largest relative difference between two costs that must be equal.
        seed: of every draw.
    """

    planner: Planner
    optimality: float = 0.6
    batch: int = 3
    horizon: int = 4
    tolerance: float = 1e-5
    seed: int = 0

    def __post_init__(self) -> None:
        if self.batch < 2 or self.horizon < 1 or not 0 < self.optimality < 1:
            raise InputError(
                f"batch {self.batch}, horizon {self.horizon} and optimality {self.optimality} must be at least 2, "
                "at least 1, and between 0 and 1."
            )

    @property
    def space(self) -> ActionSpace:
        """Two components with unequal bounds, neither of them around 0."""
        return ActionSpace(low=torch.tensor([-1.0, 2.0]), high=torch.tensor([3.0, 2.5]))

    def generator(self, offset: int = 0) -> torch.Generator:
        """A fresh generator; always the same draws for the same offset."""
        return torch.Generator().manual_seed(self.seed + offset)

    def uniform(self, num: int, offset: int = 1) -> Float[Tensor, "B N T A"]:
        """Sequences drawn evenly from the space."""
        low, high = self.space.low, self.space.high
        share = torch.rand(self.batch, num, self.horizon, len(low), generator=self.generator(offset))
        return low + (high - low) * share

    def plan(
        self,
        cost: CostFunction,
        *,
        proposals: Float[Tensor, "B P T A"] | None = None,
        deadline_s: float | None = None,
    ) -> PlannedActions:
        """The planner's answer, always with the same draws."""
        return self.planner.plan(
            cost,
            self.space,
            batch=self.batch,
            horizon=self.horizon,
            proposals=proposals,
            generator=self.generator(),
            deadline_s=deadline_s,
        )


class Bowl:
    """A quadratic cost around `center` that keeps count of what it is asked.

    Args:
        center: [B, T, A], where the cost is 0.
        limit: highest mean of the first component over the steps; None for no constraint.
        sleep_s: how long one call takes.

    Attributes:
        asked: the actions [B, N, T, A] of every call.
        values: what was answered.
        started_s: when each call began, on the monotonic clock.
    """

    def __init__(self, center: Float[Tensor, "B T A"], *, limit: float | None = None, sleep_s: float = 0.0) -> None:
        self.center, self.limit, self.sleep_s = center, limit, sleep_s
        self.asked: list[Tensor] = []
        self.values: list[CostValue] = []
        self.started_s: list[float] = []

    def __call__(self, actions: Tensor) -> CostValue:
        """The cost of actions [B, N, T, A]."""
        self.started_s.append(time.monotonic())
        time.sleep(self.sleep_s)
        value = self.value(actions)
        self.asked.append(actions.detach().clone())
        self.values.append(CostValue(cost=value.cost.detach(), violation=value.violation.detach()))
        return value

    def value(self, actions: Tensor) -> CostValue:
        """The cost, without keeping count."""
        cost = (actions - self.center[:, None]).square().sum((-2, -1))
        if self.limit is None:
            return CostValue(cost=cost, violation=cost.new_zeros(*cost.shape, 0))
        return CostValue(cost=cost, violation=(actions[..., 0].mean(-1, keepdim=True) - self.limit).clamp(min=0.0))

    def of(self, actions: Float[Tensor, "B T A"]) -> tuple[Tensor, Tensor]:
        """The cost [B] and violation [B, C] of one sequence a problem, without keeping count."""
        value = self.value(actions[:, None])
        return value.cost[:, 0], value.violation[:, 0]


RESULT = Clause(name="planner.result", look="PlannedActions; actions [B, T, A], cost [B], violation [B, C], all finite")
CALLS = Clause(name="planner.calls", look="CostFunction; it takes [B, N, T, A], all B problems in each call")
BOUNDS = Clause(name="planner.bounds", look="ActionSpace; every costed and returned action lies inside, proposals too")
PROPOSALS = Clause(name="planner.proposals", look="Planner.plan; the result is never worse than the best proposal")
BEST = Clause(name="planner.best_found", look="PlannedActions.actions; the best of all sequences that were costed")
HONEST = Clause(
    name="planner.cost_is_of_actions", look="PlannedActions.cost and violation; those of the returned actions"
)
COUNT = Clause(name="planner.num_evaluated", look="PlannedActions.num_evaluated; sequences costed for each problem")
OPTIMUM = Clause(name="planner.optimum", look="Planner.plan; a quadratic bowl, compared with random sequences")
BATCH = Clause(name="planner.batch_independent", look="Planner.plan; problem b must not see the others' costs")
SEEDED = Clause(name="planner.deterministic", look="Planner.plan; draws come from the generator, no state is kept")
FEASIBLE = Clause(name="planner.feasible_first", look="Planner.plan; least cost among those without violation")
CHOICES = Clause(
    name="planner.choices", look="ActionSpace.choices; each is one-hot, or the planner refuses with UnsupportedError"
)
DEADLINE = Clause(name="planner.deadline", look="deadline_s; the best so far is returned, and converged is then False")


def check_planner(
    planner: Planner,
    *,
    optimality: float = 0.6,
    batch: int = 3,
    horizon: int = 4,
    tolerance: float = 1e-5,
    seed: int = 0,
) -> None:
    """Checks every clause; the arguments are those of `PlannerCase`.

    Raises:
        AssertionError: names each broken clause, what was seen, and where to look.
    """
    case = PlannerCase(
        planner=planner, optimality=optimality, batch=batch, horizon=horizon, tolerance=tolerance, seed=seed
    )
    run(type(planner).__name__, case, CLAUSES)


def result_shapes(case: PlannerCase) -> None:
    """The result is finite and has the shapes of the contract; the cost function gets all B problems at once."""
    cost = Bowl(_centers(case), limit=1.0)
    found = case.plan(cost)
    size = len(case.space.low)
    for name, value, due in (
        ("actions", found.actions, (case.batch, case.horizon, size)),
        ("cost", found.cost, (case.batch,)),
        ("violation", found.violation, (case.batch, 1)),
    ):
        RESULT.holds(tuple(value.shape) == due, f"{name} of shape {tuple(value.shape)} where {due} is due")
        RESULT.holds(bool(value.isfinite().all()), f"{name} that are not finite")
    for asked in cost.asked:
        shape = tuple(asked.shape)
        wanted = (case.batch, asked.shape[1], case.horizon, size)
        CALLS.holds(shape == wanted, f"the cost function was called with shape {shape} where {wanted} is due")


def bounds(case: PlannerCase) -> None:
    """Costed and returned actions respect the bounds, even where the optimum and the proposals lie outside."""
    outside = torch.tensor([9.0, -9.0])
    cost = Bowl(outside.expand(case.batch, case.horizon, 2))
    found = case.plan(cost, proposals=case.uniform(2) + outside)
    for what, actions in [("returned", found.actions), *(("costed", asked) for asked in cost.asked)]:
        low, high = actions.amin(tuple(range(actions.ndim - 1))), actions.amax(tuple(range(actions.ndim - 1)))
        slack = 1e-6 * (case.space.high - case.space.low)  # one rounding
        inside = bool((low >= case.space.low - slack).all() and (high <= case.space.high + slack).all())
        bound = f"outside {case.space.low.tolist()} to {case.space.high.tolist()}"
        BOUNDS.holds(inside, f"{what} actions from {low.tolist()} to {high.tolist()}, {bound}")


def proposals_kept(case: PlannerCase) -> None:
    """The result is never worse than the best proposal, where only a proposal is good at all."""
    proposals = case.uniform(3)
    needle = proposals[:, 1]

    def cost(actions: Tensor) -> CostValue:
        away = (actions - needle[:, None]).abs().amax((-2, -1))
        value = torch.where(away < 1e-4, torch.zeros_like(away), 10.0 - away)  # the slope leads away from it
        return CostValue(cost=value, violation=value.new_zeros(*value.shape, 0))

    with SEEDED.unchanged(proposals):
        found = case.plan(cost, proposals=proposals)
    true = cost(found.actions[:, None]).cost[:, 0]
    worst = max(float(found.cost.max()), float(true.max()))
    PROPOSALS.holds(worst <= 1e-6, f"a result of cost {worst:.4g}, though a proposal of cost 0 was given")


def best_found(case: PlannerCase) -> None:
    """The returned sequence is as good as the best that was costed, and its cost is told truly."""
    cost = Bowl(_centers(case))
    found = case.plan(cost, proposals=case.uniform(2))
    true, _ = cost.of(found.actions)
    HONEST.equal(found.cost, true, within=case.tolerance, seen="the returned cost is not that of the returned actions")
    best = torch.cat([value.cost for value in cost.values], 1).amin(1)
    behind = float((true - best).max())
    seen = f"a sequence of {behind:.4g} higher cost than one that was costed"
    BEST.holds(behind <= case.tolerance * float(1 + best.max()), seen)


def count(case: PlannerCase) -> None:
    """`num_evaluated` is what the cost function counted."""
    cost = Bowl(_centers(case))
    for proposals in (None, case.uniform(2)):
        cost.asked.clear()
        found = case.plan(cost, proposals=proposals)
        counted = sum(asked.shape[1] for asked in cost.asked)
        COUNT.holds(found.num_evaluated == counted, f"num_evaluated = {found.num_evaluated}, counted {counted}")


def optimum(case: PlannerCase) -> None:
    """On a quadratic bowl the cost is at most `optimality` of what random sequences cost."""
    cost = Bowl(_centers(case))
    found, _ = cost.of(case.plan(cost).actions)
    random = cost.value(case.uniform(1000)).cost.mean(1)
    share = float((found / random).max())
    OPTIMUM.holds(share <= case.optimality, f"{share:.3g} of the cost of random sequences, allowed {case.optimality}")


def batch_independent(case: PlannerCase) -> None:
    """What is found for a problem does not change with the problems beside it."""
    centers = _centers(case)
    for kept in (0, case.batch - 1):
        others = centers.flip(1, 2) * 3.0
        others[kept] = centers[kept]
        first, second = case.plan(Bowl(centers)), case.plan(Bowl(others))
        seen = f"the plan of problem {kept} changed with the problems beside it"
        BATCH.equal(first.actions[kept], second.actions[kept], within=case.tolerance, seen=seen)


def deterministic(case: PlannerCase) -> None:
    """Equal seeds give equal plans, from the generator alone, and no argument is changed."""
    space, proposals = case.space, case.uniform(2)
    with SEEDED.unchanged(space, proposals):
        found = [
            case.planner.plan(
                Bowl(_centers(case)),
                space,
                batch=case.batch,
                horizon=case.horizon,
                proposals=proposals,
                generator=case.generator(),
            )
            for _ in range(2)
        ]
    SEEDED.equal(found[0].actions, found[1].actions, within=0.0, seen="equal seeds gave two different plans")


def feasible_first(case: PlannerCase) -> None:
    """A sequence without violation wins over any with one; where there is none, the least violation wins."""
    middle = (case.space.low + case.space.high) / 2
    center = torch.stack([case.space.high[0], middle[1]]).expand(case.batch, case.horizon, 2)  # the best is forbidden
    cost = Bowl(center, limit=float(middle[0]))
    found = case.plan(cost, proposals=center[:, None].clone())
    true, violation = cost.of(found.actions)
    FEASIBLE.holds(not violation.any(), f"a plan of violation {float(violation.max()):.4g} though many plans have none")
    FEASIBLE.equal(found.violation, violation, within=case.tolerance, seen="violation is not that of the actions")
    HONEST.equal(found.cost, true, within=case.tolerance, seen="the returned cost is not that of the returned actions")
    never = Bowl(center, limit=float(case.space.low[0]) - 1.0)
    _, violation = never.of(case.plan(never).actions)
    least = torch.cat([value.violation.sum(-1) for value in never.values], 1).amin(1)
    behind = float((violation.sum(-1) - least).max())
    FEASIBLE.holds(behind <= case.tolerance, f"no plan is allowed, and one of {behind:.4g} less violation was costed")


def choices(case: PlannerCase) -> None:
    """What is costed and returned of a choice is one-hot, proposals too; or the planner says that it cannot choose."""
    low, high = torch.tensor([-1.0, 0.0, 0.0, 0.0]), torch.tensor([3.0, 1.0, 1.0, 1.0])
    space = ActionSpace(low=low, high=high, choices=((1, 4),))
    share = torch.rand(case.batch, 2, case.horizon, 4, generator=case.generator())
    cost = Bowl(torch.full((case.batch, case.horizon, 4), 0.3))
    try:
        found = case.planner.plan(
            cost,
            space,
            batch=case.batch,
            horizon=case.horizon,
            proposals=low + (high - low) * share,
            generator=case.generator(),
        )
    except UnsupportedError:
        return
    for what, actions in [("returned", found.actions), *(("costed", asked) for asked in cost.asked)]:
        chosen = actions[..., 1:]
        one_hot = bool(((chosen == 0) | (chosen == 1)).all() and (chosen.sum(-1) == 1).all())
        CHOICES.holds(one_hot, f"{what} actions whose choice is no one-hot vector")


def deadline(case: PlannerCase) -> None:
    """After the deadline at most one more batch is costed, and a search that was cut has not converged."""
    limit_s = 0.02
    proposals = case.uniform(2)
    free = case.plan(Bowl(_centers(case)), proposals=proposals)
    cost = Bowl(_centers(case), sleep_s=1.5 * limit_s)
    start = time.monotonic()
    found = case.plan(cost, proposals=proposals, deadline_s=limit_s)
    late = sum(started > start + limit_s for started in cost.started_s)
    DEADLINE.holds(late <= 1, f"{late} batches were costed after the deadline had passed")
    cut = found.num_evaluated < free.num_evaluated
    DEADLINE.holds(not (cut and found.converged), "converged is True though the deadline cut the search short")
    best = cost.value(proposals).cost.amin(1)
    true, _ = cost.of(found.actions)
    DEADLINE.holds(bool((true <= best * (1 + case.tolerance)).all()), "the best so far was not returned")


CLAUSES: tuple[Callable[[PlannerCase], None], ...] = (
    result_shapes,
    bounds,
    proposals_kept,
    best_found,
    count,
    optimum,
    batch_independent,
    deterministic,
    feasible_first,
    choices,
    deadline,
)
"""Every clause, in the order in which a report lists them."""


def _centers(case: PlannerCase) -> Float[Tensor, "B T A"]:
    """An optimum inside the space for each problem, each another."""
    return case.uniform(1, offset=7)[:, 0]
