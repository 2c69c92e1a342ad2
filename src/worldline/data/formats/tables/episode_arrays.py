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
from worldline.data.formats.tables.layout import TableLayout, parts_of
from worldline.data.formats.tables.resampling import grid_times, repeats, resample, summed
from worldline.data.formats.tables.survey import EpisodeRows
from worldline.schema import Kind, Role, Signal

_MAX_STEPS_A_ROW = 10_000  # more means a damaged time or a wrong unit, and would fill the memory


@dataclass(frozen=True, kw_only=True)
class SignalCells:
    """The cells of one signal in the rows of an episode.

    Args:
        signal: that the cells belong to.
        values: [rows, ...].
        known: [rows], False for missing cells.
        fresh: [rows], False where cells are missing or repeat the last reading of a slow sensor.
    """

    signal: Signal
    values: Array
    known: NDArray[np.bool_]
    fresh: NDArray[np.bool_]


def build(piece: EpisodeRows, layout: TableLayout, reading: ReadOptions) -> EpisodeDraft:
    """Builds the arrays of an episode; they are incomplete if a finding is an error.

    Args:
        piece: its rows.
        layout: of the logs.
        reading: if it has a rate, all signals are resampled to it.
    """
    piece, repeated = _without_repeats(piece)
    if piece.label is not None and len(piece.rows) < 2:
        where = f" (row {piece.rows[0]})" if len(piece.rows) else ""
        return too_short("row", len(piece.rows), where=where)
    draft = EpisodeDraft(times=piece.times, findings=[*_times(piece, reading.rate_hz), *repeated])
    terminated, truncated = (_flag(draft, piece, name) for name in FLAGS)
    if piece.label is None:
        problem = f"{len(piece.rows)} rows have no episode label, the first is row {piece.rows[0]}"
        fix = "Fill in the column of episodes, or drop these rows."
        draft.findings.append(Finding(problem=problem, fix=fix))
    if draft.failed:
        return draft
    named = ((signal, parts_of(signal, piece.table.columns)) for signal in layout.schema.signals)
    read = [_cells(draft, signal, parts, piece, layout) for signal, parts in named if parts]
    cells = [cell for cell in read if cell is not None]
    is_whole = True
    if reading.rate_hz is not None and piece.times is not None:
        is_whole = _add_resampled(draft, cells, piece.times, reading, reading.rate_hz)
    else:
        for cell in cells:
            _add_rows(draft, cell, piece)
    draft.end(is_whole and terminated, truncated if is_whole else None)
    draft.seed = _seed(draft, piece)
    return draft


def _without_repeats(piece: EpisodeRows) -> tuple[EpisodeRows, list[Finding]]:
    """Returns the rows without those that equal the row before in every column, and a warning about them."""
    if piece.times is None or not (np.diff(piece.times) == 0).any():
        return piece, []
    same = np.diff(piece.times, prepend=np.nan) == 0
    for column in piece.table.columns.values():
        values, missing = column.values[piece.rows], column.missing[piece.rows]
        equal = (values[1:] == values[:-1]).reshape(len(values) - 1, -1).all(1)
        same[1:] &= np.where(missing[1:], missing[:-1], equal & ~missing[:-1])
    problem = f"{same.sum()} rows repeat the row before, with its time, and are left out"
    repeated = warning(problem=problem, fix="Nothing to do, if the logger wrote them twice.")
    return replace(piece, rows=piece.rows[~same], times=piece.times[~same]), [repeated] if same.any() else []


def _times(piece: EpisodeRows, rate_hz: float | None) -> Iterator[Finding]:
    """Yields an error for times that are missing, do not rise, or do not suit the rate."""
    if (times := piece.times) is None:
        if rate_hz is not None:
            fix = "Name the column of times, or leave the rate out."
            yield Finding(problem="rows without times cannot be resampled", fix=fix)
    elif missing := np.flatnonzero(np.isnan(times)).tolist():
        problem = f"row {piece.rows[missing[0]]} of the file has no readable time ({len(missing)} rows in total)"
        yield Finding(problem=problem, fix="Fill it in, or drop the row.", step=missing[0])
    elif fallen := (np.flatnonzero(np.diff(times) <= 0) + 1).tolist():
        before, after = times[fallen[0] - 1], times[fallen[0]]
        how = "repeats the time of the row before" if before == after else f"goes back from {before} s to"
        problem = f"row {piece.rows[fallen[0]]} of the file {how} {after} s ({len(fallen)} such rows in total)"
        fix = "Sort the rows and drop repeats. If a new episode starts there, add a column of episodes."
        yield Finding(problem=problem, fix=fix, step=fallen[0])
    elif rate_hz is not None and np.ptp(times) * rate_hz > _MAX_STEPS_A_ROW * len(times):
        problem = f"{len(times)} rows in {np.ptp(times):g} s cannot be resampled to {rate_hz} Hz"
        yield Finding(problem=problem, fix="Repair the times, or give a lower rate.")


def _cells(
    draft: EpisodeDraft, signal: Signal, parts: tuple[str, ...], piece: EpisodeRows, layout: TableLayout
) -> SignalCells | None:
    """Returns the cells of a signal, or adds an error; a discrete signal accepts whole numbers in a float column."""
    values, known, is_good = [], np.ones(len(piece.rows), np.bool_), True
    repeated = np.full(len(piece.rows), all(part in layout.stale for part in parts))
    for column in (piece.table.columns[part] for part in parts):
        part, bad = _numbers(column, piece.rows, layout.codes.get(column.name))
        values.append(part)
        missing = column.missing[piece.rows]
        known &= ~missing
        if wrong := np.flatnonzero(bad).tolist():
            is_good, row = False, piece.rows[wrong[0]]
            problem = f"row {row} of the file has {column.values[row]!r} in the column {column.header!r}"
            fix = f"Repair it: the column should hold {'texts' if column.name in layout.codes else 'numbers'}."
            draft.findings.append(Finding(problem=problem, fix=fix, signal=signal.name, step=wrong[0]))
        elif repeated.any():
            repeated &= repeats(part, missing)
    table = values[0] if len(values) == 1 else np.stack(values, 1)
    if signal.kind is Kind.DISCRETE and table.dtype.kind == "f":
        whole = np.where(known, table, 0)
        if np.isfinite(whole).all() and (whole == np.round(whole)).all():
            table = whole.astype(np.int64)
    return SignalCells(signal=signal, values=table, known=known, fresh=known & ~repeated) if is_good else None


def _numbers(
    column: Column, rows: NDArray[np.intp], codes: tuple[str, ...] | None
) -> tuple[NDArray[np.number], NDArray[np.bool_]]:
    """Returns cells as numbers, and a mask [rows] of cells that are not numbers."""
    cells, missing, none = column.values[rows], column.missing[rows], np.zeros(len(rows), np.bool_)
    if column.is_empty:
        return np.zeros(cells.shape), none
    if codes is not None:
        import pandas as pd

        numbers = pd.Index(codes).get_indexer(pd.Index(cells, dtype=object))
        return np.maximum(numbers, 0), (numbers < 0) & ~missing
    if column.is_number:
        # `is_number` implies a number dtype, which the type checker does not know.
        return cells.astype(np.int64) if cells.dtype == np.bool_ else cells, none  # type: ignore[return-value]
    return as_numbers(cells, missing) if column.is_text else (np.zeros(len(rows)), ~missing)


def _add_rows(draft: EpisodeDraft, cell: SignalCells, piece: EpisodeRows) -> None:
    """Adds a signal without resampling."""
    if cell.signal.role is Role.OBSERVATION:
        _add_observation(draft, cell, filled(cell.values, cell.known), cell.fresh)
        return
    if missing := np.flatnonzero(~cell.known[:-1]).tolist():
        problem = f"row {piece.rows[missing[0]]} of the file has no value ({len(missing)} rows in total)"
        fix = "Fill it in, end the episode before it, or give a rate and a rule for resampling."
        draft.findings.append(Finding(problem=problem, fix=fix, signal=cell.signal.name, step=missing[0]))
    draft.put(cell.signal.name, cell.values[:-1])


def _add_observation(draft: EpisodeDraft, cell: SignalCells, values: Array, observed: NDArray[np.bool_]) -> None:
    if not cell.known.any():
        problem = "it has no value in the whole episode and is marked as not observed"
        fix = "Leave the episode out, or remove the signal from schema.json."
        draft.warn(problem, fix, signal=cell.signal.name)
    draft.put(cell.signal.name, values, observed)


def _add_resampled(
    draft: EpisodeDraft, cells: list[SignalCells], times: NDArray[np.float64], reading: ReadOptions, rate_hz: float
) -> bool:
    """Adds all signals at a rate; returns whether the end of the episode is among its steps."""
    draft.times = grid = _grid(times, cells, reading, rate_hz)
    if len(grid) < 2:
        problem = f"all inputs are known at only {len(grid)} times of this rate; two are needed"
        fix = "Give a higher rate, or log actions and exogenous signals for longer."
        draft.findings.append(Finding(problem=problem, fix=fix))
        return False
    step = grid[1] - grid[0]
    before, after = int((times < grid[0] - step / 2).sum()), int((times >= grid[-1] + step).sum())
    if before or after:
        problem = f"{before} rows at the start and {after} at the end are left out: not all inputs are known there"
        draft.warn(problem, "Log actions and exogenous signals from the first row to the last.")
    for cell in cells:
        _add_at_times(draft, cell, times, reading)
    return bool(times[-1] - grid[-1] < step)


def _grid(
    times: NDArray[np.float64], cells: list[SignalCells], reading: ReadOptions, rate_hz: float
) -> NDArray[np.float64]:
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


def _add_at_times(draft: EpisodeDraft, cell: SignalCells, times: NDArray[np.float64], reading: ReadOptions) -> None:
    """Adds a signal at the times of the draft."""
    signal, known, values, grid = cell.signal, cell.fresh, cell.values, draft.times
    assert grid is not None
    if signal.kind is Kind.VECTOR and values.dtype.kind != "f":
        values = values.astype(np.float64)
    if signal.role is Role.REWARD and known.any():
        draft.put(signal.name, summed(times[known], values[known], grid))
        return
    if known.any():
        resampled, observed = resample(times, values, known, grid, reading.rule)
    else:
        resampled, observed = np.zeros((len(grid), *values.shape[1:]), values.dtype), np.zeros(len(grid), np.bool_)
    if signal.role is Role.OBSERVATION:
        _add_observation(draft, cell, resampled, observed)
        return
    draft.put(signal.name, resampled[:-1])
    if not known.any():
        problem, fix = "it has no value in the whole episode", "Fill it in, or remove it from schema.json."
        draft.findings.append(Finding(problem=problem, fix=fix, signal=signal.name))


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
