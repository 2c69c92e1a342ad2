"""Splitting of a table's rows into episodes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worldline.data.base import ReadOptions
from worldline.data.formats.tables.columns import Column, ColumnTable
from worldline.data.formats.tables.layout import episode_name
from worldline.data.formats.tables.timestamps import Times
from worldline.errors import DataError

USUAL_GAPS = 10
"""Without a column of episodes, a gap of more usual steps than this ends an episode."""


@dataclass(frozen=True, kw_only=True)
class EpisodeRows:
    """The rows of one episode in a table.

    Args:
        table: the table.
        number: of the episode in the table, from 0.
        rows: row numbers of the table, in order.
        label: value of the column of episodes; empty without such a column; None if the cell is missing.
        times: [rows] seconds; None without times.
    """

    table: ColumnTable
    number: int
    rows: NDArray[np.intp]
    label: str | None = ""
    times: NDArray[np.float64] | None = None


def split(table: ColumnTable, times: Times | None, reading: ReadOptions) -> list[EpisodeRows]:
    """Splits a table by its column of episodes, else by gaps in time, else into one episode.

    Args:
        table: of one file.
        times: of its rows.
        reading: the user's options; an explicit gap also splits the episodes of a column.

    Raises:
        DataError: the requested column of episodes does not exist.
    """
    name = episode_name(table.columns, reading.episode)
    if name is not None and name not in table.columns:
        problem = f"the table has no column of episodes {name!r}; its columns are {', '.join(table.columns)}"
        raise DataError(problem, fix="Name one of them.", file=table.file)
    groups = _by_label(table.columns[name]) if name is not None else [("", np.arange(table.num_rows))]
    if times is not None and (name is None or reading.gap_s is not None):
        groups = [(label, part) for label, rows in groups for part in _by_gap(rows, times.seconds, reading.gap_s)]
    return [
        EpisodeRows(
            table=table,
            number=number,
            rows=rows,
            label=label,
            times=times.seconds[rows] if times is not None else None,
        )
        for number, (label, rows) in enumerate(groups)
    ]


def _by_label(column: Column) -> list[tuple[str | None, NDArray[np.intp]]]:
    """Groups rows by value, in order of first appearance."""
    labels = [None if missing else str(v) for v, missing in zip(column.values.tolist(), column.missing, strict=True)]
    rows: dict[str | None, list[int]] = {}
    for row, label in enumerate(labels):
        rows.setdefault(label, []).append(row)
    return [(label, np.array(found, np.intp)) for label, found in rows.items()]


def _by_gap(rows: NDArray[np.intp], seconds: NDArray[np.float64], gap_s: float | None) -> Iterator[NDArray[np.intp]]:
    steps = np.diff(seconds[rows])
    forward = steps[steps > 0]
    if gap_s is None:
        gap_s = USUAL_GAPS * float(np.median(forward)) if len(forward) else np.inf
    yield from np.split(rows, np.flatnonzero(steps > gap_s) + 1)
