"""Importer of LeRobot datasets (v2.0, v2.1 and v3.0), without the lerobot package.

A row holds an observation and the next action, so an episode has as many actions as observations. The last action has
no logged outcome. It is dropped together with its reward and exogenous inputs.
"""

from __future__ import annotations

import math
import re
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import msgspec
import numpy as np

from worldline.data.base import ReadOptions, refuse, schema_beside
from worldline.data.formats.decoding import decode_picture, empty_pictures, frames
from worldline.data.formats.lerobot.metadata import INFO_FILE, EpisodeEntry, EpisodeNote, Feature, LeRobotMetadata
from worldline.data.formats.lerobot.rows import FIX, DataFiles, RowRange, within
from worldline.data.formats.raw_episode import EpisodeLogs, RawEpisode, source_of
from worldline.data.formats.reading import UNKNOWN_FIX, Array, converted, filled, readable
from worldline.data.infer import SchemaDraft, Summary, summarise
from worldline.data.roles import guess_role
from worldline.data.store import SCHEMA_FILE
from worldline.errors import DataError
from worldline.schema import Kind, Role, Schema, Signal

BOOKKEEPING = ("timestamp", "frame_index", "episode_index", "index", "task_index")
"""Columns with the position of a row; not signals."""
ENDS = {"next.done": "terminated", "next.terminated": "terminated", "next.truncated": "truncated"}
"""End flags: whether the action of a row ended the episode."""
SUCCESS = "next.success"
"""Whether the action of a row reached the goal; used as a reward."""

_NUMBERS = re.compile(r"bool|u?int\d+|float\d+")
_FRAMES_FIX = "Download or encode the video again, so that each row has a frame at its time."


class LeRobotLogs(EpisodeLogs):
    """The episodes of a LeRobot dataset."""

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Whether `path` is a folder with `meta/info.json`."""
        return (path / INFO_FILE).is_file()

    @classmethod
    def open(cls, path: Path, schema: Schema | None, reading: ReadOptions) -> LeRobotLogs:
        """Opens the logs; infers the schema if none is given or found."""
        refuse(reading, "LeRobot")
        metadata, unclear = LeRobotMetadata(path), list[str]()
        if schema is None and (path / SCHEMA_FILE).exists():
            within(path, SCHEMA_FILE)  # refuses a link out of the dataset
            schema = schema_beside(path)
        if schema is None:
            schema, unclear = _infer(metadata)
        unclear += _assumptions(metadata, schema)
        files = [entry.data for entry in metadata.episodes]
        return cls(schema, unclear, root=path, files=files, reader=lambda _: _EpisodeReader(metadata, schema).read)


class _EpisodeReader:
    """Reads the episodes of a dataset; consecutive episodes share open files.

    Args:
        metadata: of the dataset.
        schema: of its episodes.
    """

    def __init__(self, metadata: LeRobotMetadata, schema: Schema) -> None:
        self._metadata, self._fps = metadata, metadata.info.fps
        self._files = DataFiles(metadata.root)
        keys = {metadata.signal(key): key for key in metadata.features}
        self._signals = [(signal, keys[signal.name]) for signal in schema.signals if signal.name in keys]

    def read(self, number: int) -> RawEpisode:
        """Reads a listed episode.

        Raises:
            DataError: it cannot be read completely; the message names file, signal and step.
            MissingExtraError: pyarrow is not installed, or av for videos.
        """
        entry = self._metadata.episodes[number]
        piece = self._files.locate(entry.data, entry.episode_index, entry.length)
        note = None if entry.note is None else msgspec.json.decode(entry.note, type=EpisodeNote)
        _check_times(piece, self._fps)
        draft = RawEpisode(source=source_of(entry.data, entry.episode_index, note.source if note else {}))
        draft.source |= self._task(piece, entry)
        for signal, key in self._signals:
            keep = piece.length - (signal.role is not Role.OBSERVATION)
            feature = self._metadata.features[key]
            if feature.dtype == "video":
                draft.put(signal.name, self._frames(entry, key, signal.name)[:keep])
            elif feature.dtype == "image":
                draft.put(signal.name, self._pictures(piece, key, signal)[:keep])
            else:
                _add_numbers(draft, piece, key, feature, signal, keep)
        if note is None:
            draft.end(*_ends(piece, self._metadata))
            return draft
        draft.terminated, draft.truncated, draft.seed = note.terminated, note.truncated, note.seed
        draft.step_s = None if note.step_s is None else np.array(note.step_s, np.float32)
        draft.observed = {name: np.array(mask) for name, mask in note.observed.items() if name in draft.values}
        return draft

    def _task(self, piece: RowRange, entry: EpisodeEntry) -> dict[str, str]:
        """The description of the task, if there is one."""
        tasks = [entry.tasks] if isinstance(entry.tasks, str) else entry.tasks or []
        if not tasks and "task_index" in piece.rows.names:
            indices = dict.fromkeys(piece.known("task_index", "iu").tolist())
            tasks = [self._metadata.tasks[index] for index in indices if index in self._metadata.tasks]
        task = "; ".join(text for text in tasks if text)
        return {"task": task} if task else {}

    def _frames(self, entry: EpisodeEntry, key: str, signal: str) -> Array:
        """Returns one frame per row, each at the time of its row."""
        video, frame_s, num_rows = entry.videos[key], 1 / self._fps, entry.length
        error = partial(DataError, fix=_FRAMES_FIX, file=video.file, signal=signal)
        first_s, stop_s = -math.inf, math.inf
        if video.is_shared:
            first_s, stop_s = video.start_s - frame_s / 2, video.start_s + (num_rows - 0.5) * frame_s
        values: Array | None = None
        row = 0
        with closing(frames(within(self._metadata.root, video.file), first_s, stop_s)) as decoded:
            for time, picture in decoded:
                at = math.floor((time - video.start_s) / frame_s + 0.5)
                if at != row or row >= num_rows:
                    problem = f"expected the frame of row {row} of {num_rows}, got one at {time:.3f} s"
                    raise error(f"{problem}, which is row {at}", step=row)
                values = empty_pictures(num_rows, picture.shape) if values is None else values
                values[row] = picture
                row += 1
        if values is None or row < num_rows:
            raise error(f"the video has {row} frames for {num_rows} rows", step=row)
        return values

    def _pictures(self, piece: RowRange, key: str, signal: Signal) -> Array:
        """Returns the images in the cells of a column, or at the paths in them."""
        values = empty_pictures(piece.length, signal.shape)
        for row, cell in enumerate(piece.column(key)):
            try:
                with converted("the image cannot be read", fix=FIX):
                    content, path = cell.as_py()["bytes"], cell.as_py()["path"]
                    content = within(self._metadata.root, path).read_bytes() if content is None else content
                    picture = decode_picture(content)
                    if picture.shape != signal.shape:
                        raise ValueError(f"its shape is {picture.shape}; expected {signal.shape}")
            except DataError as damage:
                raise piece.rows.error(damage.problem, fix=damage.fix, signal=signal.name, step=row) from damage
            values[row] = picture
        return values


def _check_times(piece: RowRange, fps: float) -> None:
    """Raises unless each row is at its time."""
    expected = np.arange(piece.length)
    times = piece.known("timestamp").astype(np.float64)
    if wrong := np.flatnonzero(~(np.abs(times - expected / fps) <= 0.5 / fps)).tolist():
        due = f"at {fps:g} rows per second it should be {wrong[0] / fps:.6g} s"
        fix = f"Correct fps in {INFO_FILE}, or resample the episode to it."
        problem = f"the timestamp is {times[wrong[0]]:.6g} s; {due}"
        raise piece.rows.error(problem, fix=fix, signal="timestamp", step=wrong[0])


def _add_numbers(draft: RawEpisode, piece: RowRange, key: str, feature: Feature, signal: Signal, keep: int) -> None:
    """Adds the numbers of a signal; masks missing observations, and raises if other values are missing."""
    every, gaps = piece.numbers(key, feature.shape, signal.name)
    values, missing = every[:keep], gaps[:keep]
    if (steps := np.flatnonzero(missing).tolist()) and signal.role is not Role.OBSERVATION:
        problem = f"the value is missing ({len(steps)} steps in total)"
        raise piece.rows.error(problem, fix=UNKNOWN_FIX, signal=signal.name, step=steps[0])
    draft.put(signal.name, filled(values, ~missing), ~missing)


def _ends(piece: RowRange, metadata: LeRobotMetadata) -> tuple[bool, bool | None]:
    """Whether the last kept action ended the episode: terminated, truncated. The last row is of the dropped action."""
    ends = {"terminated": False, "truncated": False}
    for key in (key for key in ENDS if key in metadata.features and piece.length > 1):
        flags = piece.known(key).astype(np.bool_)
        ends[ENDS[key]] |= bool(flags[-2])
        if (early := np.flatnonzero(flags[:-2]).tolist()) and not flags[early[0] :].all():
            problem = f"{key} is set at this step and unset later, so the episode seems to contain a reset"
            raise piece.rows.error(problem, fix="Split the episode after this step.", step=early[0])
    return ends["terminated"], ends["truncated"] or None


def _infer(metadata: LeRobotMetadata) -> tuple[Schema, list[str]]:
    """Infers a schema from the declared features and the numbers in the rows; also returns doubts."""
    draft = SchemaDraft(metadata.root)
    seen = _summaries(metadata)
    for key, feature in metadata.features.items():
        name, role = metadata.signal(key), _role(key)
        if feature.is_image and not feature.is_depth:
            draft.add(Signal(name=name, role=role, kind=Kind.IMAGE, shape=feature.image_shape, unit="1"))
        elif key in seen:
            signal, doubts = draft.infer(name, role, seen[key])
            if not key.startswith(("observation", "action", "next.")):
                doubts.insert(0, f"its role is {role} because of its name.")
            if signal.kind is Kind.VECTOR and len(feature.components) == signal.size:
                signal = replace(signal, components=feature.components)
            draft.add(signal, doubts)
    return draft.result(1 / metadata.info.fps)


def _summaries(metadata: LeRobotMetadata) -> dict[str, list[Summary]]:
    """Returns a summary for each readable episode, by the key of each feature that can be a signal."""
    files, reserved = DataFiles(metadata.root), (*BOOKKEEPING, *ENDS)
    shapes = {key: f.shape for key, f in metadata.features.items() if _NUMBERS.fullmatch(f.dtype) and 0 not in f.shape}

    def summaries(entry: EpisodeEntry) -> dict[str, Summary]:
        piece = files.locate(entry.data, entry.episode_index, entry.length)
        by_key = {}
        for key, shape in ((key, shape) for key, shape in shapes.items() if key not in reserved):
            values, _ = piece.numbers(key, shape, key)
            keep = piece.length - (_role(key) is not Role.OBSERVATION)
            if keep:  # single numbers have no axis of components, as `infer_signal` expects
                by_key[key] = summarise(values[:keep, 0] if shape == (1,) else values[:keep])
        return by_key

    by_key: dict[str, list[Summary]] = {}
    for _, seen in readable(metadata.episodes, summaries, what="episodes", file=metadata.root):
        for key, summary in seen.items():
            by_key.setdefault(key, []).append(summary)
    return by_key


def _role(key: str) -> Role:
    """Returns the role of a feature by LeRobot's naming convention."""
    if key.split(".")[0] in ("observation", "action"):
        return Role(key.split(".")[0])
    return Role.REWARD if key == SUCCESS else guess_role(key).role or Role.OBSERVATION


def _assumptions(metadata: LeRobotMetadata, schema: Schema) -> list[str]:
    """Returns sentences on what reading the dataset with this schema leaves out or assumes."""
    notes, names, fps = list[str](), {signal.name for signal in schema.signals}, metadata.info.fps
    if metadata.info.total_episodes != len(metadata.episodes):
        notes.append(f"total_episodes is {metadata.info.total_episodes!r:.40}; {len(metadata.episodes)} are listed.")
    if not metadata.is_own:
        last = "The last action of each episode has no following observation. "
        notes.append(f"{last}It is dropped with its reward and exogenous inputs.")
    for key, feature in metadata.features.items():
        if key in ENDS and not metadata.is_own:
            notes.append(f"{key}: used as the end of the episode ({ENDS[key]}) if it is set at the last kept action.")
        elif (name := metadata.signal(key)) not in names and key not in BOOKKEEPING:
            why = "a depth map" if feature.is_depth else f"{feature.dtype} of shape {feature.shape}"
            notes.append(f"{key}: left out, because the schema has no signal {name!r} ({why}).")
    if schema.step_s is not None and abs(schema.step_s * fps - 1) > 0.01:
        notes.append(f"The schema has {schema.step_s:g} s per step, the dataset {1 / fps:g} s; the schema's is used.")
    return notes
