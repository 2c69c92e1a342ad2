"""Layout of flat HDF5 files: the rows of each episode and step, and the columns that are not signals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from worldline.data.array_size import check_episodes
from worldline.data.conversion import steps_s
from worldline.data.formats.hdf5.access import MAX_TEXT_LENGTH, is_numeric, is_text, read_rows
from worldline.data.formats.reading import (
    FLAGS,
    MASK_PREFIX,
    TIMES,
    UNREADABLE,
    Array,
    EpisodeDraft,
)
from worldline.errors import DataError
from worldline.schema import Role

LENGTHS = ("ep_len", "ep_lens", "episode_len", "episode_length", "episode_lengths")
OFFSETS = ("ep_offset", "ep_offsets", "episode_offset", "episode_offsets")
MAX_ROWS = 1 << 48
"""A longer episode counts as damaged; sums of lengths must fit into 64 bits."""
_LOOKED_AT = 32
STEP_S = "step_s"
EPISODE_IDS = ("id", "ep_idx", "ep_id", "episode", "episode_id", "episode_idx", "episode_index", "seed")
STEP_IDS = ("step_idx", "step_id", "step_index", "frame_index")
_MAY_VARY = ("id", "seed")  # some files use these names for other data

Columns = Mapping[str, h5py.Dataset]


@dataclass(frozen=True, kw_only=True)
class Hdf5Layout:
    """The rows of each episode in every column.

    Args:
        starts: first row of each episode.
        lengths: number of rows of each episode.
        index: names of the datasets with lengths or offsets.
    """

    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]
    index: tuple[str, ...]

    @property
    def num_rows(self) -> int:
        """Number of rows of all episodes."""
        return int(self.lengths.sum())


@dataclass(frozen=True, kw_only=True)
class EpisodeColumns:
    """The rows of one episode in the columns of a file.

    Args:
        columns: by name.
        layout: of the file.
        number: of the episode.
    """

    columns: Columns
    layout: Hdf5Layout
    number: int

    def __len__(self) -> int:
        return int(self.layout.lengths[self.number])

    def read(self, name: str, *, num: int | None = None, shift: int = 0) -> Array:
        """Returns rows of a column.

        Args:
            name: of the column.
            num: of rows; None for all.
            shift: the first row.

        Raises:
            DataError: they cannot be read.
        """
        first = int(self.layout.starts[self.number]) + shift
        return read_rows(self.columns[name], first, first + (len(self) if num is None else num), name)


def read_layout(datasets: Mapping[str, h5py.Dataset], file: Path) -> Hdf5Layout:
    """Reads the lengths and offsets of the episodes.

    Args:
        datasets: of the file, by dotted name.
        file: for errors.

    Raises:
        DataError: there are neither lengths nor offsets, or they contradict each other or the columns.
    """
    at_lengths = next((name for name in LENGTHS if name in datasets), None)
    at_offsets = next((name for name in OFFSETS if name in datasets), None)
    if at_lengths is None and at_offsets is None:
        listed = ", ".join(list(datasets)[:20]) or "none"
        problem = f"it has neither lengths nor offsets of episodes (datasets: {listed})"
        raise DataError(problem, fix=f"Add a dataset {LENGTHS[0]} with the number of rows per episode.", file=file)
    index = tuple(name for name in (at_lengths, at_offsets) if name is not None)
    offsets = None if at_offsets is None else _counts(datasets[at_offsets], at_offsets, file)
    if at_lengths is not None:
        lengths = _counts(datasets[at_lengths], at_lengths, file)
    else:
        assert offsets is not None
        offsets, lengths = _lengths(offsets, [d for name, d in datasets.items() if name not in index], file)
    starts = np.concatenate(([0], np.cumsum(lengths)[:-1])).astype(np.int64)[: len(lengths)]
    offsets = starts if offsets is None else offsets
    if len(offsets) != len(starts):
        problem = f"the file has {len(starts)} lengths of episodes and {len(offsets)} offsets"
        raise DataError(problem, fix="Write both for every episode, or leave one out.", file=file)
    if wrong := np.flatnonzero((lengths < 0) | (lengths >= MAX_ROWS) | (offsets != starts)).tolist():
        problem = f"its length is {lengths[wrong[0]]} and its offset is {offsets[wrong[0]]}"
        problem += f", but the episodes before it have {starts[wrong[0]]} rows in total"
        raise DataError(problem, fix="Correct lengths or offsets, or leave one out.", file=file, episode=wrong[0])
    return Hdf5Layout(starts=starts, lengths=lengths, index=index)


def _lengths(
    offsets: NDArray[np.int64], columns: Sequence[h5py.Dataset], file: Path
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Offsets and lengths of the episodes, from the offsets and the usual number of rows of a column."""
    sizes = [len(column) for column in columns if len(column.shape or ())]
    if not sizes:
        raise DataError("the file has no columns", fix="Add a dataset for each signal.", file=file)
    num_rows = max(set(sizes), key=sizes.count)
    if len(offsets) > 1 and offsets[-1] == num_rows:  # the last offset is the end of the last episode
        offsets = offsets[:-1]
    return offsets, np.diff(offsets, append=num_rows)


def _counts(dataset: h5py.Dataset, name: str, file: Path) -> NDArray[np.int64]:
    """Lengths or offsets as int64."""
    if len(dataset.shape or ()) != 1 or dataset.dtype.kind not in "iu":
        problem = f"expected one whole number per episode, got shape {dataset.shape} and dtype {dataset.dtype}"
        raise DataError(problem, fix="Write one int64 for each episode.", file=file, signal=name)
    check_episodes(len(dataset), file)
    return read_rows(dataset, 0, len(dataset), name).astype(np.int64)


def usual_shift(role: Role) -> int:
    """Returns the offset from a step to its row in a column, in the convention of stable-worldmodel."""
    return 1 if role is Role.REWARD else 0


def shift_of(dataset: h5py.Dataset, role: Role, layout: Hdf5Layout) -> tuple[int, str]:
    """Returns the offset (0 or 1) from a step to its row, and the assumption to print after the column's name.

    Args:
        dataset: the column of an action, exogenous signal or reward.
        role: its role.
        layout: of the episodes; up to `_LOOKED_AT` of them are checked.
    """
    usual = usual_shift(role)
    end = {0: "last", 1: "first"}
    plain = {
        0: "assumed that its row t leads from observation t to t+1; the last row of each episode is left out.",
        1: "assumed that its row t belongs to the step to observation t; the first row of each episode is left out.",
    }
    long = np.flatnonzero(layout.lengths > 1)
    if dataset.dtype.kind != "f" or not len(long):
        return usual, plain[usual]
    chosen = long[np.unique(np.linspace(0, len(long) - 1, _LOOKED_AT).astype(int))]
    left_out = {0: layout.starts + layout.lengths - 1, 1: layout.starts}  # row of each episode that a shift leaves out
    try:
        nans = {
            shift: [bool(np.isnan(read_rows(dataset, row, row + 1)).all()) for row in rows[chosen].tolist()]
            for shift, rows in left_out.items()
        }
    except UNREADABLE:  # `read` reports it
        return usual, plain[usual]
    other = 1 - usual
    if all(nans[other]) and not any(nans[usual]):
        return other, f"{plain[other].removesuffix('.')}, because it is NaN there and the {end[usual]} row is not."
    return usual, "" if all(nans[usual]) else plain[usual]


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


def step_s_of(episode: EpisodeColumns, step_s: float | None) -> NDArray[np.float32] | None:
    """Returns the seconds of each step of an episode; None if all steps take the usual time.

    Args:
        episode: its columns.
        step_s: the usual time.

    Raises:
        DataError: a time cannot be read.
    """
    if STEP_S in episode.columns:
        own = episode.read(STEP_S, num=len(episode) - 1).reshape(len(episode) - 1).astype(np.float32)
        return None if np.isnan(own).all() else own
    name = next((name for name in TIMES if name in episode.columns and is_numeric(episode.columns[name])), None)
    return None if name is None else steps_s(episode.read(name), step_s)


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


def add_metadata(draft: EpisodeDraft, episode: EpisodeColumns) -> None:
    """Adds numbers and texts that are constant in an episode to its source, and warnings for texts that are not.

    Args:
        draft: of the episode.
        episode: its columns that are not signals.

    Raises:
        DataError: the rows contradict the lengths of the episodes, or cannot be read.
    """
    num_episodes = len(episode.layout.lengths)
    for name, dataset in episode.columns.items():
        if is_text(dataset):
            add_text(draft, name, set(episode.read(name).tolist()) if dataset.ndim == 1 else set())
        elif name in EPISODE_IDS and is_metadata(name, dataset, -1, num_episodes):
            ids = episode.read(name).reshape(len(episode))
            changes = np.flatnonzero(ids != ids[0])
            if not len(changes):
                draft.source[name] = int(ids[0])
            elif name not in _MAY_VARY:
                problem = f"{name} changes from {ids[0]} to {ids[changes[0]]} within one episode"
                raise DataError(problem, fix="Correct the lengths, or leave the column out.", step=int(changes[0]))
        elif name in STEP_IDS and is_metadata(name, dataset, -1, num_episodes):
            _check_steps(episode.read(name).reshape(len(episode)), name)
        elif is_of_episodes(dataset, len(dataset) + 1, num_episodes) and name not in (*FLAGS, *TIMES, STEP_S):
            value = read_rows(dataset, episode.number, episode.number + 1, name)[0].item()
            if np.isfinite(value):
                draft.source[name] = value


def _check_steps(steps: Array, name: str) -> None:
    """Raises unless the step numbers rise evenly."""
    gaps = np.diff(steps.astype(np.int64))
    if wrong := np.flatnonzero((gaps != gaps[0]) | (gaps < 1)).tolist():
        at = wrong[0]
        problem = f"{name} goes from {steps[at]} to {steps[at + 1]}: rows are missing, or the lengths are wrong"
        raise DataError(problem, fix="Correct the log, or leave the column out.", step=at)
