"""The rows of each episode and step in a flat HDF5 file, and its columns that are not signals."""

from __future__ import annotations

from collections.abc import Collection
from math import prod
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from worldline.data.array_size import MAX_ROWS, check_episodes
from worldline.data.conversion import steps_s
from worldline.data.formats.hdf5.access import Datasets, add_text, arrays_in, is_numeric, is_text, read_rows
from worldline.data.formats.reading import FLAGS, MASK_PREFIX, TIMES, Array, RawEpisode
from worldline.errors import DataError
from worldline.schema import Role

STEP_S, SCHEMA_ATTRIBUTE, EPISODE_ATTRIBUTE = "step_s", "worldline_schema", "worldline_{}"
_LENGTHS = ("ep_len", "ep_lens", "episode_len", "episode_length", "episode_lengths")
_OFFSETS = ("ep_offset", "ep_offsets", "episode_offset", "episode_offsets")
_EPISODE_IDS = ("id", "ep_idx", "ep_id", "episode", "episode_id", "episode_idx", "episode_index", "seed")
_STEP_IDS = ("step_idx", "step_id", "step_index", "frame_index")
_MAY_VARY = ("id", "seed")  # some files use these names for other data


class Hdf5Rows:
    """The columns of an open file, and the rows of each episode in them.

    Args:
        file: the open file.
        path: its path.

    Raises:
        DataError: there are no lengths, or offsets contradict them.
    """

    def __init__(self, file: h5py.File, path: Path) -> None:
        datasets, self.path = arrays_in(file, path), path
        index, offset = (next((name for name in names if name in datasets), "") for names in (_LENGTHS, _OFFSETS))
        if not index:
            problem = f"it has no lengths of episodes (datasets: {', '.join(list(datasets)[:20])})"
            raise DataError(problem, fix=f"Add a dataset {_LENGTHS[0]} with the number of rows per episode.", file=path)
        self.columns: Datasets = {name: data for name, data in datasets.items() if name not in (index, offset)}
        self.index = datasets[index]
        """The dataset with the lengths."""
        self.lengths = _counts(self.index, index, path)
        """[episodes] number of rows."""
        self.starts = np.cumsum(self.lengths) - self.lengths
        """[episodes] first row."""
        self.num_rows = int(self.lengths.sum())
        offsets = _counts(datasets[offset], offset, path) if offset else self.starts
        if len(offsets) != len(self.lengths):
            problem = f"the file has {len(self.lengths)} lengths of episodes and {len(offsets)} offsets"
            raise DataError(problem, fix="Leave out the offsets.", file=path)
        is_wrong = (self.lengths < 0) | (self.lengths > MAX_ROWS) | (offsets != self.starts)
        if wrong := np.flatnonzero(is_wrong).tolist():
            problem = f"its length is {self.lengths[wrong[0]]} and its offset is {offsets[wrong[0]]}"
            problem += f", but the episodes before it have {self.starts[wrong[0]]} rows in total"
            raise DataError(problem, fix="Correct them, or leave out the offsets.", file=path, episode=wrong[0])

    def read(self, name: str, number: int, *, shift: int = 0, num: int | None = None) -> Array:
        """Returns the rows of an episode in a column.

        Args:
            name: of the column.
            number: of the episode.
            shift: the first row.
            num: of rows; None for all.

        Raises:
            DataError: they cannot be read.
        """
        first = int(self.starts[number]) + shift
        return read_rows(self.columns[name], first, first + int(self.lengths[number] if num is None else num), name)

    def is_metadata(self, name: str) -> bool:
        """Whether a column describes episodes and is not a signal."""
        dataset = self.columns[name]
        if name in (*FLAGS, *TIMES, STEP_S) or name.startswith(MASK_PREFIX):
            return True
        if name in (*_EPISODE_IDS, *_STEP_IDS):
            return _holds_ids(dataset)
        return is_text(dataset) or (self.is_of_episodes(name) and self.num_rows != len(self.lengths))

    def is_of_episodes(self, name: str) -> bool:
        """Whether a column has one number per episode."""
        return is_numeric(self.columns[name]) and self.columns[name].shape == self.lengths.shape


def _counts(dataset: h5py.Dataset, name: str, file: Path) -> NDArray[np.int64]:
    """Lengths or offsets as int64."""
    if len(dataset.shape or ()) != 1 or dataset.dtype.kind not in "iu":
        problem = f"expected one whole number per episode, got shape {dataset.shape} and dtype {dataset.dtype}"
        raise DataError(problem, fix="Write one int64 for each episode.", file=file, signal=name)
    check_episodes(len(dataset), file)
    return read_rows(dataset, 0, len(dataset), name).astype(np.int64)


def _holds_ids(dataset: h5py.Dataset) -> bool:
    return is_numeric(dataset) and dataset.dtype.kind in "iu" and prod(dataset.shape[1:]) == 1


def usual_shift(role: Role) -> int:
    """Returns the offset from a step to its row in a column, in the convention of stable-worldmodel."""
    return 1 if role is Role.REWARD else 0


def step_s_of(rows: Hdf5Rows, number: int, step_s: float | None) -> NDArray[np.float32] | None:
    """Returns the seconds of each step of an episode; None if all steps take the usual time.

    Args:
        rows: of the file.
        number: of the episode.
        step_s: the usual time.

    Raises:
        DataError: a time cannot be read.
    """
    if STEP_S in rows.columns:
        own = rows.read(STEP_S, number)[:-1].reshape(-1).astype(np.float32)
        return None if np.isnan(own).all() else own
    name = next((name for name in TIMES if name in rows.columns and is_numeric(rows.columns[name])), None)
    return None if name is None else steps_s(rows.read(name, number), step_s)


def add_metadata(draft: RawEpisode, rows: Hdf5Rows, number: int, signals: Collection[str]) -> None:
    """Adds numbers and texts that are constant in an episode to its source, and warnings for texts that are not.

    Args:
        draft: of the episode.
        rows: of the file.
        number: of the episode.
        signals: names of columns that are signals.

    Raises:
        DataError: the rows contradict the lengths of the episodes, or cannot be read.
    """
    for name, dataset in rows.columns.items():
        if name in signals or name in (*FLAGS, *TIMES, *_STEP_IDS, STEP_S):
            continue
        start = int(rows.starts[number])
        if is_text(dataset):
            add_text(draft, name, dataset, start, start + int(rows.lengths[number]))
        elif name in _EPISODE_IDS and _holds_ids(dataset):
            ids = np.unique(rows.read(name, number)).tolist()
            if len(ids) > 1 and name not in _MAY_VARY:
                problem = f"{name} goes from {ids[0]} to {ids[-1]} within one episode"
                raise DataError(problem, fix=f"Correct the lengths, or leave {name} out.")
            draft.source |= {name: int(ids[0])} if len(ids) == 1 else {}
        elif rows.is_of_episodes(name):
            value = read_rows(dataset, number, number + 1, name)[0].item()
            draft.source |= {name: value} if np.isfinite(value) else {}
