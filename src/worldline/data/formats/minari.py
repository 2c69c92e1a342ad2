"""Importer of local Minari datasets: T+1 observations and T actions per episode.

Members of dictionaries and tuples become separate signals with dotted names. Spaces give the kinds of signals and the
bounds of actions. A text that is constant in an episode, such as a mission, becomes metadata. Members of `infos` are
left out unless schema.json has a signal `infos.<name>`.

The files are read with h5py and not with the minari package. The package trusts declared sizes, reads unwritten chunks
as zeros, and creates the environment named in a file that lacks its spaces.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import msgspec
import numpy as np

from worldline.data.array_size import check_episodes
from worldline.data.base import ReadOptions, refuse, schema_beside
from worldline.data.formats.decoding import decode_picture, empty_pictures
from worldline.data.formats.hdf5 import access
from worldline.data.formats.raw_episode import EpisodeLogs, RawEpisode, ReadEpisode, source_of
from worldline.data.formats.reading import DAMAGED, Array, converted, flag_at_end, readable
from worldline.data.infer import SchemaDraft, Summary, summarise
from worldline.errors import DataError
from worldline.schema import Kind, Role, Schema, Signal

MAIN_FILE = "main_data.hdf5"
OBSERVATION, ACTION, REWARD, INFOS = "observation", "action", "reward", "infos"
_PARTS = {"observations": OBSERVATION, "actions": ACTION, "rewards": REWARD, INFOS: INFOS}
_EPISODE = re.compile(r"episode_(\d+)")
_INDEX = re.compile(r"_index_(\d+)")
"""A member of a tuple."""

Space = Mapping[str, Any]
Key = tuple[str, str]
"""Part of an episode, and dotted name in it; empty if the part is a single array."""


class MinariMetadata(msgspec.Struct, kw_only=True):
    """The file metadata.json.

    Args:
        observation_space: of observations, in JSON.
        action_space: of actions, in JSON.
        total_episodes: declared number of episodes.
        data_format: how the episodes are stored.
        jpeg_encoding: whether large images are stored as JPEG.
        dataset_id: its name; empty if unknown.
        spaces: leaf spaces.
    """

    observation_space: str
    action_space: str
    total_episodes: int
    data_format: str
    jpeg_encoding: bool = True
    dataset_id: str = ""
    spaces: dict[Key, Space] = {}

    def __post_init__(self) -> None:
        texts = {OBSERVATION: self.observation_space, ACTION: self.action_space}
        self.spaces = {(part, key): leaf for part, text in texts.items() for key, leaf in _leaves(json.loads(text))}

    def is_jpeg(self, key: Key) -> bool:
        """Whether the values of a member are stored as JPEG images."""
        space = self.spaces.get(key, {})
        if not self.jpeg_encoding or space.get("type") != "Box" or space["dtype"] != "uint8":
            return False
        is_large = len(space["shape"]) in (2, 3) and min(space["shape"][:2]) >= 32
        return is_large and bool(np.all(np.array(space["low"]) == 0) and np.all(np.array(space["high"]) == 255))


def _leaves(space: Space, prefix: str = "") -> list[tuple[str, Space]]:
    """Returns the leaf spaces and their dotted names."""
    if space["type"] not in ("Dict", "Tuple"):
        return [(prefix, space)]
    inner = space["subspaces"] if space["type"] == "Dict" else dict(enumerate(space["subspaces"]))
    return [leaf for name, part in inner.items() for leaf in _leaves(part, f"{prefix}.{name}".lstrip("."))]


class MinariLogs(EpisodeLogs):
    """A Minari dataset."""

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Whether `path` or its folder `data` holds metadata.json with main_data.hdf5 or numbered folders."""
        return _folder(path) is not None

    @classmethod
    def open(cls, path: Path, schema: Schema | None, reading: ReadOptions) -> MinariLogs:
        """Opens the logs; infers the schema if none is given or found."""
        refuse(reading, "Minari")
        if (folder := _folder(path)) is None:
            fix = "Give the folder of one dataset, which contains data/metadata.json."
            raise DataError("the path is not a Minari dataset", fix=fix, file=path)
        main = folder / MAIN_FILE
        with converted("the metadata cannot be read", file=folder / "metadata.json"):
            metadata = msgspec.json.decode((folder / "metadata.json").read_bytes(), type=MinariMetadata)
        if metadata.data_format != "hdf5":
            fix = "Write the dataset with Minari's default data_format, which is hdf5."
            raise DataError(f"its data_format is {metadata.data_format!r}", fix=fix, file=folder)
        schema, unclear = schema or schema_beside(folder) or schema_beside(folder.parent), list[str]()
        with access.opened(main) as file:
            numbers = _numbers(file, main, metadata)
            if schema is None:
                schema, unclear = _infer(file, numbers, metadata, folder)
        if len(numbers) != metadata.total_episodes:
            unclear.append(f"The dataset declares {metadata.total_episodes} episodes; {len(numbers)} are read.")

        def reader(stack: ExitStack) -> ReadEpisode:
            file = stack.enter_context(access.opened(main))
            return lambda index: _read_episode(file, metadata, schema, numbers[index])

        return cls(schema, unclear, root=folder, files=[MAIN_FILE] * len(numbers), reader=reader)


def _folder(path: Path) -> Path | None:
    """Returns the folder with the metadata.json of a Minari dataset, judged by names; None if there is none."""
    for folder in (path / "data", path, path.parent if path.name == MAIN_FILE else path):
        holds_data = (folder / MAIN_FILE).is_file() or (folder / "0" / "metadata.json").is_file()
        if (folder / "metadata.json").is_file() and holds_data:
            return folder
    return None


def _numbers(file: h5py.File, path: Path, metadata: MinariMetadata) -> tuple[int, ...]:
    """Numbers of the episodes that exist or should exist."""
    check_episodes(len(file), path)
    with converted("it cannot be read", file=path):
        existing = {int(match[1]) for match in map(_EPISODE.fullmatch, file) if match}
    # An implausible total is capped, because it would fill the memory.
    return tuple(sorted(existing | set(range(min(metadata.total_episodes, 2 * len(existing) + 1000)))))


def _read(
    file: h5py.File, metadata: MinariMetadata, number: int, max_images: int | None = None
) -> tuple[RawEpisode, dict[str, Key]]:
    """Reads all arrays of an episode, and where each is stored.

    Args:
        file: the open file.
        metadata: of the dataset.
        number: of the episode.
        max_images: rows of compressed images to decode; None for all, and for texts.

    Raises:
        DataError: it cannot be read.
    """
    group = file.get(f"episode_{number}")
    if not isinstance(group, h5py.Group) or not {*_PARTS} - {INFOS} <= {*group}:
        problem = f"the group episode_{number} is missing or has no observations, actions or rewards"
        raise DataError(problem, fix="Restore it, or correct total_episodes.")
    datasets = access.arrays_in(group, Path(file.filename))
    draft = RawEpisode(source={"dataset": metadata.dataset_id, **access.attributes(group)})
    arrays, texts = dict[Key, Array](), dict[Key, h5py.Dataset]()
    for path, dataset in datasets.items():
        group_name, _, name = path.partition(".")
        key = _PARTS.get(group_name, ""), _INDEX.sub(r"\1", name)
        if metadata.is_jpeg(key):
            arrays[key] = _images(dataset, metadata.spaces[key], key, max_images)
        elif key[0] and access.is_numeric(dataset):
            arrays[key] = access.read_rows(dataset, 0, len(dataset), path)
        elif key[0] and access.is_text(dataset):
            texts[key] = dataset
    num_steps = len(arrays.get((REWARD, ""), ()))
    if (total := draft.source.pop("total_steps", num_steps)) != num_steps:
        raise DataError(f"total_steps is {total}, but the episode has {num_steps} rewards", fix=DAMAGED)
    draft.terminated, draft.truncated = (_end(datasets, n, num_steps) for n in ("terminations", "truncations"))
    names = _names([*arrays, *texts])
    for key in (key for key in texts if key[0] != INFOS and max_images is None):
        access.add_text(draft, names[key], texts[key], 0, len(texts[key]))
    seed = draft.source.pop("seed", None)
    draft.seed = None if seed is None else int(seed)
    draft.values = {names[key]: values for key, values in arrays.items()}
    return draft, {names[key]: key for key in arrays}


def _images(dataset: h5py.Dataset, space: Space, key: Key, max_images: int | None) -> Array:
    """Decodes JPEG images to [rows, *shape of the space]."""
    shape, name = tuple(space["shape"]), key[1] or key[0]
    with converted("its images cannot be read", signal=name):
        stop = len(dataset) if max_images is None else min(max_images, len(dataset))
        images = empty_pictures(stop, shape)
        for row, content in enumerate(access.read_rows(dataset, 0, stop, name)):
            images[row] = decode_picture(np.asarray(content, np.uint8).tobytes()).reshape(shape)
    return images


def _end(datasets: access.Datasets, name: str, num_steps: int) -> bool:
    """Whether the flag is set in the last step."""
    if num_steps < 1 or name not in datasets or datasets[name].shape != (num_steps,):
        raise DataError(f"there is not one of {name} for each of {num_steps} rewards, at least one", fix=DAMAGED)
    fix = "The episode seems to hold several episodes. Split it after this step."
    return flag_at_end(access.read_rows(datasets[name], 0, num_steps, name), name, fix=fix)


def _names(keys: list[Key]) -> dict[Key, str]:
    """Returns the names of signals; names that are not unique or reserved get the part as prefix."""
    plain = {key: key[1].replace("/", ".") or key[0] for key in keys if key[0] in (OBSERVATION, ACTION)}
    counts = list(plain.values())
    names = {(part, key): f"{part}.{key}".rstrip(".") for part, key in keys}
    for key, name in plain.items():
        if counts.count(name) == 1 and name != REWARD and not name.startswith(f"{INFOS}.") and not name[0].isdigit():
            names[key] = name
    return names


def _read_episode(file: h5py.File, metadata: MinariMetadata, schema: Schema, number: int) -> RawEpisode:
    """Reads the signals of an episode."""
    draft, _ = _read(file, metadata, number)
    arrays, draft.values = draft.values, {}
    for signal in (signal for signal in schema.signals if signal.name in arrays):
        draft.add(signal, arrays[signal.name])
    draft.source = source_of(MAIN_FILE, number, draft.source)
    return draft


def _infer(
    file: h5py.File, numbers: tuple[int, ...], metadata: MinariMetadata, folder: Path
) -> tuple[Schema, list[str]]:
    """Infers the schema from spaces and values of all episodes; also returns doubts."""
    seen: dict[Key, tuple[str, list[Summary]]] = {}
    read = partial(_read, file, metadata, max_images=1)
    for _, (episode, keys) in readable(numbers, read, what="episodes", file=folder):
        for name, values in episode.values.items():
            seen.setdefault(keys[name], (name, []))[1].append(summarise(values))
    if not any(part == OBSERVATION for part, _ in seen):
        raise DataError("no episode has observations", fix=DAMAGED, file=folder)
    draft = SchemaDraft(folder)
    draft.note("The step duration is not in the logs: step_s is left empty.")
    for key, (name, summaries) in seen.items():
        if key[0] != INFOS:
            signal, doubts = draft.infer(name, Role(key[0]), summaries)
            signal, doubts = _bounded(signal, doubts, metadata.spaces.get(key, {}), summaries)
            jpeg = ["its images were stored as JPEG, which loses detail."] if metadata.is_jpeg(key) else []
            draft.add(signal, [*doubts, *jpeg])
    if left := [name for (part, _), (name, _) in seen.items() if part == INFOS]:
        draft.note(f"Left out; to keep one, add it to schema.json: {', '.join(left)}.")
    return draft.result()


def _bounded(signal: Signal, doubts: list[str], space: Space, seen: list[Summary]) -> tuple[Signal, list[str]]:
    """Adds kind and bounds of the space to the signal, if the logged values lie within them."""
    known, is_discrete = [summary for summary in seen if summary.low], space.get("type") == "Discrete"
    if not known or not (is_discrete or (space.get("type") == "Box" and signal.kind is Kind.VECTOR)):
        return signal, doubts
    low, high = np.min([s.low for s in known], axis=0), np.max([s.high for s in known], axis=0)
    with converted("its space cannot be read", signal=signal.name):
        ends = (space["start"], space["start"] + space["n"] - 1) if is_discrete else (space["low"], space["high"])
        # Bounds are rounded like the values before they are compared.
        bounds = [np.array(end, np.float64).reshape(-1) for end in ends]
        lower, upper = (end.astype(signal.dtype) for end in bounds)
    if not np.isfinite(bounds).any():
        return signal, doubts
    if len(lower) != low.size or not ((low >= lower) & (high <= upper)).all() or (is_discrete and bounds[0][0] < 0):
        return signal, [*doubts, "its values exceed the bounds of its space, so these are not used."]
    if is_discrete:
        choice = replace(signal, kind=Kind.DISCRETE, shape=(), num_values=int(bounds[1][0]) + 1, low=None, high=None)
        return replace(choice, unit="1", precision="float32"), []
    return replace(signal, low=tuple(bounds[0].tolist()), high=tuple(bounds[1].tolist())), []
