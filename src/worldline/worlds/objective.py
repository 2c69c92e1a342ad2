"""What a plan is judged by: how far it stays from the goal, and how much it breaks the constraints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from worldline.contracts.engine import Engine, EngineBelief, Future, Reaches
from worldline.contracts.episode import Arrays
from worldline.contracts.schema import Kind
from worldline.contracts.world import Constraint, Goal
from worldline.costs.goal import goal_cost
from worldline.errors import InputError, UnsupportedError
from worldline.worlds.calibration import Calibration
from worldline.worlds.pieces import num_samples


@dataclass(frozen=True, kw_only=True, eq=False)
class Judged:
    """What N plans for each of W worlds are worth.

    Args:
        cost: lower is better.
        violation: of each constraint, at least 0.
    """

    cost: Float[np.ndarray, "W N"]
    violation: Float[np.ndarray, "W N C"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Objective:
    """Judges plans from one present. Made by `objective`.

    Args:
        engine: imagines.
        belief: of W worlds.
        targets: per signal [W, *shape].
        scale: per target the error that counts as 1; empty where the distance in steps is the cost.
        constraints: C of them.
        exogenous: per signal [W, T, *shape].
        reaches: the same engine, where the distance in steps is the cost; else None.
        num_samples: S, draws for each plan.
        seed: of the engine's draws, the same for all plans.
    """

    engine: Engine
    belief: EngineBelief
    targets: Arrays
    scale: Mapping[str, float | np.ndarray]
    constraints: Sequence[Constraint]
    exogenous: Arrays
    reaches: Reaches | None
    num_samples: int
    seed: int

    def judge(self, actions: Arrays) -> Judged:
        """The cost and the violations of `actions`, per signal [W, N, T, *shape].

        Raises:
            InputError: a constraint gives something else than [W, N].
        """
        future = Future(actions=actions, exogenous=self.exogenous)
        shape = next(iter(actions.values())).shape[:2]
        violation = np.zeros((*shape, len(self.constraints)))
        if self.reaches is None or self.constraints:
            samples = self.engine.imagine(self.belief, future, num_samples=self.num_samples, seed=self.seed)
            for number, constraint in enumerate(self.constraints):
                found = np.asarray(constraint(samples))
                if found.shape != shape:
                    raise InputError(
                        f"constraint {number} gave shape {found.shape}. It must give a violation [W, N], here {shape}."
                    )
                violation[..., number] = found
        if self.reaches is not None:
            cost = self.reaches.distance(self.belief, future, self.targets).sum(-1)
        else:
            schema = self.engine.describe().schema
            signals = {name: schema[name] for name in self.targets}
            cost = goal_cost(samples, self.targets, self.scale, signals)
        return Judged(cost=np.asarray(cost), violation=violation)


def objective(
    engine: Engine,
    belief: EngineBelief,
    calibration: Calibration | None,
    goal: Goal,
    targets: Arrays,
    constraints: Sequence[Constraint],
    exogenous: Arrays,
    *,
    seed: int,
) -> Objective:
    """The objective: the error to the goal, or the distance in steps where a target is a picture or not predicted.

    Args:
        engine: imagines.
        belief: of W worlds.
        calibration: gives the scale of targets without a tolerance.
        goal: for its tolerances.
        targets: of the goal, per signal [W, *shape].
        constraints: hold where their violation is 0.
        exogenous: per signal [W, T, *shape].
        seed: of the engine's draws.

    Raises:
        UnsupportedError: the distance in steps is needed and the engine has none.
        InputError: a target has no tolerance and there is no calibration to take one from.
    """
    card = engine.describe()
    unseen = [n for n in targets if card.schema[n].kind is Kind.IMAGE or n not in card.predicts]
    reaches = engine if unseen and isinstance(engine, Reaches) else None
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
        targets=targets,
        scale=scale,
        constraints=constraints,
        exogenous=exogenous,
        reaches=reaches,
        num_samples=num_samples(card),
        seed=seed,
    )
