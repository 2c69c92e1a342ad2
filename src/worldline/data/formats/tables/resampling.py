"""Resampling of signals to a common rate, and detection of sensors that update less often than every row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import gcd, log2
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from worldline.errors import InputError

Array = NDArray[np.generic]
Rule = Literal["hold", "linear", "nearest"]

SLACK = 0.05
"""Share of a step by which a sample may be late and still count as on time, because logged times are rounded."""

USUAL_GAP = 1.5
"""In usual steps of the signal: linear interpolation does not bridge larger gaps."""

_MIN_GAPS, _MIN_LEVELS, _MIN_BITS, _REGULAR = 5, 6, 8.0, 0.9
_MIN_UNEVEN = 12


def grid_times(start_s: float, stop_s: float, rate_hz: float) -> NDArray[np.float64]:
    """Returns times from `start_s` to at most `stop_s` at `rate_hz`.

    Args:
        start_s: the first time, seconds.
        stop_s: upper limit of the last time, seconds.
        rate_hz: greater than 0.
    """
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

    Raises:
        InputError: no sample is observed, or the grid has fewer than two times.
    """
    if not observed.any() or len(grid) < 2:
        counts = f"{observed.sum()} and {len(grid)}"
        raise InputError(f"resampling needs at least 1 observed sample and 2 times, got {counts}. Give more.")
    times, values = times[observed], values[observed]
    step = float(grid[-1] - grid[0]) / (len(grid) - 1)
    if rule == "nearest":
        return _nearest(times, values, grid, step)
    if rule == "linear" and values.dtype.kind == "f":
        return _linear(times, values, grid, step)
    last = np.searchsorted(times, np.concatenate([grid[:1] - step, grid]) + SLACK * step, side="right") - 1
    return values[np.maximum(last[1:], 0)], np.diff(last) > 0


def _nearest(
    times: NDArray[np.float64], values: Array, grid: NDArray[np.float64], step: float
) -> tuple[Array, NDArray[np.bool_]]:
    after = np.searchsorted(times, grid)
    before = after - 1
    late = np.where(before >= 0, grid - times[np.maximum(before, 0)], np.inf)
    early = np.where(after < len(times), times[np.minimum(after, len(times) - 1)] - grid, np.inf)
    late[late >= step / 2] = np.inf  # half-open interval: each sample belongs to one time at most
    early[early > step / 2] = np.inf
    observed = np.isfinite(np.minimum(late, early))
    chosen = np.where(observed, np.where(early < late, after, before), before)
    return values[np.maximum(chosen, 0)], observed


def _linear(
    times: NDArray[np.float64], values: Array, grid: NDArray[np.float64], step: float
) -> tuple[Array, NDArray[np.bool_]]:
    gap_s = USUAL_GAP * float(np.median(np.diff(times))) if len(times) > 1 else 0.0
    after = np.searchsorted(times, grid - SLACK * step)
    inside = (after > 0) & (after < len(times))
    after = np.clip(after, 0, len(times) - 1)
    before = np.maximum(after - 1, 0)
    exact = np.abs(times[after] - grid) <= SLACK * step
    width = np.where(inside, times[after] - times[before], 1.0)
    weight = np.where(inside & ~exact, (grid - times[before]) / width, 0.0).reshape(-1, *[1] * (values.ndim - 1))
    start = values[np.where(exact, after, np.where(inside, before, after))].astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):  # `check_episode` reports infinite values
        drawn = start + weight * (values[after].astype(np.float64) - start)
    return drawn.astype(values.dtype), exact | (inside & (width <= gap_s * (1 + 1e-9)))


def summed(times: NDArray[np.float64], values: Array, grid: NDArray[np.float64]) -> Array:
    """Returns the sum of the samples within each step of the grid, [grid - 1, ...].

    Args:
        times: [samples] seconds, rising.
        values: [samples, ...].
        grid: [grid] seconds, evenly rising, at least two.
    """
    step = float(grid[-1] - grid[0]) / (len(grid) - 1)
    edges = np.searchsorted(times, grid - SLACK * step)
    with np.errstate(over="ignore", invalid="ignore"):
        sums = [np.sum(values[start:stop], 0, dtype=values.dtype) for start, stop in pairwise(edges.tolist())]
    return np.array(sums, values.dtype)


@dataclass(frozen=True, kw_only=True)
class Changes:
    """The changes of one signal in one episode.

    Args:
        rows: rows whose value differs from the last known one.
        sizes: difference to the last known value.
        levels: the new values.
    """

    rows: NDArray[np.intp]
    sizes: NDArray[np.float64]
    levels: NDArray[np.float64]


def changes(values: NDArray[np.number], missing: NDArray[np.bool_]) -> Changes:
    """Finds known values that differ from the previous known value.

    Args:
        values: [rows].
        missing: [rows] bool.
    """
    known = np.flatnonzero(~missing)
    table = values[known].astype(np.float64)
    moved = np.flatnonzero(table[1:] != table[:-1])
    with np.errstate(over="ignore", invalid="ignore"):  # `check_episode` reports infinite values
        sizes = np.diff(table)
    return Changes(rows=known[moved + 1], sizes=sizes[moved], levels=table[moved + 1])


def repeats(values: NDArray[np.number], missing: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Returns a mask [rows] of rows that repeat the previous known value.

    Args:
        values: [rows].
        missing: [rows] bool.
    """
    known = np.flatnonzero(~missing)
    repeated = np.zeros(len(values), np.bool_)
    table = values[known].astype(np.float64)
    repeated[known[1:]] = table[1:] == table[:-1]
    return repeated


def refresh_period(episodes: Sequence[Changes]) -> float | None:
    """Returns the number of rows between two readings of a slow sensor; None if the signal is not clearly one.

    Nearly all changes must lie on a common period of at least two rows; chance may explain this with a probability of
    at most 1 in 256. Counters (equal steps in a row) and switches between a few levels do not count.

    Args:
        episodes: changes of a floating-point signal in each episode.
    """
    gaps = np.concatenate([np.diff(episode.rows) for episode in episodes] or [np.zeros(0, np.intp)])
    if len(gaps) < _MIN_GAPS or not _varies(episodes):
        return None
    found, counts = np.unique(gaps, return_counts=True)
    common = found[np.argsort(-counts, kind="stable")][:64].tolist()
    beats = {*common, *(gcd(a, b) for a in common for b in common)}
    beat = max((k for k in beats if (gaps % k == 0).mean() >= _REGULAR), default=1)
    if beat >= 2:
        return float(beat) if len(gaps) * log2(beat) >= _MIN_BITS else None
    return _uneven_period(episodes, gaps, common[0])


def _varies(episodes: Sequence[Changes]) -> bool:
    """Whether the values look like a sensor and not like a counter, a schedule or a switch."""
    levels = np.unique(np.concatenate([episode.levels for episode in episodes]))
    if len(levels) < _MIN_LEVELS:
        return False
    sizes = np.abs(np.concatenate([episode.sizes for episode in episodes]))
    if not np.isfinite(sizes).all():
        return False
    share = sizes / max(float(sizes.max()), 1e-300)
    _, counts = np.unique(np.round(share, 6), return_counts=True)
    turns = np.concatenate([np.diff(episode.rows, 2) for episode in episodes])
    return bool(counts.max() < 0.5 * len(sizes) or (turns == 0).mean() < _REGULAR)


def _uneven_period(episodes: Sequence[Changes], gaps: NDArray[np.intp], usual: int) -> float | None:
    """Returns a period that is not a whole number of rows, so that gaps alternate (such as 3, 3 and 4)."""
    near = gaps[np.abs(gaps - usual) <= 1]
    if usual < 2 or len(gaps) < _MIN_UNEVEN or len(near) < _REGULAR * len(gaps):
        return None
    rough = float(near.mean())
    change_rows = [episode.rows for episode in episodes if len(episode.rows) > 1]
    beats = [np.concatenate([[0], np.cumsum(np.round(np.diff(rows) / rough))]) for rows in change_rows]
    period = float(gaps.sum() / sum(beat[-1] for beat in beats))
    off = max(np.ptp(rows - period * beat) for rows, beat in zip(change_rows, beats, strict=True))
    return period if period > 2 and off <= 1.5 else None
