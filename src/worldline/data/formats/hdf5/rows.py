"""What the rows of an HDF5 file tell of an episode beside its signals: its end, its times, its numbers and texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from worldline.data.checks import Finding, Severity
from worldline.data.conversion import steps_s
from worldline.data.formats.hdf5.access import LONGEST_TEXT, Array, is_numeric, is_text, read_rows, texts_in
from worldline.data.formats.missing import check_known
from worldline.data.formats.npz import FLAGS, FOREIGN_ENDS, MASK_PREFIX, TIMES
from worldline.data.infer import Summary, infer_signal, summarise
from worldline.errors import ConfigError, DataError
from worldline.schema import Role, Signal

STEP_S = "step_s"
EPISODE_IDS = ("id", "ep_idx", "ep_id", "episode", "episode_id", "episode_idx", "episode_index", "seed")
STEP_IDS = ("step_idx", "step_id", "step_index", "frame_index")
_MAY_VARY = ("id", "seed")  # names that others use for something else too

Columns = Mapping[str, h5py.Dataset]
Told = dict[str, str | int | float]


def is_aside(name: str, dataset: h5py.Dataset, num_rows: int, num_episodes: int) -> bool:
    """Whether a column is no signal but tells something of the episode.

    Args:
        name: of the column.
        dataset: the column.
        num_rows: of all episodes.
        num_episodes: in the file.
    """
    if name in (*FLAGS, *TIMES, STEP_S) or name.startswith(MASK_PREFIX):
        return True
    if name in (*EPISODE_IDS, *STEP_IDS):
        return is_numeric(dataset) and dataset.dtype.kind in "iu" and _is_scalar(dataset)
    return is_text(dataset) or is_of_episodes(dataset, num_rows, num_episodes)


def is_of_episodes(dataset: h5py.Dataset, num_rows: int, num_episodes: int) -> bool:
    """Whether a column has one number for each episode instead of one for each row."""
    return is_numeric(dataset) and dataset.shape == (num_episodes,) and num_rows != num_episodes


def is_foreign_end(name: str) -> bool:
    """Whether a column is called like an end that does not tell terminated from truncated."""
    return name.lower() in FOREIGN_ENDS


def _is_scalar(dataset: h5py.Dataset) -> bool:
    return all(n == 1 for n in dataset.shape[1:])


def end_of(dataset: h5py.Dataset, name: str, start: int, rows: int) -> bool:
    """Whether the last row of an episode is flagged.

    Args:
        dataset: the column of flags.
        name: of the column.
        start: first row of the episode.
        rows: of the episode.

    Raises:
        DataError: an earlier row is flagged, or it cannot be read.
    """
    values = read_rows(dataset, start, start + rows, name).reshape(rows, -1)
    flags = ((values != 0) & (values == values)).any(1)  # NaN flags nothing
    early = np.flatnonzero(flags[:-1])
    if len(early):
        fix = "The lengths seem to join several episodes: correct them."
        raise DataError(f"{name} is set before the end", fix=fix, step=int(early[0]))
    return bool(flags[-1])


def step_s_of(columns: Columns, start: int, rows: int, step_s: float | None) -> NDArray[np.float32] | None:
    """Seconds of each step of an episode; None where all take the usual time.

    Args:
        columns: by name.
        start: first row of the episode.
        rows: of the episode.
        step_s: the usual time.

    Raises:
        DataError: a time is missing or cannot be read.
    """
    if STEP_S in columns:
        own = read_rows(columns[STEP_S], start, start + rows - 1, STEP_S).reshape(rows - 1).astype(np.float32)
        return None if np.isnan(own).all() else own
    for name in TIMES:
        if name in columns and is_numeric(columns[name]):
            times = read_rows(columns[name], start, start + rows, name)
            check_known(times, name)
            return steps_s(times, step_s)
    return None


def told_of(columns: Columns, number: int, start: int, rows: int, num_episodes: int) -> tuple[Told, list[Finding]]:
    """Numbers and texts that hold for a whole episode, and warnings for those that should and do not.

    Args:
        columns: that are no signals, by name.
        number: of the episode.
        start: its first row.
        rows: of it.
        num_episodes: in the file.

    Raises:
        DataError: the rows contradict the lengths of the episodes, or cannot be read.
    """
    told: Told = {}
    findings = []
    for name, dataset in columns.items():
        if is_text(dataset):
            texts = set(texts_in(dataset, start, start + rows)) if len(dataset.shape or ()) == 1 else set()
            if len(texts) == 1 and len(text := texts.pop()) <= LONGEST_TEXT:
                told[name] = text
            else:
                problem = "the text changes within the episode, is too long, or is not one a row, and is left out"
                fix = "Texts can only describe whole episodes."
                findings.append(Finding(problem=problem, fix=fix, severity=Severity.WARNING, signal=name))
        elif name in EPISODE_IDS and is_aside(name, dataset, -1, num_episodes):
            ids = read_rows(dataset, start, start + rows, name).reshape(rows)
            changes = np.flatnonzero(ids != ids[0])
            if not len(changes):
                told[name] = int(ids[0])
            elif name not in _MAY_VARY:
                problem = (
                    f"{name} changes from {ids[0]} to {ids[changes[0]]} within what the lengths say is one episode"
                )
                raise DataError(problem, fix="Correct the lengths, or leave the column out.", step=int(changes[0]))
        elif name in STEP_IDS and is_aside(name, dataset, -1, num_episodes):
            _check_steps(read_rows(dataset, start, start + rows, name).reshape(rows), name)
        elif is_of_episodes(dataset, len(dataset) + 1, num_episodes) and name not in (*FLAGS, *TIMES, STEP_S):
            value = read_rows(dataset, number, number + 1, name)[0].item()
            if np.isfinite(value):
                told[name] = value
    return told, findings


def _check_steps(steps: Array, name: str) -> None:
    """Nothing where the numbers of the steps rise evenly."""
    gaps = np.diff(steps.astype(np.int64))
    wrong = np.flatnonzero((gaps != gaps[0]) | (gaps < 1))
    if len(wrong):
        at = int(wrong[0])
        problem = f"{name} goes from {steps[at]} to {steps[at + 1]}: rows are missing, or the lengths are wrong"
        raise DataError(problem, fix="Correct the log, or leave the column out.", step=at)


def nothing_known(shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> Summary:
    """The summary of a column of which no value is known.

    Args:
        shape: with rows in front.
        dtype: of the file.
    """
    unknown = (np.nan,) * max(1, prod(shape[1:]))
    return Summary(shape=shape, dtype=dtype.newbyteorder("="), low=unknown, high=unknown)


def summary_of(values: Array) -> Summary:
    """The summary of those rows that are finite."""
    if values.dtype.kind == "f" and len(values):
        values = values[np.isfinite(values.reshape(len(values), -1)).all(1)]
    return summarise(values) if len(values) else nothing_known(values.shape, values.dtype)


def signal_of(name: str, role: Role, seen: Sequence[Summary], file: Path) -> tuple[Signal, list[str]]:
    """The signal that the summaries agree with, and what is not sure about it, as ends of a sentence.

    Args:
        name: of the signal.
        role: of the signal.
        seen: at least one.
        file: named in errors.

    Raises:
        DataError: it can be none.
    """
    known = [summary for summary in seen if np.isfinite(summary.low).any()]
    try:
        return infer_signal(name, role, known or seen)
    except ConfigError as error:
        raise DataError(f"it cannot be a signal ({error})", fix="Rename it.", file=file, signal=name) from error
