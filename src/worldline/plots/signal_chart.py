"""Charts of the signals of an episode over a common time axis, with a limited number of points."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from worldline.formatting import (
    DAY_S,
    HOUR_S,
    MINUTE_S,
    NBSP,
    Number,
    number,
    percent,
    plural,
    quantity,
    tick,
    with_unit,
)
from worldline.plots.charts import ChartLine, LineChart
from worldline.plots.ticks import nice_ticks
from worldline.schema import Kind, Role, Signal

Floats = NDArray[np.float64]

MAX_POINTS: Final = 400
"""Largest number of points of a curve; more rows are binned into mean, minimum and maximum."""
MAX_CURVES: Final = 8
"""Largest number of drawn components of a vector."""
COLOURS: Final = ("world", "other0", "other3", "other4", "other2", "other1", "real", "other5")
"""Colours of the components, by names in the style sheet."""
ROLES: Final = dict(zip(Role, ("observations", "actions", "exogenous inputs", "rewards"), strict=True))
"""Headings of the charts of the signals of each role."""
_MAX_VALUE: Final = 1e300


@dataclass(frozen=True, kw_only=True)
class TimeAxis:
    """Times of the observations of an episode.

    Args:
        times: [T+1], increasing, from 0.
        unit: unit of `times`; empty if they count something.
        counted: what they count without a unit.
    """

    times: Floats
    unit: str
    counted: str = "step"

    @property
    def label(self) -> str:
        """Title of the axis."""
        return with_unit("time", self.unit) if self.unit else self.counted

    @property
    def span(self) -> tuple[float, float]:
        """Ends of the axis; they differ even for a single observation."""
        return 0.0, float(self.times[-1]) or 1.0

    @property
    def ticks(self) -> list[float]:
        """Round times within the axis; integers if they count steps."""
        low, high = self.span
        ticks = [time for time in nice_ticks(low, high, 8) if low <= time <= high * (1 + 1e-9)]
        return [time for time in ticks if self.unit or time == round(time)]

    def text(self, at: int) -> str:
        """The formatted time of observation `at`."""
        return f"{tick(float(f'{self.times[at]:.3g}'))}{NBSP}{self.unit}" if self.unit else f"step{NBSP}{number(at)}"


def time_axis(num_steps: int, step_s: float | NDArray[np.floating] | None) -> TimeAxis:
    """The times of an episode in a readable unit.

    Args:
        num_steps: T.
        step_s: seconds per step, one number or [T]; None if unknown.
    """
    if step_s is None:
        return TimeAxis(times=np.arange(num_steps + 1, dtype=np.float64), unit="")
    seconds = elapsed_s(num_steps, step_s)
    units = (("ms", 1e-3, 0.5), ("s", 1.0, 2 * MINUTE_S), ("min", MINUTE_S, 2 * HOUR_S), ("h", HOUR_S, 4 * DAY_S))
    unit, size = next(((name, size) for name, size, most in units if seconds[-1] <= most), ("d", DAY_S))
    return TimeAxis(times=seconds / size, unit=unit)


def elapsed_s(num_steps: int, step_s: float | NDArray[np.floating]) -> Floats:
    """Seconds from the start to each observation, [T+1].

    Args:
        num_steps: T.
        step_s: seconds per step, one number or [T].
    """
    if isinstance(step_s, float):
        return np.arange(num_steps + 1, dtype=np.float64) * step_s
    return np.concatenate([np.zeros(1), np.cumsum(step_s, dtype=np.float64)])


def signal_chart(signal: Signal, values: NDArray[np.generic], observed: NDArray[np.bool_], axis: TimeAxis) -> LineChart:
    """One signal of an episode as curves, the first component on top.

    Vector observations are drawn as lines. Inputs, rewards and discrete signals are constant during a step and are
    drawn as steps.

    Args:
        signal: a vector or discrete signal.
        values: [rows, C] or [rows]; T+1 rows for observations, else T. C may be smaller than the size of the signal.
        observed: [rows]; False for missing values.
        axis: time axis of the episode.
    """
    table = np.clip(values.reshape(len(values), -1)[:, :MAX_CURVES].astype(np.float64), -_MAX_VALUE, _MAX_VALUE)
    table[~observed] = np.nan
    starts = axis.times[: len(table)]
    is_input, is_discrete = signal.role is not Role.OBSERVATION, signal.kind is Kind.DISCRETE
    stops = axis.times[1:] if is_input else np.append(axis.times[1:], axis.times[-1])
    is_single = signal.size == 1 or is_discrete
    labels = [signal.name] if is_single else signal.components or [str(k) for k in range(signal.size)]
    steps = stops if is_input or is_discrete else None
    lines = [_line(labels[k], COLOURS[k], starts, steps, table[:, k]) for k in range(table.shape[1])]
    notes = []
    if not is_single and signal.size != table.shape[1]:
        notes.append(f"first {table.shape[1]} of {signal.size} components")
    if not observed.all():
        notes.append(f"{percent(1 - float(observed.mean()))} missing")
    ticks, title = axis_ticks(table, 4, whole=is_discrete), with_unit(signal.name, signal.unit)
    return LineChart(
        title=title,
        aside=", ".join(notes),
        alt=f"{title} over time: {'; '.join(_range_text(line, signal.unit, named=len(lines) > 1) for line in lines)}",
        x_label=axis.label,
        y_label="",
        lines=lines[::-1],
        x_ends=axis.span,
        y_ticks=ticks,
        tick_texts=value_names(signal, ticks) if is_discrete else (),
        gaps=_missing(starts, observed),
        heading=ROLES[signal.role],
        style="panel" if len(lines) > 1 else "panel unkeyed",
    )


def value_names(signal: Signal, ticks: Sequence[Number]) -> list[str]:
    """The names of the values of a discrete signal at these ticks; without names the numbers."""
    names = dict(enumerate(signal.components))
    return [names.get(round(value), "") if names else tick(value) for value in ticks]


def envelope_note(num_rows: int) -> str:
    """Note on the binning of this many rows; empty without binning."""
    if num_rows <= MAX_POINTS:
        return ""
    return f"Lines: mean of every {plural(_rows_per_bin(num_rows), 'step')}; bands: minimum to maximum."


def axis_ticks(table: Floats, count: int, *, whole: bool) -> list[float]:
    """Round numbers that enclose all values."""
    known = table[np.isfinite(table)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
    if whole:
        low, high = (low, high) if high > low else (max(0.0, low - 1), low + 1)
        step = -(-(high - low) // max(count - 1, 1))
        return [low + step * k for k in range(int(-(-(high - low) // step)) + 1)]
    ticks = nice_ticks(low, high, count)
    slack = 1e-9 * max(abs(low), abs(high))
    if all(a < b for a, b in pairwise(ticks)) and ticks[0] <= low + slack and ticks[-1] >= high - slack:
        return ticks
    if low < high:  # the range is too small for round numbers
        return [low, high]
    return [low - max(abs(low), 1e-300) / 2, high + max(abs(high), 1e-300) / 2]


def _rows_per_bin(num_rows: int) -> int:
    return -(-num_rows // MAX_POINTS)


def _line(label: str, colour: str, starts: Floats, stops: Floats | None, values: Floats) -> ChartLine:
    """The curve of one component; `stops` are the ends of constant values, None for a line."""
    x, y, low, high = starts, values, np.empty(0), np.empty(0)
    changes = np.empty(0, np.int64)
    if stops is not None:
        same = (values[1:] == values[:-1]) | (np.isnan(values[1:]) & np.isnan(values[:-1]))
        changes = np.flatnonzero(np.concatenate([[True], ~same]))
    if stops is not None and len(changes) <= MAX_POINTS:
        last = np.append(changes[1:], len(values)) - 1
        x, y = np.stack([starts[changes], stops[last]], 1).reshape(-1), np.repeat(values[changes], 2)
    elif len(values) > MAX_POINTS:
        first = np.arange(0, len(values), _rows_per_bin(len(values)))
        low, high = np.fmin.reduceat(values, first), np.fmax.reduceat(values, first)
        known = np.add.reduceat(~np.isnan(values), first, dtype=np.float64)
        total = np.add.reduceat(np.nan_to_num(values), first)
        y = np.divide(total, known, out=np.full(len(first), np.nan), where=known > 0)
        x = np.add.reduceat(starts, first) / np.diff(np.append(first, len(values)))
    known = values[~np.isnan(values)]
    least, mean, greatest = (float(sum_up(known)) if known.size else math.nan for sum_up in (np.min, np.mean, np.max))
    return ChartLine(label=label, style=colour, x=x, y=y, low=low, high=high, extent=(least, mean, greatest))


def _range_text(line: ChartLine, unit: str, *, named: bool) -> str:
    least, mean, greatest = line.extent
    text = "not observed" if math.isnan(mean) else f"{number(least)} to {quantity(greatest, unit)}"
    return f"{line.label} {text}" if named else text


def _missing(times: Floats, observed: NDArray[np.bool_]) -> list[tuple[float, float]]:
    """Intervals without observations; in long episodes only those of at least one bin."""
    size = _rows_per_bin(len(observed))
    first = np.arange(0, len(observed), size)
    gone = ~np.logical_or.reduceat(observed, first)
    middles = (times[first[1:] - 1] + times[first[1:]]) / 2
    edges = np.concatenate([times[:1], middles, times[-1:]])
    change = np.flatnonzero(np.diff(np.concatenate([[False], gone, [False]]).astype(np.int8)))
    return [(float(edges[a]), float(edges[b])) for a, b in zip(change[::2], change[1::2], strict=True)]
