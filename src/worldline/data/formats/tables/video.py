"""Importer of videos or folders of images, with tables of actions.

    run_01.mp4, run_01.csv                   one episode; its signal is camera
    run_01.front.mp4, run_01.side.mp4        two cameras, front and side
    run_01/0000.png, run_01/0001.png, ...    images in natural order
    log.csv with a column episode            one table; episode = run_01, ...

A row takes the frame number in its column `frame` (from 0). Without that column it takes the last frame at or before
its time. Without times, rows and frames are matched in order if their numbers are equal. Rows without a frame are
masked as not observed; missing frames are reported, never replaced.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from worldline.data.base import LoggedEpisode, ReadOptions, schema_beside
from worldline.data.checks import Finding
from worldline.data.formats.decoding import VIDEO_SUFFIXES, Clip, clips_in
from worldline.data.formats.raw_episode import RawEpisode
from worldline.data.formats.reading import filled, unread
from worldline.data.formats.tables.columns import read_table, tables_in
from worldline.data.formats.tables.episode_arrays import SLACK, build, resample
from worldline.data.formats.tables.layout import EpisodeRows, Survey, scan_tables
from worldline.data.formats.tables.tables import LEROBOT_FILE, TableLogs, failed
from worldline.data.formats.tables.timestamps import Times
from worldline.errors import DataError
from worldline.schema import Kind, Role, Schema, Signal

CAMERA = "camera"
"""The signal name if there is one camera."""
FRAME_NAMES = ("frame", "frame_index", "frame_idx", "frame_id", "frame_number")
"""A column with one of these names holds the frame number of each row, from 0."""
MAX_FRAME_AGE = 1.5
"""Maximum age of a row's frame, in frame intervals; an older frame means that the next one was dropped."""

Recordings = dict[str, dict[str, Path]]
"""By the recording's name in tables: a video file or a folder of images per camera."""
Names = Mapping[tuple[Path, str | None], str | None]
"""By table and label of an episode the name of its recording; None without one."""
Frames = NDArray[np.int64]
"""[rows or steps] number of the frame in its clip, -1 for none."""

_MATCHING = (
    "Rows are matched to frames by a column `frame` (from 0), else by time, else in order if their numbers are equal. "
    "By time, a row takes the last frame at or before it, at most one and a half frame intervals old. "
    "Dates start at the first frame. A frame that several rows share is marked as observed in the first."
)


class VideoLogs(TableLogs):
    """A folder of videos (or sub-folders of images) and tables, or a single video and its table.

    Args:
        recordings: to read.
        names: the recording by table and episode label; None if it has no video. Other episodes are ignored.
        survey: of the tables.
        schema: of the logs; None to infer it.
        reading: the user's options.
    """

    def __init__(
        self, recordings: Recordings, names: Names, survey: Survey, schema: Schema | None, reading: ReadOptions
    ) -> None:
        with_rows = {name: clips for name, clips in recordings.items() if name in names.values()}
        self._without_rows = [next(iter(recordings[name].values())) for name in recordings if name not in with_rows]
        unused = list[str]()
        cameras, step_s = _look(with_rows or recordings) if schema is None else ((), None)
        if schema is not None:
            recordings, unused = _cameras_of(schema, recordings)
        super().__init__(survey, schema, reading, cameras=cameras, step_s=step_s)
        self.unclear = (*self.unclear, _MATCHING, *unused)
        self._recordings, self._names = recordings, names

    def with_schema(self, schema: Schema) -> None:
        """None: the cameras of another schema are read again."""

    def __len__(self) -> int:
        labels = ((file, label) for file, labels in self._survey.labels.items() for label in labels)
        return sum(key in self._names for key in labels) + len(self._without_rows)

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Whether `path` is a video file, or a folder with a video or with sub-folders of images and a table."""
        if path.is_file():
            return path.suffix.lower() in VIDEO_SUFFIXES
        clips = clips_in(path) if not (path / LEROBOT_FILE).is_file() else []
        return any(clip.is_file() for clip in clips) or (bool(clips) and bool(tables_in(path)))

    @classmethod
    def open(cls, path: Path, schema: Schema | None, reading: ReadOptions) -> VideoLogs:
        """Opens the logs; scans all tables, and one frame per camera if no schema is given."""
        folder = path.parent if path.is_file() else path
        clips, tables = clips_in(folder), tables_in(folder)
        if not clips or not tables:
            lacks = "table of actions" if clips else "video or folder of images"
            fix = "Put videos and their tables into one folder."
            raise DataError(f"there is no {lacks} at this path", fix=fix, file=path)
        survey = scan_tables(tables, reading, read_table)
        survey.reserved |= dict.fromkeys(FRAME_NAMES, "the frames")
        keys = [(table, label) for table, labels in survey.labels.items() for label in labels]
        recordings = _recordings(clips, {*(table.stem for table in tables), *(label for _, label in keys if label)})
        names = {key: _name(*key, recordings) for key in keys}
        if len(recordings) == 1 and len(names) == 1:
            names = dict.fromkeys(keys, next(iter(recordings)))
        if path.is_file():
            recordings = {name: cameras for name, cameras in recordings.items() if path in cameras.values()}
            names = {key: name for key, name in names.items() if name in recordings}
        logs = cls(recordings, names, survey, schema or schema_beside(path), reading)
        logs.unclear = (*logs.unclear, *unread(path, {*tables, *clips}, "no videos or tables"))
        return logs

    def read(self) -> Iterator[LoggedEpisode]:
        """Yields the episodes of all tables, then an error for each recording without rows."""
        yield from super().read()
        for number, clip in enumerate(self._without_rows, len(self) - len(self._without_rows)):
            fix = "Add a table with the same name, or a table with a column of episodes that contains this name."
            error = DataError("no table has the actions of this recording", fix=fix)
            yield failed(error, clip.name).logged(self.schema, clip.name, number)

    def parts(self) -> Sequence[VideoLogs]:
        """Each table alone; the last one with the recordings without rows."""
        parts = [part for part in super().parts() if isinstance(part, VideoLogs)]
        for part in parts[:-1]:
            part._without_rows = []
        return parts

    def _drafts(self, file: Path) -> Iterator[RawEpisode]:
        if any(file == table for table, _ in self._names):
            yield from super()._drafts(file)

    def _built(self, file: Path, pieces: Sequence[EpisodeRows], times: Times | None) -> Iterator[RawEpisode | None]:
        for label, same in groupby(pieces, key=lambda piece: piece.label):
            parts, clips = list(same), dict[str, Clip]()
            rows = np.unique(np.concatenate([piece.rows for piece in parts]))
            for piece in parts if (file, label) in self._names else ():
                try:
                    clips = clips or self._clips(self._names[file, label], label)
                    yield self._with_pictures(piece, rows, times, clips)
                except DataError as error:
                    problem = f"{error.file}: {error.problem}" if error.file else error.problem
                    yield RawEpisode(findings=[replace(Finding.of(error), problem=problem)])
            yield from () if (file, label) in self._names else [None] * len(parts)

    def _clips(self, name: str | None, label: str | None) -> dict[str, Clip]:
        """Opens the cameras of a recording."""
        if name is not None:
            return {camera: Clip(path) for camera, path in self._recordings[name].items()}
        which = f"named {label!r}" if label else "for these rows"
        problem = f"there is no video {which} (found: {', '.join(self._recordings)})"
        raise DataError(problem, fix="Name the video like the table, or like the episode in its column.")

    def _with_pictures(
        self, piece: EpisodeRows, rows: NDArray[np.intp], times: Times | None, clips: Mapping[str, Clip]
    ) -> RawEpisode:
        """Builds the arrays of an episode, including its cameras; `rows` are those of its whole recording."""
        by_row = {name: _by_row(piece, rows, clip) for name, clip in clips.items()}
        if piece.times is None:
            known = (_times_of(clip, by_row[name]) for name, clip in clips.items())
            piece = replace(piece, times=next((seconds for seconds in known if seconds is not None), None))
        draft = build(piece, self._layout, self._reading)
        for name, clip in clips.items() if not draft.is_left_out else ():
            if (frames := by_row[name]) is None:
                start_s, is_date = (float(times.seconds[rows[0]]), times.is_date) if times is not None else (0.0, False)
                frames = _by_time(draft, name, clip, start_s, is_date)
            elif self._reading.rate_hz is not None and piece.times is not None and draft.times is not None:
                frames = _at_times(piece.times, frames, draft.times)
            _add(draft, name, frames, clip)
        return draft


def _times_of(clip: Clip, frames: Frames | None) -> NDArray[np.float64] | None:
    """Returns the times of the rows' frames, for rows without times; None unless all are known and rise."""
    is_known = clip.times is not None and frames is not None and frames.min() >= 0 and (np.diff(frames) > 0).all()
    return clip.times[frames] if is_known and clip.times is not None else None


def _by_row(piece: EpisodeRows, rows: NDArray[np.intp], clip: Clip) -> Frames | None:
    """Returns the frame of each row by the column of frames or by order; None if times decide."""
    columns = piece.table.columns
    column = next((columns[name] for name in FRAME_NAMES if name in columns and columns[name].is_number), None)
    if column is None:
        if piece.times is not None and clip.times is not None:
            return None
        if len(rows) == len(clip):
            return np.searchsorted(rows, piece.rows)
        problem = f"{len(rows)} rows and {len(clip)} frames cannot be matched without times or a column of frames"
        fix = "Add a column `frame` that counts from 0, or a column of times."
        raise DataError(problem, fix=fix, file=clip.path)
    cells, missing = column.values[piece.rows].astype(np.float64), column.missing[piece.rows]
    every, problem = column.values[~column.missing], ""
    if len(wrong := np.flatnonzero(~missing & ~((cells >= 0) & (cells == np.round(cells)) & (cells < 2**62)))):
        problem = f"row {piece.rows[wrong[0]]} of the table names frame {cells[wrong[0]]:g}"
    elif len(rows) == len(column.values) and every.min() == 1 and every.max() == len(clip):
        problem = f"the column {column.name} counts the {len(clip)} frames from 1"
    if problem:
        raise DataError(problem, fix=f"Let the column {column.name} count frames from 0.", file=clip.path)
    return np.where(missing | (cells >= len(clip)), -1, cells).astype(np.int64)


def _at_times(row_times: NDArray[np.float64], by_row: Frames, times: NDArray[np.float64]) -> Frames:
    """Returns the frame of each step of a resampled episode."""
    known = by_row >= 0
    held, _ = resample(row_times, by_row, known, times)
    return np.where(known.any() & (times >= row_times[np.argmax(known)] - 1e-9), held, -1).astype(np.int64)


def _by_time(draft: RawEpisode, name: str, clip: Clip, start_s: float, is_date: bool) -> Frames:
    """Returns the last frame at or before each time, -1 if it is older than `MAX_FRAME_AGE`."""
    assert draft.times is not None
    assert clip.times is not None
    times, end_s = draft.times, float(clip.times[-1])
    if is_date or start_s > end_s:
        times = times - start_s
    if not is_date and start_s > end_s:
        problem = f"the rows start at {start_s} s, after the end of the video ({end_s:.3f} s)"
        fix = "If they did not start together, count both times from the same moment."
        draft.warn(f"{problem}; assumed that both start together", fix, signal=name)
    interval = float(np.median(np.diff(clip.times))) if len(clip) > 1 else 0.0
    frames = np.searchsorted(clip.times, times + SLACK * interval, side="right") - 1
    age = times - clip.times[np.maximum(frames, 0)]
    return np.where(age <= (MAX_FRAME_AGE + SLACK) * interval, frames, -1).astype(np.int64)


def _add(draft: RawEpisode, name: str, frames: Frames, clip: Clip) -> None:
    """Adds the frames of one camera, with a warning about missing frames."""
    known = frames >= 0
    if not known.any():
        problem = f"no row matches any of the {len(clip)} frames of {clip.path.name}"
        raise DataError(problem, fix="Make the times or frame numbers of the table agree with the video.", signal=name)
    if lost := np.flatnonzero(~known).tolist():
        problem = f"{len(lost)} of {len(frames)} rows have no frame in {clip.path.name}, the first is row {lost[0]}"
        fix = "They are marked as not observed. If the video should have these frames, export it again."
        draft.warn(problem, fix, signal=name, step=lost[0])
    use = filled(frames, known).astype(np.int64)
    fresh = known & (np.diff(use, prepend=-1) != 0)
    fresh[np.argmax(known)] = True
    draft.put(name, clip.load(use), fresh)


def _recordings(clips: Sequence[Path], table_names: set[str]) -> Recordings:
    """Groups clips by recording and camera; `table_names` are the names of recordings in tables."""
    stems = [clip.name if clip.is_dir() else clip.stem for clip in clips]
    heads, recordings = [stem.rpartition(".")[0] for stem in stems], Recordings()
    for clip, stem, head in zip(clips, stems, heads, strict=True):
        several = stem not in table_names and head and (head in table_names or heads.count(head) > 1)
        name, camera = (head, stem.rpartition(".")[2]) if several else (stem, CAMERA)
        if (other := recordings.setdefault(name, {}).setdefault(camera, clip)) != clip:
            problem = f"{other.name} and {clip.name} belong to the same recording and camera"
            raise DataError(problem, fix="Remove one, or rename both to name.camera.mp4.", file=clip.parent)
    return recordings


def _name(table: Path, label: str | None, recordings: Recordings) -> str | None:
    """Finds the recording of a table's episode by the table's name, or by the episode's label or number."""
    if (name := next((name for name in (table.stem, label) if name in recordings), None)) is not None:
        return name
    numbers = {name: re.search(r"\d+$", name) for name in recordings} if label and label.isdecimal() else {}
    same = [name for name, digits in numbers.items() if digits and int(digits[0]) == int(label or "")]
    return same[0] if len(same) == 1 else None


def _cameras_of(schema: Schema, recordings: Recordings) -> tuple[Recordings, list[str]]:
    """Keeps the schema's cameras and returns sentences about the others; a single camera takes the schema's name."""
    images = [s.name for s in schema.signals if s.kind is Kind.IMAGE and s.role is Role.OBSERVATION]
    cameras = list(dict.fromkeys(camera for clips in recordings.values() for camera in clips))
    if len(images) == 1 and cameras == [CAMERA]:
        return {name: {images[0]: clips[CAMERA]} for name, clips in recordings.items()}, []
    if not {*cameras} & {*images}:
        problem = f"the schema has no image signal for any camera ({', '.join(cameras)})"
        raise DataError(problem, fix="Add an image signal with the name of a camera to schema.json.")
    kept = {name: {c: clip for c, clip in clips.items() if c in images} for name, clips in recordings.items()}
    unused = [camera for camera in cameras if camera not in images]
    return kept, [f"{camera}: left out, because the schema has no image signal of this name." for camera in unused]


def _look(recordings: Recordings) -> tuple[tuple[Signal, ...], float | None]:
    """Reads the first frame of each camera from its first readable clip.

    Returns the cameras, and the usual seconds between frames; None if there are only images.

    Raises:
        DataError: a camera has no readable clip.
    """
    cameras, failures, step_s = dict[str, Signal](), dict[str, DataError](), None
    for name, path in ((camera, path) for clips in recordings.values() for camera, path in clips.items()):
        if name not in cameras:
            try:
                clip = Clip(path)
                shape = next(clip.between(0, 0)).shape
            except DataError as error:
                failures.setdefault(name, error)
                continue
            cameras[name] = Signal(name=name, role=Role.OBSERVATION, kind=Kind.IMAGE, shape=shape)
            if step_s is None and clip.times is not None and len(clip) > 1:
                step_s = float(f"{np.median(np.diff(clip.times)):.9g}")
    if missing := [failure for name, failure in failures.items() if name not in cameras]:
        raise missing[0]
    return tuple(cameras.values()), step_s
