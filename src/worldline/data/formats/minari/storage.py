"""Episodes of a Minari dataset as named arrays, whichever way they are stored.

HDF5 is read by h5py rather than by the minari package: that takes sizes on trust, reads chunks that were never written
as zeros, and makes the environment that a file names where the file does not say its spaces. Arrow and Parquet are
read by the package, after the same was ruled out.
"""

from __future__ import annotations

import io
import json
import re
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from PIL import Image

from worldline.data.formats.hdf5.access import (
    DAMAGED,
    UNREADABLE,
    Array,
    arrays_in,
    attributes,
    check_written,
    embedded_json,
    is_numeric,
    is_text,
    member_of,
    names_in,
    read_rows,
    reason,
    texts_in,
)
from worldline.data.formats.hdf5.heap_checks import check_heaps
from worldline.data.formats.hdf5.rows import Told
from worldline.errors import DataError, MissingExtraError

Space = Mapping[str, Any]
OBSERVATION, ACTION, REWARD, INFOS = "observation", "action", "reward", "infos"
NOTE_ATTRIBUTE = "worldline"
_PARTS = {OBSERVATION: "observations", ACTION: "actions"}
_MAX_BYTES = 1 << 36
_EPISODE = re.compile(r"episode_(\d+)")
_INDEX = re.compile(r"_index_(\d+)")


@dataclass(frozen=True, kw_only=True)
class RawEpisode:
    """What is stored of one episode.

    Args:
        parts: per part (observation, action, infos) the arrays by dotted name; the empty name where it is one array.
        texts: the same for texts.
        rewards: [T].
        terminations: [T].
        truncations: [T].
        told: numbers and short texts kept with it.
        note: what an export of ours adds; None for others'.
    """

    parts: Mapping[str, Mapping[str, Array]]
    texts: Mapping[str, Mapping[str, list[str]]]
    rewards: Array
    terminations: Array
    truncations: Array
    told: Told = field(default_factory=dict)
    note: Mapping[str, Any] | None = None


class Storage(ABC):
    """The episodes of a dataset."""

    @property
    @abstractmethod
    def numbers(self) -> tuple[int, ...]:
        """Numbers of the episodes that are there or should be."""

    @property
    @abstractmethod
    def file(self) -> str | None:
        """The file that holds all episodes; None where each has a folder called by its number."""

    @abstractmethod
    def read(self, number: int) -> RawEpisode:
        """One episode.

        Args:
            number: of the episode.

        Raises:
            DataError: it cannot be read.
        """

    def glance(self, number: int) -> RawEpisode:
        """The same, with no or one row of compressed pictures where that saves time.

        Args:
            number: of the episode.

        Raises:
            DataError: it cannot be read.
        """
        return self.read(number)


def read_metadata(folder: Path) -> dict[str, Any]:
    """The contents of metadata.json, with the spaces parsed.

    Raises:
        DataError: it is no JSON, or lacks what is needed.
    """
    file = folder / "metadata.json"
    try:
        metadata = json.loads(file.read_text("utf-8"))
        for name in ("observation_space", "action_space"):
            metadata[name] = json.loads(metadata[name])
            leaves(metadata[name])
        if not isinstance(metadata["total_episodes"], int) or not isinstance(metadata["data_format"], str):
            raise TypeError("total_episodes is no whole number, or data_format no text")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        problem = f"the metadata cannot be read ({reason(error)})"
        raise DataError(problem, fix="It needs the spaces, total_episodes and data_format.", file=file) from error
    return dict(metadata)


def leaves(space: Space, prefix: str = "") -> dict[str, Space]:
    """The spaces inside a space that hold values, by dotted name; the empty name where it holds values itself."""
    kind = space["type"]
    if kind == "Dict":
        inner = {str(name): part for name, part in space["subspaces"].items()}
    elif kind == "Tuple":
        inner = {str(number): part for number, part in enumerate(space["subspaces"])}
    else:
        return {prefix: space}
    found: dict[str, Space] = {}
    for name, part in inner.items():
        found |= leaves(part, f"{prefix}.{name}" if prefix else name)
    return found


def is_jpeg(space: Space | None, metadata: Mapping[str, Any]) -> bool:
    """Whether values of this space are stored as JPEG pictures.

    Args:
        space: a leaf; None where it is not known.
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
        file: open.
        path: of it.
        metadata: see `read_metadata`.
    """

    def __init__(self, file: h5py.File, path: Path, metadata: Mapping[str, Any]) -> None:
        self._file, self._path, self._metadata = file, path, metadata
        self._spaces = {part: leaves(metadata[f"{part}_space"]) for part in _PARTS}

    @cached_property
    def _found(self) -> frozenset[int]:
        """Numbers of the groups that are there."""
        try:
            return frozenset(int(match[1]) for name in names_in(self._file) if (match := _EPISODE.fullmatch(name)))
        except UNREADABLE as error:
            raise DataError(f"it cannot be read ({reason(error)})", fix=DAMAGED, file=self._path) from error

    @property
    def numbers(self) -> tuple[int, ...]:
        """See `Storage`."""
        return _with_missing(self._found, self._metadata["total_episodes"])

    @property
    def file(self) -> str:
        """See `Storage`."""
        return self._path.name

    def read(self, number: int) -> RawEpisode:
        """See `Storage`."""
        return self._read(number, most_pictures=None)

    def glance(self, number: int) -> RawEpisode:
        """See `Storage`."""
        return self._read(number, most_pictures=1)

    def _read(self, number: int, most_pictures: int | None) -> RawEpisode:
        group = self._file[f"episode_{number}"] if number in self._found else None
        if not isinstance(group, h5py.Group):
            raise DataError(f"there is no group episode_{number}", fix="Restore it, or correct total_episodes.")
        told = attributes(group)
        rewards, terminations, truncations = (
            self._whole(group, name) for name in ("rewards", "terminations", "truncations")
        )
        if told.pop("total_steps", len(rewards)) != len(rewards):
            raise DataError(f"there are {len(rewards)} rewards, but not as many steps", fix=DAMAGED)
        note = embedded_json(group, NOTE_ATTRIBUTE)
        parts: dict[str, dict[str, Array]] = {OBSERVATION: {}, ACTION: {}, INFOS: {}}
        texts: dict[str, dict[str, list[str]]] = {OBSERVATION: {}, ACTION: {}, INFOS: {}}
        for part, key in {**_PARTS, INFOS: INFOS}.items():
            for name, dataset in self._datasets(group, key, tuples=note is None).items():
                if is_jpeg(self._spaces.get(part, {}).get(name), self._metadata):
                    parts[part][name] = _decode(dataset, self._spaces[part][name], name or part, most_pictures)
                elif is_text(dataset) and len(dataset.shape or ()) == 1:
                    texts[part][name] = texts_in(dataset, 0, len(dataset))
                elif is_numeric(dataset):
                    parts[part][name] = read_rows(dataset, 0, len(dataset), name or part)
        return RawEpisode(
            parts=parts,
            texts=texts,
            rewards=rewards,
            terminations=terminations,
            truncations=truncations,
            told=told,
            note=None if note is None else json.loads(note),
        )

    def _whole(self, group: h5py.Group, name: str) -> Array:
        dataset = member_of(group, name)
        if not isinstance(dataset, h5py.Dataset) or not is_numeric(dataset):
            raise DataError("it is missing, or holds no numbers", fix=DAMAGED, signal=name)
        return read_rows(dataset, 0, len(dataset), name)

    def _datasets(self, group: h5py.Group, key: str, *, tuples: bool) -> dict[str, h5py.Dataset]:
        """The datasets of a part by dotted name, members of tuples by their number."""
        part = member_of(group, key)
        if part is None and key == INFOS:
            return {}
        if isinstance(part, h5py.Dataset):
            return {"": part}
        if not isinstance(part, h5py.Group):
            raise DataError("it is missing", fix=DAMAGED, signal=key)
        found = arrays_in(part, self._path)
        return {_INDEX.sub(r"\1", name): dataset for name, dataset in found.items()} if tuples else found


class ArrowStorage(Storage):
    """Episodes in a folder each, as Arrow or Parquet; read by the minari package.

    Args:
        folder: of the data.
        metadata: see `read_metadata`.

    Raises:
        MissingExtraError: minari or pyarrow is not installed.
        DataError: the package cannot open it.
    """

    def __init__(self, folder: Path, metadata: Mapping[str, Any]) -> None:
        try:
            import pyarrow.dataset  # noqa: F401 (only to say which extra is missing)
            from minari.dataset.minari_storage import MinariStorage
        except ImportError as error:
            raise MissingExtraError("minari", "minari") from error
        self._folder, self._metadata = folder, metadata
        try:
            self._storage = MinariStorage.read(folder)
        except (*UNREADABLE, AssertionError, AttributeError) as error:
            raise DataError(f"minari cannot open it ({reason(error)})", fix=DAMAGED, file=folder) from error

    @property
    def numbers(self) -> tuple[int, ...]:
        """See `Storage`."""
        found = frozenset(int(p.name) for p in self._folder.iterdir() if p.is_dir() and p.name.isdecimal())
        return _with_missing(found, self._metadata["total_episodes"])

    @property
    def file(self) -> None:
        """See `Storage`."""
        return

    def read(self, number: int) -> RawEpisode:
        """See `Storage`."""
        import pyarrow as pa

        try:
            num_rows = self._num_rows(number)
            told = next(iter(self._storage.get_episode_metadata([number])))
            (episode,) = self._storage.get_episodes([number])
        except (*UNREADABLE, AssertionError, AttributeError, pa.ArrowException) as error:
            raise DataError(f"minari cannot read it ({reason(error)})", fix=DAMAGED) from error
        if not len(episode["rewards"]) == num_rows - 1 == told.pop("total_steps", num_rows - 1):
            problem = f"{num_rows} rows give {len(episode['rewards'])} steps, which is not what its metadata say"
            raise DataError(problem, fix=DAMAGED)
        parts: dict[str, dict[str, Array]] = {}
        texts: dict[str, dict[str, list[str]]] = {}
        for part, key in {**_PARTS, INFOS: INFOS}.items():
            flat = _flatten({} if episode[key] is None else episode[key])
            parts[part] = {name: value for name, value in flat.items() if isinstance(value, np.ndarray)}
            texts[part] = {name: value for name, value in flat.items() if isinstance(value, list)}
        return RawEpisode(
            parts=parts,
            texts=texts,
            rewards=episode["rewards"],
            terminations=episode["terminations"],
            truncations=episode["truncations"],
            told={name: value for name, value in told.items() if isinstance(value, str | int | float)},
        )

    def _num_rows(self, number: int) -> int:
        """Rows of an episode, after a look at whether its buffers are sound, which the package does not take."""
        import pyarrow.dataset as ds

        ending = self._metadata["data_format"]
        files = sorted((self._folder / str(number)).glob(f"*.{ending}"))
        if not files:
            raise DataError(f"there is no .{ending} file for episode {number}", fix="Restore it.")
        table = ds.dataset([str(file) for file in files], format=ending).to_table()
        table.validate(full=True)
        return int(table.num_rows)


def _with_missing(found: frozenset[int], total: int) -> tuple[int, ...]:
    """What is there, and what should be; a total that no memory could hold is not believed."""
    return tuple(sorted(found | set(range(min(total, 2 * len(found) + 1000)))))


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict | tuple):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        found: dict[str, Any] = {}
        for name, inner in items:
            found |= _flatten(inner, f"{prefix}.{name}" if prefix else str(name))
        return found
    return {prefix: value}


def _decode(dataset: h5py.Dataset, space: Space, name: str, most: int | None) -> Array:
    """JPEG pictures, [rows, *shape of the space]; the first `most` of them."""
    shape = tuple(space["shape"])
    try:
        check_heaps(Path(dataset.file.filename))
        num_rows = len(dataset) if most is None else min(most, len(dataset))
        check_written(dataset, 0, num_rows)
        if num_rows * prod(shape) > _MAX_BYTES:
            raise DataError(f"{num_rows} pictures of {shape} do not fit into memory", fix=DAMAGED)
        rows = np.empty((num_rows, *shape), np.uint8)
        for number in range(num_rows):
            content = np.asarray(dataset[number], np.uint8)
            with warnings.catch_warnings(action="error", category=Image.DecompressionBombWarning):
                picture = Image.open(io.BytesIO(content.tobytes()))
            if (picture.height, picture.width) != shape[:2]:
                raise DataError(f"a picture has {picture.height} by {picture.width} pixels, not {shape}", fix=DAMAGED)
            rows[number] = np.asarray(picture, np.uint8).reshape(shape)
    except (*UNREADABLE, SyntaxError, EOFError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"its pictures cannot be read ({reason(error)})", fix=DAMAGED, signal=name) from error
    return rows
