"""Layout of flat HDF5 files: the rows of each episode, and the row of a column that belongs to each step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from worldline.data.checks import Finding
from worldline.data.formats.hdf5.access import read_rows
from worldline.data.formats.reading import UNREADABLE
from worldline.errors import DataError
from worldline.schema import Role

LENGTHS = ("ep_len", "ep_lens", "episode_len", "episode_length", "episode_lengths")
OFFSETS = ("ep_offset", "ep_offsets", "episode_offset", "episode_offsets")
_LOOKED_AT = 32


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
        problem = (
            f"it has neither lengths nor offsets of episodes (datasets: {', '.join(list(datasets)[:20]) or 'none'})"
        )
        raise DataError(problem, fix=f"Add a dataset {LENGTHS[0]} with the number of rows per episode.", file=file)
    index = tuple(name for name in (at_lengths, at_offsets) if name is not None)
    lengths = None if at_lengths is None else _counts(datasets[at_lengths], at_lengths, file)
    offsets = None if at_offsets is None else _counts(datasets[at_offsets], at_offsets, file)
    if lengths is None and offsets is not None:
        sizes = [len(d) for name, d in datasets.items() if name not in index and len(d.shape or ())]
        if not sizes:
            raise DataError("the file has no columns", fix="Add a dataset for each signal.", file=file)
        num_rows = max(set(sizes), key=sizes.count)
        ends = [*offsets[1:].tolist(), num_rows]
        if len(offsets) > 1 and offsets[-1] == num_rows:  # the last offset is the end of the last episode
            offsets, ends = offsets[:-1], ends[:-1]
        lengths = np.array(ends, np.int64) - offsets
    assert lengths is not None
    if (lengths < 0).any():
        episode = int(np.flatnonzero(lengths < 0)[0])
        raise DataError(f"its length is {lengths[episode]}", fix="Write the file again.", file=file, episode=episode)
    if lengths.sum(dtype=np.float64) >= 2.0**62:
        raise DataError("the lengths of the episodes overflow", fix="Write the file again.", file=file)
    starts = np.concatenate(([0], np.cumsum(lengths)[:-1])).astype(np.int64)[: len(lengths)]
    if offsets is not None:
        _check_offsets(starts, offsets, file)
    return Hdf5Layout(starts=starts, lengths=lengths, index=index)


def _counts(dataset: h5py.Dataset, name: str, file: Path) -> NDArray[np.int64]:
    """Lengths or offsets as int64."""
    try:
        values = (
            read_rows(dataset, 0, len(dataset), name) if len(dataset.shape or ()) == 1 else np.zeros((1, 1), np.int8)
        )
    except DataError as error:
        raise Finding.of(error, file=str(file)).error() from error
    if values.ndim != 1 or values.dtype.kind not in "iu" or (values.astype(np.float64) >= 2.0**62).any():
        problem = f"expected one whole number per episode, got shape {dataset.shape} and dtype {dataset.dtype}"
        raise DataError(problem, fix="Write one int64 for each episode.", file=file, signal=name)
    return values.astype(np.int64)


def _check_offsets(starts: NDArray[np.int64], offsets: NDArray[np.int64], file: Path) -> None:
    if len(offsets) != len(starts):
        problem = f"the file has {len(starts)} lengths of episodes and {len(offsets)} offsets"
        raise DataError(problem, fix="Write both for every episode, or leave one out.", file=file)
    wrong = np.flatnonzero(offsets != starts)
    if len(wrong):
        problem = f"its offset is {offsets[wrong[0]]}, but the episodes before it have {starts[wrong[0]]} rows in total"
        raise DataError(problem, fix="Correct lengths or offsets, or leave one out.", file=file, episode=int(wrong[0]))


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
    nans = {0: [], 1: []}  # type: dict[int, list[bool]]
    for episode in long[np.unique(np.linspace(0, len(long) - 1, _LOOKED_AT).astype(int))]:
        first = int(layout.starts[episode])
        last = first + int(layout.lengths[episode]) - 1
        try:
            rows = {0: read_rows(dataset, last, last + 1), 1: read_rows(dataset, first, first + 1)}
        except UNREADABLE:
            continue  # `read` reports it
        for shift, values in rows.items():
            nans[shift].append(bool(np.isnan(values).all()))
    other = 1 - usual
    if nans[other] and all(nans[other]) and not any(nans[usual]):
        return other, f"{plain[other].removesuffix('.')}, because it is NaN there and the {end[usual]} row is not."
    return usual, "" if nans[usual] and all(nans[usual]) else plain[usual]
