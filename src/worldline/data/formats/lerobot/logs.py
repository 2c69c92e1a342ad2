"""Importer of LeRobot datasets (v2.0, v2.1 and v3.0), without the lerobot package.

A row holds an observation and the next action, so an episode has as many actions as observations. The last action has
no logged outcome. It is dropped together with its reward and exogenous inputs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from worldline.data.base import ReadOptions, refuse, schema_beside
from worldline.data.formats.decoding import decode_picture, empty_pictures, frames
from worldline.data.formats.lerobot.layout import (
    INFO_FILE,
    EpisodeNote,
    EpisodePlace,
    Feature,
    LeRobotLayout,
    read_layout,
)
from worldline.data.formats.lerobot.tables import FIX, DataFiles, RowRange, within
from worldline.data.formats.reading import (
    UNKNOWN_FIX,
    Array,
    EpisodeDraft,
    EpisodeLogs,
    converted,
    filled,
    source_of,
    summaries_of,
)
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
"""Whether the action of a row reached the goal."""

_DTYPE = re.compile(r"u?(bool|int|float)(?:8|16|32|64)?")
_FRAMES_FIX = "Download or encode the video again, so that each row has a frame at its time."


def signal_name(layout: LeRobotLayout, key: str) -> str:
    """Returns the signal name of a feature."""
    return layout.signals.get(key, key.replace("/", "."))


def is_numeric(feature: Feature) -> bool:
    """Whether a feature holds numbers that can be a signal."""
    is_reserved = feature.key in BOOKKEEPING or feature.key in ENDS
    return not is_reserved and _family(feature.dtype) != "" and math.prod(feature.shape) > 0


def _family(dtype: str) -> str:
    """Returns bool, int or float; empty for images, texts and unknown dtypes."""
    match = _DTYPE.fullmatch(dtype)
    return "" if match is None else match[1]


class EpisodeReader:
    """Reads the episodes of a dataset; consecutive episodes share open files.

    Args:
        layout: of the dataset.
        schema: of its episodes.
    """

    def __init__(self, layout: LeRobotLayout, schema: Schema) -> None:
        self._layout, self._schema = layout, schema
        self._files = DataFiles(layout.root)
        self._features = {signal_name(layout, key): feature for key, feature in layout.features.items()}

    def read(self, number: int) -> EpisodeDraft:
        """Reads a listed episode; the lost ones come after them.

        Raises:
            DataError: it cannot be read completely; the message names file, signal and step.
            MissingExtraError: pyarrow is not installed, or av for videos.
        """
        episodes = self._layout.episodes
        if number >= len(episodes):
            raise self._layout.lost[number - len(episodes)].error()
        place = episodes[number]
        piece = self._files.locate(place.data, place.number, place.num_rows)
        _check_bookkeeping(piece, self._layout.fps)
        draft = EpisodeDraft(source=source_of(place.data, place.number, place.note.source if place.note else {}))
        self._add_texts(draft, piece, place)
        for signal in self._schema.signals:
            if (feature := self._features.get(signal.name)) is None:
                continue  # `check_episode` reports it as missing
            keep = len(piece) if signal.role is Role.OBSERVATION else len(piece) - 1
            if feature.dtype == "video":
                draft.put(signal.name, self._frames(place, feature, signal, len(piece))[:keep])
            elif feature.dtype == "image":
                draft.put(signal.name, self._pictures(piece, feature, signal)[:keep])
            else:
                _add_numbers(draft, piece, feature, signal, keep)
        if place.note is not None:
            _add_note(draft, place.note)
        else:
            _add_ends(draft, piece, self._layout)
        return draft

    def _add_texts(self, draft: EpisodeDraft, piece: RowRange, place: EpisodePlace) -> None:
        """Adds the task and constant texts to the source, and a warning for texts that change."""
        indices = piece.known("task_index", "iu").tolist() if "task_index" in piece.rows.names else []
        known = self._layout.tasks
        tasks = place.tasks or [known[index] for index in dict.fromkeys(indices) if index in known]
        if task := "; ".join(text for text in tasks if text):
            draft.source["task"] = task
        for key in (key for key, f in self._layout.features.items() if f.dtype == "string"):
            texts = set(piece.column(key).to_pylist())
            if len(texts) == 1 and isinstance(text := texts.pop(), str):
                draft.source[f"{key}.text" if key in draft.source else key] = text
            else:
                problem = f"the text changes within the episode ({len(texts)} values) and is left out"
                draft.warn(problem, "To use it as a signal, encode it as numbers.", signal=key)

    def _frames(self, place: EpisodePlace, feature: Feature, signal: Signal, num_rows: int) -> Array:
        """Returns one frame per row, each at the time of its row."""
        where, frame_s = place.videos[feature.key], 1 / self._layout.fps
        error = partial(DataError, fix=_FRAMES_FIX, file=where.file, signal=signal.name)
        file = within(self._layout.root, where.file)
        if where.length_s is None:
            decoded = frames(file)
        elif abs(where.length_s - num_rows * frame_s) > frame_s / 2:
            raise error(f"the list has {where.length_s / frame_s:.1f} video frames for {num_rows} rows")
        else:
            decoded = frames(file, where.start_s - frame_s / 2, where.start_s + (num_rows - 0.5) * frame_s)
        values: Array | None = None
        row = 0
        with closing(decoded):
            for time, picture in decoded:
                at = math.floor((time - where.start_s) / frame_s + 0.5)
                if at != row or row >= num_rows:
                    problem = (
                        f"expected the frame of row {row} of {num_rows}, got one at {time:.3f} s, which is row {at}"
                    )
                    raise error(problem, step=row)
                if picture.shape[:2] != feature.height_width:
                    problem = f"the frame has shape {picture.shape}, {INFO_FILE} has {feature.height_width}"
                    raise error(problem, step=row)
                values = empty_pictures(num_rows, picture.shape) if values is None else values
                values[row] = picture
                row += 1
        if values is None or row < num_rows:
            raise error(f"the video has {row} frames for {num_rows} rows", step=row)
        return values

    def _pictures(self, piece: RowRange, feature: Feature, signal: Signal) -> Array:
        """Returns the images in the cells of a column."""
        error = partial(piece.rows.error, signal=signal.name)
        values: Array | None = None
        for row, cell in enumerate(piece.column(feature.key)):
            try:
                with converted("the image cannot be read", fix=FIX):
                    picture = decode_picture(self._content(cell.as_py()))
            except DataError as damage:
                raise error(damage.problem, fix=damage.fix, step=row) from damage
            values = empty_pictures(len(piece), picture.shape) if values is None else values
            if picture.shape != values.shape[1:] or picture.shape[:2] != feature.height_width:
                problem = f"the image has shape {picture.shape}, {INFO_FILE} has {feature.height_width}"
                raise error(f"{problem}, the first image of the episode has {values.shape[1:]}", step=row)
            values[row] = picture
        return np.zeros((0, *signal.shape), np.uint8) if values is None else values

    def _content(self, cell: Any) -> bytes:
        """Returns the bytes of an image file, which is in the cell or at the cell's path."""
        content: bytes | None = cell["bytes"]
        return content if content is not None else within(self._layout.root, cell["path"]).read_bytes()


def _check_bookkeeping(piece: RowRange, fps: float) -> None:
    """Raises unless the rows are the frames 0, 1, 2, ... of the episode, each at its time."""
    expected, numbers = np.arange(len(piece)), piece.known("frame_index", "iu")
    if wrong := np.flatnonzero(numbers != expected).tolist():
        fix = "Restore the rows; they are missing, repeated or out of order."
        raise piece.rows.error(f"expected frame_index {wrong[0]}, got {numbers[wrong[0]]}", fix=fix, step=wrong[0])
    times = piece.known("timestamp").astype(np.float64)
    if wrong := np.flatnonzero(~(np.abs(times - expected / fps) <= 0.5 / fps)).tolist():
        due = f"at {fps:g} rows per second it should be {wrong[0] / fps:.6g} s"
        fix = f"Correct fps in {INFO_FILE}, or resample the episode to it."
        problem = f"the timestamp is {times[wrong[0]]:.6g} s; {due}"
        raise piece.rows.error(problem, fix=fix, signal="timestamp", step=wrong[0])


def _add_numbers(draft: EpisodeDraft, piece: RowRange, feature: Feature, signal: Signal, keep: int) -> None:
    """Adds the numbers of a signal; masks missing observations, and raises if other values are missing."""
    every, holes = piece.numbers(feature.key, feature.shape, signal.name)
    values, missing = every[:keep], holes[:keep]
    if _family(feature.dtype) != _family(values.dtype.name):
        problem = f"the column holds {values.dtype}, {INFO_FILE} declares {feature.dtype}"
        raise piece.rows.error(problem, signal=signal.name)
    if (steps := np.flatnonzero(missing).tolist()) and signal.role is not Role.OBSERVATION:
        problem = f"the value is missing ({len(steps)} steps in total)"
        raise piece.rows.error(problem, fix=UNKNOWN_FIX, signal=signal.name, step=steps[0])
    draft.put(signal.name, filled(values, ~missing), ~missing)


def _add_note(draft: EpisodeDraft, note: EpisodeNote) -> None:
    """Adds ends, seed, masks and durations of steps from our exporter's note."""
    draft.terminated, draft.truncated, draft.seed = note.terminated, note.truncated, note.seed
    draft.step_s = None if note.step_s is None else np.array(note.step_s, np.float32)
    draft.observed = {name: np.array(mask) for name, mask in note.observed.items() if name in draft.values}


def _add_ends(draft: EpisodeDraft, piece: RowRange, layout: LeRobotLayout) -> None:
    """Adds the ends by the row of the last kept action; the last row belongs to the dropped action."""
    ends = {"terminated": False, "truncated": False}
    for key in (key for key in ENDS if key in layout.features and len(piece) > 1):
        flags = piece.known(key).astype(np.bool_)
        ends[ENDS[key]] |= bool(flags[-2])
        if (early := np.flatnonzero(flags[:-2]).tolist()) and not flags[early[0] :].all():
            problem = f"{key} is set at this step and unset later, so the episode seems to contain a reset"
            raise piece.rows.error(problem, fix="Split the episode after this step.", step=early[0])
    draft.end(ends["terminated"], ends["truncated"] or None)


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
        layout = read_layout(path)
        if schema is None and (path / SCHEMA_FILE).exists():
            within(path, SCHEMA_FILE)  # refuses a link out of the dataset
            schema = schema_beside(path)
        schema, unclear = _infer(layout) if schema is None else (schema, _assumptions(layout, schema))
        files = [*(place.data for place in layout.episodes), *(finding.file or INFO_FILE for finding in layout.lost)]
        return cls(schema, unclear, root=path, files=files, reader=lambda _: EpisodeReader(layout, schema).read)


def _infer(layout: LeRobotLayout) -> tuple[Schema, list[str]]:
    """Infers a schema from the declared features and the numbers in the rows; also returns doubts."""
    draft = SchemaDraft(layout.root)
    seen = _summaries(layout, [feature for feature in layout.features.values() if is_numeric(feature)])
    for feature in layout.features.values():
        name, role = signal_name(layout, feature.key), _role(feature.key)
        if feature.is_image and not feature.is_depth:
            size = feature.height_width
            channels = 3 if feature.dtype == "video" else math.prod(feature.shape) // math.prod(size)
            draft.add(Signal(name=name, role=role, kind=Kind.IMAGE, shape=(*size, channels), unit="1"))
        elif feature.key in seen:
            signal, doubts = draft.infer(name, role, seen[feature.key])
            if feature.key == SUCCESS:
                doubts.append("used as a reward of 0 or 1, not as an end of the episode.")
            if not feature.key.startswith(("observation", "action", "next.")):
                doubts.insert(0, f"its role is {role} because of its name.")
            if signal.kind is Kind.VECTOR and len(feature.components) == signal.size:
                signal = replace(signal, components=feature.components)
            draft.add(signal, doubts)
    schema, unclear = draft.result(1 / layout.fps)
    return schema, [*unclear, *_assumptions(layout, schema)]


def _summaries(layout: LeRobotLayout, features: Sequence[Feature]) -> dict[str, list[Summary]]:
    """Returns a summary for each readable episode, by feature key."""
    files = DataFiles(layout.root)

    def summaries(place: EpisodePlace) -> dict[str, Summary]:
        piece = files.locate(place.data, place.number, place.num_rows)
        by_key = {}
        for feature in features:
            values, _ = piece.numbers(feature.key, feature.shape, feature.key)
            keep = len(piece) if _role(feature.key) is Role.OBSERVATION else len(piece) - 1
            if keep:  # single numbers have no axis of components, as `infer_signal` expects
                by_key[feature.key] = summarise(values[:keep, 0] if feature.shape == (1,) else values[:keep])
        return by_key

    return summaries_of(layout.episodes, summaries, what="episodes", file=layout.root)


def _role(key: str) -> Role:
    """Returns the role of a feature by LeRobot's naming convention."""
    if key.split(".")[0] in ("observation", "action"):
        return Role(key.split(".")[0])
    return Role.REWARD if key == SUCCESS else guess_role(key).role or Role.OBSERVATION


def _assumptions(layout: LeRobotLayout, schema: Schema) -> list[str]:
    """Returns sentences on what reading the dataset with this schema leaves out or assumes."""
    notes, names = [], {signal.name for signal in schema.signals}
    if not layout.is_own:
        last = "The last action of each episode has no following observation. "
        notes.append(f"{last}It is dropped with its reward and exogenous inputs.")
    for key, feature in layout.features.items():
        name = signal_name(layout, key)
        if key in ENDS and not layout.is_own:
            notes.append(f"{key}: used as the end of the episode ({ENDS[key]}) if it is set at the last kept action.")
        elif feature.dtype != "string" and name not in names and key not in BOOKKEEPING:
            why = "a depth map" if feature.is_depth else f"{feature.dtype} of shape {feature.shape}"
            notes.append(f"{key}: left out, because the schema has no signal {name!r} ({why}).")
    if schema.step_s is not None and abs(schema.step_s * layout.fps - 1) > 0.01:
        own = f"{1 / layout.fps:g} s"
        notes.append(f"The schema has {schema.step_s:g} s per step, the dataset {own}; the schema's is used.")
    return notes
