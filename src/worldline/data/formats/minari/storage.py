"""Storage backends of Minari datasets: HDF5, Arrow and Parquet, read into named arrays, and inference of signals.

Names of signals come from the structure of the dataset, kinds and bounds from its spaces.

HDF5 is read with h5py and not with the minari package. The package trusts declared sizes, reads unwritten chunks as
zeros, and creates the environment named in a file that lacks its spaces. Arrow and Parquet are read with the package
after their buffers were validated.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from worldline.data.formats.decoding import decode_picture, empty_pictures
from worldline.data.formats.hdf5 import access
from worldline.data.formats.hdf5.layout import summary_of
from worldline.data.formats.reading import DAMAGED, UNREADABLE, Array, Metadata, converted, readable, reason
from worldline.data.infer import SchemaDraft, Summary
from worldline.errors import DataError, MissingExtraError
from worldline.schema import Kind, Role, Schema, Signal

Space = Mapping[str, Any]
OBSERVATION, ACTION, REWARD, INFOS = "observation", "action", "reward", "infos"
NOTE_ATTRIBUTE = "worldline"
PARTS = {OBSERVATION: "observations", ACTION: "actions", INFOS: "infos"}
_COLUMNS = ("rewards", "terminations", "truncations")
_OF_PACKAGE = (*UNREADABLE, AssertionError, AttributeError)
"""Exceptions of the minari package for damaged files."""
_EPISODE = re.compile(r"episode_(\d+)")
_INDEX = re.compile(r"_index_(\d+)")
_ROLES = {OBSERVATION: Role.OBSERVATION, ACTION: Role.ACTION}


@dataclass(frozen=True, kw_only=True)
class RawEpisode:
    """The stored data of one episode.

    Args:
        parts: arrays of each part (observation, action, infos) by dotted name; the empty name for a single array.
        texts: texts of each part, in the same form.
        rewards: [T].
        terminations: [T].
        truncations: [T].
        metadata: numbers and short texts of the episode.
        note: metadata of our exporter; None for other datasets.
    """

    parts: Mapping[str, Mapping[str, Array]]
    texts: Mapping[str, Mapping[str, list[str]]]
    rewards: Array
    terminations: Array
    truncations: Array
    metadata: Metadata = field(default_factory=dict)
    note: Mapping[str, Any] | None = None


class Storage(ABC):
    """The episodes of a dataset."""

    @property
    @abstractmethod
    def numbers(self) -> tuple[int, ...]:
        """Numbers of the episodes that exist or should exist."""

    @abstractmethod
    def read(self, number: int) -> RawEpisode:
        """Reads one episode.

        Args:
            number: of the episode.

        Raises:
            DataError: it cannot be read.
        """


def read_metadata(folder: Path) -> dict[str, Any]:
    """Reads metadata.json and parses its spaces.

    Raises:
        DataError: it is not JSON, or an entry is missing.
    """
    file = folder / "metadata.json"
    fix = "Write observation_space, action_space, total_episodes and data_format into it."
    with converted("the metadata cannot be read", fix=fix, file=file, errors=_OF_PACKAGE):
        metadata = json.loads(file.read_text("utf-8"))
        for name in ("observation_space", "action_space"):
            metadata[name] = json.loads(metadata[name])
            leaves(metadata[name])
        if not isinstance(metadata["total_episodes"], int) or not isinstance(metadata["data_format"], str):
            raise TypeError("total_episodes is not an integer, or data_format is not a text")
    return dict(metadata)


def leaves(space: Space, prefix: str = "") -> dict[str, Space]:
    """Returns the leaf spaces by dotted name; the empty name if the space is a leaf."""
    if space["type"] not in ("Dict", "Tuple"):
        return {prefix: space}
    inner = space["subspaces"] if space["type"] == "Dict" else dict(enumerate(space["subspaces"]))
    spaces: dict[str, Space] = {}
    for name, part in inner.items():
        spaces |= leaves(part, f"{prefix}.{name}" if prefix else str(name))
    return spaces


def is_jpeg(space: Space | None, metadata: Mapping[str, Any]) -> bool:
    """Whether values of this space are stored as JPEG images.

    Args:
        space: a leaf; None if unknown.
        metadata: of the dataset.
    """
    if space is None or space.get("type") != "Box" or not metadata.get("jpeg_encoding", True):
        return False
    shape = tuple(space["shape"])
    return (
        len(shape) in (2, 3)
        and min(shape[:2]) >= 32
        and space["dtype"] == "uint8"
        and bool(np.all(np.array(space["low"]) == 0))
        and bool(np.all(np.array(space["high"]) == 255))
    )


class Hdf5Storage(Storage):
    """Episodes in main_data.hdf5.

    Args:
        file: the open file.
        path: its path.
        metadata: see `read_metadata`.
        max_images: rows of compressed images to decode; None for all.
    """

    def __init__(self, file: h5py.File, path: Path, metadata: Mapping[str, Any], max_images: int | None) -> None:
        self._file, self._path, self._metadata, self._max_images = file, path, metadata, max_images
        self._spaces = {part: leaves(metadata[f"{part}_space"]) for part in (OBSERVATION, ACTION)}

    @cached_property
    def _found(self) -> frozenset[int]:
        """Numbers of the existing groups."""
        with converted("it cannot be read", file=self._path):
            matches = map(_EPISODE.fullmatch, self._file)
            return frozenset(int(match[1]) for match in matches if match)

    @property
    def numbers(self) -> tuple[int, ...]:
        """Numbers of the episodes, from groups and total_episodes."""
        return _with_missing(self._found, self._metadata["total_episodes"])

    def read(self, number: int) -> RawEpisode:
        """Reads one episode."""
        group = self._file[f"episode_{number}"] if number in self._found else None
        if not isinstance(group, h5py.Group):
            raise DataError(f"the group episode_{number} is missing", fix="Restore it, or correct total_episodes.")
        metadata = access.attributes(group)
        columns = {name: self._column(group, name) for name in _COLUMNS}
        num_steps = len(columns["rewards"])
        if (total := metadata.pop("total_steps", num_steps)) != num_steps:
            raise DataError(f"total_steps is {total}, but the episode has {num_steps} rewards", fix=DAMAGED)
        note = access.embedded_json(group, NOTE_ATTRIBUTE)
        parts: dict[str, dict[str, Array]] = {part: {} for part in PARTS}
        texts: dict[str, dict[str, list[str]]] = {part: {} for part in PARTS}
        for part, key in PARTS.items():
            for name, dataset in self._datasets(group, key, tuples=note is None).items():
                if is_jpeg(self._spaces.get(part, {}).get(name), self._metadata):
                    parts[part][name] = _decode(dataset, self._spaces[part][name], name or part, self._max_images)
                elif access.is_text(dataset) and len(dataset.shape or ()) == 1:
                    texts[part][name] = access.texts_in(dataset, 0, len(dataset))
                elif access.is_numeric(dataset):
                    parts[part][name] = access.read_rows(dataset, 0, len(dataset), name or part)
        noted = None if note is None else json.loads(note)
        return RawEpisode(parts=parts, texts=texts, metadata=metadata, note=noted, **columns)

    def _column(self, group: h5py.Group, name: str) -> Array:
        dataset = group.get(name)
        if not isinstance(dataset, h5py.Dataset) or not access.is_numeric(dataset):
            raise DataError("the dataset is missing or not numeric", fix=DAMAGED, signal=name)
        return access.read_rows(dataset, 0, len(dataset), name)

    def _datasets(self, group: h5py.Group, key: str, *, tuples: bool) -> dict[str, h5py.Dataset]:
        """Returns the datasets of a part by dotted name; members of tuples are named by index."""
        if key == INFOS and key not in list(group):
            return {}
        part = group.get(key)
        if isinstance(part, h5py.Dataset):
            return {"": part}
        if not isinstance(part, h5py.Group):
            raise DataError("the dataset is missing", fix=DAMAGED, signal=key)
        datasets = access.arrays_in(part, self._path)
        return {_INDEX.sub(r"\1", name): dataset for name, dataset in datasets.items()} if tuples else datasets


class ArrowStorage(Storage):
    """Episodes as Arrow or Parquet files, one folder per episode; read with the minari package.

    Args:
        folder: of the data.
        metadata: see `read_metadata`.

    Raises:
        MissingExtraError: minari or pyarrow is not installed.
        DataError: the package cannot open the folder.
    """

    def __init__(self, folder: Path, metadata: Mapping[str, Any]) -> None:
        try:
            import pyarrow.dataset  # noqa: F401 (only to report a missing extra)
            from minari.dataset.minari_storage import MinariStorage
        except ImportError as error:
            raise MissingExtraError("minari", "minari") from error
        self._folder, self._metadata = folder, metadata
        with converted("minari cannot open it", file=folder, errors=_OF_PACKAGE):
            self._storage = MinariStorage.read(folder)

    @property
    def numbers(self) -> tuple[int, ...]:
        """Numbers of the episodes, from folders and total_episodes."""
        existing = frozenset(int(p.name) for p in self._folder.iterdir() if p.is_dir() and p.name.isdecimal())
        return _with_missing(existing, self._metadata["total_episodes"])

    def read(self, number: int) -> RawEpisode:
        """Reads one episode."""
        import pyarrow as pa

        with converted("minari cannot read it", errors=(*_OF_PACKAGE, pa.ArrowException)):
            num_rows = self._num_rows(number)
            metadata = next(iter(self._storage.get_episode_metadata([number])))
            (episode,) = self._storage.get_episodes([number])
        if not len(episode["rewards"]) == num_rows - 1 == metadata.pop("total_steps", num_rows - 1):
            problem = f"{num_rows} rows, {len(episode['rewards'])} rewards and total_steps do not agree"
            raise DataError(problem, fix=DAMAGED)
        parts: dict[str, dict[str, Array]] = {}
        texts: dict[str, dict[str, list[str]]] = {}
        for part, key in PARTS.items():
            flat = _flatten({} if episode[key] is None else episode[key])
            parts[part] = {name: value for name, value in flat.items() if isinstance(value, np.ndarray)}
            texts[part] = {name: value for name, value in flat.items() if isinstance(value, list)}
        plain = {name: value for name, value in metadata.items() if isinstance(value, str | int | float)}
        return RawEpisode(parts=parts, texts=texts, metadata=plain, **{name: episode[name] for name in _COLUMNS})

    def _num_rows(self, number: int) -> int:
        """Returns the rows of an episode, and validates its buffers, which the package does not do."""
        import pyarrow.dataset as ds

        ending = self._metadata["data_format"]
        if not (files := sorted((self._folder / str(number)).glob(f"*.{ending}"))):
            raise DataError(f"the .{ending} file of episode {number} is missing", fix="Restore it.")
        table = ds.dataset([str(file) for file in files], format=ending).to_table()
        table.validate(full=True)
        return int(table.num_rows)


def _with_missing(existing: frozenset[int], total: int) -> tuple[int, ...]:
    """Returns existing and declared numbers; an implausible total is capped, because it would fill the memory."""
    return tuple(sorted(existing | set(range(min(total, 2 * len(existing) + 1000)))))


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict | tuple):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        flat: dict[str, Any] = {}
        for name, inner in items:
            flat |= _flatten(inner, f"{prefix}.{name}" if prefix else str(name))
        return flat
    return {prefix: value}


def _decode(dataset: h5py.Dataset, space: Space, name: str, max_rows: int | None) -> Array:
    """Decodes the first `max_rows` JPEG images to [rows, *shape of the space]."""
    shape = tuple(space["shape"])
    with converted("its images cannot be read", signal=name):
        files = access.read_rows(dataset, 0, len(dataset) if max_rows is None else min(max_rows, len(dataset)), name)
        images = empty_pictures(len(files), shape)
        for number, content in enumerate(files):
            picture = decode_picture(np.asarray(content, np.uint8).tobytes())
            if picture.shape[:2] != shape[:2]:
                problem = f"expected an image of shape {shape}, got {picture.shape[0]} by {picture.shape[1]} pixels"
                raise DataError(problem, fix=DAMAGED, signal=name)
            images[number] = picture.reshape(shape)
    return images


def names_of(raw: RawEpisode) -> dict[tuple[str, str], str]:
    """Returns the signal name of each member of observation and action, texts included.

    Members of tuples, and members whose names would collide, get the part's name as prefix.

    Args:
        raw: an episode.
    """
    members = [(part, member) for part in _ROLES for member in (*raw.parts[part], *raw.texts[part])]
    plain = [member.replace("/", ".") or part for part, member in members]
    names = {}
    for (part, member), name in zip(members, plain, strict=True):
        shared = plain.count(name) > 1 or name == REWARD or name.startswith(f"{INFOS}.") or name[0].isdigit()
        names[part, member] = f"{part}.{name}" if member and shared else name
    return names


def named_arrays(raw: RawEpisode) -> dict[str, Array]:
    """Returns the arrays of an episode by signal name."""
    names = names_of(raw)
    arrays = {name: raw.parts[part][member] for (part, member), name in names.items() if member in raw.parts[part]}
    infos = {f"{INFOS}.{member}" if member else INFOS: values for member, values in raw.parts[INFOS].items()}
    return {**infos, **arrays, REWARD: raw.rewards}


def infer_signals(storage: Storage, metadata: Mapping[str, Any], folder: Path) -> tuple[Schema, list[str]]:
    """Infers the schema from spaces and values; also returns doubts, in full sentences.

    Args:
        storage: of the dataset; every episode is read.
        metadata: see `read_metadata`.
        folder: for errors.

    Raises:
        DataError: no episode can be read, or none has observations.
    """
    seen: dict[tuple[str, str], tuple[str, list[Summary]]] = {}
    left = dict[str, None]()
    for _, raw in readable(storage.numbers, storage.read, what="episodes", file=folder):
        parts = {**raw.parts, REWARD: {"": raw.rewards}}
        for (part, member), name in (names_of(raw) | {(REWARD, ""): REWARD}).items():
            if member in parts[part]:
                seen.setdefault((part, member), (name, []))[1].append(summary_of(parts[part][member]))
        left |= dict.fromkeys(f"{INFOS}.{member}" for member in (*raw.parts[INFOS], *raw.texts[INFOS]))
    if not any(part == OBSERVATION for part, _ in seen):
        raise DataError("no episode has observations", fix=DAMAGED, file=folder)
    draft = SchemaDraft(folder)
    draft.note("The step duration is not in the logs: step_s is left empty.")
    spaces = {part: leaves(metadata[f"{part}_space"]) for part in _ROLES}
    for (part, member), (name, summaries) in seen.items():
        space = spaces[part].get(member) if part in spaces else None
        signal, doubts = draft.infer(name, _ROLES.get(part, Role.REWARD), summaries)
        signal, doubts = _bounded(signal, doubts, space, summaries)
        if is_jpeg(space, metadata):
            doubts = [*doubts, "its images were stored as JPEG, which loses detail."]
        draft.add(signal, doubts)
    if left:
        draft.note(f"Left out; to keep one, add it to schema.json: {', '.join(left)}.")
    return draft.result()


def _bounded(signal: Signal, doubts: list[str], space: Space | None, seen: list[Summary]) -> tuple[Signal, list[str]]:
    """Adds kind and bounds of the space to the signal, if the logged values lie within them."""
    bounds = [summary for summary in seen if summary.low and np.isfinite(summary.low).all()]
    if space is None or not bounds:
        return signal, doubts
    low, high = np.min([s.low for s in bounds], axis=0), np.max([s.high for s in bounds], axis=0)
    try:
        if space["type"] == "Discrete":
            start, end = int(space["start"]), int(space["start"]) + int(space["n"])
            if start < 0 or low.size != 1 or not start <= low[0] <= high[0] < end:
                return signal, [*doubts, f"its values are not within {start} to {end - 1}, the range of its space."]
            choice = replace(signal, kind=Kind.DISCRETE, shape=(), num_values=end, unit="1", low=None, high=None)
            return replace(choice, precision="float32"), []
        if space["type"] != "Box" or signal.kind is not Kind.VECTOR:
            return signal, doubts
        space_low = np.array(space["low"], np.float64).reshape(-1)
        space_high = np.array(space["high"], np.float64).reshape(-1)
        if not np.isfinite([space_low, space_high]).any():
            return signal, doubts
        dtype = np.dtype(signal.dtype)  # bounds are rounded like the values before they are compared
        is_within = (low >= space_low.astype(dtype)) & (high <= space_high.astype(dtype))
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        return signal, [*doubts, f"its space cannot be read ({reason(error)})."]
    if space_low.size != signal.size or not is_within.all():
        return signal, [*doubts, "its values exceed the bounds of its space, so these are not used."]
    return replace(signal, low=tuple(space_low.tolist()), high=tuple(space_high.tolist())), []
