"""What a plan is judged by: how far it stays from the goal, and how much it breaks the constraints."""

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
from worldline.world.pieces import num_samples

Floats = NDArray[np.floating]


@dataclass(frozen=True, kw_only=True, eq=False)
class PlanCosts:
    """What N plans for each of W worlds are worth.

    Args:
        cost: lower is better.
        violation: of each constraint, at least 0.
        slope: how the cost changes with each vector action [W, N, T, *shape]; None where it was not asked for.
    """

    cost: Float[np.ndarray, "W N"]
    violation: Float[np.ndarray, "W N C"]
    slope: Arrays | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Objective:
    """Judges plans from one present. Made by `objective`.

    Args:
        engine: imagines.
        belief: of W worlds.
        goal: for its costs, and how steps and samples add up.
        targets: per signal [W, *shape].
        scale: per target the error that counts as 1; empty where the distance in steps is the cost.
        constraints: C of them.
        exogenous: per signal [W, T, *shape].
        present: as in `Rollout`.
        calibration: for constraints that have to hold with a probability.
        reaches: the same engine, where the distance in steps is the cost; else None.
        num_samples: S, draws for each plan.
        seed: of the engine's draws, the same for all plans.
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
        """The cost and the violations of `actions`, per signal [W, N, T, *shape]; with the slope of the cost if asked.

        Raises:
            InputError: a cost gives something else than [W, N, S, T] or a constraint than [W, N]; or one that has to
                hold with a probability asks for what the calibration does not have.
            UnsupportedError: a slope is asked for, and the engine cannot tell it, or something else counts than errors
                to vector targets.
        """
        future = Future(actions=actions, exogenous=self.exogenous)
        size = next(iter(actions.values())).shape[:3]
        violation, rollout = np.zeros((*size[:2], len(self.constraints))), None
        if self.reaches is None or self.constraints or self.goal.costs:
            rollout = self._look(future)
            for number in range(len(self.constraints)):
                violation[..., number] = self._violation(number, rollout, size)
        steps = self._steps(future, rollout)
        return PlanCosts(
            cost=self._total(steps, size),
            violation=violation,
            slope=self._slope(future, rollout, steps) if sloped else None,
        )

    def _slope(self, future: Future, rollout: Rollout | None, steps: Floats) -> Arrays:
        """How the total of `steps` changes with each vector action [W, N, T, *shape]."""
        card = self.engine.describe()
        if not isinstance(self.engine, Differentiable):
            raise UnsupportedError(
                f"{card.name} is not Differentiable: its plans have no slope. Use the planner 'cem'."
            )
        if self.reaches is not None or rollout is None:
            raise UnsupportedError(
                "the distance in steps has no slope here. Use the planner 'cem', or set targets on predicted vector "
                "signals, without in_steps."
            )
        if self.constraints or self.goal.costs:
            raise UnsupportedError("costs and constraints may be any functions, and have no slope. Use 'cem'.")
        discrete = [name for name in self.targets if card.schema[name].kind is not Kind.VECTOR]
        if discrete:
            raise UnsupportedError(f"the target {discrete[0]!r} is discrete, and has no slope. Use 'cem'.")
        schema, weights = {name: card.schema[name] for name in self.targets}, self._weights(steps.shape[3])
        each = self._shares((steps * weights).sum(-1))[..., None] * weights  # what a step of a sample counts
        slopes = {
            name: slope * each.reshape(*each.shape, *(1,) * (slope.ndim - 4))
            for name, slope in target_slopes(rollout, self.targets, self.scale, schema).items()
        }
        return self.engine.pull_back(self.belief, future, slopes, num_samples=self.num_samples, seed=self.seed)

    def _violation(self, number: int, rollout: Rollout, size: tuple[int, ...]) -> Floats:
        constraint = self.constraints[number]
        found = np.asarray(constraint(self._banded(rollout, constraint, size[2])), dtype=float)
        if found.ndim != 2 or any(have not in (1, due) for have, due in zip(found.shape, size, strict=False)):
            raise InputError(
                f"constraint {number} gave shape {found.shape}. It must give a violation [W, N], here {size[:2]}."
            )
        if isinstance(constraint, Chance) and np.isinf(found).any():
            raise InputError(
                f"constraint {number} has to hold with probability {constraint.level}, and a signal that it looks at "
                "was observed in too few of the calibration windows to tell. Log more of it, or lower the level."
            )
        if (found < 0).any():
            raise InputError(
                f"constraint {number} gave a violation of {found.min():.4g}. It must be 0 where the constraint holds: "
                "take np.maximum(..., 0)."
            )
        return found

    def _look(self, future: Future) -> Rollout:
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

    def _trust(self, future: Future, least: float) -> Floats:
        """As in `Rollout`."""
        calibration = self.calibration
        if calibration is None or calibration.input_novelty is not None or not isinstance(self.engine, Novelty):
            why = "it is not calibrated" if calibration is None else "novelty is not measured by its engine"
            raise UnsupportedError(
                f"{self.engine.describe().name} cannot tell how far to trust what it imagines: {why}. Leave out what "
                "asks for it."
            )
        floor = 1 / (calibration.num_episodes + 1)
        if floor >= least:
            raise InputError(
                f"states are to be told by a p-value of {least}, and {calibration.num_episodes} calibration episodes "
                f"give none below {floor:.3g}. Calibrate on more, or ask for a larger one."
            )
        found = self.engine.novelty_ahead(self.belief, future, seed=self.seed)
        return calibration.trust(found.reshape(-1)).reshape(found.shape)[:, :, None]

    def _banded(self, rollout: Rollout, constraint: Constraint, horizon: int) -> Rollout:
        """The outlook with the bands that a constraint needs in order to hold with a probability."""
        if not isinstance(constraint, Chance):
            return rollout
        if self.calibration is None or not self.calibration.has_error_scores:
            raise InputError(
                f"a constraint has to hold with probability {constraint.level}, and the world is not calibrated. "
                "Calibrate it, or leave out Chance."
            )
        margin = {name: self.calibration.half_width(name, horizon, constraint.level) for name in self.calibration.scale}
        return replace(rollout, margin=margin)

    def _steps(self, future: Future, rollout: Rollout | None) -> Floats:
        """The cost of each step, for every sample [W, N, S, T]; an axis is 1 where nothing differs along it."""
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
            due = np.broadcast_shapes(*(value.shape[:4] for value in rollout.signals.values()))
            if step.ndim != 4 or any(have not in (1, want) for have, want in zip(step.shape, due, strict=True)):
                raise InputError(
                    f"cost {number} gave shape {step.shape}. It must give the cost of each step [W, N, S, T], here "
                    f"{due}."
                )
            found = found + step
        return found

    def _total(self, steps: Floats, size: tuple[int, ...]) -> Float[np.ndarray, "W N"]:
        """Added up over the steps, and the mean over the worst share of the samples."""
        worlds, versions, horizon = size
        steps = np.broadcast_to(steps, (worlds, versions, steps.shape[2], horizon))
        cost = np.sort((steps * self._weights(horizon)).sum(-1), axis=-1)
        return np.asarray(cost[..., -self._num_worst(cost.shape[-1]) :].mean(-1))

    def _num_worst(self, num_samples: int) -> int:
        """How many of the samples count: the worst ones."""
        return math.ceil(self.goal.risk * num_samples - 1e-9)

    def _weights(self, horizon: int) -> Float[np.ndarray, " T"]:
        """What each step counts."""
        weights = self.goal.discount ** np.arange(horizon)
        if self.goal.last_only:
            weights[:-1] = 0.0
        return np.asarray(weights)

    def _shares(self, cost: Float[np.ndarray, "W N S"]) -> Float[np.ndarray, "W N S"]:
        """What each sample counts: the worst ones equally, the others nothing."""
        count = self._num_worst(cost.shape[-1])
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
    """The objective: the error to the goal, or the distance in steps where it says so or a target is not predicted.

    Args:
        engine: imagines.
        belief: of W worlds.
        calibration: gives the scale of targets without a tolerance.
        goal: for its tolerances and costs.
        targets: of the goal, per signal [W, *shape].
        constraints: hold where their violation is 0.
        exogenous: per signal [W, T, *shape].
        present: as in `Rollout`.
        seed: of the engine's draws.

    Raises:
        UnsupportedError: the distance in steps is needed and the engine has none.
        InputError: a target has no tolerance and there is no calibration to take one from.
    """
    card = engine.describe()
    unseen = [n for n in targets if goal.in_steps or card.schema[n].kind is Kind.IMAGE or n not in card.predicts]
    reaches = engine if unseen and isinstance(engine, GoalDistance) else None
    if reaches is not None and goal.risk < 1:
        raise InputError(
            f"the goal's risk is {goal.risk}, and the distance to {', '.join(unseen)} is a mean over samples. Leave "
            "risk at 1, or name targets that are predicted."
        )
    if unseen and reaches is None and goal.in_steps:
        raise UnsupportedError(
            f"{card.name} has no distance head, which in_steps needs. Fit one, or leave in_steps out."
        )
    if unseen and reaches is None:
        raise UnsupportedError(
            f"{card.name} has no distance head, which a goal on {', '.join(unseen)} needs. Fit one, or name targets "
            f"that it predicts: {', '.join(n for n in card.predicts if card.schema[n].kind is not Kind.IMAGE)}."
        )
    scale: dict[str, float | np.ndarray] = {}
    for name in () if unseen else targets:
        if name in goal.tolerance:
            scale[name] = goal.tolerance[name]
        elif card.schema[name].kind is Kind.DISCRETE:
            scale[name] = 1.0
        elif calibration is not None and name in calibration.spread:
            scale[name] = calibration.tolerance(name)
        else:
            unit = card.schema[name].unit
            raise InputError(f"target {name!r} has no tolerance, and the world is not calibrated. Give one in {unit}.")
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
