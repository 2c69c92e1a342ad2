"""What runs of a controller are measured by: cost, violations, settling time and use of the actions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from worldline.control.controller import bounds_of
from worldline.control.imagination import Runs
from worldline.documents import convert_document, read_document
from worldline.episode import Episode
from worldline.errors import ConfigError, InputError
from worldline.planning.base import Constraint, Cost, Rollout
from worldline.planning.costs.rollout_signals import target_cost
from worldline.schema import Kind, Schema
from worldline.world.wire import MessageError, build

Floats = NDArray[np.float64]
FIX: Final = "Compare it with docs/howto/judge.md."
"""What to do about a file that is no goal."""


@dataclass(frozen=True, kw_only=True)
class RunGoal:
    """The goal of runs.

    The cost of a step is its distance to the targets, as in `planning.Goal`, plus `costs`, minus the reward.

    Args:
        targets: per observed vector its target in its unit: a number for all components, or the name of a logged
            vector of the same shape, which holds the target of each step.
        tolerance: per target the error with cost 1 per step, above 0.
        costs: further costs, as in `planning.Goal`.
        constraints: as in `World.plan`. A constraint is violated at the steps where its violation of this step is
            above 0.
        reward: whether rewards count: logged ones, and those that the world predicts. The return is minus the cost.

    Raises:
        ConfigError: there is neither a target nor a cost nor a reward, or a target has no tolerance above 0.
    """

    targets: Mapping[str, float | str] = field(default_factory=dict)
    tolerance: Mapping[str, float] = field(default_factory=dict)
    costs: Sequence[Cost] = ()
    constraints: Sequence[Constraint] = ()
    reward: bool = False

    def __post_init__(self) -> None:
        if not self.targets and not self.costs and not self.reward:
            raise ConfigError(
                "the goal has neither targets nor costs nor a reward. Add one, so that controllers can be compared."
            )
        for name, target in self.targets.items():
            if not isinstance(target, str) and not math.isfinite(target):
                raise ConfigError(f"the target of {name!r} is {target}. Give a finite number.")
            if not self.tolerance.get(name, 0.0) > 0:
                raise ConfigError(f"the target of {name!r} has no tolerance above 0. Add the error that matters.")

    def logged_targets(self, episode: Episode, schema: Schema) -> dict[str, NDArray[np.generic]]:
        """The targets [T, *shape] of the steps of a logged episode.

        Args:
            episode: with the signals that targets name.
            schema: of the runs.

        Raises:
            ConfigError: a target is no observed vector, or names a signal that was not logged or has another shape.
        """
        steps, known = episode.num_steps, {**episode.observations, **episode.exogenous}
        vectors = {signal.name: signal for signal in schema.observations if signal.kind is Kind.VECTOR}
        goals = dict[str, NDArray[np.generic]]()
        for name, target in self.targets.items():
            if name not in vectors:
                raise ConfigError(f"target {name!r} is no observed vector. Choose among {', '.join(vectors)}.")
            signal = vectors[name]
            if not isinstance(target, str):
                goals[name] = np.full((steps, *signal.shape), target, signal.dtype)
                continue
            if target not in known or known[target].shape[1:] != signal.shape:
                raise ConfigError(
                    f"the target of {name!r} is {target!r}, which is no logged signal of shape {signal.shape}. Name "
                    "an observation or an exogenous signal, or give a number."
                )
            goals[name] = known[target][:steps].astype(signal.dtype)
        return goals


class _GoalFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """See `load_goal`."""

    targets: dict[str, float | str] = {}
    tolerance: dict[str, float] = {}
    costs: list[dict[str, Any]] = []
    constraints: list[dict[str, Any]] = []
    reward: bool = False


def load_goal(path: Path | str) -> RunGoal:
    """The goal of a TOML file: `targets`, `tolerance`, `costs`, `constraints` and `reward`.

    Args:
        path: of the file. A cost or constraint is a table with its class under `rule`, such as
            `{ rule = "AtMost", signal = "temperature", bound = 30 }`.

    Raises:
        ConfigError: the file does not exist, is no TOML, or has another content.
    """
    return _goal(read_document(path, _GoalFile, FIX), str(path))


def goal_of(tree: Mapping[str, Any], path: str) -> RunGoal:
    """The goal of a tree of TOML or JSON.

    Args:
        tree: as in `load_goal`.
        path: for messages.

    Raises:
        ConfigError: it has another content.
    """
    return _goal(convert_document(tree, _GoalFile, path, FIX), path)


def _goal(read: _GoalFile, path: str) -> RunGoal:
    try:
        costs, constraints = (
            build(Sequence[Cost], getattr(read, name), [], (path, name)) for name in ("costs", "constraints")
        )
    except MessageError as error:
        raise ConfigError(str(error)) from error
    numbers: Any = {"targets": read.targets, "tolerance": read.tolerance, "reward": read.reward}
    return RunGoal(costs=costs, constraints=constraints, **numbers)


@dataclass(frozen=True, kw_only=True)
class RunFigures:
    """Figures of W runs.

    Args:
        cost: [W], mean of a step.
        step_cost: [W, T]; 0 after the end of a run.
        violated: [C, W, T], whether a constraint is violated after a step; False after the end.
        violations: [C, W], share of the steps.
        settling: [W], mean number of steps from the start, or from a change of the targets, until all errors stay
            within the tolerance. NaN without targets.
        use: [W], mean change of the actions per step, in shares of their ranges.
    """

    cost: Floats
    step_cost: Floats
    violated: NDArray[np.bool_]
    violations: Floats
    settling: Floats
    use: Floats


def run_figures(runs: Runs, goal: RunGoal, schema: Schema) -> RunFigures:
    """The figures of runs.

    Args:
        runs: to measure.
        goal: its targets are in `Runs.goals`.
        schema: of the runs.

    Raises:
        InputError: a cost or constraint does not fit the signals.
        UnknownNameError: a cost or constraint reads a signal that the runs lack.
    """
    inside, lengths = runs.inside, runs.lengths
    cost = np.zeros(inside.shape)
    if goal.targets:
        cost += _single_steps(runs, schema, lambda rollout, targets: target_cost(rollout, targets, goal.tolerance))
    for rule in goal.costs:
        values = rule(_rollout(runs, schema))
        cost += values.expand(len(lengths), 1, 1, inside.shape[1])[:, 0, 0].double().numpy()
    if goal.reward:
        if runs.rewards is None:
            raise ConfigError("the goal counts rewards, but the runs have none. Give a target or a cost.")
        cost -= runs.rewards
    cost *= inside
    violated = np.zeros((len(goal.constraints), *inside.shape), bool)
    for number, constraint in enumerate(goal.constraints):
        violated[number] = inside & (_single_steps(runs, schema, _without_targets(constraint)) > 0)
    return RunFigures(
        cost=cost.sum(1) / lengths,
        step_cost=cost,
        violated=violated,
        violations=violated.sum(2) / lengths,
        settling=_settling(runs, goal, schema) if goal.targets else np.full(len(lengths), np.nan),
        use=_use(runs, schema),
    )


def _without_targets(constraint: Constraint) -> Callable[[Rollout, Mapping[str, torch.Tensor]], torch.Tensor]:
    return lambda rollout, _: constraint(rollout)


def _rollout(runs: Runs, schema: Schema) -> Rollout:
    """The runs as one candidate of each of W worlds."""
    later = {name: value[:, 1:] for name, value in runs.observations.items()}
    signals = {**later, **runs.actions, **runs.exogenous}
    present = {**{name: value[:, 0] for name, value in runs.observations.items()}, **runs.before}
    return Rollout(
        signals={name: torch.as_tensor(value)[:, None, None] for name, value in signals.items()},
        present={name: torch.as_tensor(value) for name, value in present.items()},
        periods={signal.name: signal.period for signal in schema.signals if signal.period is not None},
    )


def _single_steps(
    runs: Runs, schema: Schema, rule: Callable[[Rollout, Mapping[str, torch.Tensor]], torch.Tensor]
) -> Floats:
    """A rule of each step alone, [W, T]: each step is a world."""
    count, steps = runs.inside.shape
    actions = {name: _shifted(value, runs.before.get(name)) for name, value in runs.actions.items()}
    before = {name: value[:, :-1] for name, value in runs.observations.items()} | actions
    whole = _rollout(runs, schema)
    flat = replace(
        whole,
        signals={name: value[:, 0, 0].flatten(0, 1)[:, None, None, None] for name, value in whole.signals.items()},
        present={name: torch.as_tensor(value).flatten(0, 1) for name, value in before.items()},
    )
    targets = {name: torch.as_tensor(value).flatten(0, 1) for name, value in runs.goals.items()}
    values = rule(flat, targets)
    if values.shape[0] not in (1, count * steps):
        raise InputError(f"a constraint returned shape {tuple(values.shape)}. Return one value per world and plan.")
    return np.asarray(values.flatten(1)[:, 0].expand(count * steps).double().numpy().reshape(count, steps))


def _shifted(actions: NDArray[np.generic], before: NDArray[np.generic] | None) -> NDArray[np.generic]:
    """The action before each step; that of the first step itself if none is known."""
    first = actions[:, 0] if before is None else before
    return np.concatenate([first[:, None], actions[:, :-1]], 1)


def _settling(runs: Runs, goal: RunGoal, schema: Schema) -> Floats:
    """See `RunFigures.settling`."""
    (count, steps), errors = runs.inside.shape, list[Floats]()
    changed = np.zeros((count, steps), bool)
    changed[:, 0] = True
    for name, target in runs.goals.items():
        error = schema[name].difference(runs.observations[name][:, 1:], target)
        errors.append(np.abs(error).reshape(count, steps, -1).max(2) / goal.tolerance[name])
        moved = np.abs(np.diff(target.astype(float), axis=1)).max(tuple(range(2, target.ndim)))
        changed[:, 1:] |= moved > 0.5 * goal.tolerance[name]
    outside, means = np.max(errors, 0) > 1, np.zeros(count)
    for w in range(count):
        starts = np.flatnonzero(changed[w] & runs.inside[w])
        parts = np.split(outside[w, : runs.lengths[w]], starts[1:])
        means[w] = np.mean([part.nonzero()[0][-1] + 1 if part.any() else 0 for part in parts])
    return means


def _use(runs: Runs, schema: Schema) -> Floats:
    """See `RunFigures.use`."""
    shares = list[Floats]()
    for signal in schema.actions:
        value = runs.actions[signal.name]
        moved = np.abs(value.astype(float) - _shifted(value, runs.before.get(signal.name)).astype(float))
        if signal.kind is Kind.DISCRETE:
            moved = (moved > 0).astype(float)
        else:
            low, high = bounds_of(signal)
            span = np.where(np.isfinite(high - low), high - low, np.ptp(value.astype(float), axis=(0, 1)))
            moved = moved / np.where(span > 0, span, 1.0)
        shares.append(moved.reshape(*moved.shape[:2], -1).mean(2))
    return np.asarray((np.mean(shares, 0) * runs.inside).sum(1) / runs.lengths)
