"""Conversion of an episode's rows from typed columns to arrays of signals, as logged or resampled to a rate.

A row holds the observations at its time and the action that leads to the next row. So R rows give R observations and
R-1 actions; the action of the last row is dropped.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from worldline.data.base import ReadOptions
from worldline.data.checks import Finding, warning
from worldline.data.formats.raw_episode import RawEpisode, too_short
from worldline.data.formats.reading import FLAGS, Array, filled
from worldline.data.formats.tables.columns import Column, as_numbers
from worldline.data.formats.tables.layout import EpisodeRows, TableLayout, parts_of, repeats
from worldline.errors import DataError
from worldline.schema import Kind, Role, Signal

SLACK = 0.05
"""Share of a step by which a sample may be late and still count as on time, because logged times are rounded."""
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


def build(piece: EpisodeRows, layout: TableLayout, reading: ReadOptions) -> RawEpisode:
    """Builds the arrays of an episode.

    Args:
        piece: its rows.
        layout: of the logs.
        reading: if it has a rate, all signals are resampled to it.

    Raises:
        DataError: its times, flags or cells are wrong, or an input is missing.
    """
    piece, findings = _without_repeats(piece)
    if piece.label is None:
        problem = f"{len(piece.rows)} rows have no episode label, the first is row {piece.rows[0]}"
        raise DataError(problem, fix="Fill in the column of episodes, or drop these rows.")
    if len(piece.rows) < 2:
        return too_short("row", len(piece.rows), where=f" (row {piece.rows[0]})" if len(piece.rows) else "")
    _check_times(piece, reading.rate_hz)
    draft = RawEpisode(times=piece.times, findings=findings)
    terminated, truncated = (_flag(draft, piece, name) for name in FLAGS)
    draft.end(terminated, truncated)
    draft.seed = _seed(draft, piece)
    named = ((signal, parts_of(signal, piece.table.columns)) for signal in layout.schema.signals)
    cells = [_cells(signal, parts, piece, layout) for signal, parts in named if parts]
    if reading.rate_hz is not None and piece.times is not None:
        draft.times = _grid(draft, piece.times, cells, reading.rate_hz)
    for cell in cells:
        _add(draft, cell, piece)
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


def _check_times(piece: EpisodeRows, rate_hz: float | None) -> None:
    """Raises if times are missing, do not rise, or do not suit the rate."""
    if (times := piece.times) is None:
        if rate_hz is not None:
            fix = "Name the column of times, or leave the rate out."
            raise DataError("rows without times cannot be resampled", fix=fix)
    elif missing := np.flatnonzero(np.isnan(times)).tolist():
        problem = f"row {piece.rows[missing[0]]} of the file has no readable time ({len(missing)} rows in total)"
        raise DataError(problem, fix="Fill it in, or drop the row.", step=missing[0])
    elif fallen := (np.flatnonzero(np.diff(times) <= 0) + 1).tolist():
        before, after = times[fallen[0] - 1], times[fallen[0]]
        how = "repeats the time of the row before" if before == after else f"goes back from {before} s to"
        problem = f"row {piece.rows[fallen[0]]} of the file {how} {after} s ({len(fallen)} such rows in total)"
        fix = "Sort the rows and drop repeats. If a new episode starts there, add a column of episodes."
        raise DataError(problem, fix=fix, step=fallen[0])
    elif rate_hz is not None and np.ptp(times) * rate_hz > _MAX_STEPS_A_ROW * len(times):
        problem = f"{len(times)} rows in {np.ptp(times):g} s cannot be resampled to {rate_hz} Hz"
        raise DataError(problem, fix="Repair the times, or give a lower rate.")


def _flag(draft: RawEpisode, piece: EpisodeRows, name: str) -> bool | None:
    """Whether a flag is set at the end: in the row of the last transition or in the last row."""
    column = piece.table.columns.get(name)
    if column is None or not column.is_number:
        if column is not None:
            draft.warn("the column holds no flags and is left out", "Write 0 or 1 in each row.", signal=name)
        return None
    is_set = column.values[piece.rows].astype(np.bool_) & ~column.missing[piece.rows]
    if steps := np.flatnonzero(is_set[:-2]).tolist():
        problem = f"{name} is set in row {piece.rows[steps[0]]} of the file, before the end of the episode"
        raise DataError(problem, fix="Add a column of episodes.", step=steps[0])
    return bool(is_set[-2:].any())


def _seed(draft: RawEpisode, piece: EpisodeRows) -> int | None:
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


def _cells(signal: Signal, parts: tuple[str, ...], piece: EpisodeRows, layout: TableLayout) -> SignalCells:
    """Returns the cells of a signal; a discrete signal accepts whole numbers in a float column."""
    values, known = [], np.ones(len(piece.rows), np.bool_)
    repeated = np.full(len(piece.rows), all(part in layout.stale for part in parts))
    for column in (piece.table.columns[part] for part in parts):
        missing, codes = column.missing[piece.rows], layout.codes.get(column.name)
        part, bad = _numbers(column, piece.rows, codes)
        if wrong := np.flatnonzero(bad).tolist():
            row = piece.rows[wrong[0]]
            problem = f"row {row} of the file has {column.values[row]!r} in the column {column.header!r}"
            fix = f"Repair it: the column should hold {'numbers' if codes is None else 'texts'}."
            raise DataError(problem, fix=fix, signal=signal.name, step=wrong[0])
        values.append(part)
        known &= ~missing
        if repeated.any():
            repeated &= repeats(part, missing)
    table = values[0] if len(values) == 1 else np.stack(values, 1)
    if signal.kind is Kind.DISCRETE and table.dtype.kind == "f":
        whole = np.where(known, table, 0)
        table = whole.astype(np.int64) if (whole == np.round(whole)).all() and np.isfinite(whole).all() else table
    return SignalCells(signal=signal, values=table, known=known, fresh=known & ~repeated)


def _numbers(
    column: Column, rows: NDArray[np.intp], codes: tuple[str, ...] | None
) -> tuple[NDArray[np.number], NDArray[np.bool_]]:
    """Returns cells as numbers, and a mask [rows] of cells that are not numbers."""
    cells, missing, none = column.values[rows], column.missing[rows], np.zeros(len(rows), np.bool_)
    if column.is_empty:
        return np.zeros(cells.shape), none
    if codes is not None:
        numbers = {text: number for number, text in enumerate(codes)}
        coded = np.array([numbers.get(cell, -1) if isinstance(cell, str) else -1 for cell in cells.tolist()])
        return np.maximum(coded, 0), (coded < 0) & ~missing
    if column.is_number:
        # `is_number` implies a number dtype, which the type checker does not know.
        return cells.astype(np.int64) if cells.dtype == np.bool_ else cells, none  # type: ignore[return-value]
    return as_numbers(cells, missing) if column.is_text else (np.zeros(len(rows)), ~missing)


def _grid(
    draft: RawEpisode, times: NDArray[np.float64], cells: list[SignalCells], rate_hz: float
) -> NDArray[np.float64]:
    """Returns the times of the steps: from where all inputs are known to where the first of them ends.

    An input holds until its next value. After its last value it holds for its longest gap.
    """
    start, stop = float(times[0]), float(times[-1])
    for cell in cells:
        own = times[cell.known]
        if cell.signal.role in (Role.ACTION, Role.EXOGENOUS) and len(own):
            start = max(start, float(own[0]))
            longest = float(np.diff(own).max()) if len(own) > 1 else np.inf
            stop = min(stop, float(own[-1]) + longest)
    grid = grid_times(start, stop, rate_hz)
    if len(grid) < 2:
        problem = f"all inputs are known at only {len(grid)} times of this rate; two are needed"
        raise DataError(problem, fix="Give a higher rate, or log actions and exogenous signals for longer.")
    before, after = int((times < grid[0] - 0.5 / rate_hz).sum()), int((times >= grid[-1] + 1 / rate_hz).sum())
    if before or after:
        problem = f"{before} rows at the start and {after} at the end are left out: not all inputs are known there"
        draft.warn(problem, "Log actions and exogenous signals from the first row to the last.")
    if after:
        draft.end(None, None)
    return grid


def _add(draft: RawEpisode, cell: SignalCells, piece: EpisodeRows) -> None:
    """Adds a signal in the rows, or at the times of the draft."""
    signal, name, values, is_resampled = cell.signal, cell.signal.name, cell.values, draft.times is not piece.times
    missing = np.flatnonzero(~cell.known[:-1]).tolist()
    if signal.role is not Role.OBSERVATION and missing and (not is_resampled or not cell.known.any()):
        problem = f"row {piece.rows[missing[0]]} of the file has no value ({len(missing)} rows in total)"
        fix = "Fill it in, end the episode before it, or give a rate for resampling."
        raise DataError(problem, fix=fix, signal=name, step=missing[0])
    observed = cell.fresh
    if is_resampled and draft.times is not None and piece.times is not None:
        values = values.astype(np.float64) if signal.kind is Kind.VECTOR and values.dtype.kind != "f" else values
        if signal.role is Role.REWARD:
            draft.put(name, summed(piece.times[observed], values[observed], draft.times))
            return
        values, observed = resample(piece.times, values, observed, draft.times)
    elif signal.role is Role.OBSERVATION:
        values = filled(values, cell.known)
    if signal.role is not Role.OBSERVATION:
        draft.put(name, values[:-1])
        return
    if not cell.known.any():
        problem = "it has no value in the whole episode and is marked as not observed"
        draft.warn(problem, "Leave the episode out, or remove the signal from schema.json.", signal=name)
    draft.put(name, values, observed)


def grid_times(start_s: float, stop_s: float, rate_hz: float) -> NDArray[np.float64]:
    """Returns times from `start_s` to at most `stop_s`, in seconds, at `rate_hz`."""
    num = int(np.floor((stop_s - start_s) * rate_hz + SLACK)) + 1
    return start_s + np.arange(max(num, 0)) / rate_hz


def resample(
    times: NDArray[np.float64], values: Array, observed: NDArray[np.bool_], grid: NDArray[np.float64]
) -> tuple[Array, NDArray[np.bool_]]:
    """Returns the last sample at or before each time of the grid, and a mask [grid] of times at which it is observed.

    A sample counts as observed if it is newer than the previous time. Before the first sample, its value is held
    backwards. Without a sample, values are 0. Interpolation would look ahead.

    Args:
        times: [samples] seconds, rising.
        values: [samples, ...].
        observed: [samples] bool; samples with False are ignored.
        grid: [grid] seconds, evenly rising, at least two.
    """
    if not observed.any():
        return np.zeros((len(grid), *values.shape[1:]), values.dtype), np.zeros(len(grid), np.bool_)
    step = float(grid[-1] - grid[0]) / (len(grid) - 1)
    edges = np.concatenate([grid[:1] - step, grid]) + SLACK * step
    last = np.searchsorted(times[observed], edges, side="right") - 1
    return values[observed][np.maximum(last[1:], 0)], np.diff(last) > 0


def summed(times: NDArray[np.float64], values: Array, grid: NDArray[np.float64]) -> Array:
    """Returns the sum of the samples within each step of the grid, [grid - 1, ...].

    Args:
        times: [samples] seconds, rising.
        values: [samples, ...].
        grid: [grid] seconds, evenly rising, at least two.
    """
    step = float(grid[-1] - grid[0]) / (len(grid) - 1)
    edges = np.searchsorted(times, grid - SLACK * step).tolist()
    with np.errstate(over="ignore", invalid="ignore"):
        sums = [np.sum(values[start:stop], 0, dtype=values.dtype) for start, stop in pairwise(edges)]
    return np.array(sums, values.dtype)
