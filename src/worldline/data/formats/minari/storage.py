"""The HDF5 storage of Minari datasets, read into named arrays, and inference of signals.

Names of signals come from the structure of the dataset, kinds and bounds from its spaces.

The files are read with h5py and not with the minari package. The package trusts declared sizes, reads unwritten chunks
as zeros, and creates the environment named in a file that lacks its spaces.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import h5py
import msgspec
import numpy as np

from worldline.data.formats.decoding import decode_picture, empty_pictures
from worldline.data.formats.hdf5 import access
from worldline.data.formats.reading import DAMAGED, Array, Metadata, converted, readable, reason
from worldline.data.infer import SchemaDraft, Summary, summarise
from worldline.errors import DataError
from worldline.schema import Kind, Role, Schema, Signal

Space = Mapping[str, Any]
OBSERVATION, ACTION, REWARD, INFOS = "observation", "action", "reward", "infos"
NOTE_ATTRIBUTE = "worldline"
PARTS = {OBSERVATION: "observations", ACTION: "actions", INFOS: "infos"}
_COLUMNS = ("rewards", "terminations", "truncations")
_EPISODE = re.compile(r"episode_(\d+)")
_INDEX = re.compile(r"_index_(\d+)")
_ROLES = {OBSERVATION: Role.OBSERVATION, ACTION: Role.ACTION}


class DatasetMetadata(msgspec.Struct, kw_only=True):
    """The file metadata.json.

    Args:
        observation_space: of observations, in JSON.
        action_space: of actions, in JSON.
        total_episodes: declared number of episodes.
        data_format: how the episodes are stored.
        jpeg_encoding: whether large images are stored as JPEG.
        dataset_id: its name; empty if unknown.
        spaces: leaf spaces of observation and action by dotted name; see `leaves`.
    """

    observation_space: str
    action_space: str
    total_episodes: int
    data_format: str
    jpeg_encoding: bool = True
    dataset_id: str = ""
    spaces: dict[str, dict[str, Any]] = {}

    def __post_init__(self) -> None:
        texts = {OBSERVATION: self.observation_space, ACTION: self.action_space}
        self.spaces = {part: leaves(json.loads(text)) for part, text in texts.items()}

    def space(self, part: str, member: str) -> Space | None:
        """The space of a member of observation or action; None if unknown."""
        return self.spaces.get(part, {}).get(member)

    def is_jpeg(self, part: str, member: str) -> bool:
        """Whether the values of a member are stored as JPEG images."""
        space = self.space(part, member)
        if space is None or space.get("type") != "Box" or space["dtype"] != "uint8" or not self.jpeg_encoding:
            return False
        is_large = len(space["shape"]) in (2, 3) and min(space["shape"][:2]) >= 32
        return is_large and bool(np.all(np.array(space["low"]) == 0) and np.all(np.array(space["high"]) == 255))


@dataclass(frozen=True, kw_only=True)
class MinariEpisode:
    """The stored data of one episode.

    Args:
        parts: arrays of each part (observation, action, infos) by dotted name; the empty name for a single array.
        rewards: [T].
        terminations: [T].
        truncations: [T].
        metadata: numbers and short texts of the episode.
        note: metadata of our exporter; None for other datasets.
    """

    parts: Mapping[str, Mapping[str, Array]]
    rewards: Array
    terminations: Array
    truncations: Array
    metadata: Metadata = field(default_factory=dict)
    note: Mapping[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class Member:
    """An array of an episode.

    Args:
        name: of the signal.
        part: of the episode that holds it.
        key: its dotted name in this part.
        values: [rows, ...]; texts are objects.
    """

    name: str
    part: str
    key: str
    values: Array

    @property
    def is_text(self) -> bool:
        """Whether it holds texts."""
        return self.values.dtype.kind == "O"


def read_metadata(folder: Path) -> DatasetMetadata:
    """Reads metadata.json and parses its spaces.

    Raises:
        DataError: it cannot be read, an entry is missing, or the episodes are not stored as HDF5.
    """
    file = folder / "metadata.json"
    fix = "Write observation_space, action_space, total_episodes and data_format into it."
    with converted("the metadata cannot be read", fix=fix, file=file):
        metadata = msgspec.json.decode(file.read_bytes(), type=DatasetMetadata)
    if metadata.data_format != "hdf5":
        fix = "Write the dataset with Minari's default data_format, which is hdf5."
        raise DataError(f"its data_format is {metadata.data_format!r}", fix=fix, file=folder)
    return metadata


def leaves(space: Space, prefix: str = "") -> dict[str, Space]:
    """Returns the leaf spaces by dotted name; the empty name if the space is a leaf."""
    if space["type"] not in ("Dict", "Tuple"):
        return {prefix: space}
    inner = space["subspaces"] if space["type"] == "Dict" else dict(enumerate(space["subspaces"]))
    spaces: dict[str, Space] = {}
    for name, part in inner.items():
        spaces |= leaves(part, f"{prefix}.{name}" if prefix else str(name))
    return spaces


class Storage:
    """The episodes in main_data.hdf5.

    Args:
        file: the open file.
        path: its path.
        metadata: of the dataset.
        max_images: rows of compressed images to decode; None for all.

    Raises:
        DataError: the file is damaged.
    """

    def __init__(self, file: h5py.File, path: Path, metadata: DatasetMetadata, max_images: int | None) -> None:
        self._file, self._path, self._metadata, self._max_images = file, path, metadata, max_images
        with converted("it cannot be read", file=path):
            existing = {int(match[1]) for match in map(_EPISODE.fullmatch, file) if match}
        # An implausible total is capped, because it would fill the memory.
        declared = range(min(metadata.total_episodes, 2 * len(existing) + 1000))
        self.numbers = tuple(sorted(existing | set(declared)))
        """Numbers of the episodes that exist or should exist."""

    def read(self, number: int) -> MinariEpisode:
        """Reads one episode.

        Raises:
            DataError: it cannot be read.
        """
        group = self._file.get(f"episode_{number}")
        if not isinstance(group, h5py.Group):
            raise DataError(f"the group episode_{number} is missing", fix="Restore it, or correct total_episodes.")
        metadata, datasets = access.attributes(group), access.arrays_in(group, self._path)
        columns = {name: _column(datasets, name) for name in _COLUMNS}
        num_steps = len(columns["rewards"])
        if (total := metadata.pop("total_steps", num_steps)) != num_steps:
            raise DataError(f"total_steps is {total}, but the episode has {num_steps} rewards", fix=DAMAGED)
        note = access.embedded_json(group, NOTE_ATTRIBUTE)
        parts: dict[str, dict[str, Array]] = {part: {} for part in PARTS}
        for part, key in PARTS.items():
            if part != INFOS and key not in group:
                raise DataError("the dataset is missing", fix=DAMAGED, signal=key)
            inner = {name: dataset for name, dataset in datasets.items() if name.partition(".")[0] == key}
            for path, dataset in inner.items():
                name = path.removeprefix(key).removeprefix(".")
                name = _INDEX.sub(r"\1", name) if note is None else name  # a member of a tuple
                space = self._metadata.space(part, name)
                if space is not None and self._metadata.is_jpeg(part, name):
                    parts[part][name] = _decode(dataset, space, name or part, self._max_images)
                elif access.is_numeric(dataset) or (access.is_text(dataset) and dataset.ndim == 1):
                    parts[part][name] = access.read_rows(dataset, 0, len(dataset), name or part)
        noted = None if note is None else json.loads(note)
        return MinariEpisode(parts=parts, metadata=metadata, note=noted, **columns)


def _column(datasets: Mapping[str, h5py.Dataset], name: str) -> Array:
    if name not in datasets or not access.is_numeric(datasets[name]):
        raise DataError("the dataset is missing or not numeric", fix=DAMAGED, signal=name)
    return access.read_rows(datasets[name], 0, len(datasets[name]), name)


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


def members_of(raw: MinariEpisode) -> list[Member]:
    """Returns the arrays of an episode with the names of their signals.

    Members of tuples, and members whose names would collide, get the part's name as prefix.

    Args:
        raw: an episode.
    """
    inner = [(part, key, values) for part in _ROLES for key, values in raw.parts[part].items()]
    plain = [key.replace("/", ".") or part for part, key, _ in inner]
    members = [
        Member(name=f"{INFOS}.{key}" if key else INFOS, part=INFOS, key=key, values=values)
        for key, values in raw.parts[INFOS].items()
    ]
    for (part, key, values), name in zip(inner, plain, strict=True):
        shared = plain.count(name) > 1 or name == REWARD or name.startswith(f"{INFOS}.") or name[0].isdigit()
        members.append(Member(name=f"{part}.{name}" if key and shared else name, part=part, key=key, values=values))
    return [*members, Member(name=REWARD, part=REWARD, key="", values=raw.rewards)]


def infer_signals(storage: Storage, metadata: DatasetMetadata, folder: Path) -> tuple[Schema, list[str]]:
    """Infers the schema from spaces and values; also returns doubts, in full sentences.

    Args:
        storage: of the dataset; every episode is read.
        metadata: of the dataset.
        folder: for errors.

    Raises:
        DataError: no episode can be read, or none has observations.
    """
    seen: dict[tuple[str, str], tuple[str, list[Summary]]] = {}
    left = dict[str, None]()
    for _, raw in readable(storage.numbers, storage.read, what="episodes", file=folder):
        for member in members_of(raw):
            if member.part == INFOS:
                left[member.name] = None
            elif not member.is_text:
                summaries = seen.setdefault((member.part, member.key), (member.name, []))[1]
                summaries.append(summarise(member.values))
    if not any(part == OBSERVATION for part, _ in seen):
        raise DataError("no episode has observations", fix=DAMAGED, file=folder)
    draft = SchemaDraft(folder)
    draft.note("The step duration is not in the logs: step_s is left empty.")
    for (part, key), (name, summaries) in seen.items():
        signal, doubts = draft.infer(name, _ROLES.get(part, Role.REWARD), summaries)
        signal, doubts = _bounded(signal, doubts, metadata.space(part, key), summaries)
        if metadata.is_jpeg(part, key):
            doubts = [*doubts, "its images were stored as JPEG, which loses detail."]
        draft.add(signal, doubts)
    if left:
        draft.note(f"Left out; to keep one, add it to schema.json: {', '.join(left)}.")
    return draft.result()


def _bounded(signal: Signal, doubts: list[str], space: Space | None, seen: list[Summary]) -> tuple[Signal, list[str]]:
    """Adds kind and bounds of the space to the signal, if the logged values lie within them."""
    bounds = [summary for summary in seen if summary.low]
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
