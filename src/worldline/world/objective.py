"""The objective of a plan: cost to the goal and violation of the constraints."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from worldline.engines.base import Differentiable, Engine, EngineBelief, GoalDistance, Novelty
from worldline.episode import Arrays, Future
from worldline.errors import InputError, UnsupportedError
from worldline.planning.base import Chance, Constraint, Goal, Rollout
from worldline.planning.costs.target_error import target_cost, target_slopes
from worldline.schema import Kind
from worldline.world.calibration import Calibration
from worldline.world.prediction_errors import num_samples

Floats = NDArray[np.floating]


@dataclass(frozen=True, kw_only=True, eq=False)
class PlanCosts:
    """The costs of N plans for each of W worlds.

    Args:
        cost: [W, N], lower is better.
        violation: [W, N, C], at least 0.
        slope: gradient of the cost by each vector action [W, N, T, *shape]; None if not requested.
    """

    cost: Float[np.ndarray, "W N"]
    violation: Float[np.ndarray, "W N C"]
    slope: Arrays | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Objective:
    """Evaluates plans from one present; made by `objective`.

    Args:
        engine: predicts.
        belief: belief of W worlds.
        goal: gives costs, discount and risk.
        targets: per signal [W, *shape].
        scale: per target the error that counts as 1; empty if the cost is the distance in steps.
        constraints: C constraints.
        exogenous: per signal [W, T, *shape].
        present: as in `Rollout`.
        calibration: for `Chance` constraints and trust.
        reaches: the engine, if the cost is its distance in steps; else None.
        num_samples: S, draws per plan.
        seed: seed of the engine's draws, the same for all plans.
    """

    engine: Engine
    belief: EngineBelief
    goal: Goal
    targets: Arrays
    scale: Mapping[str, float | np.ndarray]
    constraints: Sequence[Constraint]
    exogenous: Arrays
    present: Arrays
    calibration: Calibration | None
    reaches: GoalDistance | None
    num_samples: int
    seed: int

    def evaluate(self, actions: Arrays, *, sloped: bool = False) -> PlanCosts:
        """The cost and the violations of `actions`, per signal [W, N, T, *shape].

        Args:
            actions: candidate plans.
            sloped: whether to return the gradient of the cost.

        Raises:
            InputError: a cost is not [W, N, S, T], a constraint is not [W, N] or negative, or the calibration does
                not support a `Chance`.
            UnsupportedError: a gradient is requested, but the engine is not differentiable, or the goal has more than
                vector targets.
        """
        future = Future(actions=actions, exogenous=self.exogenous)
        size = next(iter(actions.values())).shape[:3]
        violation, rollout = np.zeros((*size[:2], len(self.constraints))), None
        if self.reaches is None or self.constraints or self.goal.costs:
            rollout = self._rollout(future)
            for number in range(len(self.constraints)):
                violation[..., number] = self._violation(number, rollout, size)
        steps = self._steps(future, rollout)
        return PlanCosts(
            cost=self._total(steps, size),
            violation=violation,
            slope=self._slope(future, rollout, steps) if sloped else None,
        )

    def _slope(self, future: Future, rollout: Rollout | None, steps: Floats) -> Arrays:
        """The gradient of the total of `steps` by each vector action [W, N, T, *shape]."""
        card = self.engine.describe()
        if not isinstance(self.engine, Differentiable):
            raise UnsupportedError(
                f"{card.name} is not Differentiable, so costs have no gradient. Use the planner 'cem'."
            )
        if self.reaches is not None or rollout is None:
            raise UnsupportedError(
                "the distance in steps has no gradient. Use the planner 'cem', or set targets on predicted vector "
                "signals, without in_steps."
            )
        if self.constraints or self.goal.costs:
            raise UnsupportedError("costs and constraints have no gradient. Use the planner 'cem'.")
        discrete = [name for name in self.targets if card.schema[name].kind is not Kind.VECTOR]
        if discrete:
            raise UnsupportedError(
                f"the target {discrete[0]!r} is discrete and has no gradient. Use the planner 'cem'."
            )
        schema, weights = {name: card.schema[name] for name in self.targets}, self._weights(steps.shape[3])
        each = self._shares((steps * weights).sum(-1))[..., None] * weights  # weight of each step of each sample
        slopes = {
            name: slope * each.reshape(*each.shape, *(1,) * (slope.ndim - 4))
            for name, slope in target_slopes(rollout, self.targets, self.scale, schema).items()
        }
        return self.engine.pull_back(self.belief, future, slopes, num_samples=self.num_samples, seed=self.seed)

    def _violation(self, number: int, rollout: Rollout, size: tuple[int, ...]) -> Floats:
        constraint = self.constraints[number]
        found = np.asarray(constraint(self._banded(rollout, constraint, size[2])), dtype=float)
        if found.ndim != 2 or any(got not in (1, want) for got, want in zip(found.shape, size, strict=False)):
            raise InputError(
                f"constraint {number}: expected a violation [W, N] of shape {size[:2]}, got shape {found.shape}."
            )
        if isinstance(constraint, Chance) and np.isinf(found).any():
            raise InputError(
                f"constraint {number} must hold with probability {constraint.level}, but too few calibration windows "
                "observed one of its signals. Log more of it, or lower the level."
            )
        if (found < 0).any():
            raise InputError(
                f"constraint {number} returned the negative violation {found.min():.4g}. Return 0 where the constraint "
                "holds: use np.maximum(..., 0)."
            )
        return found

    def _rollout(self, future: Future) -> Rollout:
        samples = self.engine.imagine(self.belief, future, num_samples=self.num_samples, seed=self.seed)
        inputs = {name: value[:, :, None] for name, value in future.actions.items()}
        inputs |= {name: value[:, None, None] for name, value in future.exogenous.items()}
        signals = self.engine.describe().schema.signals
        periods = {signal.name: signal.period for signal in signals if signal.period is not None}
        return Rollout(
            signals={**inputs, **samples.signals},
            present=self.present,
            periods=periods,
            trust=partial(self._trust, future),
        )

    def _trust(self, future: Future, p_value: float) -> Floats:
        """See `Rollout.trust`."""
        calibration = self.calibration
        if calibration is None or calibration.input_novelty is not None or not isinstance(self.engine, Novelty):
            why = "it is not calibrated" if calibration is None else "its engine does not measure novelty"
            raise UnsupportedError(
                f"{self.engine.describe().name} has no trust for predicted states: {why}. Remove the costs and "
                "constraints that need it."
            )
        floor = 1 / (calibration.num_episodes + 1)
        if floor >= p_value:
            raise InputError(
                f"a cost or constraint needs p-values of {p_value}, but {calibration.num_episodes} calibration "
                f"episodes give none below {floor:.3g}. Calibrate on more episodes, or use a larger p-value."
            )
        found = self.engine.novelty_ahead(self.belief, future, seed=self.seed)
        return calibration.trust(found.reshape(-1)).reshape(found.shape)[:, :, None]

    def _banded(self, rollout: Rollout, constraint: Constraint, horizon: int) -> Rollout:
        """The rollout, with bands if the constraint is a `Chance`."""
        if not isinstance(constraint, Chance):
            return rollout
        if self.calibration is None or not self.calibration.has_error_scores:
            raise InputError(
                f"a constraint must hold with probability {constraint.level}, but the world is not calibrated. "
                "Calibrate it, or remove Chance."
            )
        margin = {
            name: self.calibration.band_half_width(name, horizon, constraint.level) for name in self.calibration.scale
        }
        return replace(rollout, margin=margin)

    def _steps(self, future: Future, rollout: Rollout | None) -> Floats:
        """The cost of each step and sample [W, N, S, T]; an axis is 1 where nothing differs along it."""
        found: Floats = np.zeros((1, 1, 1, 1))
        if self.reaches is not None:
            found = self.reaches.distance(self.belief, future, self.targets, seed=self.seed)[:, :, None]
        elif self.targets:
            assert rollout is not None
            schema = self.engine.describe().schema
            found = target_cost(rollout, self.targets, self.scale, {name: schema[name] for name in self.targets})
        for number, cost in enumerate(self.goal.costs):
            assert rollout is not None
            step = np.asarray(cost(rollout), dtype=float)
            expected = np.broadcast_shapes(*(value.shape[:4] for value in rollout.signals.values()))
            if step.ndim != 4 or any(got not in (1, want) for got, want in zip(step.shape, expected, strict=True)):
                raise InputError(
                    f"cost {number}: expected the cost of each step [W, N, S, T] of shape {expected}, got shape "
                    f"{step.shape}."
                )
            found = found + step
        return found

    def _total(self, steps: Floats, size: tuple[int, ...]) -> Float[np.ndarray, "W N"]:
        """The weighted sum over the steps, averaged over the worst share of the samples."""
        worlds, versions, horizon = size
        steps = np.broadcast_to(steps, (worlds, versions, steps.shape[2], horizon))
        cost = np.sort((steps * self._weights(horizon)).sum(-1), axis=-1)
        return np.asarray(cost[..., -self._num_worst(cost.shape[-1]) :].mean(-1))

    def _num_worst(self, num_samples: int) -> int:
        """The number of worst samples that count."""
        return math.ceil(self.goal.risk * num_samples - 1e-9)

    def _weights(self, horizon: int) -> Float[np.ndarray, " T"]:
        """The weight of each step."""
        weights = self.goal.discount ** np.arange(horizon)
        if self.goal.last_only:
            weights[:-1] = 0.0
        return np.asarray(weights)

    def _shares(self, cost: Float[np.ndarray, "W N S"]) -> Float[np.ndarray, "W N S"]:
        """The weight of each sample: equal for the worst ones, 0 for the others."""
        count = self._num_worst(cost.shape[-1])
        # Ranks instead of a threshold, so that ties never add up to more than the worst share.
        rank = cost.argsort(-1, kind="stable").argsort(-1, kind="stable")
        return np.where(rank >= cost.shape[-1] - count, 1 / count, 0.0)


def objective(
    engine: Engine,
    belief: EngineBelief,
    calibration: Calibration | None,
    goal: Goal,
    targets: Arrays,
    constraints: Sequence[Constraint],
    exogenous: Arrays,
    present: Arrays,
    *,
    seed: int,
) -> Objective:
    """The objective of a goal.

    The cost is the error to the targets. It is the distance in steps if the goal demands it or a target is not
    predicted.

    Args:
        engine: predicts.
        belief: belief of W worlds.
        calibration: gives the scale of targets without a tolerance.
        goal: gives tolerances and costs.
        targets: targets of the goal, per signal [W, *shape].
        constraints: a constraint holds where its violation is 0.
        exogenous: per signal [W, T, *shape].
        present: as in `Rollout`.
        seed: seed of the engine's draws.

    Raises:
        UnsupportedError: the distance in steps is needed and the engine has none.
        InputError: a target has no tolerance and there is no calibration.
    """
    card = engine.describe()
    by_distance = [n for n in targets if goal.in_steps or card.schema[n].kind is Kind.IMAGE or n not in card.predicts]
    reaches = engine if by_distance and isinstance(engine, GoalDistance) else None
    if reaches is not None and goal.risk < 1:
        raise InputError(
            f"the goal's risk is {goal.risk}, but the distance to {', '.join(by_distance)} is a mean over samples. "
            "Set risk to 1, or use targets that are predicted."
        )
    if by_distance and reaches is None and goal.in_steps:
        raise UnsupportedError(f"{card.name} has no distance head, which in_steps needs. Fit one, or remove in_steps.")
    if by_distance and reaches is None:
        raise UnsupportedError(
            f"{card.name} has no distance head, which a goal on {', '.join(by_distance)} needs. Fit one, or use "
            f"predicted targets: {', '.join(n for n in card.predicts if card.schema[n].kind is not Kind.IMAGE)}."
        )
    scale: dict[str, float | np.ndarray] = {}
    for name in () if by_distance else targets:
        if name in goal.tolerance:
            scale[name] = goal.tolerance[name]
        elif card.schema[name].kind is Kind.DISCRETE:
            scale[name] = 1.0
        elif calibration is not None and name in calibration.spread:
            scale[name] = calibration.tolerance(name)
        else:
            unit = card.schema[name].unit
            raise InputError(f"target {name!r} has no tolerance and the world is not calibrated. Set one in {unit}.")
    return Objective(
        engine=engine,
        belief=belief,
        goal=goal,
        targets=targets,
        scale=scale,
        constraints=constraints,
        exogenous=exogenous,
        present=present,
        calibration=calibration,
        reaches=reaches,
        num_samples=num_samples(card),
        seed=seed,
    )
