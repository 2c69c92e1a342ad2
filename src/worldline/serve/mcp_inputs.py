"""The arguments of the MCP tools: small numbers by signal name, as a language model writes them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, FiniteFloat, WithJsonSchema

from worldline.engines.base import Card
from worldline.episode import Arrays, Episode, History
from worldline.errors import InputError, UnknownNameError, UnsupportedError
from worldline.planning.base import Chance, Constraint, Goal
from worldline.planning.costs import AtLeast, AtMost
from worldline.schema import Kind, Role, Signal

_LARGEST: Final = 1e30  # squares of larger numbers overflow float32


def _listed(value: object) -> list[Any]:
    """The rows of a signal. Stops at the first bad value, so that a long list has one short message."""
    rows = value if isinstance(value, list) else [value]
    for number, row in enumerate(rows):
        for entry in row if isinstance(row, list) else [row]:
            numeric = isinstance(entry, int | float) and not isinstance(entry, bool)
            if entry is not None and not (numeric and abs(entry) <= _LARGEST):
                raise ValueError(f"row {number} is {entry!r:.40}. Give a number, a list of numbers, or null.")
    return rows


Rows = Annotated[
    list[Any],
    BeforeValidator(_listed),
    WithJsonSchema(
        {"type": ["number", "array"], "items": {"type": ["number", "array", "null"], "items": {"type": "number"}}}
    ),
]
"""Values of one signal, a row per step: a number, or a list of numbers for a vector. A plain number is one row."""

SignalRows = dict[str, Rows]


class _Strict(BaseModel):
    """An object without unknown fields."""

    model_config = ConfigDict(extra="forbid")


class HistoryInput(_Strict):
    """Observations in the order of time, and the inputs between them."""

    observations: SignalRows = Field(description="signal -> one row per observation, oldest first; null if missing")
    actions: SignalRows = Field(
        default={}, description="signal -> one row less than observations; the last row is held; one observation: none"
    )
    exogenous: SignalRows = Field(default={}, description="known inputs such as weather, as actions")


class GoalInput(_Strict):
    """The cost of a step: squared error to the targets, divided by the squared tolerance."""

    targets: SignalRows = Field(description="observation signal -> target value, in its unit")
    tolerance: dict[str, FiniteFloat] = Field(default={}, description="signal -> error that counts as reached")
    last_only: bool = Field(default=False, description="whether only the last step counts")


class BoundInput(_Strict):
    """A bound on a signal at every step."""

    signal: str
    at_most: FiniteFloat | None = None
    at_least: FiniteFloat | None = None
    probability: float | None = Field(
        default=None, gt=0, lt=1, description="that the bound holds, by the band; null: the expected path must hold it"
    )


def history_of(card: Card, given: HistoryInput) -> History:
    """The history; null is a missing observation.

    Raises:
        InputError: a row has the wrong length.
        UnknownNameError: the world has no such signal.
        UnsupportedError: a signal is an image.
    """
    observations = _arrays(card, Role.OBSERVATION, given.observations)
    steps = max(map(len, observations.values()), default=1) - 1
    observed = {
        name: np.asarray(~np.isnan(value).any(tuple(range(1, value.ndim))))
        for name, value in observations.items()
        if value.dtype.kind == "f"
    }
    return History(
        observations=_typed(card, {name: np.nan_to_num(value) for name, value in observations.items()}),
        actions=_typed(card, _held(_arrays(card, Role.ACTION, given.actions), steps)),
        exogenous=_typed(card, _held(_arrays(card, Role.EXOGENOUS, given.exogenous), steps)),
        observed={name: mask for name, mask in observed.items() if not mask.all()},
    )


def episode_of(card: Card, given: HistoryInput) -> Episode:
    """The episode; raises as `history_of`."""
    return Episode(**vars(history_of(card, given)))


def futures_of(
    card: Card, plans: Sequence[SignalRows], exogenous: SignalRows, steps: int | None, *, limit: int
) -> tuple[list[dict[str, NDArray[Any]]], dict[str, NDArray[Any]] | None]:
    """The actions of each plan, and the exogenous values, all with the same number of rows. Last rows are held.

    Args:
        card: of the world.
        plans: actions of each plan.
        exogenous: of all plans.
        steps: number of rows; None for that of the longest input.
        limit: largest number of rows.

    Raises:
        InputError: `steps` is not between 1 and `limit`, or as in `history_of`.
    """
    groups = [_arrays(card, Role.ACTION, plan) for plan in plans]
    fixed = _arrays(card, Role.EXOGENOUS, exogenous)
    longest = max((len(value) for group in [*groups, fixed] for value in group.values()), default=0)
    count = longest if steps is None else steps
    if not 1 <= count <= limit:
        raise InputError(f"steps is {count}. Give steps between 1 and {limit}.")
    return [_typed(card, _held(group, count)) for group in groups], _typed(card, _held(fixed, count)) or None


def goal_of(card: Card, given: GoalInput) -> Goal:
    """The goal; raises as `history_of`."""
    targets = _typed(card, _arrays(card, Role.OBSERVATION, given.targets))
    for name, value in targets.items():
        if len(value) != 1:
            raise InputError(f"the target of {name!r} has {len(value)} rows. Give one value, not one per step.")
    return Goal(
        targets={name: value[0] for name, value in targets.items()},
        tolerance=given.tolerance,
        last_only=given.last_only,
    )


def constraints_of(given: Sequence[BoundInput]) -> list[Constraint]:
    """The constraints.

    Raises:
        InputError: a bound has no value.
    """
    constraints = list[Constraint]()
    for bound in given:
        sides: list[Constraint] = []
        if bound.at_most is not None:
            sides.append(AtMost(signal=bound.signal, bound=bound.at_most))
        if bound.at_least is not None:
            sides.append(AtLeast(signal=bound.signal, bound=bound.at_least))
        if not sides:
            raise InputError(f"the constraint on {bound.signal!r} has no bound. Add at_most or at_least.")
        level = bound.probability
        constraints += sides if level is None else [Chance(constraint=side, level=level) for side in sides]
    return constraints


def _held(arrays: Arrays, steps: int) -> dict[str, NDArray[Any]]:
    """The arrays with `steps` rows: the last row is held."""
    for name, value in arrays.items():
        if len(value) > steps or (steps and not len(value)):
            fix = f"1 to {steps}. Give one row per step." if steps else "none before the first step. Leave it out."
            raise InputError(f"{name!r} has {len(value)} rows, expected {fix}")
    rest = {name: np.repeat(value[-1:], steps - len(value), axis=0) for name, value in arrays.items()}
    return {name: np.concatenate([value, rest[name]]) for name, value in arrays.items()}


def _arrays(card: Card, role: Role, signal_rows: Mapping[str, list[Any]]) -> dict[str, NDArray[np.float64]]:
    """Per signal [rows, *shape]; NaN where the value is null."""
    signals = {signal.name: signal for signal in card.schema.of(role)}
    for name in signal_rows:
        if name not in signals:
            raise UnknownNameError(f"{role.value} signal", name, signals)
    return {name: _array(signals[name], rows) for name, rows in signal_rows.items()}


def _array(signal: Signal, rows: list[Any]) -> NDArray[np.float64]:
    if signal.kind is Kind.IMAGE:
        raise UnsupportedError(f"{signal.name!r} is an image. These tools take numbers: use the HTTP service.")
    size = math.prod(signal.shape)
    if size > 1 and len(rows) == size and not any(isinstance(row, list) or row is None for row in rows):
        rows = [rows]  # one row of a vector
    table = np.full((len(rows), size), np.nan)
    for number, row in enumerate(rows):
        values = row if isinstance(row, list) else [row] * size if row is None else [row]
        if len(values) != size:
            raise InputError(
                f"{signal.name!r}: row {number} has {len(values)} numbers, expected {size} [{signal.unit}]."
            )
        table[number] = [np.nan if value is None else value for value in values]
    return table.reshape(len(rows), *signal.shape)


def _typed(card: Card, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Discrete values as integers.

    Raises:
        InputError: a discrete value is not an integer.
    """
    typed = dict(arrays)
    for name, value in arrays.items():
        if card.schema[name].kind is Kind.DISCRETE:
            if not np.array_equal(value, np.round(value)):
                raise InputError(f"{name!r} is discrete, got {value.ravel()[:8].tolist()}. Give integers.")
            typed[name] = np.clip(value, -(2**53), 2**53).astype(np.int64)
    return typed
