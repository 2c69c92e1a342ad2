"""Times of rows: conversion to seconds with the assumptions made, resampling to a common rate, and slow sensors."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import log2
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from worldline.data.formats.tables.columns import Column, ColumnTable, as_numbers
from worldline.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

TIME_NAMES: Final = (
    *("time", "timestamp", "timestamps", "t", "datetime", "date_time", "date", "clock", "elapsed", "seconds"),
    *("zeit", "zeitstempel", "datum", "tiempo", "fecha", "hora", "temps", "heure", "horodatage"),
)
SECONDS = {"s": 1.0, "sec": 1.0, "second": 1.0, "seconds": 1.0, "ms": 1e-3, "msec": 1e-3, "milliseconds": 1e-3}
SECONDS |= {"us": 1e-6, "µs": 1e-6, "microseconds": 1e-6, "ns": 1e-9, "nanoseconds": 1e-9}
SECONDS |= {"min": 60.0, "minutes": 60.0, "h": 3600.0, "hours": 3600.0, "d": 86400.0, "days": 86400.0}
"""Seconds per unit, for units in headers and at the end of names such as `time_ms`."""

_ZONE = r":\d\d\S*\s*(?:Z|UTC|[+-]\d\d:?\d\d)$"
_ISO: Final = "ISO8601"
_READ: Final = {"errors": "coerce", "utc": True}
_MAX_SECONDS = 1e12  # larger values are damaged

EPOCHS = ((1e8, 1e11, "s", 1.0), (1e11, 1e14, "ms", 1e-3), (1e14, 1e17, "us", 1e-6), (1e17, 1e20, "ns", 1e-9))
"""Numbers in [first, second) are dates since 1970 in this unit; the ranges cover 1973 to 5138."""
Array = NDArray[np.generic]
Rule = Literal["hold", "linear", "nearest"]

SLACK = 0.05
"""Share of a step by which a sample may be late and still count as on time, because logged times are rounded."""

USUAL_GAP = 1.5
"""In usual steps of the signal: linear interpolation does not bridge larger gaps."""

MIN_GAPS, MIN_REGULAR, MIN_BITS = 5, 0.9, 8.0
"""Of a slow sensor: number of gaps between its changes, share of multiples of its period, and improbability [bits]."""


@dataclass(frozen=True, kw_only=True)
class Times:
    """The times of a table's rows.

    Args:
        name: of the column.
        seconds: [rows]; for dates, since the first valid row; NaN if the cell is missing or not a time.
        start_s: offset from `seconds` to the column's own seconds (for dates, those since 1970).
        is_date: whether the column holds dates, so that its zero is far from the first row.
        assumption: what was assumed, as a full sentence.
    """

    name: str
    seconds: NDArray[np.float64]
    start_s: float
    is_date: bool
    assumption: str


def time_names(columns: Mapping[str, Column]) -> list[str]:
    """Returns the names of columns that look like times, the most likely first."""
    rank = {name: number for number, name in enumerate(TIME_NAMES)}
    likely = [name for name, column in columns.items() if _word(name) in rank or column.values.dtype.kind == "M"]
    return sorted(likely, key=lambda name: rank.get(_word(name), len(rank)))


def read_times(table: ColumnTable, requested: str | None) -> Times | None:
    """Returns the times of the rows; None if no column has the name of a time.

    Args:
        table: of one file.
        requested: name of the column; None to look for one by name.

    Raises:
        DataError: the requested column does not exist, or the column does not hold times.
    """
    name = requested if requested is not None else next(iter(time_names(table.columns)), None)
    if name is None:
        return None
    if (column := table.columns.get(name)) is None:
        problem = f"the table has no column of times {name!r}; its columns are {', '.join(table.columns)}"
        raise DataError(problem, fix="Name one of them.", file=table.file)
    how = ""
    if column.values.dtype.kind == "O" and not column.is_empty:
        column, how = _parsed(column, table)
    if column.values.ndim != 1 or column.values.dtype.kind not in "iufMm":
        problem = f"the column of times holds neither numbers nor dates (dtype {column.values.dtype})"
        fix = "Write seconds or ISO dates, or name another column of times."
        raise DataError(problem, fix=fix, file=table.file, signal=name)
    if column.values.dtype.kind == "m":
        column = _with_date(column, table)
    times = _times(column)
    return replace(times, assumption=f"{times.assumption[:-1]}{how}.") if how else times


def _word(name: str) -> str:
    """Returns the name in lower case, without a unit at its end; "T" stays, because it is a temperature."""
    head, _, tail = name.lower().rpartition("_")
    return head if head and tail in SECONDS else name if name == "T" else name.lower()


def _times(column: Column) -> Times:
    """Converts a column of numbers, dates or durations."""
    values, missing = column.values, column.missing
    values = values.astype(np.int64) if values.dtype.kind == "u" else values
    if values.dtype.kind == "f":
        missing = missing | ~np.isfinite(values)
        values = np.where(missing, 0.0, values)
    if values.dtype.kind in "Mm":
        scale = SECONDS[values.dtype.str.partition("[")[2].rstrip("]")]
        is_date = values.dtype.kind == "M"
        values = values.astype(np.int64)
        assumption = f"{column.name}: read as {'dates' if is_date else 'times of day or durations'}."
    else:
        scale, is_date, assumption = _scale(column)
    start_s = 0.0
    # Subtract the first date as an integer: seconds since 1970 in float64 would lose precision.
    if is_date and not missing.all():
        first = values[np.argmin(missing)]
        values, start_s = np.subtract(values, first), float(first) * scale
    seconds = values.astype(np.float64) * scale
    seconds[missing | ~(np.abs(seconds) < _MAX_SECONDS)] = np.nan
    return Times(name=column.name, seconds=seconds, start_s=start_s, is_date=is_date, assumption=assumption)


def _scale(column: Column) -> tuple[float, bool, str]:
    """Returns seconds per unit, whether the numbers are dates, and a sentence about it."""
    known = column.values[~column.missing].astype(np.float64)
    size = float(np.median(np.abs(known))) if len(known) else 0.0
    head, _, tail = column.name.rpartition("_")
    unit = column.unit if column.unit in SECONDS else tail if head and tail in SECONDS else None
    if unit is not None:
        scale = SECONDS[unit]
        return scale, size * scale >= EPOCHS[0][0], f"{column.name}: read as times in {unit}, the unit of its header."
    for low, high, unit, scale in EPOCHS:
        if low <= size < high:
            return scale, True, f"{column.name}: read as {unit} since 1970, because its numbers are so large."
    return 1.0, False, f"{column.name}: read as seconds."


def _parsed(column: Column, table: ColumnTable) -> tuple[Column, str]:
    """Parses texts as numbers or dates, and returns an assumption; a minority of unreadable cells counts as missing."""
    stamps, bad = as_numbers(column)
    values: NDArray[np.generic] = stamps
    how = ""
    if 2 * bad.sum() > (~column.missing).sum():
        values, bad, how = _dates(column, table)
    if 2 * bad.sum() > (~column.missing).sum():
        row = int(np.argmax(bad))
        problem = f"row {row} (from 0) of the column of times is {column.values[row]!r}"
        fix = "Write times in seconds, or as dates such as 2024-05-31T12:00:00.5."
        raise DataError(problem, fix=fix, file=table.file, signal=column.name)
    return replace(column, values=values, missing=column.missing | bad), how


def _dates(column: Column, table: ColumnTable) -> tuple[NDArray[np.generic], NDArray[np.bool_], str]:
    """Parses texts as dates, all with or all without a time zone; returns a mask of texts that are no dates."""
    import pandas as pd

    texts = pd.Series(column.values[~column.missing].astype(str)).str.strip()
    zoned = texts.str.contains(_ZONE)
    if zoned.any() and not zoned.all() and not pd.to_datetime(texts[~zoned], format=_ISO, errors="coerce").isna().all():
        problem = "some times have a time zone and others do not"
        raise DataError(problem, fix="Write all times in UTC.", file=table.file, signal=column.name)
    dates, how = pd.to_datetime(texts, **_READ, format=_ISO), ""
    if 2 * dates.isna().sum() > len(dates):
        dates, how = _local_dates(texts)
    stamps, bad = np.zeros(len(column.values), "datetime64[us]"), np.zeros(len(column.values), np.bool_)
    bad[~column.missing] = dates.isna()
    stamps[~column.missing & ~bad] = dates.dropna().dt.tz_localize(None).to_numpy("datetime64[us]")
    return stamps, bad, how


def _local_dates(texts: pd.Series[str]) -> tuple[pd.Series[Any], str]:
    """Parses dates such as 31.05.2024 12:00, with the order of day and month in which fewer fail and go back."""
    import pandas as pd
    from pandas.tseries.api import guess_datetime_format

    def read(day_first: bool) -> pd.Series[Any]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of a format that contradicts the order
            form = guess_datetime_format(texts.iloc[0], dayfirst=day_first)
            return pd.to_datetime(texts, **_READ, format=form or "mixed", dayfirst=day_first)

    def faults(order: str) -> tuple[int, int]:
        dates = orders[order]
        return int(dates.isna().sum()), int((dates.diff().dt.total_seconds() < 0).sum())

    orders = {", day first": read(day_first=True), ", month first": read(day_first=False)}
    best = min(orders, key=faults)
    is_clear = orders[", day first"].equals(orders[", month first"])
    return orders[best], "" if is_clear else best


def _with_date(column: Column, table: ColumnTable) -> Column:
    """Adds a column of dates to times of day, if there is one."""
    dates = next((c for c in table.columns.values() if c.name.lower() == "date" and c.values.dtype.kind == "M"), None)
    if dates is None:
        return column
    return replace(column, values=np.add(dates.values, column.values), missing=column.missing | dates.missing)


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


def refresh_period(episodes: Sequence[NDArray[np.intp]]) -> int | None:
    """Returns the number of rows between two readings of a slow sensor; None if the signal is not clearly one.

    Nearly all changes must lie on a common period of at least two rows. Chance may explain this with a probability of
    at most 1 in 256.

    Args:
        episodes: rows of each episode in which the value changes, rising.
    """
    gaps = np.concatenate([np.diff(rows) for rows in episodes] or [np.zeros(0, np.intp)])
    if len(gaps) < MIN_GAPS:
        return None
    period = int(np.bincount(gaps).argmax())  # the most frequent gap; two equal readings in a row make longer ones
    is_clear = (gaps % period == 0).mean() >= MIN_REGULAR and len(gaps) * log2(period) >= MIN_BITS
    return period if period >= 2 and is_clear else None
