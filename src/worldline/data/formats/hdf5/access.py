"""Reading of HDF5 files with h5py: values that were never written are an error, and errors name their place."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import prod
from pathlib import Path

import h5py
import numpy as np

from worldline.data.array_size import MAX_ARRAYS, check_entries, check_size
from worldline.data.formats.raw_episode import RawEpisode
from worldline.data.formats.reading import DAMAGED, Array, Metadata, converted, duplicate
from worldline.errors import DataError

ENDINGS = (".h5", ".hdf5")
MAX_TEXT_LENGTH = 4096
"""Maximum length of a text that is kept with an episode; excludes the XML of simulators."""
_TEXT_ROWS = 256
"""Rows of texts that are in memory at once."""

Datasets = Mapping[str, h5py.Dataset]


def hdf5_files(path: Path) -> list[Path]:
    """Returns the HDF5 files at `path`, judged by name: the file itself, or the sorted files of the folder."""
    files = [path] if path.is_file() else sorted(path.glob("*"))
    return [file for file in files if file.suffix in ENDINGS and file.is_file()]


def only_file(path: Path, what: str) -> Path:
    """Returns the HDF5 file at `path`.

    Args:
        path: a file, or a folder with exactly one HDF5 file.
        what: the format's name, for the message.

    Raises:
        DataError: the folder has none or several.
    """
    files = [path] if path.is_file() else hdf5_files(path)
    if len(files) != 1:
        listed = ", ".join(file.name for file in files[:5]) or "none"
        fix = "Give one file, and import each file separately."
        raise DataError(f"{what} logs are one HDF5 file, found {len(files)} ({listed})", fix=fix, file=path)
    return files[0]


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """Opens the file for reading.

    Raises:
        DataError: it is not an HDF5 file, it is truncated, or its first bytes are damaged.
    """
    with converted("the file cannot be opened", file=path):
        file = h5py.File(path, "r")
    with file:
        yield file


def arrays_in(group: h5py.Group, file: Path) -> dict[str, h5py.Dataset]:
    """Returns every dataset below `group` by dotted name; soft and external links are left out.

    Args:
        group: to search.
        file: for errors.

    Raises:
        DataError: the structure is damaged, has too many members, or two datasets get the same name.
    """
    datasets: list[tuple[str, h5py.Dataset]] = []
    num_members = 0

    def visit(path: str, item: h5py.HLObject) -> None:
        nonlocal num_members
        num_members += 1
        check_entries(num_members, "data sets and groups", MAX_ARRAYS, file=file)
        if isinstance(item, h5py.Dataset):
            _ = item.dtype, item.shape  # h5py parses these on access, and raises if they are damaged
            datasets.append((path.replace("/", ".").lstrip("."), item))

    with converted("its structure cannot be read", file=file):
        group.visititems(visit)
    if (twice := duplicate(name for name, _ in datasets)) is not None:
        fix = "Rename one of them: a nested dataset a/b and a flat one a.b get the same name."
        raise DataError("two datasets have this name", fix=fix, file=file, signal=twice)
    return dict(datasets)


def is_numeric(dataset: h5py.Dataset) -> bool:
    """Whether it holds rows of numbers of at most 8 bytes."""
    return dataset.dtype.kind in "fiub" and dataset.dtype.itemsize <= 8 and len(dataset.shape or ()) > 0


def is_text(dataset: h5py.Dataset) -> bool:
    """Whether it holds texts, of fixed or variable length."""
    return h5py.check_string_dtype(dataset.dtype) is not None


def read_rows(dataset: h5py.Dataset, start: int, stop: int, signal: str | None = None) -> Array:
    """Returns rows `start` to `stop` in native byte order; texts as objects.

    Args:
        dataset: of numbers or texts; axis 0 is rows.
        start: first row.
        stop: end, exclusive.
        signal: for errors.

    Raises:
        DataError: the rows do not exist, were never written, are damaged or too large, or lie in other files.
    """
    with converted("its values cannot be read", signal=signal):
        if not 0 <= start <= stop <= len(dataset):
            raise DataError(f"expected rows {start} to {stop}, got {len(dataset)} rows", fix=DAMAGED, signal=signal)
        if dataset.is_virtual or dataset.external:
            fix = "Copy it into one file with h5repack."
            raise DataError("its values are stored in other files", fix=fix, signal=signal)
        # A chunk is unpacked as a whole, even if one row is read.
        num_values = max((stop - start) * prod(dataset.shape[1:]), prod(dataset.chunks or ()))
        check_size(num_values * dataset.dtype.itemsize, "its values", signal=signal)
        if not _is_written(dataset, start, stop):
            problem = "some of its rows were never written and would read as zeros"
            raise DataError(problem, fix="Write the file again, to its end.", signal=signal)
        values: Array = np.asarray((dataset.asstr() if is_text(dataset) else dataset)[start:stop])
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def _is_written(dataset: h5py.Dataset, start: int, stop: int) -> bool:
    """Whether the file holds all rows. The HDF5 library reads others as zeros."""
    if dataset.chunks is None:
        return bool(dataset.id.get_storage_size() >= dataset.nbytes)
    rows = (slice(start, stop), *(slice(0, size) for size in dataset.shape[1:]))
    corners = (tuple(part.start for part in chunk) for chunk in (dataset.iter_chunks(rows) if stop > start else ()))
    return all(dataset.id.get_chunk_info_by_coord(corner).byte_offset is not None for corner in corners)


def add_text(draft: RawEpisode, name: str, dataset: h5py.Dataset, start: int, stop: int) -> None:
    """Adds the text of an episode to its source; warns if it cannot be kept.

    Args:
        draft: of the episode.
        name: of the text.
        dataset: of texts.
        start: first row of the episode.
        stop: end of the episode, exclusive.

    Raises:
        DataError: as in `read_rows`.
    """
    texts = set[str]()
    for first in range(start, stop if dataset.ndim == 1 else start, _TEXT_ROWS):
        texts |= set(read_rows(dataset, first, min(stop, first + _TEXT_ROWS), name).tolist())
        if len(texts) > 1:
            break
    if len(texts) == 1 and len(text := texts.pop()) <= MAX_TEXT_LENGTH:
        draft.source[name] = text
    else:
        problem = "the text is left out: it changes within the episode, is too long, or is not one per row"
        draft.warn(problem, f"Use one text of at most {MAX_TEXT_LENGTH} characters per episode.", signal=name)


def attributes(item: h5py.HLObject) -> Metadata:
    """Returns the attributes that are a single number or a short text.

    Raises:
        DataError: they are damaged.
    """
    kept: Metadata = {}
    with converted("its attributes cannot be read"):
        for name, value in item.attrs.items():
            if np.size(value) == 1:
                single = np.asarray(value).item()
                single = single.decode() if isinstance(single, bytes) else single
                is_short = isinstance(single, str) and len(single) <= MAX_TEXT_LENGTH
                # A store keeps attributes as JSON, which has no NaN.
                if is_short or (isinstance(single, int | float) and np.isfinite(single)):
                    kept[name] = single
    return kept


def embedded_json(item: h5py.HLObject, name: str) -> bytes | None:
    """Returns the JSON that our exporters keep in a fixed-length attribute; None if there is none.

    Raises:
        DataError: it is damaged.
    """
    with converted(f"the attribute {name!r} cannot be read"):
        if name not in item.attrs:
            return None
        value = bytes(item.attrs[name])
        json.loads(value)
        return value
