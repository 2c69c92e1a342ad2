"""Conversion of a table's column of times to seconds, with the assumptions made."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from worldline.data.formats.tables.columns import Column, ColumnTable, as_numbers
from worldline.errors import DataError

TIME_NAMES = ("time", "timestamp", "timestamps", "t", "datetime", "date_time", "date", "clock", "elapsed", "seconds")
SECONDS = {"s": 1.0, "sec": 1.0, "second": 1.0, "seconds": 1.0, "ms": 1e-3, "msec": 1e-3, "milliseconds": 1e-3}
SECONDS |= {"us": 1e-6, "µs": 1e-6, "microseconds": 1e-6, "ns": 1e-9, "nanoseconds": 1e-9}
SECONDS |= {"min": 60.0, "minutes": 60.0, "h": 3600.0, "hours": 3600.0, "d": 86400.0, "days": 86400.0}
"""Seconds per unit, for units in headers and at the end of names such as `time_ms`."""

_MAX_SECONDS = 1e12  # larger values are damaged

EPOCHS = ((1e8, 1e11, "s", 1.0), (1e11, 1e14, "ms", 1e-3), (1e14, 1e17, "us", 1e-6), (1e17, 1e20, "ns", 1e-9))
"""Numbers in [first, second) are dates since 1970 in this unit; the ranges cover 1973 to 5138."""


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
    column = table.columns.get(name)
    if column is None:
        problem = f"the table has no column of times {name!r}; its columns are {', '.join(table.columns)}"
        raise DataError(problem, fix="Name one of them.", file=table.file)
    if column.values.dtype.kind == "O" and not column.is_empty:
        column = _parsed(column, table)
    if column.values.ndim != 1 or column.values.dtype.kind not in "iufMm":
        problem = f"the column of times holds neither numbers nor dates (dtype {column.values.dtype})"
        fix = "Write seconds or ISO dates, or name another column of times."
        raise DataError(problem, fix=fix, file=table.file, signal=name)
    if column.values.dtype.kind == "m":
        column = _with_date(column, table)
    return _times(column)


def _word(name: str) -> str:
    """Returns the name in lower case, without a unit at its end."""
    head, _, tail = name.lower().rpartition("_")
    return head if head and tail in SECONDS else name.lower()


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


def _parsed(column: Column, table: ColumnTable) -> Column:
    """Parses texts as numbers or dates; a minority of unreadable cells counts as missing."""
    stamps, bad = as_numbers(column)
    values: NDArray[np.generic] = stamps
    if 2 * bad.sum() > (~column.missing).sum():
        values, bad = _dates(column, table)
    if 2 * bad.sum() > (~column.missing).sum():
        row = int(np.argmax(bad))
        problem = f"row {row} (from 0) of the column of times is {column.values[row]!r}"
        fix = "Write times in seconds, or as dates such as 2024-05-31T12:00:00.5."
        raise DataError(problem, fix=fix, file=table.file, signal=column.name)
    return replace(column, values=values, missing=column.missing | bad)


def _dates(column: Column, table: ColumnTable) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
    """Parses texts as dates, all with or all without a time zone; returns a mask of texts that are not dates."""
    stamps, bad = np.zeros(len(column.values), np.int64), np.zeros(len(column.values), np.bool_)
    has_zone = set()
    for row in np.flatnonzero(~column.missing).tolist():
        try:
            stamp = dt.datetime.fromisoformat(re.sub(r"(\d)/(\d)", r"\1-\2", str(column.values[row]).strip()))
        except ValueError:
            bad[row] = True
            continue
        has_zone.add(stamp.tzinfo is not None)
        since = stamp.replace(tzinfo=stamp.tzinfo or dt.UTC) - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
        stamps[row] = since // dt.timedelta(microseconds=1)
    if len(has_zone) > 1:
        problem = "some times have a time zone and others do not"
        raise DataError(problem, fix="Write all times in UTC.", file=table.file, signal=column.name)
    return stamps.astype("datetime64[us]"), bad


def _with_date(column: Column, table: ColumnTable) -> Column:
    """Adds a column of dates to times of day, if there is one."""
    dates = next((c for c in table.columns.values() if c.name.lower() == "date" and c.values.dtype.kind == "M"), None)
    if dates is None:
        return column
    return replace(column, values=np.add(dates.values, column.values), missing=column.missing | dates.missing)
