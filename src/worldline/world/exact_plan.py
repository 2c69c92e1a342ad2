"""Plans by a convex quadratic program: exact over worlds that are linear in the actions, else Gauss-Newton steps.

If a world is linear, all predicted signals are affine in the actions. One rollout of the centre of the action space and
of one candidate per variable gives the affine map of every expression in a `ConvexCost` or `LinearConstraint`. In the
variables z, the actions scaled to [-1, 1], the program is

    minimise    the sum of w (x + J z)^2 for squares, w (x + J z) for linear costs, and w s^2 for hinges

    subject to  x + J z <= s for a hinge, x + J z <= v for a constraint, -1 <= z <= 1, and s >= 0.

w is the weight of the step. v is 0, or the smallest total violation if no plan satisfies the constraints.

Over other worlds, a Gauss-Newton step solves the same program for small changes of a plan. Of some shares of the change
to its solution it takes the best.

Source: Rawlings, Mayne, Diehl, Model Predictive Control (2017), chapters 1 and 8; the solver is DAQP (Arnstrom,
Bemporad, Axehill 2022, IEEE TAC 67(8)).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import daqp
import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from worldline.errors import UnknownNameError
from worldline.planning.base import Chance, Constraint, Rollout
from worldline.planning.costs.constraints import LinearConstraint
from worldline.planning.costs.rollout_signals import scaled_error
from worldline.planning.costs.step_costs import ConvexCost, Form
from worldline.planning.planners.base import ActionSpace, PlannedActions
from worldline.planning.planners.population import evaluated
from worldline.schema import Kind
from worldline.world.objective import Objective

Floats = NDArray[np.floating]
_Linear = tuple[list[tuple[Form, "_Affine"]], list["_Affine"]]
"""The affine costs and limits of one world."""

MAX_VARIABLES: Final = 400
"""Largest number of variables, steps times actions. One rollout has as many candidates."""
STRETCH: Final = 16.0
"""Size of the candidates' actions in half ranges. Large ones resolve small effects in single precision."""
NEWTON_CHANGE: Final = 0.05
"""The same for a Gauss-Newton step, whose map holds near the plan only."""
NEWTON_SHARES: Final = (1.0, 0.5, 0.25, 0.1)
"""Shares of the change to the program's solution that a Gauss-Newton step tries."""
NUM_TESTED: Final = 2
"""Random candidates that test whether the world is affine in the actions."""
MAX_CURVATURE: Final = 1e-3
"""Largest deviation from the affine map in this test, as a share of an expression's largest range."""
MAX_GAP: Final = 1e-3
"""Largest gap between the cost of the plan and the bound of the program, as a share of the bound."""
MAX_ROUNDING: Final = 1e-5
"""Error of the map that counts as rounding, as a share of an expression's size."""
TIGHTENING: Final = 4.0
"""Room for rounding in constraints, in errors of the map."""
OPTIMAL: Final = 1
"""Exit flag of the solver."""


@dataclass(frozen=True, kw_only=True)
class _Affine:
    """M affine expressions in the variables z of one world.

    Args:
        start: [M], their values at z = 0.
        slope: [M, n].
        weight: [M], of each in the cost; 1 in a constraint.
        rounding: largest error of the map that was found at random candidates; without any, an allowance.
    """

    start: Floats
    slope: Floats
    weight: Floats
    rounding: float

    @property
    def reach(self) -> Floats:
        """[M], the largest distance to `start` over all z in [-1, 1]."""
        return np.asarray(np.abs(self.slope).sum(1))

    def rows(self, index: NDArray[np.bool_]) -> _Affine:
        """Some of the expressions."""
        return replace(self, start=self.start[index], slope=self.slope[index], weight=self.weight[index])


@dataclass(frozen=True, kw_only=True)
class _Program:
    """The expressions of a problem at all candidates of W worlds.

    Args:
        costs: per term its form and values [W, N, S, T, K].
        limits: per constraint the values of expressions that should be at most 0.
        weights: [T], of each step in the cost.
    """

    costs: Sequence[tuple[Form, Tensor]]
    limits: Sequence[Tensor]
    weights: Floats

    def at(self, world: int, base: Floats, changes: Floats, tested: Floats) -> _Linear | None:
        """The affine maps of costs and limits of a world; None if an expression is not affine.

        Args:
            world: index of the world.
            base: [n], the variables of the first candidate.
            changes: [n], of one variable each in the next n candidates.
            tested: [M, n], the variables of the other candidates.
        """
        ones = np.ones(len(self.weights))
        costs = [(form, _affine(values, world, base, changes, tested, self.weights)) for form, values in self.costs]
        limits = [_affine(values, world, base, changes, tested, ones) for values in self.limits]
        known = [(form, term) for form, term in costs if term is not None]
        bounded = [row for row in limits if row is not None]
        return (known, bounded) if len(known) + len(bounded) == len(costs) + len(limits) else None


def exact_plan(objective: Objective, space: ActionSpace, *, horizon: int) -> PlannedActions | None:
    """The optimal plan of each world, with `PlannedActions.bound`; None if the problem is no quadratic program.

    Args:
        objective: of an engine that is linear in the actions.
        space: bounds of the actions.
        horizon: T, number of steps.
    """
    size, batch = horizon * len(space.low), objective.num_worlds
    if not is_convex(objective, space, horizon=horizon):
        return None
    # The centre of the space, one stretched candidate per variable, and random ones for the test.
    tested = np.random.default_rng(0).uniform(-1, 1, (NUM_TESTED, size))
    scaled = np.concatenate([np.zeros((1, size)), STRETCH * np.eye(size), tested])
    centre, half = (space.high + space.low) / 2, (space.high - space.low) / 2
    candidates = centre + half * torch.from_numpy(scaled).to(centre).reshape(-1, horizon, len(centre))
    program = _program(objective, candidates.expand(batch, -1, -1, -1))
    if program is None:
        return None
    plans, optima, bounds = list[Floats](), list[float](), list[float]()
    for world in range(batch):
        linear = program.at(world, np.zeros(size), np.full(size, STRETCH), tested)
        if linear is None:
            return None  # not affine
        known, bounded = linear
        # The plan keeps room for rounding in the constraints; the bound must not.
        solved, loose = _solve(known, [_tightened(row) for row in bounded], size), _solve(known, bounded, size)
        if solved is None or loose is None:
            return None
        plans.append(solved[0])
        optima.append(solved[1])
        bounds.append(loose[1])
    scaled_plans = torch.from_numpy(np.stack(plans)).to(centre).reshape(batch, horizon, len(centre))
    actions = torch.minimum(torch.maximum(centre + half * scaled_plans, space.low), space.high)
    value = objective(actions[:, None])
    cost = value.cost[:, 0]
    expected, bound = (torch.tensor(numbers, device=centre.device).to(cost) for numbers in (optima, bounds))
    if not is_close(cost, expected):
        return None  # a wrapped signal, or predictions that are affine only near the tested candidates
    return PlannedActions(
        actions=actions,
        cost=cost,
        violation=value.violation[:, 0],
        num_evaluated=len(candidates) + 1,
        finished=True,
        bound=torch.minimum(bound, cost),
    )


def newton_step(objective: Objective, space: ActionSpace, planned: PlannedActions) -> PlannedActions:
    """`planned` after a Gauss-Newton step, which never raises the total violation, or the cost at the same violation.

    Args:
        objective: convex, see `is_convex`.
        space: bounds of the actions.
        planned: the plans that change.
    """
    batch, horizon, width = planned.actions.shape
    centre, half = (space.high + space.low) / 2, (space.high - space.low) / 2
    base = ((planned.actions - centre) / half).nan_to_num().flatten(1).cpu().double().numpy()
    # The plan, and one candidate per variable with a small change away from its nearer bound.
    changes = np.where(base > 0, -NEWTON_CHANGE, NEWTON_CHANGE)
    scaled = base[:, None] + np.concatenate([0 * changes[:, None], changes[:, :, None] * np.eye(base.shape[1])], 1)
    program = _program(objective, centre + half * torch.from_numpy(scaled).to(centre).unflatten(2, (horizon, width)))
    if program is None:
        return planned
    targets = base.copy()
    for world in range(batch):
        linear = program.at(world, base[world], changes[world], np.zeros((0, base.shape[1])))
        if linear is None:
            continue
        costs, limits = linear
        solved = _solve(costs, [_tightened(limit) for limit in limits], base.shape[1])
        targets[world] = base[world] if solved is None else solved[0]
    change = half * torch.from_numpy(targets - base).to(centre).reshape(batch, 1, horizon, width)
    shares = torch.tensor((0.0, *NEWTON_SHARES)).to(centre)[:, None, None]
    tried = evaluated(objective, space, planned.actions[:, None] + shares * change)
    num_evaluated = planned.num_evaluated + scaled.shape[1] + tried.actions.shape[1]
    return tried.best(num_evaluated=num_evaluated, finished=planned.finished)


def is_convex(objective: Objective, space: ActionSpace, *, horizon: int) -> bool:
    """Whether a plan over a linear world would be a quadratic program of at most `MAX_VARIABLES` variables."""
    return (
        all(isinstance(cost, ConvexCost) for cost in objective.goal.costs)
        and all(isinstance(_inner(constraint), LinearConstraint) for constraint in objective.constraints)
        and all(objective.card.schema[name].kind is Kind.VECTOR for name in objective.targets)
        and objective.encoded_goal is None
        and not objective.goal.reward  # a reward head is a network
        and not space.choices
        and horizon * len(space.low) <= MAX_VARIABLES
    )


def is_close(cost: Tensor, bound: Tensor) -> bool:
    """Whether the costs [W] are within `MAX_GAP` of their bounds."""
    return bool((cost - bound <= MAX_GAP * bound.abs() + MAX_ROUNDING * (1 + cost.abs())).all())


def _inner(constraint: Constraint) -> Constraint:
    return constraint.constraint if isinstance(constraint, Chance) else constraint


def _program(objective: Objective, candidates: Float[Tensor, "W N T A"]) -> _Program | None:
    """The expressions of a problem; None if the candidates exceed the memory, or a signal is not predicted."""
    num_steps = objective.num_steps(candidates)
    limit = objective.engine.max_candidates(objective.belief, num_steps, objective.num_samples)
    if limit < candidates.shape[0] * candidates.shape[1]:
        return None
    rollout = objective.rolled_out(candidates)
    costs = [(cost.form, cost.expressions) for cost in objective.goal.costs if isinstance(cost, ConvexCost)]
    try:
        return _Program(
            costs=[(Form.SQUARE, values) for values in _target_expressions(objective, rollout)]
            + [(form, expressions(rollout)) for form, expressions in costs],
            limits=[_excess(objective, rule, rollout, num_steps) for rule in objective.constraints],
            weights=objective.step_weights(num_steps, candidates.double()).cpu().numpy(),
        )
    except UnknownNameError:  # the search reports it
        return None


def _target_expressions(objective: Objective, rollout: Rollout) -> list[Tensor]:
    """The errors to the targets [W, N, S, T, K], so scaled that the cost is the sum of their squares."""
    errors = [scaled_error(rollout, n, target, objective.scale) for n, target in objective.targets.items()]
    flat = [error.flatten(4) if error.ndim > 4 else error[..., None] for error in errors]
    return [error / error.shape[-1] ** 0.5 for error in flat]


def _excess(objective: Objective, constraint: Constraint, rollout: Rollout, num_steps: int) -> Tensor:
    inner = _inner(constraint)
    assert isinstance(inner, LinearConstraint)
    return inner.excess(objective.with_margin(rollout, constraint, num_steps))


def _affine(values: Tensor, world: int, base: Floats, moves: Floats, tested: Floats, weights: Floats) -> _Affine | None:
    """The affine expressions of one world, from their values [W, N, S, T, K] at all candidates; None if not affine.

    Expressions that are not finite, such as the distance to an infinite bound, are left out.
    """
    size = len(base)
    shape = (size + 1 + len(tested), -1, len(weights), values.shape[-1])
    own = values[min(world, len(values) - 1)].detach().cpu().double().expand(shape).numpy()
    flat, weight = own.reshape(len(own), -1), np.tile(np.repeat(weights / own.shape[1], own.shape[-1]), own.shape[1])
    finite = np.isfinite(flat).all(0) & (weight > 0)
    flat, weight = flat[:, finite], weight[finite]
    slope = ((flat[1 : size + 1] - flat[0]) / moves[:, None]).T
    start = flat[0] - slope @ base
    error = np.abs(flat[size + 1 :] - (start + tested @ slope.T)).max(initial=0.0)
    largest = np.abs(slope).sum(1).max(initial=0.0)
    if error > MAX_CURVATURE * largest + MAX_ROUNDING * np.abs(start).max(initial=0.0):
        return None
    rounding = error if len(tested) else MAX_CURVATURE * largest
    return _Affine(start=start, slope=slope, weight=weight, rounding=float(rounding))


def _solve(terms: Sequence[tuple[Form, _Affine]], limits: Sequence[_Affine], size: int) -> tuple[Floats, float] | None:
    """The variables [n] of the optimal plan and its cost; None if the solver fails."""
    # Hinges and limits that no plan reaches are left out.
    hinges = [term.rows(term.start + term.reach > 0) for form, term in terms if form is Form.HINGE]
    tight = [limit.rows(limit.start + limit.reach > 0) for limit in limits]
    num_hinges = sum(len(hinge.start) for hinge in hinges)
    hessian, linear, constant = np.zeros((size + num_hinges,) * 2), np.zeros(size + num_hinges), 0.0
    for form, term in terms:
        if form is Form.SQUARE:
            weighted = term.slope.T * (2 * term.weight)
            hessian[:size, :size] += weighted @ term.slope
            linear[:size] += weighted @ term.start
            constant += float(term.weight @ term.start**2)
        elif form is Form.LINEAR:
            linear[:size] += term.weight @ term.slope
            constant += float(term.weight @ term.start)
    rows, upper = np.zeros((num_hinges, size + num_hinges)), np.zeros(num_hinges)
    first = 0
    for hinge in hinges:
        own = np.arange(first, first + len(hinge.start))
        hessian[size + own, size + own] = 2 * hinge.weight
        rows[own, :size], rows[own, size + own], upper[own] = hinge.slope, -1.0, -hinge.start
        first += len(hinge.start)
    low = np.concatenate([-np.ones(size), np.zeros(num_hinges)])
    high = np.concatenate([np.ones(size), np.full(num_hinges, np.inf)])
    bounds = np.concatenate([limit.slope for limit in tight] or [np.zeros((0, size))])
    padded = np.concatenate([rows, np.pad(bounds, ((0, 0), (0, num_hinges)))])
    for violation in (np.zeros(len(tight)), None):
        allowed = _smallest_violation(tight, size) if violation is None else violation
        if allowed is None:
            return None
        ends = [amount - limit.start for amount, limit in zip(allowed, tight, strict=True)]
        variables, cost, flag = _quadratic_program(hessian, linear, padded, np.concatenate([upper, *ends]), low, high)
        if flag == OPTIMAL:
            return np.clip(variables[:size], -1, 1), cost + constant
    return None


def _tightened(limit: _Affine) -> _Affine:
    """The limit with room for rounding, so that a plan on it is not judged a violation."""
    return replace(limit, start=limit.start + TIGHTENING * limit.rounding)


def _smallest_violation(limits: Sequence[_Affine], size: int) -> Floats | None:
    """The violation of each constraint in a plan with the smallest total; None if the solver fails."""
    num = len(limits)
    rows = [np.pad(limit.slope, ((0, 0), (0, num))) for limit in limits]
    for number, row in enumerate(rows):
        row[:, size + number] = -1.0
    linear = np.concatenate([np.zeros(size), np.ones(num)])
    low, high = np.concatenate([-np.ones(size), np.zeros(num)]), np.concatenate([np.ones(size), np.full(num, np.inf)])
    upper = np.concatenate([-limit.start for limit in limits])
    variables, _, flag = _quadratic_program(np.zeros((size + num,) * 2), linear, np.concatenate(rows), upper, low, high)
    return variables[size:] * (1 + 1e-6) + 1e-9 if flag == OPTIMAL else None


def _quadratic_program(
    hessian: Floats, linear: Floats, rows: Floats, upper: Floats, low: Floats, high: Floats
) -> tuple[Floats, float, int]:
    """The solution of min x' H x / 2 + f' x with rows x <= upper and low <= x <= high, its cost and the exit flag."""
    least = np.concatenate([low, np.full(len(rows), -np.inf)])
    most, kinds = np.concatenate([high, upper]), np.zeros(len(least), np.int32)
    hessian, linear, rows = map(np.ascontiguousarray, (hessian, linear, rows))
    solved, cost, flag, _ = daqp.solve(hessian, linear, rows, most, least, kinds)
    return np.asarray(solved), float(cost), int(flag)
