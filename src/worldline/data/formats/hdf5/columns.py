"""Importer of flat HDF5 files: one dataset per column, with the rows of all episodes in sequence.

This is the layout of stable-worldmodel: `ep_len`, perhaps `ep_offset`, and one dataset per column
with one row per observation. An episode of N rows has N observations and N - 1 steps:

    observation         Row t is observation t.
    action, exogenous   Row t leads from observation t to t+1. The last row is left out;
                        stable-worldmodel fills it with NaN or with an earlier action.
    reward              Row t+1 holds the reward of step t. The first row is left out.
    terminated,         Set in the last row, if at all.
    truncated

Files with another alignment have NaN in a row that belongs to a step, which is an error. Roles follow from names (see
`data/infer.py`) unless a schema sets them.

A file may also hold `observed.<signal>` (bool rows), `time` or `timestamp` (seconds) and `seed`. Numbers of episodes
(`ep_idx`, `episode_idx`, ...) must agree with the lengths.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from contextlib import ExitStack, suppress
from functools import partial
from math import prod
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from worldline.config import from_json
from worldline.data.array_size import MAX_ROWS, check_episodes
from worldline.data.base import ReadOptions, refuse, schema_beside
from worldline.data.conversion import steps_s
from worldline.data.formats.hdf5 import access
from worldline.data.formats.hdf5.access import Datasets, add_text, arrays_in, is_numeric, is_text, read_rows
from worldline.data.formats.raw_episode import EpisodeLogs, RawEpisode, ReadEpisode, source_of, too_short
from worldline.data.formats.reading import FLAGS, FOREIGN_ENDS, MASK_PREFIX, TIMES, UNREADABLE, Array, flag_at_end
from worldline.data.infer import NO_ACTION, SchemaDraft, Summary, summarise
from worldline.data.role_names import role_of_input
from worldline.data.roles import guess_role
from worldline.errors import DataError
from worldline.schema import Role, Schema

STEP_S, SCHEMA_ATTRIBUTE, EPISODE_ATTRIBUTE = "step_s", "worldline_schema", "worldline_{}"
_LENGTHS = ("ep_len", "ep_lens", "episode_len", "episode_length", "episode_lengths")
_OFFSETS = ("ep_offset", "ep_offsets", "episode_offset", "episode_offsets")
_EPISODE_IDS = ("id", "ep_idx", "ep_id", "episode", "episode_id", "episode_idx", "episode_index", "seed")
_STEP_IDS = ("step_idx", "step_id", "step_index", "frame_index")
_MAY_VARY = ("id", "seed")  # some files use these names for other data
_BLOCK_BYTES = 1 << 23
_ALIGNED = (
    "Assumed that row t of actions leads from observation t to t+1, and row t+1 of rewards holds the reward of this "
    "step. The last action and the first reward of each episode are left out."
)


class Hdf5Logs(EpisodeLogs):
    """One HDF5 file with one dataset per column."""

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Whether `path` is an HDF5 file, or a folder with one; robomimic and Minari are recognised before."""
        return bool(access.hdf5_files(path))

    @classmethod
    def open(cls, path: Path, schema: Schema | None, reading: ReadOptions) -> Hdf5Logs:
        """Opens the logs; infers the schema if none is given or found."""
        refuse(reading, "HDF5")
        path = access.only_file(path, "HDF5")
        schema, draft, unclear = schema_beside(path) if schema is None else schema, SchemaDraft(path), list[str]()
        with access.opened(path) as file:
            rows = Hdf5Rows(file, path)
            embedded = access.embedded_json(file, SCHEMA_ATTRIBUTE)
            if schema is None and embedded is not None:
                schema = from_json(Schema, embedded, where=path)
            elif schema is None:
                schema, unclear = _infer(rows, draft, path)
            else:
                names = {signal.name for signal in schema.signals}
                if left := [name for name in rows.columns if name not in names and not rows.is_metadata(name)]:
                    unclear = [f"Not read, because the schema has no such signals: {', '.join(left)}."]
            if embedded is None:
                unclear.append(_ALIGNED)
            if links := [name for name in file if isinstance(file.get(name, getlink=True), h5py.ExternalLink)]:
                unclear.append(f"Not read, because they are links to other files: {', '.join(links)}.")

        def reader(stack: ExitStack) -> ReadEpisode:
            return partial(_read_episode, Hdf5Rows(stack.enter_context(access.opened(path)), path), schema)

        files = [path.name] * len(rows.lengths)
        return cls(schema, unclear, root=path.parent, files=files, reader=reader, columns=draft.columns)


def _read_episode(rows: Hdf5Rows, schema: Schema, number: int) -> RawEpisode:
    """Reads an episode.

    Args:
        rows: of the open file.
        schema: of every episode.
        number: of the episode.
    """
    num_rows, draft = int(rows.lengths[number]), RawEpisode()
    if num_rows < 2:
        return too_short("row", num_rows)
    for signal in (signal for signal in schema.signals if signal.name in rows.columns):
        name, mask = signal.name, None
        if signal.role is not Role.OBSERVATION:
            draft.add(signal, rows.read(name, number, shift=usual_shift(signal.role), num=num_rows - 1))
            continue
        if (column := MASK_PREFIX + name) in rows.columns:
            mask = rows.read(column, number).reshape(num_rows).astype(np.bool_)
        draft.add(signal, rows.read(name, number), mask)
    fix = "Correct the lengths; they seem to join several episodes."
    ends = {name: flag_at_end(rows.read(name, number), name, fix=fix) for name in FLAGS if name in rows.columns}
    draft.end(ends.get("terminated"), ends.get("truncated"))
    note = access.embedded_json(rows.index, EPISODE_ATTRIBUTE.format(number))
    if note is None:
        add_metadata(draft, rows, number, {signal.name for signal in schema.signals})
        seed = draft.source.pop("seed", None)
    else:
        noted = json.loads(note)
        seed, draft.source = noted["seed"], noted["source"]
    draft.seed = None if seed is None else int(seed)
    draft.step_s = step_s_of(rows, number, schema.step_s)
    draft.source = source_of(rows.path.name, number, draft.source)
    return draft


def _infer(rows: Hdf5Rows, draft: SchemaDraft, file: Path) -> tuple[Schema, list[str]]:
    """Infers a schema from names, dtypes and values; also returns doubts."""
    for name, dataset in rows.columns.items():
        if rows.is_metadata(name):
            continue
        if name.lower() in FOREIGN_ENDS:
            draft.note(f"{name}: looks like an end flag and is left out; save `terminated` and `truncated` instead.")
        elif not is_numeric(dataset) or 2 * len(dataset) < rows.num_rows:
            draft.note(f"{name}: left out, because it does not have a number for each of {rows.num_rows} rows.")
        else:
            guess = guess_role(name)
            role = guess.role or Role.OBSERVATION
            doubt = role_of_input(name)[1] if role is Role.EXOGENOUS else ""
            seen = _summaries(rows, name, role)
            signal, doubts = draft.infer(name, role, seen)
            draft.add_guess(signal, guess, seen, [doubt, *doubts])
    if draft.lacks(Role.OBSERVATION):
        problem = f"no column is an observation (columns: {', '.join(list(rows.columns)[:20]) or 'none'})"
        raise DataError(problem, fix="Add one, or write a schema.json next to the file.", file=file)
    if draft.lacks(Role.ACTION):
        draft.note(NO_ACTION)
    if not any(name in rows.columns for name in FLAGS):
        draft.note("End flags are not in the logs: all episodes count as truncated.")
    return draft.result(_usual_step_s(rows, draft))


def _summaries(rows: Hdf5Rows, name: str, role: Role) -> list[Summary]:
    """Returns summaries of blocks of rows, without damaged, incomplete and unused rows."""
    dataset = rows.columns[name]
    summaries = [Summary(shape=dataset.shape, dtype=dataset.dtype.newbyteorder("="))]
    if dataset.dtype == np.uint8 and dataset.ndim in (3, 4):
        return summaries  # values of images are not needed
    # A row that belongs to no step is the first of each episode, or the last one.
    unused = rows.starts if usual_shift(role) else rows.starts + rows.lengths - 1
    end = min(len(dataset), rows.num_rows)
    step = max(1, _BLOCK_BYTES // max(1, prod(dataset.shape[1:]) * dataset.dtype.itemsize))
    for start in range(0, end, step):
        with suppress(*UNREADABLE):  # `read` reports it
            values = read_rows(dataset, start, min(end, start + step))
            inside = unused[slice(*np.searchsorted(unused, (start, start + len(values))))] - start
            summaries.append(summarise(values if role is Role.OBSERVATION else np.delete(values, inside, 0)))
    return summaries


def _usual_step_s(rows: Hdf5Rows, draft: SchemaDraft) -> float | None:
    """Returns the usual step duration, and notes the assumptions about it."""
    for name in (name for name in TIMES if name in rows.columns and is_numeric(rows.columns[name])):
        with suppress(*UNREADABLE):  # `read` reports it
            times = read_rows(rows.columns[name], 0, rows.num_rows).astype(np.float64)
            gaps = np.delete(np.diff(times.reshape(len(times), -1)[:, 0]), rows.starts[1:] - 1)
            gaps = gaps[np.isfinite(gaps)]
            if len(gaps) and np.median(gaps) > 0:
                return draft.usual_step(name, gaps)
    draft.note("The step duration is not in the logs (no column is named time): step_s is left empty.")
    return None


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
