"""Checks that every engine applies to its inputs: histories, futures and beliefs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from worldline.engines.base import EngineBelief
from worldline.episode import Arrays, Future, History
from worldline.errors import EngineError, InputError
from worldline.schema import Schema, Signal

Own = TypeVar("Own")


@dataclass(frozen=True, kw_only=True)
class FutureSize:
    """The size of a future: W worlds, N versions and T steps."""

    num_worlds: int
    num_versions: int
    horizon: int


def check_observations(steps: History, signals: Sequence[Signal]) -> tuple[int, int]:
    """The number of worlds W and of observations H.

    Args:
        steps: the history.
        signals: required signals, at least one.

    Raises:
        InputError: no signal is required, or one is missing or is not [W, H, *shape].
    """
    if not signals:
        raise InputError("the history holds no observation signal of this world. Add one.")
    first = steps.observations.get(signals[0].name)
    leading = (0, 0) if first is None or first.ndim < 2 else first.shape[:2]
    _check(steps.observations, signals, leading, "observation", "[W, H, *shape]")
    return leading[0], leading[1]


def check_inputs(steps: History, schema: Schema, length: int) -> None:
    """Checks the actions and exogenous signals of a history.

    Args:
        steps: the history.
        schema: of the world.
        length: required number of inputs: H-1 without an earlier belief, else H.

    Raises:
        InputError: an action or exogenous signal is missing or is not [W, length, *shape].
    """
    leading, layout = (len(next(iter(steps.observations.values()))), length), "[W, H-1 or H, *shape]"
    _check(steps.actions, schema.actions, leading, "action", layout)
    _check(steps.exogenous, schema.exogenous, leading, "exogenous", layout)


def check_future(future: Future, schema: Schema) -> FutureSize:
    """The size of `future`.

    Raises:
        InputError: an action or exogenous signal is missing or has another shape.
    """
    first = future.actions.get(schema.actions[0].name) if schema.actions else None
    leading = (0, 0, 0) if first is None or first.ndim < 3 else first.shape[:3]
    _check(future.actions, schema.actions, leading, "action", "[W, N, T, *shape]")
    _check(future.exogenous, schema.exogenous, (leading[0], leading[2]), "exogenous", "[W, T, *shape]")
    return FutureSize(num_worlds=leading[0], num_versions=leading[1], horizon=leading[2])


def check_answer(signals: Mapping[str, NDArray[np.generic]], engine: str, *, axis: int) -> None:
    """Checks that all values that an engine returned are finite.

    Args:
        signals: the answer.
        engine: its name.
        axis: the axis of the steps.

    Raises:
        EngineError: a value is NaN or infinite.
    """
    for name, values in signals.items():
        if not np.issubdtype(values.dtype, np.floating):
            continue
        bad = ~np.isfinite(values)
        if bad.any():
            step = int(np.nonzero(bad)[axis].min())
            value = values[tuple(places[0] for places in np.nonzero(bad))]
            raise EngineError(
                f"the engine {engine!r} returned {value} for {name!r} at step {step + 1}. Its weights may be damaged, "
                "or its inputs unlike any in its logs. Use another world.",
                step + 1,
            )


def own_belief(belief: EngineBelief, kind: type[Own]) -> Own:
    """`belief`, checked to be of the engine's own type.

    Raises:
        InputError: it has another type.
    """
    if not isinstance(belief, kind):
        raise InputError(f"belief is a {type(belief).__name__}. Pass one that this engine returned.")
    return belief


def _check(arrays: Arrays, signals: Sequence[Signal], leading: tuple[int, ...], role: str, layout: str) -> None:
    for signal in signals:
        if signal.name not in arrays:
            raise InputError(f"{role} signal {signal.name!r} is missing. Add it as {layout}, shape {signal.shape}.")
        shape = arrays[signal.name].shape
        if shape != (*leading, *signal.shape):
            raise InputError(
                f"{role} signal {signal.name!r} has shape {shape}. Give it as {layout} with *shape {signal.shape}, "
                "and the same leading sizes as the other signals."
            )
