"""From arrays as someone logged them to an `Episode` in the schema's shapes and dtypes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from worldline.episode import Arrays, Episode
from worldline.schema import Kind, Role, Schema, Signal

Array = NDArray[np.generic]


def to_episode(
    arrays: Arrays,
    schema: Schema,
    *,
    observed: Arrays | None = None,
    terminated: bool = False,
    truncated: bool = True,
    seed: int | None = None,
    step_s: NDArray[np.float32] | None = None,
) -> Episode:
    """The episode in `arrays`, each sorted by the role of its signal and converted where that loses nothing.

    What does not fit the schema is left as it is, for `check_episode` to name.

    Args:
        arrays: by signal name, T+1 rows of observations and T of everything else; others are left out.
        schema: of the episode.
        observed: see `Episode`.
        terminated: see `Episode`.
        truncated: see `Episode`.
        seed: see `Episode`.
        step_s: see `Episode`.
    """
    found: dict[Role, dict[str, Array]] = {role: {} for role in Role}
    for signal in schema.signals:
        if signal.name in arrays:
            found[signal.role][signal.name] = convert(arrays[signal.name], signal)
    return Episode(
        observations=found[Role.OBSERVATION],
        actions=found[Role.ACTION],
        exogenous=found[Role.EXOGENOUS],
        rewards=found[Role.REWARD],
        observed=observed or {},
        terminated=terminated,
        truncated=truncated,
        seed=seed,
        step_s=step_s,
    )


def steps_s(times: Array, step_s: float | None) -> NDArray[np.float32] | None:
    """Seconds that each step took, [T]; None where all are within 1 % of the schema's.

    Args:
        times: [T+1] seconds.
        step_s: of the schema.
    """
    gaps = np.diff(times.reshape(-1).astype(np.float64))
    if step_s is not None and (np.abs(gaps - step_s) <= 0.01 * step_s).all():
        return None
    return gaps.astype(np.float32)


def convert(values: Array, signal: Signal) -> Array:
    """`values` in the shape and dtype of `signal` where that only rounds them to its precision, else as they are.

    Args:
        values: [rows, ...] as logged.
        signal: what they should become.
    """
    if signal.kind is Kind.IMAGE and signal.shape[2] == 1 and values.ndim == 3:
        return values[..., None]
    shape = values.shape[1:]
    same = (*shape, 1) == signal.shape if signal.kind is Kind.IMAGE else np.prod(shape) == np.prod(signal.shape)
    if values.ndim and same and shape != signal.shape:
        values = values.reshape(len(values), *signal.shape)
    if signal.kind is Kind.DISCRETE and values.dtype.kind in "iub":
        return values.astype(np.int64)
    if signal.kind is Kind.VECTOR and values.dtype.kind == "f":
        with np.errstate(over="ignore"):  # what it cannot hold becomes infinite, which the checks report
            return values.astype(signal.dtype)
    if signal.kind is Kind.VECTOR and values.dtype.kind in "iub":
        exact = values.astype(signal.dtype)
        with np.errstate(invalid="ignore"):  # what is out of range is not equal, which is what is asked
            return exact if np.array_equal(exact.astype(values.dtype), values) else values
    return values
