"""Missing values (NaN) of logged arrays: masks for observations, errors for actions and other inputs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from worldline.data.checks import Finding, Severity
from worldline.errors import DataError

Array = NDArray[np.generic]


def mark_missing(values: Array) -> tuple[Array, NDArray[np.bool_] | None]:
    """Returns values without NaN, and a mask [rows] of observed rows; None if all rows are observed.

    A missing value is replaced by the last known value, else by the next one, else by 0. A row counts as observed
    only if all its components are known.

    Args:
        values: [rows, ...]
    """
    if values.dtype.kind != "f" or not len(values) or not np.isnan(values).any():
        return values, None
    table = values.reshape(len(values), -1)
    gone = np.isnan(table)
    last = np.maximum.accumulate(np.where(gone, -1, np.arange(len(table))[:, None]), axis=0)
    filled = np.take_along_axis(table, np.where(last < 0, np.argmax(~gone, axis=0), last), axis=0)
    filled[np.isnan(filled)] = 0
    observed: NDArray[np.bool_] = np.asarray(~gone.any(1))
    return filled.reshape(values.shape), observed


def partly_missing(values: Array, signal: str) -> list[Finding]:
    """Returns a warning if some rows are partly missing, because such rows count as missing.

    Args:
        values: [rows, ...] of an observation.
        signal: its name, for the warning.
    """
    if values.dtype.kind != "f" or values.ndim < 2 or not len(values):
        return []
    gone = np.isnan(values.reshape(len(values), -1))
    steps = np.flatnonzero(gone.any(1) & ~gone.all(1))
    if not len(steps):
        return []
    problem = f"some components are missing in {len(steps)} of {len(values)} rows; these rows count as missing"
    fix = "To use the other components, log the incomplete ones as separate signals."
    return [Finding(problem=problem, fix=fix, severity=Severity.WARNING, signal=signal, step=int(steps[0]))]


def check_known(values: Array, signal: str) -> None:
    """Checks that no value is NaN.

    Args:
        values: [rows, ...] of an action, exogenous signal or reward.
        signal: its name, for errors.

    Raises:
        DataError: a value is NaN; values of these roles cannot be masked.
    """
    if values.dtype.kind == "f" and len(values):
        steps = np.flatnonzero(np.isnan(values.reshape(len(values), -1)).any(1))
        if len(steps):
            fix = "Actions and other inputs must be known. Repair the log, or end the episode before this step."
            raise DataError(f"the value is missing ({len(steps)} steps)", fix=fix, signal=signal, step=int(steps[0]))
