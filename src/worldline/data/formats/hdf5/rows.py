"""Columns of HDF5 files that are not signals: ends, times, numbers and texts of episodes."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import h5py
import numpy as np
from numpy.typing import NDArray

from worldline.data.conversion import steps_s
from worldline.data.formats.hdf5.access import MAX_TEXT_LENGTH, is_numeric, is_text, read_rows, texts_in
from worldline.data.formats.missing import check_known
from worldline.data.formats.reading import FLAGS, MASK_PREFIX, TIMES, Array, EpisodeDraft, flag_at_end
from worldline.data.infer import Summary, summarise
from worldline.errors import DataError

STEP_S = "step_s"
EPISODE_IDS = ("id", "ep_idx", "ep_id", "episode", "episode_id", "episode_idx", "episode_index", "seed")
STEP_IDS = ("step_idx", "step_id", "step_index", "frame_index")
_MAY_VARY = ("id", "seed")  # some files use these names for other data

Columns = Mapping[str, h5py.Dataset]


def is_metadata(name: str, dataset: h5py.Dataset, num_rows: int, num_episodes: int) -> bool:
    """Whether a column describes episodes and is not a signal.

    Args:
        name: of the column.
        dataset: the column.
        num_rows: of all episodes.
        num_episodes: in the file.
    """
    if name in (*FLAGS, *TIMES, STEP_S) or name.startswith(MASK_PREFIX):
        return True
    if name in (*EPISODE_IDS, *STEP_IDS):
        return is_numeric(dataset) and dataset.dtype.kind in "iu" and prod(dataset.shape[1:]) == 1
    return is_text(dataset) or is_of_episodes(dataset, num_rows, num_episodes)


def is_of_episodes(dataset: h5py.Dataset, num_rows: int, num_episodes: int) -> bool:
    """Whether a column has one number per episode instead of one per row."""
    return is_numeric(dataset) and dataset.shape == (num_episodes,) and num_rows != num_episodes


def end_of(dataset: h5py.Dataset, name: str, start: int, rows: int) -> bool:
    """Whether the flag is set in the last row of an episode.

    Args:
        dataset: the column of flags.
        name: of the column.
        start: first row of the episode.
        rows: of the episode.

    Raises:
        DataError: the flag is set in an earlier row, or the column cannot be read.
    """
    flags = read_rows(dataset, start, start + rows, name)
    return flag_at_end(flags, name, fix="Correct the lengths; they seem to join several episodes.")


def step_s_of(columns: Columns, start: int, rows: int, step_s: float | None) -> NDArray[np.float32] | None:
    """Returns the seconds of each step of an episode; None if all steps take the usual time.

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


def add_text(draft: EpisodeDraft, name: str, texts: set[str]) -> None:
    """Adds a text to the source of an episode; warns if it cannot be kept.

    Args:
        draft: of the episode.
        name: of the text.
        texts: the different texts in the rows of the episode; empty if there is not one per row.
    """
    if len(texts) == 1 and len(text := next(iter(texts))) <= MAX_TEXT_LENGTH:
        draft.source[name] = text
    else:
        problem = "the text is left out: it changes within the episode, is too long, or is not one per row"
        draft.warn(problem, f"Use one text of at most {MAX_TEXT_LENGTH} characters per episode.", signal=name)


def add_metadata(draft: EpisodeDraft, columns: Columns, number: int, start: int, rows: int, num_episodes: int) -> None:
    """Adds numbers and texts that are constant in an episode to its source, and warnings for texts that are not.

    Args:
        draft: of the episode.
        columns: that are not signals, by name.
        number: of the episode.
        start: its first row.
        rows: its number of rows.
        num_episodes: in the file.

    Raises:
        DataError: the rows contradict the lengths of the episodes, or cannot be read.
    """
    for name, dataset in columns.items():
        if is_text(dataset):
            add_text(
                draft, name, set(texts_in(dataset, start, start + rows)) if len(dataset.shape or ()) == 1 else set()
            )
        elif name in EPISODE_IDS and is_metadata(name, dataset, -1, num_episodes):
            ids = read_rows(dataset, start, start + rows, name).reshape(rows)
            changes = np.flatnonzero(ids != ids[0])
            if not len(changes):
                draft.source[name] = int(ids[0])
            elif name not in _MAY_VARY:
                problem = f"{name} changes from {ids[0]} to {ids[changes[0]]} within one episode"
                raise DataError(problem, fix="Correct the lengths, or leave the column out.", step=int(changes[0]))
        elif name in STEP_IDS and is_metadata(name, dataset, -1, num_episodes):
            _check_steps(read_rows(dataset, start, start + rows, name).reshape(rows), name)
        elif is_of_episodes(dataset, len(dataset) + 1, num_episodes) and name not in (*FLAGS, *TIMES, STEP_S):
            value = read_rows(dataset, number, number + 1, name)[0].item()
            if np.isfinite(value):
                draft.source[name] = value


def _check_steps(steps: Array, name: str) -> None:
    """Raises unless the step numbers rise evenly."""
    gaps = np.diff(steps.astype(np.int64))
    wrong = np.flatnonzero((gaps != gaps[0]) | (gaps < 1))
    if len(wrong):
        at = int(wrong[0])
        problem = f"{name} goes from {steps[at]} to {steps[at + 1]}: rows are missing, or the lengths are wrong"
        raise DataError(problem, fix="Correct the log, or leave the column out.", step=at)


def nothing_known(shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> Summary:
    """Returns the summary of a column without known values.

    Args:
        shape: of the column; axis 0 is rows.
        dtype: of the file.
    """
    unknown = (np.nan,) * max(1, prod(shape[1:]))
    return Summary(shape=shape, dtype=dtype.newbyteorder("="), low=unknown, high=unknown)


def summary_of(values: Array) -> Summary:
    """Returns the summary of the finite rows."""
    if values.dtype.kind == "f" and len(values):
        values = values[np.isfinite(values.reshape(len(values), -1)).all(1)]
    return summarise(values) if len(values) else nothing_known(values.shape, values.dtype)
