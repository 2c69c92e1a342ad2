"""The objective of a plan: cost to the goal and violation of the constraints."""

from __future__ import annotations

import math
from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from worldline.device import check_fork
from worldline.engines.base import Card, Engine, EngineBelief, GoalDistance
from worldline.engines.validation import check_answer
from worldline.episode import Arrays
from worldline.errors import InputError, UnknownNameError, UnreadableError, UnsupportedError
from worldline.planning.base import Chance, Constraint, Cost, Goal, Rollout
from worldline.planning.costs.rollout_signals import Numbers, exact, precise, target_cost
from worldline.planning.planners.base import PlanCosts
from worldline.schema import Kind
from worldline.training.batches import join, split, to_tensor
from worldline.world.calibration import Calibration, Floats
from worldline.world.prediction_errors import num_samples


@dataclass(frozen=True, kw_only=True, eq=False)
class Objective:
    """Maps candidate plans from one present to their costs; made by `objective`.

    Args:
        engine: predicts.
        card: of the engine.
        belief: belief of W worlds.
        goal: gives costs, reward, discount and risk.
        targets: per signal [W, *shape]; empty if the cost is the distance in steps.
        scale: per target the error that counts as 1.
        encoded_goal: the goal observation, if the cost is the distance in steps; else None.
        constraints: C constraints.
        exogenous: concatenated exogenous signals [W, T, E]; None if the schema has none.
        present: as in `Rollout`.
        calibration: for `Chance` constraints and trust.
        num_observed: number of observations that the belief holds.
        familiar_scores: sorted out-of-distribution scores of the calibration data, for trust; None without calibration.
        seed: seed of the engine's draws, the same for all plans.
        num_samples: S, the samples that a stochastic engine draws of each plan; 1 for a deterministic engine.
        all_finite: whether each candidate must have finite predictions; in a search some may not.
        margins: the bands of the levels that were needed so far. All plans of a search have one horizon.
        widening: [T, 1] or [1, 1], factor on the bands for a history or exogenous inputs outside the logged range.
        watch: called with each rollout; None for nothing.
        pending: actions [W, D, A] before each plan, which the cost includes; None for none.
        num_worlds: W.
    """

    engine: Engine
    card: Card
    belief: EngineBelief
    goal: Goal
    targets: Mapping[str, Tensor]
    scale: Mapping[str, Tensor]
    encoded_goal: object | None
    constraints: Sequence[Constraint]
    exogenous: Float[Tensor, "W T E"] | None
    present: Mapping[str, Tensor]
    calibration: Calibration | None
    num_observed: int
    familiar_scores: Float[Tensor, " K"] | None
    seed: int
    num_samples: int
    all_finite: bool = False
    margins: dict[float, Mapping[str, Tensor]] = field(default_factory=dict)
    widening: Floats | float = 1.0
    watch: Callable[[Rollout], None] | None = None
    pending: Float[Tensor, "W D A"] | None = None
    num_worlds: int = 1

    def __call__(self, actions: Float[Tensor, "W N T A"]) -> PlanCosts:
        """The cost and the violations of candidate plans; all of them read one rollout.

        Populations that do not fit into memory are rolled out in several parts.

        Raises:
            InputError: a cost is not [W, N, S, T], or a constraint is not [W, N] or negative.
            EngineError: predictions are not finite.
            UnsupportedError: a gradient is requested, but the engine does not compute with torch, or a target is
                discrete. Also if a cost or constraint needs a signal or a calibration that this world lacks, or if the
                goal needs a reward that it does not predict.
        """
        labels = [name for name in self.targets if self.card.schema[name].kind is not Kind.VECTOR]
        if actions.requires_grad and labels:
            raise UnsupportedError(f"the target {labels[0]!r} is discrete and has no gradient. Use the planner 'cem'.")
        costs, violations = list[Tensor](), list[Tensor]()
        limit = self.engine.max_candidates(self.belief, self.num_steps(actions), self.num_samples)
        with torch.set_grad_enabled(actions.requires_grad):
            for part in actions.split(limit, 1):
                size = (*part.shape[:2], self.num_steps(part))
                rollout = self.rolled_out(part)
                each = [self._violation(number, rollout, size) for number in range(len(self.constraints))]
                violations.append(torch.stack(each, -1) if each else part.new_zeros(*size[:2], 0))
                costs.append(self._total(self._steps(rollout, size), size))
        return PlanCosts(cost=torch.cat(costs, 1), violation=torch.cat(violations, 1))

    def num_steps(self, actions: Float[Tensor, "W N T A"]) -> int:
        """The number of predicted steps: pending ones and those of the plan."""
        return actions.shape[2] + (0 if self.pending is None else self.pending.shape[1])

    def rolled_out(self, actions: Float[Tensor, "W N T A"]) -> Rollout:
        """The rollout of candidate plans that costs and constraints read.

        Raises:
            EngineError: predictions are not finite.
        """
        if self.pending is not None:
            actions = torch.cat([self.pending[:, None].expand(-1, actions.shape[1], -1, -1), actions], 2)
        path = self.engine.rollout(self.belief, actions, self.exogenous, num_samples=self.num_samples, seed=self.seed)
        self._check_finite(path)
        if self.watch is not None:
            self.watch(path)
        return self._completed(path, actions)

    def _completed(self, predicted: Rollout, actions: Float[Tensor, "W N T A"]) -> Rollout:
        """The rollout of the engine with inputs, present, periods and trust."""
        schema = self.card.schema
        inputs = {name: value[:, :, None] for name, value in split(schema.actions, actions).items()}
        if self.exogenous is not None:
            inputs |= {n: value[:, None, None] for n, value in split(schema.exogenous, self.exogenous).items()}
        return replace(
            predicted,
            signals=ChainMap(inputs, predicted.signals),  # type: ignore[arg-type]  # typed as mutable, but only read
            present=self.present,
            periods={signal.name: signal.period for signal in schema.signals if signal.period is not None},
            trust=partial(self._trust, predicted),
        )

    def _check_finite(self, rollout: Rollout) -> None:
        """Raises if no candidate of a world has finite values only, or if one does not and all must."""
        for name, values in rollout.signals.items():
            finite = values.detach().isfinite()
            if finite.all():
                continue
            usable = finite.flatten(2).all(2)
            if not bool((usable.all(1) if self.all_finite else usable.any(1)).all()):
                check_answer({name: values.detach().cpu().numpy()}, self.card.name, axis=3)

    def _violation(self, number: int, rollout: Rollout, size: Sequence[int]) -> Float[Tensor, "W N"]:
        constraint, name = self.constraints[number], f"constraint {number}"
        rollout = self.with_margin(rollout, constraint, size[2])
        violation = self._evaluated(name, constraint, rollout, size[:2])
        if isinstance(constraint, Chance) and bool(violation.isinf().any()):
            raise UnsupportedError(
                f"{name} must hold with probability {constraint.level}, but too few calibration windows observed one "
                "of its signals. Log more of it, or lower the level."
            )
        if bool((violation < 0).any()):
            raise InputError(
                f"{name} returned the negative violation {float(violation.min()):.4g}. Return 0 where the constraint "
                "holds: use .clamp(min=0)."
            )
        return violation.float().expand(*size[:2])

    def _evaluated(self, name: str, rule: Cost, rollout: Rollout, shape: Sequence[int]) -> Tensor:
        """The result of a cost or constraint, which can be expanded to `shape`."""
        try:
            values = rule(rollout)
        except UnknownNameError as error:
            # Only the schema tells a signal that is not predicted from a typo.
            if error.name not in {signal.name for signal in self.card.schema.signals}:
                raise
            raise UnreadableError(
                f"{self.card.name} does not predict {error.name!r}, which a cost or constraint reads. Use signals "
                f"among {', '.join(error.known)}."
            ) from error
        if not isinstance(values, Tensor):
            raise InputError(
                f"{name} returned a {type(values).__name__}. Return a torch tensor, or wrap a NumPy function in "
                "from_numpy."
            )
        if values.ndim != len(shape) or any(got not in (1, due) for got, due in zip(values.shape, shape, strict=True)):
            axes = "[W, N, S, T]" if len(shape) == 4 else "[W, N]"
            raise InputError(f"{name}: expected shape {axes} = {tuple(shape)}, got shape {tuple(values.shape)}.")
        return values

    def _trust(self, rollout: Rollout, p_value: float) -> Float[Tensor, "W N 1 T"]:
        """See `Rollout.trust`."""
        calibration = self.calibration
        if calibration is None or calibration.input_novelty is not None or rollout.ood_score is None:
            why = "it is not calibrated" if calibration is None else "its engine does not measure novelty"
            raise UnsupportedError(
                f"{self.card.name} has no trust for predicted states: {why}. Remove the costs and constraints that "
                "need it."
            )
        effect, total = calibration.effect("novelty"), len(calibration.novelty)
        floor = effect / (effect + total)
        if floor >= p_value:
            raise UnsupportedError(
                f"a cost or constraint needs p-values of {p_value}, but {calibration.num_episodes} calibration "
                f"episodes give none below {floor:.3g}. Calibrate on more episodes, or use a larger p-value."
            )
        score = precise(rollout.ood_score())
        reference = self.familiar_scores
        assert reference is not None  # of this calibration
        higher = len(reference) - torch.searchsorted(reference, score.detach().contiguous(), side="left")
        p_values = (effect + higher) / (effect + total)
        # A p-value is a step function of the score. Its gradient is that of the line from the smallest to the largest
        # calibration score, at which the p-value is 1 and about 0.
        line = -score / (reference[-1] - reference[0]).clamp(min=torch.finfo(score.dtype).tiny)
        return (p_values.to(score) + (line - line.detach()))[:, :, None]

    def with_margin(self, rollout: Rollout, constraint: Constraint, num_steps: int) -> Rollout:
        """The rollout, with bands if the constraint is a `Chance`."""
        if not isinstance(constraint, Chance):
            return rollout
        return replace(rollout, margin=self._margin(num_steps, constraint.level))

    def _margin(self, horizon: int, level: float) -> Mapping[str, Tensor]:
        """Half the width of the bands at a level."""
        if self.calibration is None or not self.calibration.has_error_scores:
            raise UnsupportedError(
                f"a constraint must hold with probability {level}, but the world is not calibrated. Calibrate it, or "
                "remove Chance."
            )
        if level not in self.margins:
            bands = self.calibration.at(self.num_observed)
            widths = {name: self.widening * bands.band_half_width(name, horizon, level) for name in bands.scale}
            self.margins[level] = {name: exact(width, self.engine.device) for name, width in widths.items()}
        return self.margins[level]

    def _steps(self, rollout: Rollout, size: Sequence[int]) -> Float[Tensor, "W N S T"]:
        """The cost of each step and sample; an axis is 1 where nothing differs along it."""
        total = torch.zeros((1, 1, 1, 1), device=self.engine.device)
        if self.encoded_goal is not None:
            assert rollout.goal_distance is not None  # `objective` encoded the goal
            total = precise(rollout.goal_distance(self.encoded_goal))[:, :, None]
        elif self.targets:
            total = target_cost(rollout, self.targets, self.scale)
        num_drawn = max((value.shape[2] for value in rollout.signals.values()), default=1)
        for number, cost in enumerate(self.goal.costs):
            total = total + self._evaluated(f"cost {number}", cost, rollout, (*size[:2], num_drawn, size[2]))
        return total - self._reward(rollout, size) if self.goal.reward else total

    def _reward(self, rollout: Rollout, size: Sequence[int]) -> Float[Tensor, "W N 1 T"]:
        """The expected reward of each step, times the probability that no earlier step ended the episode."""
        if rollout.reward is None:
            raise UnsupportedError(
                f"{self.card.name} has no reward head, which a goal with reward=True needs. Learn it from logs with a "
                "signal of role 'reward', or use targets or costs."
            )
        reward = precise(rollout.reward()).expand(*size)
        if rollout.termination is not None:
            goes_on = (1 - precise(rollout.termination()).expand(*size)).cumprod(-1)
            reward = reward * pad(goes_on[..., :-1], (1, 0), value=1.0)
        return reward[:, :, None]

    def step_weights(self, num_steps: int, like: Tensor) -> Float[Tensor, "T"]:
        """The weight of each step in the cost, with the type and the device of `like`."""
        weights = self.goal.discount ** torch.arange(num_steps, dtype=like.dtype, device=like.device)
        if self.goal.last_only:
            weights[:-1] = 0.0
        return weights

    def _total(self, steps: Float[Tensor, "#W #N S #T"], size: Sequence[int]) -> Float[Tensor, "W N"]:
        """The weighted sum over the steps, averaged over the worst share of the samples."""
        weights = self.step_weights(size[2], steps)
        cost = (steps.expand(*size[:2], -1, size[2]) * weights).sum(-1)
        num_worst = math.ceil(self.goal.risk * cost.shape[-1] - 1e-9)
        # Ranks instead of a threshold, so that ties never add up to more than the worst share.
        return cost.sort(-1).values[..., -num_worst:].mean(-1).float()


def survivals(rollout: Rollout) -> list[NDArray[np.floating]]:
    """The probability [W, N] that no step ends the episode; none if the engine does not predict it."""
    if rollout.termination is None:
        return []
    num_worlds, num_plans, _, num_steps = next(iter(rollout.signals.values())).shape[:4]
    goes_on = 1 - rollout.termination().expand(num_worlds, num_plans, num_steps)
    return [goes_on.prod(-1).cpu().numpy()]


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
    num_observed: int,
    seed: int,
) -> Objective:
    """The objective of a goal.

    The cost is the error to the targets. It is the distance in steps if the goal demands it or a target is not
    predicted. The costs of the goal are added, and its reward is subtracted.

    Args:
        engine: predicts.
        belief: belief of W worlds.
        calibration: gives the scale of targets without a tolerance.
        goal: gives tolerances, costs and reward.
        targets: targets of the goal, per signal [W, *shape].
        constraints: a constraint holds where its violation is 0.
        exogenous: per signal [W, T, *shape].
        present: as in `Rollout`.
        num_observed: number of observations that the belief holds, for margins.
        seed: seed of the engine's draws.

    Raises:
        UnsupportedError: the distance in steps is needed, and the engine has none or `goal.risk` is below 1. Also if a
            target has no tolerance and there is no calibration.
    """
    check_fork()  # costs are torch functions, also of engines that compute with NumPy
    card = engine.describe()
    by_distance = [n for n in targets if goal.in_steps or card.schema[n].kind is Kind.IMAGE or n not in card.predicts]
    device = engine.device
    return Objective(
        engine=engine,
        card=card,
        belief=belief,
        goal=goal,
        targets={} if by_distance else {name: exact(value, device) for name, value in targets.items()},
        scale={} if by_distance else {n: exact(_scale(card, calibration, goal, n), device) for n in targets},
        encoded_goal=_encoded_goal(engine, belief, goal, targets, by_distance) if by_distance else None,
        constraints=constraints,
        exogenous=join(card.schema.exogenous, exogenous, device) if exogenous else None,
        present={name: to_tensor(value, device) for name, value in present.items()},
        calibration=calibration,
        num_observed=num_observed,
        familiar_scores=None if calibration is None else precise(exact(calibration.novelty, device)),
        seed=seed,
        num_samples=num_samples(card),
    )


def _encoded_goal(engine: Engine, belief: EngineBelief, goal: Goal, targets: Arrays, names: Sequence[str]) -> object:
    """The goal observation, for the distance in steps."""
    card = engine.describe()
    if not isinstance(engine, GoalDistance):
        raise UnsupportedError(
            f"{card.name} has no distance head, which in_steps or a goal on {', '.join(names)} needs. Fit one or "
            f"use predicted targets: {', '.join(n for n in card.predicts if card.schema[n].kind is not Kind.IMAGE)}."
        )
    if goal.risk < 1:
        raise UnsupportedError(
            f"the goal's risk is {goal.risk}, but the distance to {', '.join(names)} is a mean over samples. "
            "Set risk to 1, or use targets that are predicted."
        )
    return engine.encode_goal(belief, targets)


def _scale(card: Card, calibration: Calibration | None, goal: Goal, name: str) -> Numbers:
    """The error to a target that counts as 1."""
    signal = card.schema[name]
    if name in goal.tolerance:
        return goal.tolerance[name]
    if signal.kind is Kind.DISCRETE:
        return 1.0
    if calibration is not None and name in calibration.spread:
        return calibration.tolerance(name)
    raise UnsupportedError(
        f"target {name!r} has no tolerance and the world is not calibrated. Set one in {signal.unit}."
    )
