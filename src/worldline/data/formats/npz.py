"""Importer of .npz files, one per episode: arrays named by signal, T+1 observations and T actions.

A file may also hold:

    terminated, truncated       one flag, or one flag per step.
                                Only the last may be set.
    seed                        the reset seed.
    observed.<signal>           [T+1] bool, False if an observation is missing.
    time or timestamp           seconds; they give the step duration.
    a scalar text or number     metadata of the episode, such as its task or date.
                                It is kept as the episode's source.

A `schema.json` next to the files describes the signals; without it the schema is inferred.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from io import BytesIO
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.npyio import NpzFile

from worldline.data.array_size import MAX_ARRAYS, check_entries, check_size
from worldline.data.base import ReadOptions
from worldline.data.formats.importer import importer
from worldline.data.formats.raw_episode import LazyArray, RawEpisode
from worldline.data.formats.reading import FLAGS, MASK_PREFIX, TIMES, Metadata, converted, duplicate, flag_at_end

_HEADER_BYTES = 1 << 14
"""Longest start of an array that is read; numpy refuses headers above 10,000 characters."""
_FIX = "Save it again with numpy.savez; arrays of Python objects cannot be read."
_SEVERAL = "The file seems to hold several episodes. Save each episode in a separate file."


@importer(".npz", is_single=True)
def read_npz(file: Path, options: ReadOptions) -> Iterator[RawEpisode]:
    """Yields the episode in a file; its signals are read when they are needed."""
    del options  # of tables only
    with (
        converted("the file cannot be read", fix=_FIX, file=file),
        file.open("rb") as stream,
        NpzFile(stream, allow_pickle=False) as archive,
    ):
        check_entries(len(archive.files), "arrays", MAX_ARRAYS, file=file)
        keys = {key: key.replace("/", ".") for key in archive.files}  # signal names have no slashes of nested logs
        if twice := duplicate(key.replace("/", ".") for key in archive.files):
            raise ValueError(f"it holds two arrays named {twice}")
        arrays: dict[str, Any] = {name: _lazy(archive, key) for key, name in keys.items()}
        num_bytes = sum(prod(array.shape) * array.dtype.itemsize for array in arrays.values())
        check_size(num_bytes, "the arrays in it", file=file)
        for name, array in arrays.items():
            if name in (*FLAGS, *TIMES, "seed") or name.startswith(MASK_PREFIX) or not array.shape:
                arrays[name] = np.asarray(array)
        yield draft_of_arrays(arrays, {}, fix=_SEVERAL)


def _lazy(archive: NpzFile, key: str) -> LazyArray:
    """An array of which only the header was read, and of that only the start."""
    assert archive.zip is not None  # it is open
    with archive.zip.open(f"{key}.npy") as member:
        stream = BytesIO(member.read(_HEADER_BYTES))
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(stream)
    return LazyArray(shape, dtype, partial(archive.__getitem__, key))


def draft_of_arrays(arrays: Mapping[str, Any], source: Metadata, *, fix: str) -> RawEpisode:
    """Returns the draft of an episode in arrays by name, as the head of this file describes them.

    Args:
        arrays: signals, masks, end flags, times, the seed, and scalars that are kept in the source.
        source: as in `LoggedEpisode`.
        fix: of an end flag that is set too early.

    Raises:
        DataError: an end flag is set before the last row.
    """
    draft = RawEpisode(source=dict(source))
    ends = {name: flag_at_end(arrays[name], name, fix=fix) for name in FLAGS if name in arrays}
    draft.end(ends.get("terminated"), ends.get("truncated"))
    for name, values in arrays.items():
        if name.startswith(MASK_PREFIX):
            draft.observed[name.removeprefix(MASK_PREFIX)] = values
        elif name == "seed" and values.size == 1:
            draft.seed = int(values.item())
        elif name in TIMES and values.dtype.kind in "fiu" and values.ndim:
            draft.times = values.astype(np.float64) if draft.times is None else draft.times
        elif isinstance(value := values.item() if not values.ndim else None, str | int | float) and value == value:
            draft.source |= {name: value} if name not in FLAGS else {}  # value != value: NaN
        elif name not in FLAGS and name != "seed":
            draft.values[name] = values
    return draft
