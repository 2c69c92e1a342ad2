"""Signals logged at their own rates, brought to one; and sensors that are slower than the rows they are logged in."""

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
"""Share of a step by which a sample may be late and still count as on time: clocks are written in round numbers."""

USUAL_GAP = 1.5
"""Times its usual step: samples further apart than that are no neighbours to draw a line between."""

_MIN_GAPS, _MIN_LEVELS, _MIN_BITS, _REGULAR = 5, 6, 8.0, 0.9
_MIN_UNEVEN = 12


@dataclass(frozen=True, kw_only=True)
class Resampled:
    """A signal at the times of a grid.

    Args:
        values: [grid, ...] in the dtype of the samples.
        observed: [grid] bool, False where the value is only held: from before, or from after ahead of the first sample.
    """

    values: Array
    observed: NDArray[np.bool_]


def grid_times(start_s: float, stop_s: float, rate_hz: float) -> NDArray[np.float64]:
    """Times from `start_s` on, `rate_hz` a second, up to `stop_s`.

    Args:
        start_s: the first of them, seconds.
        stop_s: seconds; within it lies the last of them.
        rate_hz: greater than 0.
    """
    num = int(np.floor((stop_s - start_s) * rate_hz + SLACK)) + 1
    return start_s + np.arange(max(num, 0)) / rate_hz


def resample(
    times: NDArray[np.float64],
    values: Array,
    observed: NDArray[np.bool_],
    grid: NDArray[np.float64],
    rule: Rule,
    *,
    gap_s: float | None = None,
) -> Resampled:
    """The signal at the times of the grid.

    `hold` gives the last sample at or before a time, observed where it came since the time before. `linear` gives the
    line between the neighbours, observed where they are at most `gap_s` apart; what is not of floating point is held.
    `nearest` gives the nearest sample within half a step, and holds, unobserved, where there is none.

    Args:
        times: [samples] seconds, rising.
        values: [samples, ...].
        observed: [samples] bool; the others are passed over. At least one is True.
        grid: [grid] seconds, evenly rising, at least two.
        rule: how values between samples are found.
        gap_s: seconds; None for one and a half times the usual step of the samples.

    Raises:
        InputError: nothing was observed, or the grid is too short.
    """
    if not observed.any() or len(grid) < 2:
        raise InputError(f"{observed.sum()} samples cannot be brought to {len(grid)} times. One and two are needed.")
    times, values = times[observed], values[observed]
    step = float(grid[-1] - grid[0]) / (len(grid) - 1)
    if rule == "nearest":
        return _nearest(times, values, grid, step)
    if rule == "linear" and values.dtype.kind == "f":
        usual = float(np.median(np.diff(times))) if len(times) > 1 else 0.0
        return _linear(times, values, grid, step, USUAL_GAP * usual if gap_s is None else gap_s)
    return _hold(times, values, grid, step)


def _last(times: NDArray[np.float64], grid: NDArray[np.float64], step: float) -> NDArray[np.intp]:
    """Index of the last sample at or before each time, -1 ahead of the first."""
    return np.searchsorted(times, grid + SLACK * step, side="right") - 1


def _hold(times: NDArray[np.float64], values: Array, grid: NDArray[np.float64], step: float) -> Resampled:
    last = _last(times, np.concatenate([grid[:1] - step, grid]), step)
    return Resampled(values=values[np.maximum(last[1:], 0)], observed=np.diff(last) > 0)


def _nearest(times: NDArray[np.float64], values: Array, grid: NDArray[np.float64], step: float) -> Resampled:
    after = np.searchsorted(times, grid)
    before = after - 1
    late = np.where(before >= 0, grid - times[np.maximum(before, 0)], np.inf)
    early = np.where(after < len(times), times[np.minimum(after, len(times) - 1)] - grid, np.inf)
    late[late >= step / 2] = np.inf  # half open, so that no sample counts at two times
    early[early > step / 2] = np.inf
    observed = np.isfinite(np.minimum(late, early))
    chosen = np.where(observed, np.where(early < late, after, before), before)
    return Resampled(values=values[np.maximum(chosen, 0)], observed=observed)


def _linear(
    times: NDArray[np.float64], values: Array, grid: NDArray[np.float64], step: float, gap_s: float
) -> Resampled:
    after = np.searchsorted(times, grid - SLACK * step)
    inside = (after > 0) & (after < len(times))
    after = np.clip(after, 0, len(times) - 1)
    before = np.maximum(after - 1, 0)
    exact = np.abs(times[after] - grid) <= SLACK * step
    width = np.where(inside, times[after] - times[before], 1.0)
    weight = np.where(inside & ~exact, (grid - times[before]) / width, 0.0).reshape(-1, *[1] * (values.ndim - 1))
    start = values[np.where(exact, after, np.where(inside, before, after))].astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):  # what is infinite is left for the checks
        drawn = start + weight * (values[after].astype(np.float64) - start)
    return Resampled(values=drawn.astype(values.dtype), observed=exact | (inside & (width <= gap_s * (1 + 1e-9))))


def summed(times: NDArray[np.float64], values: Array, grid: NDArray[np.float64]) -> Array:
    """What was given in each step, [grid - 1, ...]: the sum of the samples from one time of the grid to the next.

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
    """Where the values of one signal in one episode change.

    Args:
        rows: at which a value differs from the last known one.
        sizes: by how much.
        levels: the values there.
    """

    rows: NDArray[np.intp]
    sizes: NDArray[np.float64]
    levels: NDArray[np.float64]


def changes(values: NDArray[np.number], missing: NDArray[np.bool_]) -> Changes:
    """Where known values differ from the known value before.

    Args:
        values: [rows].
        missing: [rows] bool.
    """
    known = np.flatnonzero(~missing)
    table = values[known].astype(np.float64)
    moved = np.flatnonzero(table[1:] != table[:-1])
    with np.errstate(over="ignore", invalid="ignore"):  # what is infinite is left for the checks
        sizes = np.diff(table)
    return Changes(rows=known[moved + 1], sizes=sizes[moved], levels=table[moved + 1])


def repeats(values: NDArray[np.number], missing: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which rows only repeat the known value before, [rows] bool.

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
    """Rows from one reading of a sensor to the next where it is slower than the rows; None where that is not sure.

    It is sure where nearly all changes lie on one beat of at least two rows, so many of them that chance would not put
    them there (1 in 256), and where they do not look like counting (steps of one size, one after another) or like
    switching among a few levels.

    Args:
        episodes: where a signal of floating point changes in each episode.
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
    """Whether the values are those of a sensor, rather than of a counter, a schedule or a switch."""
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
    """The period where it is no whole number of rows, so that gaps such as 3, 3 and 4 take turns."""
    near = gaps[np.abs(gaps - usual) <= 1]
    if usual < 2 or len(gaps) < _MIN_UNEVEN or len(near) < _REGULAR * len(gaps):
        return None
    rough = float(near.mean())
    whole = [episode.rows for episode in episodes if len(episode.rows) > 1]
    beats = [np.concatenate([[0], np.cumsum(np.round(np.diff(rows) / rough))]) for rows in whole]
    period = float(gaps.sum() / sum(beat[-1] for beat in beats))
    off = max(np.ptp(rows - period * beat) for rows, beat in zip(whole, beats, strict=True))
    return period if period > 2 and off <= 1.5 else None
