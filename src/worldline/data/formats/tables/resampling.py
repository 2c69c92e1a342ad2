"""Resampling of signals to a common rate, and the readings of slow sensors."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import log2
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.generic]
Rule = Literal["hold", "linear", "nearest"]

SLACK = 0.05
"""Share of a step by which a sample may be late and still count as on time, because logged times are rounded."""
USUAL_GAP = 1.5
"""In usual steps of the signal: linear interpolation does not bridge larger gaps."""
MIN_GAPS, MIN_REGULAR, MIN_BITS = 5, 0.9, 8.0
"""Of a slow sensor: number of gaps between its changes, share of multiples of its period, and improbability [bits]."""


def grid_times(start_s: float, stop_s: float, rate_hz: float) -> NDArray[np.float64]:
    """Returns times from `start_s` to at most `stop_s`, in seconds, at `rate_hz`."""
    num = int(np.floor((stop_s - start_s) * rate_hz + SLACK)) + 1
    return start_s + np.arange(max(num, 0)) / rate_hz


def resample(
    times: NDArray[np.float64], values: Array, observed: NDArray[np.bool_], grid: NDArray[np.float64], rule: Rule
) -> tuple[Array, NDArray[np.bool_]]:
    """Returns a signal at the times of the grid in its dtype, and a mask [grid] of times at which it is observed.

    `hold` takes the last sample at or before a time; it counts as observed if it is newer than the previous time.
    `linear` interpolates between the neighbours. The value counts as observed if they are at most `USUAL_GAP` usual
    steps of the samples apart. Values that are not floating point are held. `nearest` takes the nearest sample within
    half a step; without one it holds the last sample, which counts as not observed. Before the first sample, its value
    is held backwards.

    Args:
        times: [samples] seconds, rising.
        values: [samples, ...].
        observed: [samples] bool, at least one True; samples with False are ignored.
        grid: [grid] seconds, evenly rising, at least two.
        rule: how values between samples are found.
    """
    times, values = times[observed], values[observed]
    step = float(grid[-1] - grid[0]) / (len(grid) - 1)
    if rule == "nearest":
        import pandas as pd

        nearest = pd.Index(times).get_indexer(grid, method="nearest", tolerance=step / 2)
        previous = np.maximum(np.searchsorted(times, grid) - 1, 0)
        return values[np.where(nearest >= 0, nearest, previous)], nearest >= 0
    if rule == "linear" and values.dtype.kind == "f":
        return _linear(times, values, grid, step)
    last = np.searchsorted(times, np.concatenate([grid[:1] - step, grid]) + SLACK * step, side="right") - 1
    return values[np.maximum(last[1:], 0)], np.diff(last) > 0


def _linear(
    times: NDArray[np.float64], values: Array, grid: NDArray[np.float64], step: float
) -> tuple[Array, NDArray[np.bool_]]:
    after = np.searchsorted(times, grid - SLACK * step)
    at, before = np.minimum(after, len(times) - 1), np.maximum(after - 1, 0)
    exact = np.abs(times[at] - grid) <= SLACK * step
    gap_s = USUAL_GAP * float(np.median(np.diff(times))) if len(times) > 1 else 0.0
    is_near = (after > 0) & (after < len(times)) & (times[at] - times[before] <= gap_s * (1 + 1e-9))
    wanted = np.where(exact, times[at], grid)
    with np.errstate(over="ignore", invalid="ignore"):  # `check_episode` reports infinite values
        components = values.reshape(len(values), -1).astype(np.float64).T
        drawn = np.stack([np.interp(wanted, times, component) for component in components], 1)
        return drawn.reshape(len(grid), *values.shape[1:]).astype(values.dtype), exact | is_near


def summed(times: NDArray[np.float64], values: Array, grid: NDArray[np.float64]) -> Array:
    """Returns the sum of the samples within each step of the grid, [grid - 1, ...].

    Args:
        times: [samples] seconds, rising.
        values: [samples, ...].
        grid: [grid] seconds, evenly rising, at least two.
    """
    step = float(grid[-1] - grid[0]) / (len(grid) - 1)
    edges = np.searchsorted(times, grid - SLACK * step).tolist()
    with np.errstate(over="ignore", invalid="ignore"):
        sums = [np.sum(values[start:stop], 0, dtype=values.dtype) for start, stop in pairwise(edges)]
    return np.array(sums, values.dtype)


def repeats(values: NDArray[np.number], missing: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Returns a mask [rows] of rows that repeat the previous known value."""
    known = np.flatnonzero(~missing)
    repeated = np.zeros(len(values), np.bool_)
    table = values[known].astype(np.float64)
    repeated[known[1:]] = table[1:] == table[:-1]
    return repeated


def refresh_period(episodes: Sequence[NDArray[np.float64]]) -> int | None:
    """Returns the number of rows between two readings of a slow sensor; None if the signal is not clearly one.

    Nearly all changes must lie on a common period of at least two rows. Chance may explain this with a probability of
    at most 1 in 256.

    Args:
        episodes: [rows] values of each episode; NaN for a missing one.
    """
    changes = [np.flatnonzero(~np.isnan(values) & ~repeats(values, np.isnan(values)))[1:] for values in episodes]
    gaps = np.concatenate([np.diff(rows) for rows in changes] or [np.zeros(0, np.intp)])
    if len(gaps) < MIN_GAPS:
        return None
    period = int(np.bincount(gaps).argmax())  # the most frequent gap; two equal readings in a row make longer ones
    is_clear = (gaps % period == 0).mean() >= MIN_REGULAR and len(gaps) * log2(period) >= MIN_BITS
    return period if period >= 2 and is_clear else None
