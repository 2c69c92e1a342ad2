"""Plan search: the space of actions, proposals, the time budget and the shortlist around a planner."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from worldline.engines.base import GoalDistance
from worldline.errors import UnsupportedError
from worldline.planning.base import Chance, Rollout
from worldline.planning.calls import PlanCall
from worldline.planning.costs.constraints import LinearConstraint
from worldline.planning.planners.base import ActionSpace, PlanCosts, PlannedActions, Planner
from worldline.planning.planners.cem import CrossEntropy
from worldline.planning.planners.population import Population, ranked
from worldline.schema import Kind, Signal
from worldline.world.base import PlanStatus
from worldline.world.exact_plan import exact_plan, is_close, is_convex, newton_step
from worldline.world.objective import Objective

MAX_PROPOSAL_SHARE: Final = 0.5
"""Largest share of the remaining budget for the engine's proposals. The rest is for the search that improves them."""
RESERVED_SHARE: Final = 0.02
"""Share of the budget that is reserved for the time after the search."""
SEARCH_SAMPLES: Final = 5
"""Samples of each sequence during the search: one per member of an ensemble of the default size."""
SHORTLIST_SIZE: Final = 8
"""Best sequences of the search that are evaluated again with all samples."""
SHORTLIST_SHARE: Final = 0.1
"""Share of the remaining budget that is reserved for this."""
NEWTON_ROOM: Final = 2.0
"""Time that must be left for a Gauss-Newton step, in the expected time of its candidates."""
MAX_PREDICTION_SHARE: Final = 0.25
"""Largest share of the budget that is reserved for `Plan.prediction`."""


def action_space(signals: tuple[Signal, ...], device: torch.device) -> ActionSpace:
    """The bounds of the action signals, concatenated in the planner's A axis.

    Raises:
        UnsupportedError: a signal lacks finite bounds.
    """
    low, high, choices = list[float](), list[float](), list[tuple[int, int]]()
    for signal in signals:
        if signal.kind is Kind.DISCRETE:
            choices.append((len(low), len(low) + signal.size))
            low += signal.size * [0.0]
            high += signal.size * [1.0]
            continue
        low += signal.low or (-np.inf,)
        high += signal.high or (np.inf,)
        if not np.isfinite([*low, *high]).all():
            raise UnsupportedError(
                f"action {signal.name!r} has no finite bounds (low {signal.low}, high {signal.high}). Set both in the "
                "schema."
            )
    lowest, highest = torch.tensor([low, high], device=device)
    return ActionSpace(low=lowest, high=highest, choices=tuple(choices))


def refusal_reason(min_trust: float, trust: float | NDArray[np.floating], what: str) -> str:
    """The reason to refuse planning; empty if the trust in `what` suffices."""
    if min_trust == 0:
        return ""
    values = np.atleast_1d(np.asarray(trust))
    if np.isnan(values).any():
        return f"the world is not calibrated, so its trust is unknown, but min_trust is {min_trust}"
    world = int(values.argmin())
    if values[world] >= min_trust:
        return ""
    where = f"of world {world} " if np.ndim(trust) else ""
    return f"the {what} {where}is out of distribution: its p-value {values[world]:.3g} is below min_trust {min_trust}"


@dataclass(frozen=True, kw_only=True)
class SearchBudget:
    """The time of a plan.

    Args:
        started_s: start on the monotonic clock.
        budget_s: seconds for the plan; None for no limit.
        prediction_s: expected duration of `Plan.prediction`, seconds.
    """

    started_s: float
    budget_s: float | None
    prediction_s: float

    def elapsed_s(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started_s

    def left_s(self, share: float = 1.0) -> float | None:
        """A share of the remaining seconds for proposals and search; None for no limit."""
        if self.budget_s is None:
            return None
        reserved_s = RESERVED_SHARE * self.budget_s + min(self.prediction_s, MAX_PREDICTION_SHARE * self.budget_s)
        return share * max(0.0, self.budget_s - reserved_s - self.elapsed_s())


def search(
    planner: Planner,
    objective: Objective,
    call: PlanCall,
    proposals: Float[Tensor, "W P T A"] | None,
    *,
    num_proposals: int,
    space: ActionSpace,
    budget: SearchBudget,
) -> PlannedActions:
    """The best sequences that the planner finds.

    Args:
        planner: searches.
        objective: costs of candidates.
        call: gives horizon, risk and seed.
        proposals: of the caller; None for none.
        num_proposals: proposals of the engine, if the cost is its distance in steps; 0 for none.
        space: bounds of the actions.
        budget: limits proposals and search.
    """
    if planner.searches and "linear" in objective.card.abilities:
        exact = exact_plan(objective, space, horizon=call.horizon)
        if exact is not None:
            return exact
    starts = _starts(objective, call, proposals, num_proposals, budget)
    # A tail of the samples needs all of them; their mean is close with a few. The best sequences are then compared
    # with all samples.
    with_few = objective.num_samples > SEARCH_SAMPLES and call.goal.risk == 1
    shortlist = _Shortlist(replace(objective, num_samples=SEARCH_SAMPLES))
    num_newton_steps = 0
    if isinstance(planner, CrossEntropy) and is_convex(objective, space, horizon=call.horizon):
        num_newton_steps = planner.num_newton_steps
        planner = replace(planner, num_gradient_steps=0) if num_newton_steps else planner
    begun_s = budget.elapsed_s()
    planned = planner.plan(
        shortlist if with_few else objective,
        space,
        batch=objective.num_worlds,
        horizon=call.horizon,
        proposals=torch.cat(starts, 1) if starts else None,
        generator=torch.Generator("cpu").manual_seed(call.seed),
        deadline_s=budget.left_s(1 - SHORTLIST_SHARE if with_few else 1.0),
    )
    search_s = budget.elapsed_s() - begun_s
    for _ in range(num_newton_steps):
        planned = _stepped(shortlist.objective if with_few else objective, space, planned, search_s, budget)
    if not with_few or budget.left_s() == 0:
        return planned
    best = planned.actions[:, None]
    if shortlist.best is not None:
        best = torch.cat([best, shortlist.best.actions], 1)
    return ranked(best, objective(best)).best(num_evaluated=planned.num_evaluated, finished=planned.finished)


def _starts(
    objective: Objective, call: PlanCall, proposals: Tensor | None, count: int, budget: SearchBudget
) -> list[Tensor]:
    """The proposals of the caller and of the engine [W, P, T, A], from which the search starts."""
    starts, engine = [proposals], objective.engine
    if objective.encoded_goal is not None and count and isinstance(engine, GoalDistance):
        belief, goal, left_s = objective.belief, objective.encoded_goal, budget.left_s(MAX_PROPOSAL_SHARE)
        proposed = engine.proposals(
            belief, goal, call.horizon, num_proposals=count, pending=objective.pending, budget_s=left_s, seed=call.seed
        )
        starts.append(proposed)
    return [start for start in starts if start is not None and start.shape[1]]


def _stepped(
    objective: Objective, space: ActionSpace, planned: PlannedActions, search_s: float, budget: SearchBudget
) -> PlannedActions:
    """`planned` after a Gauss-Newton step; unfinished if it would take longer than the time that is left."""
    if not planned.finished:
        return planned
    num_variables = planned.actions[0].numel()  # of each, one sequence is evaluated
    left_s = budget.left_s()
    if left_s is not None and left_s < NEWTON_ROOM * search_s * num_variables / planned.num_evaluated:
        return replace(planned, finished=False)
    return newton_step(objective, space, planned)


def outcome(objective: Objective, planned: PlannedActions, *, single: bool) -> tuple[PlanStatus, str]:
    """How a search ended, and why it found no plan.

    Args:
        objective: of the search.
        planned: its result.
        single: whether the history had no W axis.
    """
    violation = planned.violation.cpu().numpy()
    if (violation > 0).any():
        world, number = (int(i) for i in np.argwhere(violation > 0)[0])
        where = "" if single else f" in world {world}"
        return PlanStatus.INFEASIBLE, (
            f"no plan was found that keeps constraint {number}{where}; the best one violates it by "
            f"{violation[world, number]:.3g}{_place(objective, planned, world, number)}"
        )
    if planned.bound is not None and is_close(planned.cost, planned.bound):
        return PlanStatus.OPTIMAL, ""
    return (PlanStatus.SEARCHED if planned.finished else PlanStatus.OUT_OF_TIME), ""


def _place(objective: Objective, planned: PlannedActions, world: int, number: int) -> str:
    """The unit of a violation, its signal and step, and whether the present has it too; empty if it is not linear."""
    constraint = objective.constraints[number]
    rule = constraint.constraint if isinstance(constraint, Chance) else constraint
    if not isinstance(rule, LinearConstraint):
        return ""
    rollout = objective.rolled_out(planned.actions[:, None])
    excess = rule.excess(objective.with_margin(rollout, constraint, objective.num_steps(planned.actions[:, None])))
    step = int(excess[min(world, len(excess) - 1)].amax(-1).flatten(0, 1).amax(0).argmax()) + 1
    unit = objective.card.schema[rule.signal].unit
    text = f"{f' {unit}' if unit else ''}, in {rule.signal!r} at step {step}"
    if rule.signal not in objective.present:
        return text
    now = rule.excess(Rollout(signals={rule.signal: objective.present[rule.signal][:, None, None, None]}))
    already = float(now[min(world, len(now) - 1)].amax())
    return f"{text}. The present violates it by {already:.3g} already" if already > 0 else text


class _Shortlist:
    """A cost function that remembers the best sequences that it has evaluated."""

    def __init__(self, objective: Objective) -> None:
        self.objective = objective
        self.best: Population | None = None

    def __call__(self, actions: Float[Tensor, "W N T A"]) -> PlanCosts:
        costs = self.objective(actions)
        population = ranked(actions.detach(), costs)
        self.best = (population if self.best is None else self.best.merge(population)).first(SHORTLIST_SIZE)
        return costs
