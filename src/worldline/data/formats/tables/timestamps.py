"""Times of rows: conversion to seconds, with the assumptions made."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

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
EPOCHS = ((1e8, 1e11, "s", 1.0), (1e11, 1e14, "ms", 1e-3), (1e14, 1e17, "us", 1e-6), (1e17, 1e20, "ns", 1e-9))
"""Numbers in [first, second) are dates since 1970 in this unit; the ranges cover 1973 to 5138."""

_ZONE = r":\d\d\S*\s*(?:Z|UTC|[+-]\d\d:?\d\d)$"
_READ: Final = {"errors": "coerce", "utc": True}
_MAX_SECONDS = 1e12  # larger values are damaged


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


def _word(name: str) -> str:
    """Returns the name in lower case, without a unit at its end; "T" stays, because it is a temperature."""
    head, _, tail = name.lower().rpartition("_")
    return head if head and tail in SECONDS else name if name == "T" else name.lower()


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
    if column.is_text:
        column, how = _parsed(column, table)
    dates = [c for c in table.columns.values() if c.name.lower() == "date" and c.values.dtype.kind == "M"]
    if column.values.dtype.kind == "m" and dates:  # a date and a time of day
        values, missing = np.add(dates[0].values, column.values), column.missing | dates[0].missing
        column = replace(column, values=values, missing=missing)
    values, missing, kind = column.values, column.missing, column.values.dtype.kind
    if values.ndim != 1 or kind not in "iufMm":
        problem = f"the column of times holds neither numbers nor dates (dtype {values.dtype})"
        fix = "Write seconds or ISO dates, or name another column of times."
        raise DataError(problem, fix=fix, file=table.file, signal=name)
    if kind == "f":
        missing = missing | ~np.isfinite(values)
    scale, is_date, assumption = _scale(column)
    # Subtract the first date as an integer: seconds since 1970 in float64 would lose precision.
    ticks = np.where(missing, 0, values) if kind == "f" else values.astype(np.int64)
    first = ticks[np.argmin(missing)] if is_date and not missing.all() else ticks.dtype.type(0)
    seconds = np.subtract(ticks, first).astype(np.float64) * scale
    seconds[missing | ~(np.abs(seconds) < _MAX_SECONDS)] = np.nan
    assumption, start_s = f"{name}: read as {assumption}{how}.", float(first) * scale
    return Times(name=name, seconds=seconds, start_s=start_s, is_date=is_date, assumption=assumption)


def _scale(column: Column) -> tuple[float, bool, str]:
    """Returns seconds per unit, whether the values are dates, and a clause about it."""
    if column.values.dtype.kind in "Mm":
        is_date = column.values.dtype.kind == "M"
        return SECONDS[column.values.dtype.str[4:-1]], is_date, "dates" if is_date else "times of day or durations"
    known = column.values[~column.missing].astype(np.float64)
    size = float(np.median(np.abs(known))) if len(known) else 0.0
    head, _, tail = column.name.rpartition("_")
    unit = column.unit if column.unit in SECONDS else tail if head and tail in SECONDS else None
    if unit is not None:
        return SECONDS[unit], size * SECONDS[unit] >= EPOCHS[0][0], f"times in {unit}, the unit of its header"
    for low, high, unit, scale in EPOCHS:
        if low <= size < high:
            return scale, True, f"{unit} since 1970, because its numbers are so large"
    return 1.0, False, "seconds"


def _parsed(column: Column, table: ColumnTable) -> tuple[Column, str]:
    """Parses texts as numbers or dates, and returns an assumption; a minority of unreadable cells counts as missing."""
    import pandas as pd

    numbers, bad = as_numbers(column.values, column.missing)
    most = (~column.missing).sum() / 2
    if bad.sum() <= most:
        return replace(column, values=numbers, missing=column.missing | bad), ""
    texts = pd.Series(column.values, dtype=object).mask(column.missing).str.strip()
    dates, how = pd.to_datetime(texts, **_READ, format="ISO8601"), ""
    zoned = texts.str.contains(_ZONE, na=False)
    if zoned.any() and dates[~zoned].notna().any():
        problem = "some times have a time zone and others do not"
        raise DataError(problem, fix="Write all times in UTC.", file=table.file, signal=column.name)
    if dates.notna().sum() < most:
        dates, how = _local_dates(texts)
    if dates.notna().sum() < most:
        row = int(np.argmax(dates.isna() & ~column.missing))
        problem = f"row {row} (from 0) of the column of times is {column.values[row]!r}"
        fix = "Write times in seconds, or as dates such as 2024-05-31T12:00:00.5."
        raise DataError(problem, fix=fix, file=table.file, signal=column.name)
    values = dates.dt.tz_localize(None).to_numpy("datetime64[us]")
    return replace(column, values=values, missing=dates.isna().to_numpy()), how


def _local_dates(texts: pd.Series[str]) -> tuple[pd.Series[Any], str]:
    """Parses dates such as 31.05.2024 12:00, with the order of day and month in which fewer fail and go back."""
    import pandas as pd
    from pandas.tseries.api import guess_datetime_format

    orders: dict[str, pd.Series[Any]] = {}
    for order, day_first in ((", day first", True), (", month first", False)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of a format that contradicts the order
            form = guess_datetime_format(texts.dropna().iloc[0], dayfirst=day_first)
            orders[order] = pd.to_datetime(texts, **_READ, format=form or "mixed", dayfirst=day_first)
    backward = {order: (dates.dropna().diff().dt.total_seconds() < 0).sum() for order, dates in orders.items()}
    best = min(orders, key=lambda order: (orders[order].isna().sum(), backward[order]))
    return orders[best], "" if orders[", day first"].equals(orders[", month first"]) else best
