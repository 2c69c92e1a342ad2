"""Export of a store to another file format, and what the exporters share.

The output appears only when it is complete. Datasets have checksums.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path

import h5py
import numpy as np

from worldline.config import to_json
from worldline.data.formats.reading import Array
from worldline.data.index import Entry
from worldline.data.store import Store
from worldline.errors import InputError
from worldline.progress import OnProgress, tell
from worldline.registry import load, names
from worldline.schema import Schema

_ENDINGS = {".h5": "hdf5", ".hdf5": "hdf5", ".csv": "csv", ".parquet": "parquet"}
SCHEMA_ATTRIBUTE = "worldline_schema"
_CHUNK_BYTES = 1 << 16


def export_store(
    store: Store, destination: Path | str, *, exporter: str | None = None, progress: OnProgress | None = None
) -> str:
    """Writes a store in another format and returns the name of the format. Importing it gives the same episodes.

    Args:
        store: to write.
        destination: a new file or folder.
        exporter: name of the format; default is to infer it from the suffix of `destination`.
        progress: called at the start and at the end.

    Raises:
        InputError: the destination exists, its suffix is unknown, or the format cannot represent the store.
        UnknownNameError: `exporter` is not registered.
        MissingExtraError: the format needs an extra that is not installed.
    """
    destination = Path(destination)
    name = exporter or _ENDINGS.get(destination.suffix)
    if name is None:
        known = ", ".join(names("exporter"))
        raise InputError(f"{destination}: the suffix matches no format. Set exporter (--exporter): {known}.")
    write: Callable[[Store, Path], None] = load("exporter", name)
    tell(progress, "export", 0)
    write(store, destination)
    tell(progress, "export", 1)
    return name


@contextmanager
def new_hdf5(path: Path, schema: Schema) -> Iterator[h5py.File]:
    """Opens a new HDF5 file that holds the schema.

    Raises:
        InputError: HDF5 cannot keep the name of a signal.
    """
    for signal in schema.signals:
        if not signal.name.isprintable():
            raise InputError(f"signal {signal.name!r}: the name has unprintable characters. Rename the signal.")
    with h5py.File(path, "w", libver=("v110", "v110")) as file:
        file.attrs[SCHEMA_ATTRIBUTE] = np.bytes_(to_json(schema).encode())
        yield file


def note_of(entry: Entry) -> np.bytes_:
    """Returns seed and source of an episode as JSON of fixed length."""
    return np.bytes_(json.dumps({"seed": entry.seed, "source": dict(entry.source)}, allow_nan=False).encode())


def create_dataset(group: h5py.Group, name: str, values: Array, num_rows: int | None = None) -> None:
    """Creates a compressed dataset with checksums.

    Args:
        group: that gets it.
        name: of the dataset.
        values: the first rows.
        num_rows: of the dataset, which may grow; None for those of `values`, in chunks of whole arrays or images.
    """
    shape, dtype = values.shape[1:], values.dtype
    is_image = dtype == np.uint8 and values.ndim == 4
    rows_per_chunk = 1 if is_image else len(values)
    if num_rows is not None:
        row_bytes = max(1, prod(shape) * dtype.itemsize)
        rows_per_chunk = max(1, min(_CHUNK_BYTES // row_bytes, num_rows))
    dataset = group.create_dataset(
        name,
        shape=(len(values) if num_rows is None else num_rows, *shape),
        dtype=dtype,
        maxshape=None if num_rows is None else (None, *shape),
        chunks=(rows_per_chunk, *shape),
        shuffle=True,
        compression="gzip",
        compression_opts=1,
        fletcher32=True,
    )
    dataset[: len(values)] = values
