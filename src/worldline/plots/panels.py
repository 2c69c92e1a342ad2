"""Signals of an episode as curves over a common time axis, with a limited number of points."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from worldline.formatting import DAY_S, HOUR_S, MINUTE_S, NBSP, number, percent, plural, tick, with_unit
from worldline.plots.ticks import nice_ticks
from worldline.schema import Kind, Role, Signal

Floats = NDArray[np.float64]

MAX_POINTS: Final = 400
"""Largest number of points of a curve; more rows are binned into mean, minimum and maximum."""
MAX_CURVES: Final = 8
"""Largest number of drawn components of a vector."""
COLOURS: Final = ("world", "other0", "other3", "other4", "other2", "other1", "real", "other5")
"""Colours of the components, by names in the style sheet."""
_MAX_VALUE: Final = 1e300

Style = Literal["line", "dashed", "faint", "points"]


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


@dataclass(frozen=True, kw_only=True)
class SignalCurve:
    """One component over time.

    Args:
        label: name of the component; empty to leave it out of the legend.
        colour: name of a colour in the style sheet.
        x: non-decreasing.
        y: one value per x; NaN leaves a gap.
        low: lower edge of the area around the curve: the minimum in the bin of each point, or a band. Empty for none.
        high: upper edge.
        style: how it is drawn.
    """

    label: str
    colour: str
    x: Floats
    y: Floats
    low: Floats
    high: Floats
    style: Style = "line"


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """A time interval.

    Args:
        start: in the unit of the axis.
        stop: at least `start`.
    """

    start: float
    stop: float


@dataclass(frozen=True, kw_only=True)
class Range:
    """Range of a component; NaN if no value was observed.

    Args:
        least: minimum.
        mean: mean.
        most: maximum.
    """

    least: float
    mean: float
    most: float


@dataclass(frozen=True, kw_only=True)
class SignalPanel:
    """One signal over time.

    Args:
        signal: the signal.
        title: name and unit.
        note: note for the reader; empty for none.
        curves: one per drawn component.
        ticks: ticks of the y axis; the first and last are its ends.
        tick_texts: one label per tick.
        missing: intervals without observations.
        ranges: range of each curve over all rows.
        heading: of its group of panels; empty for the role of the signal.
    """

    signal: Signal
    title: str
    note: str
    curves: tuple[SignalCurve, ...]
    ticks: tuple[float, ...]
    tick_texts: tuple[str, ...]
    missing: tuple[Stretch, ...]
    ranges: tuple[Range, ...]
    heading: str = ""


def make_panel(signal: Signal, values: NDArray[np.generic], observed: NDArray[np.bool_], axis: TimeAxis) -> SignalPanel:
    """One signal of an episode as curves.

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
    names = dict(enumerate(signal.components)) if is_discrete else {}
    labels = [signal.name] if is_single else signal.components or [str(k) for k in range(signal.size)]
    steps = stops if is_input or is_discrete else None
    curves = tuple(_curve(labels[k], COLOURS[k], starts, steps, table[:, k]) for k in range(table.shape[1]))
    ticks = axis_ticks(table, 4, whole=is_discrete)
    notes = []
    if not is_single and signal.size != table.shape[1]:
        notes.append(f"first {table.shape[1]} of {signal.size} components")
    if not observed.all():
        notes.append(f"{percent(1 - float(observed.mean()))} missing")
    return SignalPanel(
        signal=signal,
        title=with_unit(signal.name, signal.unit),
        note=", ".join(notes),
        curves=curves,
        ticks=tuple(ticks),
        tick_texts=tuple(names.get(round(tick), "") for tick in ticks) if names else tuple(tick_texts(ticks)),
        missing=_missing(starts, observed),
        ranges=tuple(_range(column[observed]) for column in table.T),
    )


def tick_texts(ticks: list[float]) -> list[str]:
    """Tick labels, as short as possible without rounding."""
    largest = max(abs(value) for value in ticks)
    if largest == 0 or 1e-4 < largest < 1e6:
        return [tick(value) for value in ticks]
    for digits in range(16):
        texts = [f"{value:.{digits}e}" for value in ticks]
        if all(abs(float(text) - value) <= 1e-12 * largest for text, value in zip(texts, ticks, strict=True)):
            break
    parts = [text.split("e") for text in texts]
    shown = [f"{mantissa}e{int(exponent)}" if float(mantissa) else "0" for mantissa, exponent in parts]
    return [text.replace("-", "−") for text in shown]


def envelope_note(num_rows: int) -> str:
    """Note on the binning of this many rows; empty without binning."""
    if num_rows <= MAX_POINTS:
        return ""
    return f"Lines: mean of every {plural(_rows_per_bin(num_rows), 'step')}; bands: minimum to maximum."


def _rows_per_bin(num_rows: int) -> int:
    return -(-num_rows // MAX_POINTS)


def _curve(label: str, colour: str, starts: Floats, stops: Floats | None, values: Floats) -> SignalCurve:
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
    return SignalCurve(label=label, colour=colour, x=x, y=y, low=low, high=high)


def _range(known: Floats) -> Range:
    if not known.size:
        return Range(least=math.nan, mean=math.nan, most=math.nan)
    return Range(least=float(known.min()), mean=float(known.mean()), most=float(known.max()))


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
    return _apart(low, high)  # the range is too small for round numbers


def _apart(low: float, high: float) -> list[float]:
    return [low, high] if low < high else [low - max(abs(low), 1e-300) / 2, high + max(abs(high), 1e-300) / 2]


def _missing(times: Floats, observed: NDArray[np.bool_]) -> tuple[Stretch, ...]:
    """Intervals without observations; in long episodes only those of at least one bin."""
    size = _rows_per_bin(len(observed))
    first = np.arange(0, len(observed), size)
    gone = ~np.logical_or.reduceat(observed, first)
    middles = (times[first[1:] - 1] + times[first[1:]]) / 2
    edges = np.concatenate([times[:1], middles, times[-1:]])
    change = np.flatnonzero(np.diff(np.concatenate([[False], gone, [False]]).astype(np.int8)))
    return tuple(
        Stretch(start=float(edges[a]), stop=float(edges[b])) for a, b in zip(change[::2], change[1::2], strict=True)
    )
