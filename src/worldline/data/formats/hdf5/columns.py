"""Importer and exporter of flat HDF5 files: one dataset per column, with the rows of all episodes in sequence.

This is the layout of stable-worldmodel: `ep_len` and `ep_offset` (one of them suffices), and one dataset per column
with one row per observation. An episode of N rows has N observations and N - 1 steps:

    observation         Row t is observation t.
    action, exogenous   Row t leads from observation t to t+1. The last row is left out;
                        stable-worldmodel fills it with NaN or with an earlier action.
    reward              Row t+1 holds the reward of step t. The first row is left out.
    terminated,         Set in the last row, if at all.
    truncated

A column is read with the other alignment if all rows that would be left out hold numbers and all rows at the other
end are NaN. Roles follow from names (see `data/infer.py`) unless a schema sets them.

A file may also hold `observed.<signal>` (bool rows), `time` or `timestamp` (seconds) and `seed`. Numbers of episodes
(`id`, `ep_idx`, `episode_idx`, ...) and of steps (`step_idx`, ...) must agree with the lengths.

`export_hdf5` stores additional data where other readers ignore it. The schema is an attribute of the file. Seed and
source of each episode are attributes of `ep_len`. Masks and step durations are the columns `observed.<signal>` and
`step_s`. All values have checksums.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from math import prod
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from worldline.config import from_json, to_json
from worldline.data.base import LoggedEpisode, Logs, ReadOptions, refuse, schema_beside
from worldline.data.checks import Finding, arrays_of
from worldline.data.conversion import to_episode
from worldline.data.formats.hdf5.access import (
    ENDINGS,
    UNREADABLE,
    Array,
    arrays_in,
    drafted,
    embedded_json,
    finding_of,
    hdf5_files,
    is_numeric,
    is_robomimic,
    minari_folder,
    only_file,
    opened,
    read_rows,
    source_of,
)
from worldline.data.formats.hdf5.layout import Hdf5Layout, read_layout, shift_of, usual_shift
from worldline.data.formats.hdf5.rows import (
    STEP_S,
    Columns,
    end_of,
    is_foreign_end,
    is_metadata,
    metadata_of,
    nothing_known,
    signal_of,
    step_s_of,
    summary_of,
)
from worldline.data.formats.missing import check_known, mark_missing, partly_missing
from worldline.data.formats.npz import FLAGS, MASK_PREFIX, TIMES
from worldline.data.infer import Summary, role_of_column, role_of_input
from worldline.data.store import Store
from worldline.episode import Episode
from worldline.errors import DataError, InputError
from worldline.schema import Role, Schema, Signal

SCHEMA_ATTRIBUTE = "worldline_schema"
EPISODE_ATTRIBUTE = "worldline_{}"
_BLOCK_BYTES, _CHUNK_BYTES = 1 << 23, 1 << 16


class Hdf5Logs(Logs):
    """One HDF5 file with one dataset per column.

    Args:
        file: to read.
        layout: rows of its episodes.
        schema: of every episode.
        shifts: result of `shift_of` for each action, exogenous signal and reward.
        unclear: see `Logs`.
    """

    def __init__(
        self, file: Path, layout: Hdf5Layout, schema: Schema, shifts: Mapping[str, int], unclear: Sequence[str]
    ) -> None:
        super().__init__(schema, unclear)
        self._file, self._layout, self._shifts = file, layout, dict(shifts)

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Whether `path` is an HDF5 file, or a folder with one, and neither robomimic nor Minari."""
        return bool(hdf5_files(path)) and minari_folder(path) is None and not is_robomimic(path)

    @classmethod
    def open(cls, path: Path, schema: Schema | None, reading: ReadOptions) -> Hdf5Logs:
        """Opens the logs; infers the schema if none is given or found."""
        refuse(reading, "HDF5")
        path = only_file(path, "HDF5")
        schema = schema_beside(path) if schema is None else schema
        with opened(path) as file:
            datasets = arrays_in(file, path)
            layout = read_layout(datasets, path)
            columns = {name: dataset for name, dataset in datasets.items() if name not in layout.index}
            embedded = embedded_json(file, SCHEMA_ATTRIBUTE)
            unclear: list[str] = []
            if schema is None and embedded is not None:
                schema = from_json(Schema, embedded, where=path)
            elif schema is None:
                schema, unclear = _infer(columns, layout, path)
            else:
                unclear = _left_out(columns, schema, layout)
            inputs = [s for s in schema.signals if s.role is not Role.OBSERVATION and s.name in columns]
            shifts = {signal.name: usual_shift(signal.role) for signal in inputs}
            for signal in inputs if embedded is None else ():
                shifts[signal.name], doubt = shift_of(columns[signal.name], signal.role, layout)
                unclear += [f"{signal.name}: {doubt}"] if doubt else []
        return cls(path, layout, schema, shifts, unclear)

    def __len__(self) -> int:
        return len(self._layout.lengths)

    def read(self) -> Iterator[LoggedEpisode]:
        """Yields one episode per entry of the lengths."""
        with ExitStack() as stack:
            try:
                datasets = arrays_in(stack.enter_context(opened(self._file)), self._file)
            except DataError as error:
                yield from (self._failed(error, number) for number in range(len(self)))
                return
            for number in range(len(self)):
                try:
                    logged = self._episode(datasets, number)
                except UNREADABLE as error:
                    logged = self._failed(error, number)
                yield logged

    def _failed(self, error: Exception, number: int) -> LoggedEpisode:
        finding = finding_of(error, self._file.name, number)
        return LoggedEpisode(file=self._file.name, number=number, episode=None, findings=(finding,))

    def _episode(self, datasets: Columns, number: int) -> LoggedEpisode:
        start, rows = int(self._layout.starts[number]), int(self._layout.lengths[number])
        if rows < 2:
            raise DataError(f"it has {rows} rows", fix="Give at least 2 rows per episode.")
        note = embedded_json(datasets[self._layout.index[0]], EPISODE_ATTRIBUTE.format(number))
        names = {signal.name for signal in self.schema.signals} | set(self._layout.index)
        others = {name: dataset for name, dataset in datasets.items() if name not in names}
        arrays, observed, findings = self._arrays(datasets, start, rows, exact=note is not None)
        ends = {name: end_of(others[name], name, start, rows) for name in FLAGS if name in others}
        if note is None:
            metadata, noticed = metadata_of(others, number, start, rows, len(self))
            seed = metadata.pop("seed", None)
            findings += noticed
        else:
            noted = json.loads(note)
            seed, metadata = noted["seed"], noted["source"]
        terminated = ends.get("terminated", False)
        episode = to_episode(
            arrays,
            self.schema,
            observed=observed,
            terminated=terminated,
            truncated=ends.get("truncated", not terminated),
            seed=None if seed is None else int(seed),
            step_s=step_s_of(others, start, rows, self.schema.step_s),
        )
        name = self._file.name
        return LoggedEpisode(
            file=name,
            number=number,
            episode=episode,
            findings=tuple(replace(finding, file=name, episode=number) for finding in findings),
            source=source_of(name, number, metadata),
        )

    def _arrays(
        self, datasets: Columns, start: int, rows: int, *, exact: bool
    ) -> tuple[dict[str, Array], dict[str, NDArray[np.bool_]], list[Finding]]:
        """Returns values, masks and warnings; if `exact`, masked values are not replaced."""
        arrays: dict[str, Array] = {}
        observed: dict[str, NDArray[np.bool_]] = {}
        findings: list[Finding] = []
        for signal in (signal for signal in self.schema.signals if signal.name in datasets):
            name, dataset = signal.name, datasets[signal.name]
            if signal.role is not Role.OBSERVATION:
                first = start + self._shifts[name]
                arrays[name] = read_rows(dataset, first, first + rows - 1, name)
                check_known(arrays[name], name)
                continue
            arrays[name] = read_rows(dataset, start, start + rows, name)
            mask = np.ones(rows, np.bool_)
            if MASK_PREFIX + name in datasets:
                column = MASK_PREFIX + name
                mask = read_rows(datasets[column], start, start + rows, column).reshape(rows).astype(np.bool_)
            if not exact:
                findings += partly_missing(arrays[name], name)
                arrays[name], known = mark_missing(arrays[name])
                mask = mask if known is None else mask & known
            if not mask.all():
                observed[name] = mask
        return arrays, observed, findings


def _infer(columns: Columns, layout: Hdf5Layout, file: Path) -> tuple[Schema, list[str]]:
    """Infers a schema from names, dtypes and values; also returns doubts."""
    unclear = ["Units are not in the logs: every unit is '?'. Write them into schema.json."]
    signals: list[Signal] = []
    for name, dataset in columns.items():
        if is_metadata(name, dataset, layout.num_rows, len(layout.lengths)):
            continue
        if is_foreign_end(name):
            unclear.append(
                f"{name}: looks like an end flag and is left out; save `terminated` and `truncated` instead."
            )
        elif not is_numeric(dataset) or 2 * len(dataset) < layout.num_rows:
            unclear.append(f"{name}: left out, because it does not have a number for each of {layout.num_rows} rows.")
        else:
            role = role_of_column(name)
            doubt = role_of_input(name)[1] if role is Role.EXOGENOUS else ""
            signal, doubts = signal_of(name, role, _summaries(dataset, role, layout), file)
            signals.append(signal)
            unclear += [f"{name}: {sentence}" for sentence in (doubt, *doubts) if sentence]
    if not any(signal.role is Role.OBSERVATION for signal in signals):
        problem = f"no column is an observation (columns: {', '.join(list(columns)[:20]) or 'none'})"
        raise DataError(problem, fix="Add one, or write a schema.json next to the file.", file=file)
    if not any(signal.role is Role.ACTION for signal in signals):
        unclear.append("No column has the name of an action: set the role of actions in schema.json.")
    if not any(name in columns for name in FLAGS):
        unclear.append("End flags are not in the logs: all episodes count as truncated.")
    step_s, sentences = _step_s(columns, layout)
    signals.sort(key=lambda signal: list(Role).index(signal.role))
    return Schema(signals=tuple(signals), step_s=step_s), unclear + sentences


def _summaries(dataset: h5py.Dataset, role: Role, layout: Hdf5Layout) -> list[Summary]:
    """Returns summaries of blocks of rows, without damaged, incomplete and unused rows."""
    nothing = nothing_known(dataset.shape, dataset.dtype)
    if dataset.dtype == np.uint8 and dataset.ndim in (3, 4):
        return [nothing]  # values of images are not needed
    counts = np.zeros(layout.num_rows, np.bool_)
    for start, rows in zip(layout.starts.tolist(), layout.lengths.tolist(), strict=True):
        first = start + (usual_shift(role) if role is not Role.OBSERVATION else 0)
        counts[first : start + rows - (1 if role in (Role.ACTION, Role.EXOGENOUS) else 0)] = True
    found = [nothing]
    end = min(len(dataset), layout.num_rows)
    step = max(1, _BLOCK_BYTES // max(1, prod(dataset.shape[1:]) * dataset.dtype.itemsize))
    for start in range(0, end, step):
        stop = min(end, start + step)
        try:
            found.append(summary_of(read_rows(dataset, start, stop)[counts[start:stop]]))
        except UNREADABLE:
            continue  # `read` reports it
    return found


def _left_out(columns: Columns, schema: Schema, layout: Hdf5Layout) -> list[str]:
    names = {signal.name for signal in schema.signals}
    left = [
        name
        for name, dataset in columns.items()
        if name not in names and not is_metadata(name, dataset, layout.num_rows, len(layout.lengths))
    ]
    return [f"Not read, because the schema has no such signals: {', '.join(left)}."] if left else []


def _step_s(columns: Columns, layout: Hdf5Layout) -> tuple[float | None, list[str]]:
    """Returns the usual step duration and the assumptions about it."""
    for name in (name for name in TIMES if name in columns and is_numeric(columns[name])):
        try:
            times = read_rows(columns[name], 0, layout.num_rows).astype(np.float64)
        except UNREADABLE:
            continue
        gaps = np.diff(times.reshape(len(times), -1)[:, 0])
        inside = np.ones(len(gaps), np.bool_)
        inside[layout.starts[(layout.starts > 0) & (layout.starts <= len(gaps))] - 1] = False
        gaps = gaps[inside & np.isfinite(gaps)]
        if len(gaps) and (usual := float(np.median(gaps))) > 0:
            notes = [f"{name}: read as seconds; gives the step duration and is not stored as a signal."]
            if np.abs(gaps - usual).max() > 0.01 * usual:
                notes.append(f"{name}: step durations vary by more than 1 %, so each step keeps its duration.")
            return usual, notes
    return None, ["The step duration is not in the logs (no column is named time): step_s is left empty."]


def export_hdf5(store: Store, destination: Path) -> None:
    """Writes the store as one HDF5 file that stable-worldmodel can read.

    A store with one action signal also gets a link `action` to it, because stable-worldmodel expects that name.

    Args:
        store: to write.
        destination: a new file that ends in .h5 or .hdf5.

    Raises:
        InputError: the file exists, has another suffix, or a signal has a reserved name.
    """
    if destination.suffix not in ENDINGS:
        raise InputError(f"{destination} does not end in {' or '.join(ENDINGS)}. Rename it.")
    schema = store.schema
    for name in (signal.name for signal in schema.signals):
        if name in ("ep_len", "ep_offset", STEP_S, *FLAGS) or name.startswith(MASK_PREFIX):
            raise InputError(f"signal {name!r}: the HDF5 layout reserves this name. Rename the signal.")
        if not name.isprintable():
            raise InputError(f"signal {name!r}: the name has unprintable characters. Rename the signal.")
    lengths = store.num_steps + 1
    with drafted(destination) as draft, h5py.File(draft, "w", libver=("v110", "v110")) as file:
        file.attrs[SCHEMA_ATTRIBUTE] = np.bytes_(to_json(schema).encode())
        _create(file, "ep_len", lengths.astype(np.int32))
        _create(file, "ep_offset", (np.cumsum(lengths) - lengths).astype(np.int64))
        for name, shape, dtype in _columns(store):
            _create(file, name, np.empty((0, *shape), dtype), int(lengths.sum()))
        actions = schema.actions
        if len(actions) == 1 and "action" not in [signal.name for signal in schema.signals]:
            file["action"] = h5py.SoftLink(f"/{actions[0].name}")
        start = 0
        for number in range(len(store)):
            _write(file, store.verify(number), schema, start)
            entry = store.entry(number)
            note = json.dumps({"seed": entry.seed, "source": dict(entry.source)}, allow_nan=False)
            file["ep_len"].attrs[EPISODE_ATTRIBUTE.format(number)] = np.bytes_(note.encode())
            start += int(lengths[number])


def _columns(store: Store) -> Iterator[tuple[str, tuple[int, ...], str]]:
    """Yields name, shape of a row, and dtype of every column."""
    for signal in store.schema.signals:
        yield signal.name, signal.shape, signal.dtype
    if store.has_missing():
        for signal in store.schema.observations:
            yield MASK_PREFIX + signal.name, (), "bool"
    if store.has_step_s():
        yield STEP_S, (), "float32"
    for name in FLAGS:
        yield name, (), "bool"


def _create(file: h5py.File, name: str, values: Array, num_rows: int | None = None) -> None:
    row_bytes = max(1, prod(values.shape[1:]) * values.dtype.itemsize)
    num_rows = len(values) if num_rows is None else num_rows
    rows_a_chunk = max(1, min(_CHUNK_BYTES // row_bytes, num_rows))
    dataset = file.create_dataset(
        name,
        shape=(num_rows, *values.shape[1:]),
        dtype=values.dtype,
        maxshape=(None, *values.shape[1:]),
        chunks=(rows_a_chunk, *values.shape[1:]),
        shuffle=True,
        compression="gzip",
        compression_opts=1,
        fletcher32=True,
    )
    dataset[: len(values)] = values


def _write(file: h5py.File, episode: Episode, schema: Schema, start: int) -> None:
    """Writes the rows of an episode; rows without a step get NaN, -1 or 0, by dtype."""
    rows = episode.num_steps + 1
    columns: dict[str, Array] = {}
    for signal in schema.signals:
        values = arrays_of(episode, signal.role)[signal.name]
        if signal.role is not Role.OBSERVATION:
            beyond = np.full((1, *signal.shape), {"f": np.nan, "i": -1, "u": 0}[values.dtype.kind], values.dtype)
            first = usual_shift(signal.role)
            values = np.concatenate([beyond, values] if first else [values, beyond])
        columns[signal.name] = values
        if MASK_PREFIX + signal.name in file:
            columns[MASK_PREFIX + signal.name] = episode.observed.get(signal.name, np.ones(rows, np.bool_))
    if STEP_S in file:
        own = episode.step_s if episode.step_s is not None else np.full(rows - 1, np.nan, np.float32)
        columns[STEP_S] = np.append(own, np.float32(np.nan))
    for name, is_set in zip(FLAGS, (episode.terminated, episode.truncated), strict=True):
        columns[name] = np.arange(rows) == (rows - 1 if is_set else -1)
    for name, values in columns.items():
        file[name][start : start + rows] = values
