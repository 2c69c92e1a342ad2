"""Importer of LeRobot datasets (v2.0, v2.1 and v3.0), without the lerobot package.

A row holds an observation and the next action, so an episode has as many actions as observations. The last action has
no logged outcome. It is dropped together with its reward and exogenous inputs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from contextlib import closing, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from worldline.data.base import ReadOptions, refuse, schema_beside
from worldline.data.formats.decoding import decode_picture, empty_pictures, frames, frames_between
from worldline.data.formats.lerobot.layout import (
    EPISODES_FOLDER,
    INFO_FILE,
    OWN,
    EpisodePlace,
    Feature,
    LeRobotLayout,
    read_layout,
)
from worldline.data.formats.lerobot.tables import FIX, Checked, DataFiles, RowRange, within
from worldline.data.formats.reading import (
    UNKNOWN_FIX,
    Array,
    EpisodeDraft,
    EpisodeLogs,
    converted,
    filled,
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
SURPLUS = "worldline.surplus"
"""Our exporter marks the last row in this column, because its action is a repetition."""
NOTES = ("terminated", "truncated", "seed", "step_s", "source")
"""Our exporter's values for each episode, in addition to one mask per observation."""
MASKS = "observed/"
"""Prefix of our exporter's masks."""
ORIGIN = {"file": "original_file", "episode": "original_episode"}
"""Names in the source for an episode's file and number before the export."""

_DTYPE = re.compile(r"u?(bool|int|float)(?:8|16|32|64)?")
_FRAMES_FIX = "Download or encode the video again, so that each row has a frame at its time."


def signal_name(layout: LeRobotLayout, key: str) -> str:
    """Returns the signal name of a feature."""
    return layout.signals.get(key, key.replace("/", "."))


def is_numeric(feature: Feature) -> bool:
    """Whether a feature holds numbers that can be a signal."""
    is_reserved = feature.key in BOOKKEEPING or feature.key in ENDS or feature.key.startswith(f"{OWN}.")
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

    def read(self, place: EpisodePlace) -> EpisodeDraft:
        """Reads the episode at `place`.

        Raises:
            DataError: it cannot be read completely; the message names file, signal and step.
            MissingExtraError: pyarrow is not installed, or av for videos.
        """
        piece = self._files.locate(place.data, place.number, place.num_rows)
        _check_bookkeeping(piece, self._layout)
        draft = EpisodeDraft(source={"file": place.data, "episode": place.number})
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
                _add_numbers(draft, piece, feature, signal, keep, self._layout.is_own)
        if self._layout.is_own:
            _add_own(draft, piece, place, self._layout)
        else:
            _add_ends(draft, piece, self._layout)
        return draft

    def _add_texts(self, draft: EpisodeDraft, piece: RowRange, place: EpisodePlace) -> None:
        """Adds the task and constant texts to the source, and a warning for texts that change."""
        indices = piece.whole("task_index") if "task_index" in piece.rows.names else np.zeros(0, np.int64)
        known = self._layout.tasks
        row_tasks = [known[index] for index in dict.fromkeys(indices.tolist()) if index in known]
        tasks = place.tasks or tuple(row_tasks)
        if task := "; ".join(text for text in tasks if text):
            draft.source["task"] = task
        if row_tasks and set(row_tasks) != set(tasks):
            problem = f"the rows have the task {row_tasks[0]!r:.80}, the list of episodes has {tasks[0]!r:.80}"
            draft.warn(problem, "The list is used. Correct task_index or the list.")
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
        if where.length_s is not None and abs(where.length_s - num_rows * frame_s) > frame_s / 2:
            have = where.length_s / frame_s
            problem = f"the list has {have:.1f} video frames from {where.start_s:.3f} s on for {num_rows} rows"
            raise error(problem, step=min(num_rows, math.floor(max(have, 0))))
        file = within(self._layout.root, where.file)
        if where.length_s is None:
            decoded = frames(file)
        else:
            decoded = frames_between(file, where.start_s - frame_s / 2, where.start_s + (num_rows - 0.5) * frame_s)
        values: Array | None = None
        row = 0
        with closing(decoded):
            for time, picture in decoded:
                at = math.floor((time - where.start_s) / frame_s + 0.5)
                if at != row or row >= num_rows:
                    raise error(_misplaced(at, row, num_rows, time), step=row)
                if picture.shape[:2] != feature.height_width:
                    declared = _size(feature.height_width)
                    problem = f"the frame has {_size(picture.shape)} pixels, {INFO_FILE} has {declared}"
                    raise error(problem, step=row)
                if values is None:
                    values = empty_pictures(num_rows, picture.shape)
                values[row] = picture
                row += 1
        if values is None or row < num_rows:
            raise error(f"the frame is missing: the video has {row} frames for {num_rows} rows", step=row)
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
                problem = f"the image has shape {picture.shape}, {INFO_FILE} has {_size(feature.height_width)}"
                raise error(f"{problem}, the first image of the episode has {values.shape[1:]}", step=row)
            values[row] = picture
        return np.zeros((0, *signal.shape), np.uint8) if values is None else values

    def _content(self, cell: Any) -> bytes:
        """Returns the bytes of an image file, which is in the cell or at the cell's path."""
        if not isinstance(cell, dict) or not isinstance(content := cell.get("bytes"), bytes):
            path = cell.get("path") if isinstance(cell, dict) else None
            if not isinstance(path, str):
                raise DataError("the cell does not hold an image", fix=FIX)
            return within(self._layout.root, path).read_bytes()
        return content


def _check_bookkeeping(piece: RowRange, layout: LeRobotLayout) -> None:
    """Raises unless the rows are the frames 0, 1, 2, ... of the episode, each at its time."""
    expected, fps = np.arange(len(piece)), layout.fps
    if wrong := np.flatnonzero(piece.whole("frame_index") != expected).tolist():
        problem = f"expected frame_index {wrong[0]}, got {piece.whole('frame_index')[wrong[0]]}"
        fix = "Restore the rows; they are missing, repeated or out of order."
        raise piece.rows.error(problem, fix=fix, step=wrong[0])
    times = piece.known("timestamp").astype(np.float64)
    if wrong := np.flatnonzero(~(np.abs(times - expected / fps) <= 0.5 / fps)).tolist():
        problem = f"the timestamp is {times[wrong[0]]:.6g} s; at {fps:g} rows per second it should be "
        problem += f"{wrong[0] / fps:.6g} s"
        fix = f"Correct fps in {INFO_FILE}, or resample the episode to it."
        raise piece.rows.error(problem, fix=fix, signal="timestamp", step=wrong[0])
    if SURPLUS in layout.features:
        marks = piece.known(SURPLUS)
        if wrong := np.flatnonzero(marks != (expected == len(piece) - 1)).tolist():
            problem = f"{SURPLUS} must be set in the last row of an episode only"
            raise piece.rows.error(problem, fix="Export the store again.", step=wrong[0])


def _add_numbers(
    draft: EpisodeDraft, piece: RowRange, feature: Feature, signal: Signal, keep: int, is_own: bool
) -> None:
    """Adds the numbers of a signal; masks missing observations, and raises if other values are missing."""
    column = piece.numbers(feature.key, feature.shape, signal.name)
    values, missing = column.values[:keep], column.missing[:keep]
    if _family(feature.dtype) != _family(values.dtype.name):
        problem = f"the column holds {values.dtype}, {INFO_FILE} declares {feature.dtype}"
        raise piece.rows.error(problem, signal=signal.name)
    if is_own:  # our exporter stores masks separately, so NaN is a value and only empty cells are missing
        missing = column.empty[:keep]
    if (steps := np.flatnonzero(missing).tolist()) and (is_own or signal.role is not Role.OBSERVATION):
        problem = f"the value is missing ({len(steps)} steps in total)"
        raise piece.rows.error(problem, fix=UNKNOWN_FIX, signal=signal.name, step=steps[0])
    draft.put(signal.name, filled(values, ~missing), ~missing)


def _add_own(draft: EpisodeDraft, piece: RowRange, place: EpisodePlace, layout: LeRobotLayout) -> None:
    """Adds ends, seed, masks, times and source from our exporter's columns."""
    own = Checked(place.own, EPISODES_FOLDER, f"the {OWN} columns of episode {place.number}")
    masks = {name: f"{MASKS}{name}" for key, name in layout.signals.items() if key.startswith("observation.")}
    own.only((*NOTES, *masks.values()))
    draft.terminated, draft.truncated = own.get("terminated", bool), own.get("truncated", bool)
    draft.seed = own.get("seed", int | None)
    step_s = own.optional_list("step_s", list[float], len(piece) - 1)
    draft.step_s = None if step_s is None else np.array(step_s, np.float32)
    for name, key in masks.items():
        if (mask := own.optional_list(key, list[bool], len(piece))) is not None:
            draft.observed[name] = np.array(mask, np.bool_)
    noted = own.flat("source")
    for name in sorted(noted, key=lambda name: name in ORIGIN):  # the first origin is kept
        draft.source.setdefault(ORIGIN.get(name, name), noted[name])


def _add_ends(draft: EpisodeDraft, piece: RowRange, layout: LeRobotLayout) -> None:
    """Adds the ends by the row of the last kept action; the last row belongs to the dropped action."""
    ends = {"terminated": False, "truncated": False}
    for key in (key for key in ENDS if key in layout.features and len(piece) > 1):
        flags = piece.known(key).astype(np.bool_)
        ends[ENDS[key]] |= bool(flags[-2])
        if (early := np.flatnonzero(flags[:-2]).tolist()) and not flags[early[0] :].all():
            problem = f"{key} is set at this step and unset later, so the episode seems to contain a reset"
            raise piece.rows.error(problem, fix="Split the episode after this step.", step=early[0])
        if early:
            problem = f"{key} is set from this step to the end; the rows after it were kept"
            fix = "If nothing can happen after it, end the episode there."
            draft.warn(problem, fix, signal=key, step=early[0])
    draft.end(ends["terminated"], ends["truncated"] or None)


def _misplaced(at: int, row: int, num_rows: int, time: float) -> str:
    if row >= num_rows:
        return f"the frame at {time:.3f} s is surplus: the episode has {num_rows} rows"
    if at < row:
        return f"the frame at {time:.3f} s is surplus: row {at} already has a frame"
    return f"the frame is missing: the next one is at {time:.3f} s, which is row {at}"


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]} by {shape[0]}"


class LeRobotLogs(EpisodeLogs[EpisodeReader]):
    """The episodes of a LeRobot dataset.

    Args:
        layout: of the dataset; what it lost is reported as unreadable episodes.
        schema: of every episode.
        unclear: see `Logs`.
    """

    def __init__(self, layout: LeRobotLayout, schema: Schema, unclear: Sequence[str]) -> None:
        files = [*(place.data for place in layout.episodes), *(finding.file or INFO_FILE for finding in layout.lost)]
        super().__init__(schema, unclear, layout.root, files)
        self._layout = layout

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
        schema, unclear = (schema, _assumptions(layout, schema)) if schema is not None else _infer(layout)
        return cls(layout, schema, unclear)

    def opened(self) -> nullcontext[EpisodeReader]:
        """A reader that opens the files one after another."""
        return nullcontext(EpisodeReader(self._layout, self.schema))

    def draft(self, opened: EpisodeReader, number: int) -> EpisodeDraft:
        """Reads a listed episode; the lost ones come after them."""
        if number >= len(self._layout.episodes):
            raise self._layout.lost[number - len(self._layout.episodes)].error()
        return opened.read(self._layout.episodes[number])


def _infer(layout: LeRobotLayout) -> tuple[Schema, list[str]]:
    """Infers a schema from the declared features and the numbers in the rows; also returns doubts."""
    draft = SchemaDraft(layout.root)
    seen = _summaries(layout, [feature for feature in layout.features.values() if is_numeric(feature)])
    for feature in layout.features.values():
        name, role = signal_name(layout, feature.key), _role(feature.key)
        if feature.dtype in ("video", "image") and not feature.is_depth:
            channels = 3 if feature.dtype == "video" else feature.num_channels  # a decoded video has three
            draft.add(Signal(name=name, role=role, kind=Kind.IMAGE, shape=(*feature.height_width, channels), unit="1"))
        elif feature.key in seen:
            signal, doubts = draft.infer(name, role, seen[feature.key])
            if feature.key == SUCCESS:
                doubts.append("used as a reward of 0 or 1, not as an end of the episode.")
            if not feature.key.startswith(("observation", "action", "next.")):
                doubts.insert(0, f"its role is {role} because of its name.")
            if feature.components and signal.kind is Kind.VECTOR and len(feature.components) == signal.size:
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
            values = piece.numbers(feature.key, feature.shape, feature.key).values
            keep = len(piece) if _role(feature.key) is Role.OBSERVATION else len(piece) - 1
            if keep:
                by_key[feature.key] = summarise(_cells(values[:keep], feature))
        return by_key

    return summaries_of(layout.episodes, summaries, what="episodes", file=layout.root)


def _cells(values: Array, feature: Feature) -> Array:
    """Drops the component axis of single numbers, as `infer_signal` expects."""
    return values.reshape(-1) if feature.shape == (1,) else values


def _role(key: str) -> Role:
    """Returns the role of a feature by LeRobot's naming convention."""
    if key.split(".")[0] in ("observation", "action"):
        return Role(key.split(".")[0])
    return Role.REWARD if key == SUCCESS else guess_role(key).role or Role.OBSERVATION


def _assumptions(layout: LeRobotLayout, schema: Schema) -> list[str]:
    """Returns sentences on what reading the dataset with this schema leaves out or assumes."""
    notes = []
    if SURPLUS not in layout.features:
        notes.append(
            "The last action of each episode has no following observation. It is dropped with its reward and exogenous "
            "inputs."
        )
    names = {signal.name for signal in schema.signals}
    for key, feature in layout.features.items():
        name = signal_name(layout, key)
        if key in ENDS and not layout.is_own:
            notes.append(
                f"{key}: used as the end of the episode ({ENDS[key]}) if it is set at the last action that is "
                "kept. An episode that sets it only in the last row counts as truncated."
            )
        elif feature.dtype == "string":
            notes.append(f"{key}: text; kept in the source if it is constant in the episode.")
        elif name not in names and key not in (*BOOKKEEPING, *ENDS) and not key.startswith(f"{OWN}."):
            why = "a depth map" if feature.is_depth else f"{feature.dtype} of shape {feature.shape}"
            notes.append(f"{key}: left out, because the schema has no signal {name!r} ({why}).")
        elif feature.dtype == "video":
            notes.append(f"{key}: decoded from a lossy video.")
    if schema.step_s is not None and abs(schema.step_s * layout.fps - 1) > 0.01:
        notes.append(
            f"The schema has {schema.step_s:g} s per step, the dataset {1 / layout.fps:g} s; the schema's is used."
        )
    return notes
