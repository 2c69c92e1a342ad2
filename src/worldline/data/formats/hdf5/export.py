"""Exporter of flat HDF5 files, in the layout that `worldline.data.formats.hdf5.columns` describes.

Other readers ignore the additional data. The schema is an attribute of the file. Seed and source of each episode are
attributes of `ep_len`. Masks and step durations are the columns `observed.<signal>` and `step_s`. All values have
checksums.
"""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np

from worldline.config import to_json
from worldline.data.checks import arrays_of
from worldline.data.draft_folder import drafted
from worldline.data.formats.hdf5.access import ENDINGS
from worldline.data.formats.hdf5.columns import EPISODE_ATTRIBUTE, SCHEMA_ATTRIBUTE, STEP_S, usual_shift
from worldline.data.formats.reading import FLAGS, MASK_PREFIX, Array
from worldline.data.store import Store
from worldline.episode import Episode
from worldline.errors import InputError
from worldline.schema import Role, Schema

_CHUNK_BYTES = 1 << 16
_FILTERS = {"shuffle": True, "compression": "gzip", "compression_opts": 1, "fletcher32": True}


def export_hdf5(store: Store, destination: Path) -> None:
    """Writes the store as one HDF5 file that stable-worldmodel can read.

    A store with one action signal also gets a link `action` to it, because stable-worldmodel expects that name.

    Args:
        store: to write.
        destination: a new file that ends in .h5 or .hdf5.

    Raises:
        InputError: the file exists, has another suffix, or a signal has a name that the format cannot keep.
    """
    if destination.suffix not in ENDINGS:
        raise InputError(f"{destination} does not end in {' or '.join(ENDINGS)}. Rename it.")
    schema = store.schema
    for name in (signal.name for signal in schema.signals):
        is_reserved = name in ("ep_len", "ep_offset", STEP_S, *FLAGS) or name.startswith(MASK_PREFIX)
        if is_reserved or not name.isprintable():
            raise InputError(f"signal {name!r}: the HDF5 layout cannot keep this name. Rename the signal.")
    lengths = store.num_steps + 1
    with drafted(destination) as draft, h5py.File(draft, "w", libver=("v110", "v110")) as file:
        file.attrs[SCHEMA_ATTRIBUTE] = np.bytes_(to_json(schema).encode())
        _create(file, "ep_len", lengths.astype(np.int32), len(store))
        _create(file, "ep_offset", (np.cumsum(lengths) - lengths).astype(np.int64), len(store))
        if len(schema.actions) == 1 and "action" not in [signal.name for signal in schema.signals]:
            file["action"] = h5py.SoftLink(f"/{schema.actions[0].name}")
        has_missing, has_step_s, start = store.has_missing(), store.has_step_s(), 0
        for number in range(len(store)):
            for name, values in _columns(store.verify(number), schema, has_missing, has_step_s).items():
                if name not in file:
                    _create(file, name, values[:0], int(lengths.sum()))
                file[name][start : start + len(values)] = values
            entry = store.entry(number)
            note = json.dumps({"seed": entry.seed, "source": dict(entry.source)}, allow_nan=False)
            file["ep_len"].attrs[EPISODE_ATTRIBUTE.format(number)] = np.bytes_(note.encode())
            start += int(lengths[number])


def _create(file: h5py.File, name: str, values: Array, num_rows: int) -> None:
    """Creates a compressed dataset of rows with checksums; `values` are the first of them."""
    row_bytes = max(1, int(np.prod(values.shape[1:])) * values.dtype.itemsize)
    dataset = file.create_dataset(
        name,
        shape=(num_rows, *values.shape[1:]),
        dtype=values.dtype,
        maxshape=(None, *values.shape[1:]),
        chunks=(max(1, min(_CHUNK_BYTES // row_bytes, num_rows)), *values.shape[1:]),
        **_FILTERS,
    )
    dataset[: len(values)] = values


def _columns(episode: Episode, schema: Schema, has_missing: bool, has_step_s: bool) -> dict[str, Array]:
    """Returns the rows of an episode in each column; rows without a step get NaN, -1 or 0, by dtype."""
    rows = episode.num_steps + 1
    columns: dict[str, Array] = {}
    for signal in schema.signals:
        values = arrays_of(episode, signal.role)[signal.name]
        if signal.role is not Role.OBSERVATION:
            beyond = np.full((1, *signal.shape), {"f": np.nan, "i": -1, "u": 0}[values.dtype.kind], values.dtype)
            values = np.concatenate([beyond, values] if usual_shift(signal.role) else [values, beyond])
        elif has_missing:
            columns[MASK_PREFIX + signal.name] = episode.mask(signal.name)
        columns[signal.name] = values
    if has_step_s:
        own = episode.step_s if episode.step_s is not None else np.full(rows - 1, np.nan, np.float32)
        columns[STEP_S] = np.append(own, np.float32(np.nan))
    for name, is_set in zip(FLAGS, (episode.terminated, episode.truncated), strict=True):
        columns[name] = np.arange(rows) == (rows - 1 if is_set else -1)
    return columns
