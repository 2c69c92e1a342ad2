"""Missing values (NaN) of logged arrays: masks for observations, errors for actions and other inputs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from worldline.data.checks import Finding, warning
from worldline.errors import DataError

Array = NDArray[np.generic]

UNKNOWN_FIX = "Actions and other inputs must be known. Repair the log, or end the episode before this step."


def mark_missing(values: Array) -> tuple[Array, NDArray[np.bool_] | None]:
    """Returns values without NaN, and a mask [rows] of observed rows; None if all rows are observed.

    A missing value is replaced by the last known value, else by the next one, else by 0. A row counts as observed
    only if all its components are known.

    Args:
        values: [rows, ...]
    """
    gone = _gone(values)
    if not gone.any():
        return values, None
    columns = zip(values.reshape(len(values), -1).T, ~gone.T, strict=True)
    filled = np.stack([held(column, known) for column, known in columns], 1)
    return filled.reshape(values.shape), np.asarray(~gone.any(1))


def held(values: Array, known: NDArray[np.bool_]) -> Array:
    """Replaces each missing row by the last known one, else by the first known one, else by 0.

    Args:
        values: [rows, ...].
        known: [rows] bool.
    """
    if known.all() or not known.any():
        return values if known.all() else np.zeros_like(values)
    return values[np.maximum.accumulate(np.where(known, np.arange(len(known)), np.argmax(known)))]


def partly_missing(values: Array, signal: str) -> list[Finding]:
    """Returns a warning if some rows are partly missing, because such rows count as missing.

    Args:
        values: [rows, ...] of an observation.
        signal: its name, for the warning.
    """
    gone = _gone(values)
    steps = np.flatnonzero(gone.any(1) & ~gone.all(1))
    if not len(steps):
        return []
    problem = f"some components are missing in {len(steps)} of {len(values)} rows; these rows count as missing"
    fix = "To use the other components, log the incomplete ones as separate signals."
    return [warning(problem=problem, fix=fix, signal=signal, step=int(steps[0]))]


def check_known(values: Array, signal: str) -> None:
    """Checks that no value is NaN.

    Args:
        values: [rows, ...] of an action, exogenous signal or reward.
        signal: its name, for errors.

    Raises:
        DataError: a value is NaN; values of these roles cannot be masked.
    """
    steps = np.flatnonzero(_gone(values).any(1))
    if len(steps):
        problem = f"the value is missing ({len(steps)} steps)"
        raise DataError(problem, fix=UNKNOWN_FIX, signal=signal, step=int(steps[0]))


def _gone(values: Array) -> NDArray[np.bool_]:
    """[rows, components], True for NaN; without columns if the dtype has no NaN."""
    if values.dtype.kind != "f" or not len(values):
        return np.zeros((len(values) if values.ndim else 0, 0), np.bool_)
    return np.isnan(values.reshape(len(values), -1))
