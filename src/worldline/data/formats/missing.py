"""Missing values of logged arrays: masks for observations, errors for what must be known."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from worldline.data.checks import Finding, Severity
from worldline.errors import DataError

Array = NDArray[np.generic]


def mark_missing(values: Array) -> tuple[Array, NDArray[np.bool_] | None]:
    """Values without NaN, and where a row was observed, [rows]; None where all were.

    A missing value becomes the last one before it, else the first one after it, else 0; a row counts as observed
    only where all of it is known.

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
    """A warning where only a part of some rows is missing, since all of these rows then count as missing.

    Args:
        values: [rows, ...] of an observation.
        signal: named in the warning.
    """
    if values.dtype.kind != "f" or values.ndim < 2 or not len(values):
        return []
    gone = np.isnan(values.reshape(len(values), -1))
    steps = np.flatnonzero(gone.any(1) & ~gone.all(1))
    if not len(steps):
        return []
    problem = f"a part of it is missing in {len(steps)} of {len(values)} rows, which count as missing altogether"
    fix = "To use the rest, make signals of their own of the parts that are missing."
    return [Finding(problem=problem, fix=fix, severity=Severity.WARNING, signal=signal, step=int(steps[0]))]


def check_known(values: Array, signal: str) -> None:
    """Nothing where no value is NaN.

    Args:
        values: [rows, ...] of an action, exogenous signal or reward.
        signal: named in errors.

    Raises:
        DataError: one is; these cannot be marked as missing.
    """
    if values.dtype.kind == "f" and len(values):
        steps = np.flatnonzero(np.isnan(values.reshape(len(values), -1)).any(1))
        if len(steps):
            fix = "Actions and other inputs must be known: repair the log, or cut the episode there."
            raise DataError(f"the value is missing ({len(steps)} steps)", fix=fix, signal=signal, step=int(steps[0]))
