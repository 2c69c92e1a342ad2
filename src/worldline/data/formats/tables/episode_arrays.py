"""Conversion of an episode's rows from typed columns to arrays of signals.

A row holds the observations at its time and the action that leads to the next row. So R rows give R observations and
R-1 actions; the action of the last row is dropped.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from worldline.data.base import ReadOptions
from worldline.data.checks import Finding, warning
from worldline.data.formats.reading import FLAGS, Array, EpisodeDraft, filled, too_short
from worldline.data.formats.tables.columns import Column, as_numbers
from worldline.data.formats.tables.layout import EpisodeRows, TableLayout, parts_of
from worldline.data.formats.tables.timestamps import grid_times, repeats, resample, summed
from worldline.schema import Kind, Role, Signal

_MAX_STEPS_A_ROW = 10_000  # more means a damaged time or a wrong unit, and would fill the memory


def build(piece: EpisodeRows, layout: TableLayout, reading: ReadOptions) -> EpisodeDraft:
    """Builds the arrays of an episode; they are incomplete if a finding is an error.

    Args:
        piece: its rows.
        layout: of the logs.
        reading: if it has a rate, all signals are resampled to it.
    """
    piece, num_repeated = _without_repeats(piece)
    if piece.label is not None and len(piece.rows) < 2:
        where = f" (row {piece.rows[0]})" if len(piece.rows) else ""
        return too_short("row", len(piece.rows), where=where)
    draft = EpisodeDraft(times=piece.times, findings=list(_times(piece, reading)))
    ends = {name: _flag(draft, piece, name) for name in FLAGS}
    if piece.label is None:
        problem = f"{len(piece.rows)} rows have no episode label, the first is row {piece.rows[0]}"
        fix = "Fill in the column of episodes, or drop these rows."
        draft.findings.append(Finding(problem=problem, fix=fix))
    if draft.failed:
        return draft
    if num_repeated:
        problem = f"{num_repeated} rows repeat the row before, with its time, and are left out"
        draft.warn(problem, "Nothing to do, if the logger wrote them twice.")
    named = ((signal, parts_of(signal, piece.table.columns)) for signal in layout.schema.signals)
    cells_or_errors = [_cells(draft, signal, parts, piece, layout) for signal, parts in named if parts]
    cells = [cell for cell in cells_or_errors if cell is not None]
    is_whole = True
    if reading.rate_hz is not None and piece.times is not None:
        grid = _grid(piece.times, cells, reading, reading.rate_hz)
        draft.findings += _cut(piece.times, grid)
        for cell in cells if len(grid) >= 2 else ():
            _add_resampled(draft, cell, piece.times, grid, reading)
        is_whole = len(grid) > 1 and bool(piece.times[-1] - grid[-1] < grid[1] - grid[0])
        draft.times = grid
    else:
        for cell in cells:
            _add_rows(draft, cell, piece)
    draft.end(is_whole and ends["terminated"], ends["truncated"] if is_whole else None)
    draft.seed = _seed(draft, piece)
    return draft


def _without_repeats(piece: EpisodeRows) -> tuple[EpisodeRows, int]:
    """Returns the rows without those that equal the row before in every column; also their number."""
    if piece.times is None or not (np.diff(piece.times) == 0).any():
        return piece, 0
    same = np.concatenate([[False], np.diff(piece.times) == 0])
    rows, before = piece.rows[same], piece.rows[np.flatnonzero(same) - 1]
    for column in piece.table.columns.values():
        equal = column.values[rows] == column.values[before]
        equal = equal if equal.ndim == 1 else equal.all(1)
        same[same] &= np.where(column.missing[rows], column.missing[before], equal & ~column.missing[before])
        rows, before = piece.rows[same], piece.rows[np.flatnonzero(same) - 1]
    return replace(piece, rows=piece.rows[~same], times=piece.times[~same]), int(same.sum())


def _times(piece: EpisodeRows, reading: ReadOptions) -> Iterator[Finding]:
    """Yields an error for times that are missing, do not rise, or do not suit the rate."""
    if piece.times is None:
        if reading.rate_hz is not None:
            fix = "Name the column of times, or leave the rate out."
            yield Finding(problem="rows without times cannot be resampled", fix=fix)
        return
    if missing := np.flatnonzero(np.isnan(piece.times)).tolist():
        step = missing[0]
        problem = f"row {piece.rows[step]} of the file has no readable time ({len(missing)} rows in total)"
        yield Finding(problem=problem, fix="Fill it in, or drop the row.", step=step)
        return
    if fallen := np.flatnonzero(np.diff(piece.times) <= 0).tolist():
        step = fallen[0] + 1
        before, after = piece.times[step - 1], piece.times[step]
        how = "repeats the time of the row before" if before == after else f"goes back from {before} s to"
        problem = f"row {piece.rows[step]} of the file {how} {after} s ({len(fallen)} such rows in total)"
        fix = "Sort the rows and drop repeats. If a new episode starts there, add a column of episodes."
        yield Finding(problem=problem, fix=fix, step=step)
    elif reading.rate_hz is not None and np.ptp(piece.times) * reading.rate_hz > _MAX_STEPS_A_ROW * len(piece.times):
        problem = f"{len(piece.times)} rows in {np.ptp(piece.times):g} s cannot be resampled to {reading.rate_hz} Hz"
        yield Finding(problem=problem, fix="Repair the times, or give a lower rate.")


@dataclass(frozen=True, kw_only=True)
class _Cells:
    """The cells of one signal in the rows of an episode.

    Args:
        signal: that the cells belong to.
        values: [rows, ...].
        known: [rows], False for missing cells.
        repeated: [rows], True where a slow sensor repeats its last reading.
    """

    signal: Signal
    values: Array
    known: NDArray[np.bool_]
    repeated: NDArray[np.bool_]


def _cells(
    draft: EpisodeDraft, signal: Signal, parts: tuple[str, ...], piece: EpisodeRows, layout: TableLayout
) -> _Cells | None:
    """Returns the cells of a signal, or adds an error; a discrete signal accepts whole numbers in a float column."""
    values, known, is_good = [], np.ones(len(piece.rows), np.bool_), True
    repeated = np.full(len(piece.rows), all(part in layout.stale for part in parts))
    for column in (piece.table.columns[part] for part in parts):
        part, bad = _numbers(column, piece.rows, layout.codes.get(column.name))
        values.append(part)
        missing = column.missing[piece.rows]
        known &= ~missing
        if wrong := np.flatnonzero(bad).tolist():
            step, is_good = wrong[0], False
            cell = column.values[piece.rows[step]]
            problem = f"row {piece.rows[step]} of the file has {cell!r} in the column {column.header!r}"
            fix = f"Repair it: the column should hold {'texts' if column.name in layout.codes else 'numbers'}."
            draft.findings.append(Finding(problem=problem, fix=fix, signal=signal.name, step=step))
        elif repeated.any():
            repeated &= repeats(part, missing)
    table = values[0] if len(values) == 1 else np.stack(values, 1)
    whole = table[known] if signal.kind is Kind.DISCRETE and table.dtype.kind == "f" else None
    if whole is not None and np.isfinite(whole).all() and (whole == np.round(whole)).all():
        table = np.where(known, table, 0).astype(np.int64)
    return _Cells(signal=signal, values=table, known=known, repeated=repeated) if is_good else None


def _numbers(
    column: Column, rows: NDArray[np.intp], codes: tuple[str, ...] | None
) -> tuple[NDArray[np.number], NDArray[np.bool_]]:
    """Returns cells as numbers, and a mask [rows] of cells that are not numbers."""
    none = np.zeros(len(rows), np.bool_)
    if column.is_empty:
        return np.zeros((len(rows), *column.values.shape[1:])), none
    cells, missing = column.values[rows], column.missing[rows]
    if codes is not None:
        numbers = {text: number for number, text in enumerate(codes)}
        code_of_cell = [numbers.get(cell, -1) if isinstance(cell, str) else -1 for cell in cells.tolist()]
        return np.maximum(code_of_cell, 0), (np.array(code_of_cell) < 0) & ~missing
    if column.is_number:
        # `is_number` implies a number dtype, which the type checker does not know.
        return cells.astype(np.int64) if cells.dtype == np.bool_ else cells, none  # type: ignore[return-value]
    if column.is_text:
        return as_numbers(replace(column, values=cells, missing=missing))
    return np.zeros(len(rows)), ~missing


def _add_rows(draft: EpisodeDraft, cell: _Cells, piece: EpisodeRows) -> None:
    """Adds a signal without resampling."""
    if cell.signal.role is Role.OBSERVATION:
        _add_observation(draft, cell, filled(cell.values, cell.known), cell.known & ~cell.repeated)
        return
    if missing := np.flatnonzero(~cell.known[:-1]).tolist():
        step = missing[0]
        problem = f"row {piece.rows[step]} of the file has no value ({len(missing)} rows in total)"
        fix = "Fill it in, end the episode before it, or give a rate and a rule for resampling."
        draft.findings.append(Finding(problem=problem, fix=fix, signal=cell.signal.name, step=step))
    draft.put(cell.signal.name, cell.values[:-1])


def _add_resampled(
    draft: EpisodeDraft, cell: _Cells, times: NDArray[np.float64], grid: NDArray[np.float64], reading: ReadOptions
) -> None:
    """Adds a signal at the times of a grid."""
    signal, known, values = cell.signal, cell.known & ~cell.repeated, cell.values
    if signal.kind is Kind.VECTOR and values.dtype.kind != "f":
        values = values.astype(np.float64)
    if signal.role is Role.OBSERVATION and not known.any():
        nothing = np.zeros((len(grid), *values.shape[1:]), values.dtype)
        _add_observation(draft, cell, nothing, np.zeros(len(grid), np.bool_))
    elif not known.any():
        problem, fix = "it has no value in the whole episode", "Fill it in, or remove it from schema.json."
        draft.findings.append(Finding(problem=problem, fix=fix, signal=signal.name))
    elif signal.role is Role.REWARD:
        draft.put(signal.name, summed(times[known], values[known], grid))
    else:
        resampled, observed = resample(times, values, known, grid, reading.rule)
        if signal.role is Role.OBSERVATION:
            _add_observation(draft, cell, resampled, observed)
        else:
            draft.put(signal.name, resampled[:-1])


def _add_observation(draft: EpisodeDraft, cell: _Cells, values: Array, observed: NDArray[np.bool_]) -> None:
    if not cell.known.any():
        problem = "it has no value in the whole episode and is marked as not observed"
        fix = "Leave the episode out, or remove the signal from schema.json."
        draft.warn(problem, fix, signal=cell.signal.name)
    draft.put(cell.signal.name, values, observed)


def _grid(times: NDArray[np.float64], cells: list[_Cells], reading: ReadOptions, rate_hz: float) -> NDArray[np.float64]:
    """Returns the times of the steps: from where all inputs are known to where the first of them ends.

    With the rule hold, an input holds until its next value. After its last value it holds for its longest gap.
    """
    start, stop = float(times[0]), float(times[-1])
    for cell in cells:
        own = times[cell.known]
        if cell.signal.role in (Role.ACTION, Role.EXOGENOUS) and len(own):
            start = max(start, float(own[0]))
            longest = float(np.diff(own).max()) if len(own) > 1 else np.inf
            stop = min(stop, float(own[-1]) + (longest if reading.rule == "hold" else 0.0))
    return grid_times(start, stop, rate_hz)


def _cut(times: NDArray[np.float64], grid: NDArray[np.float64]) -> Iterator[Finding]:
    """Yields findings about rows outside the grid."""
    if len(grid) < 2:
        fix = "Give a higher rate, or log actions and exogenous signals for longer."
        yield Finding(problem=f"all inputs are known at only {len(grid)} times of this rate; two are needed", fix=fix)
        return
    step = grid[1] - grid[0]
    before, after = int((times < grid[0] - step / 2).sum()), int((times >= grid[-1] + step).sum())
    if before or after:
        problem = f"{before} rows at the start and {after} at the end are left out: not all inputs are known there"
        fix = "Log actions and exogenous signals from the first row to the last."
        yield warning(problem=problem, fix=fix)


def _flag(draft: EpisodeDraft, piece: EpisodeRows, name: str) -> bool | None:
    """Whether a flag is set at the end: in the row of the last transition or in the last row. Adds findings."""
    column = piece.table.columns.get(name)
    if column is None or not column.is_number:
        if column is not None:
            draft.warn("the column holds no flags and is left out", "Write 0 or 1 in each row.", signal=name)
        return None
    is_set = column.values[piece.rows].astype(np.bool_) & ~column.missing[piece.rows]
    if steps := np.flatnonzero(is_set[:-2]).tolist():
        problem = f"{name} is set in row {piece.rows[steps[0]]} of the file, before the end of the episode"
        draft.findings.append(Finding(problem=problem, fix="Add a column of episodes.", step=steps[0]))
    return bool(is_set[-2:].any())


def _seed(draft: EpisodeDraft, piece: EpisodeRows) -> int | None:
    """Returns the reset seed if the column `seed` holds one whole number in all rows, else adds a warning."""
    column = piece.table.columns.get("seed")
    if column is None or column.missing[piece.rows].all():
        return None
    seeds = np.unique(column.values[piece.rows])
    if column.values.dtype.kind in "iu" and len(seeds) == 1 and not column.missing[piece.rows].any():
        return int(seeds.item())
    fix = "Write one whole number in all rows of an episode."
    draft.warn("the column does not hold a seed for each episode and is left out", fix, signal="seed")
    return None
